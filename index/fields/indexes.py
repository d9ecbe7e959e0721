"""All payload indexes of one collection, as of its last commit; answers readers of earlier commits, too.

Rows only ever come: a changed point gets a new row, and an old one stops counting. What changes in place is payloads.
So rows that are new to a reader lie behind its last one, and rows that died or were edited since are few: these are
looked up in the reader's own snapshot. Edited rows live in indexes of their own until they are many, because what
they held before is not known here.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import orjson
from pyroaring import BitMap

from index.fields.answering import Answering, Steps
from index.fields.bitmaps import MOST_ROWS, bytes_of, rows_of, union
from index.fields.field import FieldIndex, FieldKind
from index.ids import PointId
from index.matching import Filter
from index.paths import Path
from index.points import Rows

HISTORY = 256  # commits that readers may be behind
FOLD_ROWS = 10_000  # edited rows that are kept apart, at least
FOLD_SHARE = 16  # or this part of all


@dataclass(frozen=True, slots=True)
class Changes:
    """What one commit did.

    Parameters
    ----------
    first_row : of the new rows.
    payloads : JSON of the new rows, in order.
    dead : rows that stopped counting.
    edited : rows and their new payloads.
    """

    first_row: int
    payloads: Sequence[bytes] = ()
    dead: Iterable[int] = ()
    edited: Sequence[tuple[int, bytes]] = ()


class IndexState(NamedTuple):
    """The kind of an index, whether it is complete, and how many points have a value that it has read."""

    kind: FieldKind
    ready: bool
    points: int


class SavedState(NamedTuple):
    """An index as bytes, the last commit that it has followed, and the row behind the last one that it has read."""

    path: Path
    kind: FieldKind
    seq: int
    end_row: int
    blobs: dict[str, bytes]


@dataclass(slots=True)
class _Building:
    """An index that is not complete: it has the rows below `fed` and those from `first_new` on."""

    index: FieldIndex
    first_new: int
    fed: int = 0
    touched: BitMap = field(default_factory=BitMap)  # edited meanwhile


@dataclass(frozen=True, slots=True)
class Candidates:
    """Rows that fulfil a filter for sure, and rows whose payloads have to be asked. Both ascending."""

    sure: Rows
    maybe: Rows


class PayloadIndexes:
    """The indexes of a collection.

    Any number of threads may ask; commits come one at a time, each before the view of it is shown.

    Parameters
    ----------
    seq : of the last commit.
    alive : rows that count.
    end_row : the row behind the last one.
    """

    def __init__(self, seq: int, alive: BitMap, end_row: int = 0) -> None:
        self._lock = threading.Lock()
        self._end_row = end_row
        self._changed = 0  # rows since the indexes were saved
        self._seq = self._known_from = seq
        self._alive = alive
        self._gone = BitMap()  # died since the indexes were read or purged
        self._whole: dict[Steps, FieldIndex] = {}
        self._edited: dict[Steps, FieldIndex] = {}
        self._edited_rows = BitMap()
        self._building: dict[Steps, _Building] = {}
        self._history: deque[tuple[int, BitMap]] = deque()

    @property
    def needs_payloads(self) -> bool:
        """Whether commits have to bring payloads."""
        return bool(self._whole or self._building)

    def state(self, path: Path) -> IndexState | None:
        """Describe a field's index, the newer one where one takes the place of another; None if there is none."""
        with self._lock:
            building, whole = self._building.get(path.steps), self._whole.get(path.steps)
            if building is not None:
                return IndexState(building.index.kind, False, len(building.index.filled & self._alive))
            if whole is None:
                return None
            filled = (whole.filled - self._edited_rows) | self._edited[path.steps].filled
            return IndexState(whole.kind, True, len(filled & self._alive))

    def commit(self, seq: int, changes: Changes) -> None:
        """Follow a commit."""
        wanted = self.needs_payloads
        payloads = [orjson.loads(payload or b"{}") for payload in changes.payloads] if wanted else []
        edits = {row: orjson.loads(payload) if wanted else {} for row, payload in changes.edited}
        with self._lock:
            self._seq = seq
            self._end_row = changes.first_row + len(changes.payloads)
            for index in self._all():
                for row, payload in enumerate(payloads, changes.first_row):
                    index.add(row, payload)
            self._alive.add_range(changes.first_row, changes.first_row + len(changes.payloads))
            dead, edited = BitMap(changes.dead), BitMap(edits)
            self._changed += len(changes.payloads) + len(dead) + len(edited)
            self._alive -= dead
            self._gone |= dead
            if edited:
                self._edit(edited, edits)
            if dead or edited:
                # Without an index, too: one that is made later will be asked by readers of now.
                self._history.append((seq, dead | edited))
            while len(self._history) > HISTORY:
                self._known_from, _ = self._history.popleft()

    def candidates(
        self,
        tree: Filter,
        *,
        seq: int,
        end_row: int,
        rows_of_ids: Callable[[Iterable[PointId]], BitMap],
        check: Callable[[], None],
    ) -> Candidates | None:
        """Answer a reader of commit `seq`, which sees rows below `end_row`; None if no index helps it.

        Parameters
        ----------
        rows_of_ids : in the reader's snapshot.
        check : called now and then; may raise.
        """
        with self._lock:
            if not self._whole or seq < self._known_from or end_row > MOST_ROWS:
                return None
            since = union(rows for number, rows in self._history if number > seq)
            kept = self._alive - since if since else self._alive
            if self._end_row > end_row:  # the reader does not see the newest rows
                kept = kept - BitMap(range(end_row, self._end_row))
                since.remove_range(end_row, MOST_ROWS)
            edited = self._edited_rows
            answer = Answering(self._whole, kept - edited if edited else kept, rows_of_ids, check).answer(tree)
            sure, maybe = answer.sure, answer.maybe | since
            if edited:
                answer = Answering(self._edited, kept & edited, rows_of_ids, check).answer(tree)
                sure, maybe = sure | answer.sure, maybe | answer.maybe
            return Candidates(rows_of(sure), rows_of(maybe))

    def build(self, index: FieldIndex, rows: int, *, fed: int = 0, touched: Iterable[int] = ()) -> None:
        """Begin an index: it follows commits from now on, `feed` brings rows below `rows`, `finish` opens it.

        Another one of the field answers until then.

        Parameters
        ----------
        fed : it has read the rows below this already.
        touched : but of these, other payloads.
        """
        with self._lock:
            self._building[index.path.steps] = _Building(index, rows, fed, BitMap(touched))

    def incomplete(self) -> list[tuple[Path, int, int]]:
        """Return of every index that does not answer yet its path, and which rows it lacks: from one to another."""
        with self._lock:
            return [(one.index.path, one.fed, one.first_new) for one in self._building.values()]

    def feed(self, path: Path, payloads: Iterable[tuple[int, bytes]], end: int) -> None:
        """Add rows that were there before, from where it was to `end`; nothing if the index was dropped meanwhile."""
        parsed = [(row, orjson.loads(payload)) for row, payload in payloads]
        with self._lock:
            building = self._building.get(path.steps)
            if building is not None:
                for row, payload in parsed:
                    building.index.add(row, payload)
                building.fed = end

    def touched(self, path: Path) -> Rows:
        """Return the rows below `rows` of `build` that were edited since: `finish` has to be given their payloads."""
        with self._lock:
            building = self._building.get(path.steps)
            return rows_of(building.touched) if building else np.empty(0, np.int64)

    def finish(self, path: Path, touched: Iterable[tuple[int, bytes]]) -> None:
        """Open an index that has read all rows. No commit may happen between `touched` and this."""
        with self._lock:
            building = self._building.pop(path.steps, None)
            if building is None:
                return
            self._fold()
            building.index.discard(building.touched)
            for row, payload in touched:
                building.index.add(row, orjson.loads(payload))
            self._whole[path.steps] = building.index
            self._changed += len(self._alive)
            self._edited[path.steps] = FieldIndex(path, building.index.kind)

    def purge(self) -> None:
        """Forget rows that died, when they are more than those that live."""
        with self._lock:
            if len(self._gone) > max(FOLD_ROWS, len(self._alive)):
                for index in (*self._all(), *self._edited.values()):
                    index.discard(self._gone)
                self._edited_rows -= self._gone
                self._gone = BitMap()

    def drop(self, path: Path) -> None:
        """Forget an index, complete or not."""
        with self._lock:
            for there in (self._whole, self._edited, self._building):
                there.pop(path.steps, None)

    def memory_bytes(self) -> int:
        """Return about how many bytes all indexes take in memory. Looks at every term."""
        with self._lock:
            rows = [self._alive, self._gone, self._edited_rows, *(rows for _, rows in self._history)]
            indexes = [*self._all(), *self._edited.values()]
            return sum(map(bytes_of, rows)) + sum(index.memory_bytes() for index in indexes)

    @property
    def changed(self) -> int:
        """Rows that came, died or were edited since the indexes were saved; a new index counts all rows."""
        return self._changed if self._whole else 0

    def to_save(self) -> Iterator[SavedState]:
        """Yield what is to be saved of every complete index. Holds up commits and filters, one index at a time."""
        for steps in list(self._whole):
            with self._lock:
                self._fold()
                index = self._whole.get(steps)
                if index is None:
                    continue
                state = SavedState(index.path, index.kind, self._seq, self._end_row, index.to_blobs())
                self._changed = 0
            yield state

    def give_up(self) -> None:
        """Forget all indexes: filters read payloads again."""
        with self._lock:
            self._whole, self._edited, self._building, self._edited_rows = {}, {}, {}, BitMap()

    def _all(self) -> list[FieldIndex]:
        return [*self._whole.values(), *(one.index for one in self._building.values())]

    def _edit(self, rows: BitMap, payloads: Mapping[int, dict[str, Any]]) -> None:
        if not self._whole and not self._building:
            return
        again = rows & self._edited_rows
        for index in self._edited.values():
            if again:
                index.discard(again)
            for row, payload in payloads.items():
                index.add(row, payload)
        self._edited_rows |= rows
        for building in self._building.values():
            building.touched |= rows
        if len(self._edited_rows) > max(FOLD_ROWS, len(self._alive) // FOLD_SHARE):
            self._fold()

    def _fold(self) -> None:
        """Take edited rows over into the indexes of all others."""
        if not self._edited_rows:
            return
        for steps, index in self._whole.items():
            index.discard(self._edited_rows)
            index.absorb(self._edited[steps])
            self._edited[steps] = FieldIndex(index.path, index.kind)
        self._edited_rows = BitMap()
