"""The rows that a filter selects, and where in segments they are: worked out once, while the filter is kept."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, replace
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from index.code_index import CodeIndex, Positions
from index.codes import pack_bits, set_bits
from index.filters import Filter
from index.graph import GraphIndex
from index.points import Rows
from index.segment import Segment
from index.selecting import Selection

FEW = 16  # positions of one in so many are kept: they are half a byte for each that there is
KEPT = 32  # filters
KEPT_BYTES = 16 * 2**20  # of their rows; what else is kept comes to as much


@dataclass(frozen=True, slots=True, eq=False)
class Places:
    """The allowed positions of a segment.

    Attributes
    ----------
    count : how many.
    bitmap : over positions, least significant bit first.
    lists : (lists,) how many are in each inverted list, empty without lists.
    few : (count,) the positions themselves where they are few, else None.
    """

    count: int
    bitmap: NDArray[np.uint8]
    lists: NDArray[np.int64]
    few: Positions | None

    @property
    def positions(self) -> Positions:
        """The positions, ascending."""
        return set_bits(self.bitmap) if self.few is None else self.few


class Allowed:
    """Rows that a filter selects, ascending. Any number of threads may call it."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        # By the codes of a segment: deletes make another segment of the same codes.
        self._places: WeakKeyDictionary[CodeIndex | GraphIndex, Places] = WeakKeyDictionary()

    def __len__(self) -> int:
        """Return how many rows are allowed."""
        return len(self.rows)

    def places(self, segment: Segment) -> Places:
        """Return where in a segment they are."""
        found = self._places.get(segment.index)
        if found is None:
            positions = segment.positions_of(self.rows)
            flags = np.zeros(len(segment), dtype=np.bool_)
            flags[positions] = True
            lists = np.zeros(0, dtype=np.int64)
            if isinstance(segment.index, CodeIndex):
                lists = segment.index.counts(positions)
            few = positions if len(positions) * FEW <= len(segment) else None
            found = Places(len(positions), pack_bits(flags), lists, few)
            self._places[segment.index] = found
        return found


@dataclass(frozen=True, slots=True)
class Kept:
    """What a filter selected as of one commit, and how many payloads were read for it: none where it was known."""

    seq: int
    allowed: Allowed
    read: int


class Selections:
    """The filters that were used last, with what they selected: good until the next commit."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[bytes, Kept] = OrderedDict()
        self._bytes = 0

    def get(self, tree: Filter, seq: int) -> Kept | None:
        """Return what a filter selects as of a commit, if that is known."""
        with self._lock:
            # Not by the filter itself: 1 equals True, and they select other points.
            found = self._kept.get(tree.written)
            if found is None or found.seq != seq:
                return None
            self._kept.move_to_end(tree.written)
            return replace(found, read=0)

    def keep(self, tree: Filter, seq: int, selection: Selection) -> Kept:
        """Remember what a filter selects as of a commit."""
        kept = Kept(seq, Allowed(selection.rows), selection.read)
        key = tree.written
        if key and selection.rows.nbytes <= KEPT_BYTES // 2:
            with self._lock:
                self._forget(key)
                self._kept[key] = kept
                self._bytes += selection.rows.nbytes
                while len(self._kept) > KEPT or self._bytes > KEPT_BYTES:
                    self._forget(next(iter(self._kept)))
        return kept

    def _forget(self, key: bytes) -> None:
        old = self._kept.pop(key, None)
        if old is not None:
            self._bytes -= old.allowed.rows.nbytes

    def memory_bytes(self) -> int:
        """Return the bytes of the rows that are remembered."""
        return self._bytes
