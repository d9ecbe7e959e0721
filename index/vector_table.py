"""Where the vectors of a view lie, file by file and the tail, so that one call scores those of any rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from index.kernels import FILE_FIELDS, Candidates, address, finish, vector_scores
from index.points import Float32s, Rows
from index.vector_file import COLD_SECONDS, DENSE, HINTS, VectorMap


class VectorTable:
    """Ascending rows of vector files, and behind them those of a tail in memory. Any number of threads may read."""

    def __init__(self, maps: Sequence[VectorMap], tail_row: int, tail: Float32s) -> None:
        """Take files, of which rows from `tail_row` on are left out, and the (n, d) vectors of these."""
        self._maps = maps
        self._tail = tail  # whose address is in the tables
        behind = (address(tail), tail_row, tail_row + len(tail), tail.itemsize, 0, 0)
        self._together, self._scattered = (
            np.array([*(mapped.described(tail_row, scattered=way) for mapped in maps), behind], dtype=np.int64)
            for way in (False, True)
        )
        assert self._together.shape[1] == FILE_FIELDS

    def scores(self, rows: Rows, query: Float32s, *, distance: bool) -> Float32s:
        """Return the products of the vectors of ascending rows with a (d,) query, or the negative distances.

        Rows that are not in memory are announced all at once where it was so with the last ones: see `VectorMap.read`.
        Raises IndexError where the vector of a row is not there.
        """
        count = len(rows)
        if not count:
            return np.empty(0, dtype=np.float32)
        if int(rows[-1]) - int(rows[0]) < DENSE * count:
            return vector_scores(self._together, rows, query, distance=distance)[0]
        for mapped in self._maps:
            if mapped.cold:
                mapped.announce(rows[rows.searchsorted(mapped.first_row) : rows.searchsorted(mapped.end_row)])
        scores, seconds = vector_scores(self._scattered, rows, query, distance=distance)
        self._note(seconds, count)
        return scores

    def finish(
        self, candidates: Candidates, read: int, k: int, query: Float32s, *, distance: bool
    ) -> tuple[Rows, Float32s, float] | None:
        """Rank candidates by their vectors: see `kernels.finish`. None where what is read must be announced.

        Raises IndexError where the vector of a row is not there.
        """
        if any(mapped.cold for mapped in self._maps):
            return None
        found = finish(candidates, read, k, self._scattered, query, distance=distance)
        self._note(found[2], read)
        return found

    def _note(self, seconds: float, count: int) -> None:
        """Remember whether vectors that took so long to read were in memory."""
        cold = HINTS and seconds > COLD_SECONDS * count
        for mapped in self._maps:
            mapped.cold = cold
