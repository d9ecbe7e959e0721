"""Ids in memory where they are whole numbers, so that a search that wants no payload asks no record for them.

What id a row has never changes: what is known once is known for good. Others (UUIDs, names) stay in the record.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from index.ids import MAX_INTEGER
from index.record import Reader
from index.rows import located

BYTES = 8  # of an id
PIECE = 1 << 16  # rows that are read at a time
HALF = np.uint64(MAX_INTEGER // 2 + 1)  # keys are shifted by it: see `ids.to_key`


class NumberIds:
    """The ids of a segment's positions, while and after they are read. One thread reads, any number may ask."""

    def __init__(self, count: int) -> None:
        """Begin with none of `count` known."""
        self._count = count
        self._keys = np.empty(0, dtype=np.int64)
        self._known = 0  # of the first positions
        self._others = False  # some are no numbers
        self._seq = 0  # the last commit that was read

    @property
    def wanted(self) -> bool:
        """Whether some are still to be read."""
        return not self._others and self._known < self._count

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return BYTES * self._known

    def read(self, reader: Reader, first_row: int, offsets: NDArray[np.uint32] | None) -> None:
        """Read some more. `offsets` are (count,) rows minus the first one; None where these are the positions."""
        start, end = self._known, min(self._known + PIECE, self._count)
        mine = np.arange(start, end) if offsets is None else offsets[start:end].astype(np.int64)
        found = reader.number_keys(first_row + int(mine[0]), first_row + int(mine[-1]) + 1)
        if found is None:
            self._keys, self._known, self._others = np.empty(0, dtype=np.int64), 0, True
            return
        if not len(self._keys):
            self._keys = np.empty(self._count, dtype=np.int64)
        self._seq = reader.seq()
        rows, keys = found
        at, held = located(rows - first_row, mine)
        self._keys[start + at[held]] = keys[held]
        self._known = end

    def known_as_of(self, seq: int) -> bool:
        """Whether the ids of all that are points as of a commit are known; if so, they stay it."""
        return self._known >= self._count and seq >= self._seq

    def of(self, positions: NDArray[np.int64], seq: int) -> NDArray[np.uint64] | None:
        """Return the ids at (k,) positions of what are points as of a commit; None where they are not known.

        What died before it was read has no id here, but may be a point to who reads an earlier commit.
        """
        if not self.known_as_of(seq):
            return None
        return self._keys.take(positions).view(np.uint64) ^ HALF
