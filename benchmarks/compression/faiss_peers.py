"""FAISS's compressors and plain sign codes as coders, at their own sizes and cut by PCA to equal bytes."""

from __future__ import annotations

from collections.abc import Callable

import faiss
import numpy as np

from benchmarks.compression.coders import Projection, projection
from benchmarks.compression.sets import Floats, Positions

IP = faiss.METRIC_INNER_PRODUCT
OPQ_ROUNDS = 10  # FAISS: 50, with the same recall within .005 on SciFact
TRAINING_ROWS = 65_536  # FAISS's own limit for 256 centroids
OPQ_TRAINING_ROWS = 8_192

Map = Callable[[Floats], Floats]


def unchanged(vectors: Floats) -> Floats:
    """Return what it is given."""
    return vectors


class FaissCoder:
    """A FAISS index over mapped vectors.

    Parameters
    ----------
    index : trained and empty; `code_size` says what a vector costs, factors included.
    mapped : applied to documents and queries before they reach the index.
    """

    rescores = False

    def __init__(self, index: faiss.Index, mapped: Map = unchanged) -> None:
        self.index = index
        self._mapped = mapped
        self.bytes_a_vector = float(index.code_size)

    def add(self, vectors: Floats) -> None:
        """Encode and keep."""
        self.index.add(self._mapped(vectors))

    def search(self, queries: Floats, n: int) -> Positions:
        """Search as FAISS does."""
        return np.asarray(self.index.search(self._mapped(queries), n)[1])


class SignCoder:
    """Signs of centred, rotated vectors, queries too, compared by Hamming distance."""

    rescores = False

    def __init__(self, space: Projection) -> None:
        self._space = space
        self.index = faiss.IndexBinaryFlat(len(space.matrix))
        self.bytes_a_vector = float(self.index.code_size)

    def add(self, vectors: Floats) -> None:
        """Encode and keep."""
        self.index.add(self._codes(vectors))

    def search(self, queries: Floats, n: int) -> Positions:
        """Search by Hamming distance; ties go to the lower position."""
        return np.asarray(self.index.search(self._codes(queries), n)[1])

    def _codes(self, vectors: Floats) -> np.ndarray:
        return np.packbits(self._space.centred(vectors) >= 0, axis=1)


def sample(documents: Floats, rows: int, seed: int) -> Floats:
    """Return at most so many random documents."""
    chosen = np.random.default_rng(seed).permutation(len(documents))[:rows]
    return np.ascontiguousarray(documents[np.sort(chosen)])


def sign(m: int, documents: Floats, seed: int) -> SignCoder:
    """Fit sign codes of m bits."""
    return SignCoder(projection(documents, m, seed))


def rabitq(bits: int, m: int, documents: Floats, seed: int) -> FaissCoder:
    """Fit RaBitQ of m dimensions (all: a random rotation; fewer: PCA before it). The query has 8 bits a dimension."""
    mapped = projection(documents, m, seed).plain
    index = faiss.IndexRaBitQ(m, IP, bits)
    index.qb = 8
    index.train(mapped(documents))
    return FaissCoder(index, mapped)


def rabitq_fast(bits: int, m: int, documents: Floats, seed: int) -> FaissCoder:
    """Fit the fast-scan form of RaBitQ, for speed: its rankings are those of the other."""
    mapped = projection(documents, m, seed).plain
    index = faiss.IndexRaBitQFastScan(m, IP, 32, bits)
    index.train(mapped(documents))
    return FaissCoder(index, mapped)


def scalar(bits: int, m: int, documents: Floats, seed: int) -> FaissCoder:
    """Fit a scalar quantizer, on plain vectors where all dimensions are kept."""
    mapped = unchanged if m == documents.shape[1] else projection(documents, m, seed).plain
    kind = {4: faiss.ScalarQuantizer.QT_4bit, 8: faiss.ScalarQuantizer.QT_8bit}[bits]
    index = faiss.IndexScalarQuantizer(m, kind, IP)
    index.train(mapped(documents))
    return FaissCoder(index, mapped)


def product(parts: int, documents: Floats, seed: int) -> FaissCoder:
    """Fit a product quantizer of so many 8-bit parts."""
    index = _product_index(documents.shape[1], parts)
    index.train(sample(documents, TRAINING_ROWS, seed))
    return FaissCoder(index)


def optimized_product(parts: int, documents: Floats, seed: int) -> FaissCoder:
    """Fit an optimized product quantizer: a learned rotation before it."""
    d = documents.shape[1]
    index = _product_index(d, parts)
    rotation = faiss.OPQMatrix(d, parts)
    rotation.niter = OPQ_ROUNDS
    rotation.pq = index.pq
    rotation.train(sample(documents, OPQ_TRAINING_ROWS, seed))
    index.train(rotation.apply(sample(documents, TRAINING_ROWS, seed)))
    return FaissCoder(index, rotation.apply)


def _product_index(d: int, parts: int) -> faiss.IndexPQ:
    index = faiss.IndexPQ(d, parts, 8, IP)
    index.pq.cp.min_points_per_centroid = 1  # small sets have fewer than FAISS likes; it would warn for every part
    return index
