"""What the service needs of an encoder, whoever made it. Knows no registry and no collections."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from models import InvalidText, Sizes

Side = Literal["document", "query"]
Float32s = NDArray[np.float32]


class EncodedTexts(Protocol):
    """Unit vectors (n, k) float32, and whether each text was cut at the model's window, (n,) bool."""

    @property
    def vectors(self) -> Float32s: ...  # noqa: D102
    @property
    def truncated(self) -> NDArray[np.bool_]: ...  # noqa: D102


class TextEncoder(Protocol):
    """What the service needs of an encoder; `models.Encoder` is one, and says what each part means."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def space(self) -> str: ...  # noqa: D102
    @property
    def dimension(self) -> int: ...  # noqa: D102
    @property
    def max_tokens(self) -> int | None: ...  # noqa: D102
    @property
    def runtime(self) -> str: ...  # noqa: D102
    @property
    def sizes(self) -> Sizes: ...  # noqa: D102
    @property
    def fold(self) -> str | None: ...  # noqa: D102
    def resolve(self, layers: int | None, dimensions: int | None) -> tuple[int, int]: ...  # noqa: D102
    def axes(self, dimensions: int) -> Float32s: ...  # noqa: D102
    def count_tokens(self, texts: Sequence[str], task: Side, *, layers: int | None = None) -> list[int]: ...  # noqa: D102
    def encode_documents(  # noqa: D102
        self, texts: Sequence[str], *, layers: int | None = None, dimensions: int | None = None
    ) -> EncodedTexts: ...
    def encode_queries(  # noqa: D102
        self, texts: Sequence[str], *, layers: int | None = None, dimensions: int | None = None
    ) -> EncodedTexts: ...


def without_number(error: InvalidText) -> str:
    """Return what is wrong with a text, without its number among those that happened to be encoded with it."""
    return str(error).replace(f"text {error.index}", "the text")
