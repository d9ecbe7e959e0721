"""Inverted lists: which part of the space each position of a segment lies in, so that a query looks into few of them.

Centroids come of k-means over the vectors themselves, one round at a time, so that whoever finds them can stop in
between. Queries are compared with centroids of 8 bits: with theirs rounded too, one in 250 of the lists chosen is
another, and no recall is lost that could be measured (docs/log.md).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import faiss
import numpy as np
from numpy.typing import NDArray

from index.points import Float32s

LISTS_PER_ROOT = 3  # lists for the square root of the rows: 2 to 4 cost a query the same at .95 and .98 (docs/log.md)
MOST_LISTS = 1 << 15
SAMPLE_A_LIST = 32  # vectors that a centroid is found from
ROUNDS = 8  # of k-means
GREATEST = 127  # of 8 bits with a sign
TINY = np.float32(1e-30)

ListNumbers = NDArray[np.int64]
Membership = NDArray[np.uint16]


def lists_for(rows: int) -> int:
    """Return how many lists a segment of so many rows gets."""
    return max(1, min(round(LISTS_PER_ROOT * math.sqrt(rows)), MOST_LISTS, rows))


def improved(centroids: Float32s | None, sample: Float32s, lists: int, seed: int) -> Float32s:
    """Return `(lists, d)` centroids after one more round of k-means over an (n, d) sample; None begins."""
    means = faiss.Kmeans(
        sample.shape[1],
        lists,
        niter=1,
        seed=seed,
        min_points_per_centroid=1,
        max_points_per_centroid=len(sample),
    )
    means.train(sample, init_centroids=centroids)
    return np.asarray(means.centroids, dtype=np.float32)


class Assigner:
    """Tells of many vectors in which list each lies: the one whose centroid is nearest."""

    def __init__(self, centroids: Float32s) -> None:
        self._index = faiss.IndexFlatL2(centroids.shape[1])
        self._index.add(centroids)

    def __call__(self, vectors: Float32s) -> Membership:
        """Return the (n,) list numbers of (n, d) vectors."""
        _, nearest = self._index.search(vectors, 1)
        return np.asarray(nearest[:, 0], dtype=np.uint16)


class Centroids:
    """The centroids of a segment's lists, as queries are compared with them."""

    def __init__(self, centroids: Float32s) -> None:
        """Keep `(lists, d)` float32 centroids, each dimension in steps of its own."""
        greatest = np.maximum(np.abs(centroids).max(axis=0), TINY)
        self._steps = np.asarray(greatest / GREATEST, dtype=np.float32)
        # Both sides are whole numbers of 8 bits: FAISS multiplies these without making floats of them.
        self._index = faiss.IndexScalarQuantizer(
            centroids.shape[1], faiss.ScalarQuantizer.QT_8bit_direct_signed, faiss.METRIC_INNER_PRODUCT
        )
        self._index.add(np.rint(centroids / self._steps))

    def __len__(self) -> int:
        """Return the number of lists."""
        return int(self._index.ntotal)

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return len(self) * len(self._steps) + self._steps.nbytes

    def nearest(self, query: Float32s, count: int) -> ListNumbers:
        """Return the `count` lists whose centroids have the largest products with a (d,) query, best first."""
        weights = query * self._steps
        weights *= GREATEST / max(float(np.abs(weights).max()), float(TINY))
        np.rint(weights, out=weights)
        count = min(count, len(self))
        products, found = np.empty(count, dtype=np.float32), np.empty(count, dtype=np.int64)
        # The call itself: FAISS's Python wrapper of it takes a tenth of the time.
        self._index.search_c(  # type: ignore[attr-defined]
            1, faiss.swig_ptr(weights), count, faiss.swig_ptr(products), faiss.swig_ptr(found)
        )
        return found


@dataclass(frozen=True, slots=True, eq=False)
class Lists:
    """A segment's lists as they were found.

    Attributes
    ----------
    centroids : (lists, d) float32.
    membership : (n,) the list of each position.
    """

    centroids: Float32s
    membership: Membership

    def positions(self) -> list[NDArray[np.int64]]:
        """Return the positions in each list, ascending."""
        order = np.argsort(self.membership, kind="stable")
        ends = np.cumsum(np.bincount(self.membership, minlength=len(self.centroids)))
        return np.split(order, ends[:-1])
