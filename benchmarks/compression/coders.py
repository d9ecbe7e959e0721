"""What every method is measured through, and the codes of our own binarizers behind it.

A `Coder` holds the codes of one collection, made by one fitted method. Quality is measured on exact scores of the
codes; how fast the real indexes scan them is measured in `speed.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from benchmarks.compression.sets import Floats, Positions, nearest
from index.codes import values
from index.options import StoreOptions
from models.binarizer import TrainingFreeFactory

FIT_ROWS = StoreOptions().fit_rows
FACTOR_BYTES = 2  # float16, one for every prefix of planes that is kept


class Coder(Protocol):
    """Codes of one collection."""

    bytes_a_vector: float
    rescores: bool  # the best n are more than the first n of the best 100

    def add(self, vectors: Floats) -> None:
        """Encode (n, d) vectors and keep their codes behind those already here."""

    def search(self, queries: Floats, n: int) -> Positions:
        """Return the (nq, n) best positions by codes, best first."""


@dataclass(frozen=True, slots=True)
class Method:
    """One way to compress, at one size.

    Attributes
    ----------
    name : unique, a row's name in tables.
    family : what it is a size of; a line in plots.
    fit : makes an empty coder from documents and a seed.
    seeds : how many seeds are worth running.
    ours : Bitfold's own, as opposed to a peer or a baseline.
    """

    name: str
    family: str
    fit: Callable[[Floats, int], Coder]
    seeds: int = 1
    ours: bool = False


class BinarizerCoder:
    """Levels and factors of a Bitfold binarizer, scored exactly as the index scores them.

    Parameters
    ----------
    binarizer : implements `index.binarizer.Binarizer`.
    prefix : the planes that are used, None for all. Bytes count the planes and factors of this prefix alone.
    symmetric : the query is coded too (BEBR's SDC).
    """

    rescores = False

    def __init__(self, binarizer: Any, *, prefix: int | None = None, symmetric: bool = False) -> None:  # noqa: ANN401
        self._binarizer = binarizer
        self._prefix = prefix or binarizer.bits
        self._symmetric = symmetric
        self._levels: list[NDArray[np.uint8]] = []
        self._factors: list[NDArray[np.float16]] = []
        self.bytes_a_vector = self._prefix * (binarizer.code_dimension / 8 + FACTOR_BYTES)

    def add(self, vectors: Floats) -> None:
        """Encode and keep."""
        levels, factors = self._binarizer.encode(vectors)
        self._levels.append(levels)
        # The index keeps float16 under Cosine.
        self._factors.append(factors[:, self._prefix - 1].astype(np.float16))

    def search(self, queries: Floats, n: int) -> Positions:
        """Score all codes; `<q, mean>` is left out, since it is the same for all documents of a query."""
        if self._symmetric:
            mapped = self._values(self._binarizer.query_levels(queries)[0])
        else:
            mapped = self._binarizer.queries(queries)
        levels, factors = np.concatenate(self._levels), np.concatenate(self._factors).astype(np.float32)
        return nearest(mapped, len(levels), n, lambda rows: self._values(levels[rows]) * factors[rows, None])

    def _values(self, levels: NDArray[np.uint8]) -> Floats:
        return values(levels >> (self._binarizer.bits - self._prefix), self._prefix)


@dataclass(frozen=True, slots=True)
class Projection:
    """`matrix @ (v - mean)`: the principal axes of the documents, rotated randomly among themselves.

    What baselines and peers share where they are cut to fewer dimensions than the vectors have.
    """

    mean: Floats
    matrix: Floats

    def centred(self, vectors: Floats) -> Floats:
        """Return (n, m) of vectors minus the mean."""
        return np.ascontiguousarray((vectors - self.mean) @ self.matrix.T)

    def plain(self, vectors: Floats) -> Floats:
        """Return (n, m) of vectors as they are; inner products survive as far as the kept axes hold them."""
        return np.ascontiguousarray(vectors @ self.matrix.T)


def projection(documents: Floats, m: int, seed: int) -> Projection:
    """Fit to documents; more than d dimensions are several rotations of all axes, one below the other."""
    d = documents.shape[1]
    mean = documents.mean(axis=0, dtype=np.float64).astype(np.float32)
    axes = np.eye(d, dtype=np.float32)
    if m < d:
        sample = documents[:: -(-len(documents) // 65_536)] - mean
        axes = np.linalg.eigh(sample.T @ sample)[1][:, ::-1][:, :m].T.astype(np.float32)
    rng = np.random.default_rng(seed)
    pieces = []
    for start in range(0, m, d):
        turned = np.linalg.qr(rng.standard_normal((len(axes), len(axes))))[0].astype(np.float32) @ axes
        pieces.append(turned[: min(d, m - start)])
    return Projection(mean, np.concatenate(pieces))


def training_free(bits: int, dimensions: int | None, seed: int, documents: Floats) -> Any:  # noqa: ANN401
    """Fit Bitfold's default binarizer to an even sample, as a collection does."""
    sample = documents[:: -(-len(documents) // FIT_ROWS)]
    return TrainingFreeFactory().fit(sample, seed, bits=bits, dimensions=dimensions)


def dimensions_for(budget: int, bits: int) -> int:
    """Return the code dimensions, a multiple of 8, that fit into `budget` bytes with a factor for every prefix."""
    return 8 * (budget // bits - FACTOR_BYTES)
