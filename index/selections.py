"""What filters select, remembered until the next commit."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, replace

from index.allowed import Allowed
from index.filters import Filter
from index.selecting import Selection

KEPT = 32  # filters
KEPT_BYTES = 16 * 2**20  # of their rows, but for the last one, of at most a bit a row; what else is kept is as much


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
        if key:
            with self._lock:
                self._forget(key)
                self._kept[key] = kept
                self._bytes += kept.allowed.nbytes
                while len(self._kept) > KEPT or (self._bytes > KEPT_BYTES and len(self._kept) > 1):
                    self._forget(next(iter(self._kept)))
        return kept

    def _forget(self, key: bytes) -> None:
        old = self._kept.pop(key, None)
        if old is not None:
            self._bytes -= old.allowed.nbytes

    def memory_bytes(self) -> int:
        """Return the bytes of the rows that are remembered."""
        return self._bytes
