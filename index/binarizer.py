"""What a collection needs from a binarizer. `models` implements it; this package only calls it."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from index.points import Float32s


class Binarizer(Protocol):
    """Maps vectors to levels and queries into the same code space. Immutable."""

    @property
    def dimension(self) -> int:
        """d, the dimension of the vectors."""

    @property
    def code_dimension(self) -> int:
        """m, the dimension of the codes, a multiple of 8."""

    @property
    def mean(self) -> Float32s:
        """(d,) float32: `<q, v>` is estimated as `<q, mean>` plus what the code says of `v - mean`."""

    def encode(self, vectors: Float32s) -> tuple[NDArray[np.uint8], Float32s]:
        """Return `(n, m)` levels in {0, 1} and `(n,)` float32 correction factors.

        `factor * <queries(q), +-1 levels>` estimates `<q, v - mean>`.
        """

    def queries(self, vectors: Float32s) -> Float32s:
        """Return `(nq, m)` float32 queries in code space (rotated, never centred)."""

    def to_bytes(self) -> bytes:
        """Return bytes that the factory's `load` reads."""


class BinarizerFactory(Protocol):
    """Makes binarizers from vectors and reads stored ones."""

    def fit(self, vectors: Float32s, seed: int) -> Binarizer:
        """Fit to `(n, d)` float32 vectors, n >= 1."""

    def load(self, data: bytes) -> Binarizer:
        """Read what `to_bytes` wrote."""
