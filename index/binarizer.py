"""What a collection needs from a binarizer. `models` implements it; this package only calls it."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from index.points import Float32s


class Binarizer(Protocol):
    """Maps vectors to levels on a uniform grid, and queries into the same code space. Immutable.

    With `bits` planes a level is an integer c of 0 to 2^bits - 1; its first p planes are `c >> (bits - p)`, and
    they stand for the value `v_p = sum over t < p of 2^-t * (+1 or -1)`.
    """

    @property
    def dimension(self) -> int:
        """d, the dimension of the vectors."""

    @property
    def code_dimension(self) -> int:
        """m, the dimension of the codes, a multiple of 8."""

    @property
    def bits(self) -> int:
        """The planes of a code."""

    @property
    def mean(self) -> Float32s:
        """(d,) float32: `<q, v>` is estimated as `<q, mean>` plus what the code says of `v - mean`."""

    @property
    def learned(self) -> bool:
        """Whether it was trained on somebody's wish: then it is never fitted again as the collection grows."""

    @property
    def identity(self) -> str:
        """A short content name, e.g. `training-free-2b-3fa9c1`; equal bytes, equal identity."""

    def encode(self, vectors: Float32s) -> tuple[NDArray[np.uint8], Float32s]:
        """Return `(n, m)` uint8 levels and `(n, bits)` float32 correction factors, one a prefix of planes.

        `factors[:, p - 1] * <queries(q), v_p>` estimates `<q, v - mean>`.
        """

    def queries(self, vectors: Float32s) -> Float32s:
        """Return `(nq, m)` float32 queries in code space (never centred)."""

    def query_levels(self, vectors: Float32s) -> tuple[NDArray[np.uint8], Float32s]:
        """Return queries coded on the documents' grid: `(nq, m)` uint8 levels and `(nq,)` float32 scales.

        `scale * v(levels)` stands for what `queries` returns.
        """

    def reads(self, older: Binarizer) -> bool:
        """Say whether `queries(q)[:, :older.code_dimension]` scores the codes of an older binarizer."""

    def to_bytes(self) -> bytes:
        """Return bytes that the factory's `load` reads."""


class BinarizerFactory(Protocol):
    """Makes binarizers from vectors and reads stored ones."""

    def fit(self, vectors: Float32s, seed: int, *, bits: int, dimensions: int | None) -> Binarizer:
        """Fit to `(n, d)` float32 vectors, n >= 1; `dimensions` None keeps all."""

    def load(self, data: bytes) -> Binarizer:
        """Read what `to_bytes` wrote."""
