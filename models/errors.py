"""Everything that `models` raises on purpose. Knows nothing of HTTP: the service maps it."""

from __future__ import annotations


class ModelError(Exception):
    """Base of all errors of this package.

    Parameters
    ----------
    message : what is wrong and where.
    hint : what to do about it.
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class UnknownEncoder(ModelError):
    """Neither a preset nor the id of a model hub repository."""


class ModelNotFound(ModelError):
    """The model's files, or some of them, are not where they were looked for; the message names the place."""


class UnsafeModel(ModelError):
    """Loading this model would run code that came with it: pickle weights or custom modules."""


class ModelMismatch(ModelError):
    """The files are not those of the preset; the message names the file or property that differs."""


class CorruptModel(ModelError, ValueError):
    """A file of a model is damaged, or of a format that this version does not read; the message names it."""


class UnsupportedSize(ModelError, ValueError):
    """Layers or dimensions that the encoder was not trained for, or does not have; the message names those it has.

    Parameters
    ----------
    index : the position of what asked for it, where several things did.
    """

    def __init__(self, message: str, *, index: int = 0, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.index = index


class UnsupportedRuntime(ModelError, ValueError):
    """The model cannot be served by the runtime that was asked for, or not with this option; the message says why."""


class InvalidEncoderFile(ModelError, ValueError):
    """A file of encoder definitions that cannot be read; the message names file and key."""


class InvalidText(ModelError, ValueError):
    """A text that has no vector.

    Parameters
    ----------
    message : what is wrong with the text.
    index : its position in the sequence that was given.
    hint : what to do about it.
    """

    def __init__(self, message: str, *, index: int, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.index = index


class InvalidVectors(ModelError, ValueError):
    """An array of the wrong shape, an empty one where rows are needed, or values that are not finite."""


class CorruptBinarizer(ModelError, ValueError):
    """Bytes that are not a whole binarizer of a format that this version reads."""


class InvalidSize(ModelError, ValueError):
    """A number of bits or of code dimensions that is not possible; the message or the hint says what is."""


class TooFewVectors(InvalidVectors):
    """Fewer vectors than a binarizer can be trained on; the message says how many are needed."""


class ConstantVectors(InvalidVectors):
    """Vectors that are all the same: no code tells them apart."""


class InvalidTraining(ModelError, ValueError):
    """A training that cannot be done as it was asked for; the message says what stands against it."""


class InvalidTrainingData(ModelError, ValueError):
    """A file of training data that cannot be read; the message names the file and the line."""


class TrainingCancelled(ModelError):
    """Training was stopped by whoever started it; what was checkpointed stays and a later run goes on from there."""
