"""Codes that stay in their file, for collections whose codes do not fit into memory: looked at there, row by row.

The file is memory-mapped: what is used stays in the page cache while the system has room for it. A scan costs some
twenty times what it does in memory (docs/log.md), so inverted lists matter all the more.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from index.code_index import PIECE, CodeIndex, Positions, Scored
from index.codes import Codes, Planes, in_bitmap
from index.kernels import plane_products
from index.points import Float32s
from index.ranking import joined


class MappedIndex(CodeIndex):
    """What `CodeIndex` is, over `(n, bits, m / 8)` planes in a mapped file. Scores are exact, not of 8 bits."""

    def __init__(self, planes: Planes, bands: Sequence[Positions]) -> None:
        """Cut the positions 0..n-1 into lists, each ascending."""
        self._planes = planes
        self.rest = planes[:, 1:]
        self.code_bytes = planes.shape[2]
        self._cut(len(planes), bands)
        # Positions list by list; with one list they are in order by themselves.
        self._order = np.concatenate(bands).astype(np.uint32) if len(bands) > 1 else np.zeros(0, dtype=np.uint32)
        self._ends = np.cumsum(self.sizes)

    def in_lists(self, lists: Sequence[Positions]) -> MappedIndex:
        """Return the same codes in other lists."""
        return MappedIndex(self._planes, lists)

    @property
    def bytes_per_point(self) -> float:
        """Bytes in memory of a position, what is mapped left out."""
        return float((self._order.nbytes + self._band_of.nbytes) / max(len(self), 1))

    def bytes_by_part(self) -> dict[str, int]:
        """Return the bytes in memory of the `ids` of what is in each list; codes are in none."""
        return {"codes": 0, "ids": self._order.nbytes + self._band_of.nbytes}

    def planes_at(self, positions: Positions) -> Planes:
        """Return `(k, bits, m / 8)`: all planes of positions."""
        return self._planes.take(positions, axis=0, mode="clip")

    def first_scores(self, query: Float32s, positions: Positions) -> Float32s:
        """Return (k,) float32 `<query, +-1 plane 0>` of some positions."""
        return plane_products(self._planes, 1, positions, query)

    def codes_at(self, positions: Positions) -> Codes:
        """Return `(k, m / 8)` codes of plane 0."""
        return np.ascontiguousarray(self.planes_at(positions)[:, 0])

    def _ids(self, band: int) -> NDArray[np.integer]:
        start, end = int(self._ends[band] - self.sizes[band]), int(self._ends[band])
        return self._order[start:end].astype(np.int64) if self.bands > 1 else np.arange(start, end)

    def _search(
        self, queries: Float32s, candidates: int, allowed: NDArray[np.uint8] | None, lists: Sequence[NDArray[np.int64]]
    ) -> list[Scored]:
        """Return the best for each of (g, m) queries of its own of g groups of lists."""
        return [self._best(query, candidates, allowed, group) for query, group in zip(queries, lists, strict=True)]

    def _best(
        self, query: Float32s, candidates: int, allowed: NDArray[np.uint8] | None, lists: NDArray[np.int64]
    ) -> Scored:
        parts = [(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32))]
        # In the order of the file: neighbours share pages.
        inside = np.sort(np.concatenate([self._ids(band) for band in lists.tolist()]))
        for start in range(0, len(inside), PIECE):
            piece = inside[start : start + PIECE]
            if allowed is not None:
                piece = piece[in_bitmap(allowed, piece)]
            parts.append((piece, self.first_scores(query, piece)))
        positions, scores = joined(parts)
        if len(positions) > candidates:
            best = np.argpartition(-scores, candidates - 1)[:candidates]
            positions, scores = positions[best], scores[best]
        return positions, scores
