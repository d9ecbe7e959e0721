"""Inverted lists: which part of the space each position of a segment lies in, so that a query looks into few of them.

Centroids come of k-means over the vectors themselves, some vectors at a time, so that whoever finds them can stop in
between and holds few. Queries are compared with centroids of 8 bits: with theirs rounded too, one in 250 of the lists
chosen is another, and no recall is lost that could be measured (docs/log.md).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import faiss
import numpy as np
from numpy.typing import NDArray

from index import kernels
from index.points import Float32s

LISTS_PER_ROOT = 3  # lists for the square root of the rows: 2 to 4 cost a query the same at .95 and .98 (docs/log.md)
MOST_LISTS = 1 << 15
# Vectors a list that each round of k-means looks at: the last ones decide (docs/log.md).
ROUNDS = (16, 16, 32, 32, 64, 64, 128, 128)
SPLIT = 1 / 1024  # how far a centroid that is cut in two is moved
GREATEST = 127  # of 8 bits with a sign
TINY = np.float32(1e-30)

ListNumbers = NDArray[np.int64]
Membership = NDArray[np.uint16]


def lists_for(rows: int) -> int:
    """Return how many lists a segment of so many rows gets."""
    return max(1, min(round(LISTS_PER_ROOT * math.sqrt(rows)), MOST_LISTS, rows))


class Assigner:
    """Tells of many vectors in which list each lies: the one whose centroid is nearest."""

    def __init__(self, centroids: Float32s) -> None:
        self._index = faiss.IndexFlatL2(centroids.shape[1])
        self._index.add(centroids)

    def __call__(self, vectors: Float32s) -> Membership:
        """Return the (n,) list numbers of (n, d) vectors."""
        _, nearest = self._index.search(vectors, 1)
        return np.asarray(nearest[:, 0], dtype=np.uint16)


class Means:
    """One round of k-means: the centroids of what is nearest to each of some centroids."""

    def __init__(self, centroids: Float32s) -> None:
        self._nearest = Assigner(centroids)
        self._sums = np.zeros(centroids.shape, dtype=np.float64)
        self._counts = np.zeros(len(centroids), dtype=np.int64)

    def add(self, vectors: Float32s) -> None:
        """Count in (n, d) vectors."""
        nearest = self._nearest(vectors)
        order = np.argsort(nearest, kind="stable")
        lists, starts = np.unique(nearest[order], return_index=True)
        self._sums[lists] += np.add.reduceat(vectors[order], starts, axis=0)
        self._counts += np.bincount(nearest, minlength=len(self._counts))

    def centroids(self) -> Float32s:
        """Return the new ones. One to which nothing was nearest takes half of what the fullest one has."""
        means = self._sums / np.maximum(self._counts, 1)[:, None]
        found = np.asarray(means, dtype=np.float32)
        counts = self._counts.copy()
        for empty in np.flatnonzero(counts == 0).tolist():
            fullest = int(counts.argmax())
            found[empty] = found[fullest] * np.float32(1 + SPLIT)
            found[fullest] *= np.float32(1 - SPLIT)
            counts[empty] = counts[fullest] // 2
            counts[fullest] -= counts[empty]
        return found


class Centroids:
    """The centroids of a segment's lists, as queries are compared with them."""

    def __init__(self, centroids: Float32s) -> None:
        """Keep `(lists, d)` float32 centroids, each dimension in steps of its own."""
        greatest = np.maximum(np.abs(centroids).max(axis=0), TINY)
        self._steps = np.asarray(greatest / GREATEST, dtype=np.float32)
        self._rows: NDArray[np.int8] = np.rint(centroids / self._steps).astype(np.int8)

    def __len__(self) -> int:
        """Return the number of lists."""
        return len(self._rows)

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return self._rows.nbytes + self._steps.nbytes

    def nearest(self, query: Float32s, count: int) -> ListNumbers:
        """Return the `count` lists whose centroids have the largest products with a (d,) query, best first."""
        return kernels.nearest(self._rows, self._steps, query, count)


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
