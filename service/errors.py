"""What the engine itself raises, beside the errors of `index` and `models`. Knows nothing of HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class EngineError(Exception):
    """Base of the engine's own errors; `param` and `hint` as in `index.errors`."""

    def __init__(self, message: str, *, param: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        self.hint = hint


class NoEncoder(EngineError):
    """Text was sent to a collection that takes vectors."""


class OtherSpace(EngineError):
    """An encoder of another vector space than the collection's."""


class EncoderUnavailable(EngineError):
    """The encoder failed to load; only a restart tries again."""


class EncoderLoading(EncoderUnavailable):
    """The encoder is still loading; trying again helps."""


class WillNotFit(EngineError):
    """Points that would take the collections beyond the memory limit. Nothing of them was written."""


class UnknownPoint(EngineError):
    """A point that the request refers to does not exist."""


class ParserFailed(EngineError):
    """A worker process that parses bulk bodies died twice over the same block, or could not be started."""


class UnknownJob(EngineError):
    """No job of that number, or not any more."""


class JobExists(EngineError):
    """A job of that kind waits or runs for the collection already."""


class TrainingFailed(EngineError):
    """The process that trains ended without a binarizer; the message has its last words."""


class WorseBinarizer(EngineError):
    """A binarizer that finds less than the one in use, on sampled queries; `figures` has both."""

    def __init__(self, message: str, *, figures: Mapping[str, Any], hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.figures = figures
