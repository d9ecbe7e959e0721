"""A filter tree answered by the indexes of fields: which rows fulfil it, and which have to be asked one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from pyroaring import BitMap

from index.fields.bitmaps import union
from index.fields.field import Answer, FieldIndex
from index.ids import PointId
from index.matching import Condition, Filter, HasId

Steps = tuple[str | int | None, ...]  # of a path
MOST_STEPS = 100_000  # of bitmaps, in a count of conditions that are fulfilled


@dataclass(slots=True)
class Answering:
    """Answers filters about some rows.

    Parameters
    ----------
    fields : by the steps of their paths.
    universe : the rows in question, all of which every index has read.
    rows_of : ids to the rows of those that exist.
    check : called now and then; may raise.
    """

    fields: Mapping[Steps, FieldIndex]
    universe: BitMap
    rows_of: Callable[[Iterable[PointId]], BitMap]
    check: Callable[[], None]

    def answer(self, condition: Condition) -> Answer:
        """Return which rows of the universe fulfil a condition; what no index knows about is all left open."""
        self.check()
        if isinstance(condition, Filter):
            return self._filter(condition)
        if isinstance(condition, HasId):
            return Answer(self.rows_of(condition.ids) & self.universe, BitMap())
        path = getattr(condition, "path", None)
        index = None if path is None else self.fields.get(path.steps)
        found = None if index is None else index.answer(condition, self.universe)
        if found is None:
            return Answer(BitMap(), self.universe)
        return Answer(found.sure & self.universe, found.maybe & self.universe)

    def _filter(self, node: Filter) -> Answer:
        parts = [self.answer(condition) for condition in node.must]
        parts += [self._not(self.answer(condition)) for condition in node.must_not]
        if node.should:
            parts.append(_any([self.answer(condition) for condition in node.should]))
        if node.min_count:
            parts.append(self._at_least(node.min_count, [self.answer(condition) for condition in node.min_should]))
        if not parts:
            return Answer(self.universe, BitMap())
        sure = BitMap.intersection(*(part.sure for part in parts)) if len(parts) > 1 else parts[0].sure
        reach = sorted((part.sure | part.maybe if part.maybe else part.sure for part in parts), key=len)
        return Answer(sure, (BitMap.intersection(*reach) if len(reach) > 1 else reach[0]) - sure)

    def _not(self, found: Answer) -> Answer:
        return Answer(self.universe - found.sure - found.maybe, found.maybe)

    def _at_least(self, count: int, parts: Sequence[Answer]) -> Answer:
        if count > len(parts):
            return Answer(BitMap(), BitMap())
        if count * len(parts) > MOST_STEPS:
            return Answer(BitMap(), self.universe)
        sure = _counted(count, [part.sure for part in parts])
        return Answer(sure, _counted(count, [part.sure | part.maybe for part in parts]) - sure)


def _any(parts: Sequence[Answer]) -> Answer:
    sure = union(part.sure for part in parts)
    return Answer(sure, union(part.maybe for part in parts) - sure)


def _counted(count: int, bitmaps: Sequence[BitMap]) -> BitMap:
    """Return what is in at least `count` of the bitmaps."""
    reached = [BitMap() for _ in range(count + 1)]  # by at least so many of those looked at
    for rows in bitmaps:
        for number in range(count, 1, -1):
            reached[number] |= reached[number - 1] & rows
        reached[1] |= rows
    return reached[count]
