"""The rows that a filter selects, and where in segments they are: worked out once."""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from index.code_index import CodeIndex, Positions
from index.codes import pack_bits, set_bits
from index.graph import GraphIndex
from index.points import Rows
from index.segment import Segment

FEW = 16  # positions of one in so many are kept: they are half a byte for each that there is


@dataclass(frozen=True, slots=True, eq=False)
class Places:
    """The allowed positions of a segment.

    Attributes
    ----------
    count : how many.
    bitmap : over positions, least significant bit first.
    lists : (lists,) how many are in each inverted list, empty without lists.
    ends : (lists,) how many are in each list and those before it.
    few : (count,) the positions themselves where they are few, list after list, else None.
    """

    count: int
    bitmap: NDArray[np.uint8]
    lists: NDArray[np.int64]
    ends: NDArray[np.int64]
    few: Positions | None

    @property
    def positions(self) -> Positions:
        """The positions; without lists, ascending."""
        return set_bits(self.bitmap) if self.few is None else self.few

    def few_in(self, lists: NDArray[np.int64]) -> Positions:
        """Return those positions of `few` that are in some lists."""
        assert self.few is not None
        counts, ends = self.lists[lists], self.ends[lists]
        # The last place of each list, and how many are behind the last one of all lists so far.
        at = np.arange(1, counts.sum() + 1) + (ends - counts.cumsum() - 1).repeat(counts)
        few: Positions = self.few.take(at)
        return few


class Allowed:
    """Rows that a filter selects, kept as a bitmap where that takes less. Any number of threads may call it."""

    def __init__(self, rows: Rows) -> None:
        """Take ascending rows."""
        self._count = len(rows)
        self._first = int(rows[0]) if len(rows) else 0
        span = int(rows[-1]) - self._first + 1 if len(rows) else 0
        self._rows: Rows | None = rows
        self._bitmap = np.zeros(0, dtype=np.uint8)  # from the first row on, where there are no `_rows`
        if rows.nbytes * 8 > span:
            flags = np.zeros(span, dtype=np.bool_)
            flags[rows - self._first] = True
            self._rows, self._bitmap = None, pack_bits(flags)
        # By the codes of a segment: deletes make another segment of the same codes.
        self._places: WeakKeyDictionary[CodeIndex | GraphIndex, Places] = WeakKeyDictionary()

    def __len__(self) -> int:
        """Return how many rows are allowed."""
        return self._count

    @property
    def nbytes(self) -> int:
        """Bytes in memory of the rows."""
        return self._bitmap.nbytes if self._rows is None else self._rows.nbytes

    @property
    def rows(self) -> Rows:
        """All of them, ascending."""
        return self.rows_from(self._first)

    def rows_from(self, first_row: int) -> Rows:
        """Return the allowed rows from one on, ascending."""
        if self._rows is not None:
            return self._rows[self._rows.searchsorted(first_row) :]
        begin = max(first_row - self._first, 0) // 8
        found = set_bits(self._bitmap[begin:])
        found += self._first + 8 * begin
        return found[found.searchsorted(first_row) :]

    def places(self, segment: Segment) -> Places:
        """Return where in a segment they are."""
        found = self._places.get(segment.index)
        if found is None:
            positions = segment.positions_of(self.rows_from(segment.first_row))
            flags = np.zeros(len(segment), dtype=np.bool_)
            flags[positions] = True
            lists = np.zeros(0, dtype=np.int64)
            if isinstance(segment.index, CodeIndex):
                lists = segment.index.counts(positions)
            few = None
            if len(positions) * FEW <= len(segment):
                few = positions
                if isinstance(segment.index, CodeIndex):
                    few = positions[np.argsort(segment.index.lists_of(positions), kind="stable")]
            found = Places(len(positions), pack_bits(flags), lists, lists.cumsum(), few)
            self._places[segment.index] = found
        return found
