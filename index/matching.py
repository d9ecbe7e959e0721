"""Decides whether a point matches a filter. Knows nothing of the JSON that it came as (`index.filters`).

The meaning of every condition is that of Qdrant's filtering documentation. Values are compared as JSON types:
a boolean is no number, and an integer never equals a float. A list matches when one of its elements does, one
level deep.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Protocol

from index.ids import PointId
from index.instants import parse_instant
from index.paths import Path

# Words are runs of letters and digits; everything else separates them.
_WORD = re.compile(r"[^\W_]+")


class Condition(Protocol):
    """A node of the tree."""

    @property
    def needs_payload(self) -> bool:
        """Whether `matches` looks at the payload."""
        ...

    def matches(self, point_id: PointId, payload: dict[str, Any]) -> bool:
        """Whether a point with this id and payload matches."""
        ...

    def only_ids(self) -> frozenset[PointId] | None:
        """Return an upper bound of the ids that can match, None if there is none."""
        ...


class ValueTest(Protocol):
    """A test of one value of a field."""

    def accepts(self, value: object) -> bool:
        """Whether the value passes."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """A boolean node: all of `must`, none of `must_not`, one of `should`, `min_count` of `min_should`.

    An empty clause asks for nothing, so `Filter()` matches every point; `min_should` counts only with a
    positive `min_count`. `written` is the JSON that a whole filter was read from, empty where there was none.
    """

    must: tuple[Condition, ...] = ()
    should: tuple[Condition, ...] = ()
    must_not: tuple[Condition, ...] = ()
    min_should: tuple[Condition, ...] = ()
    min_count: int = 0
    written: bytes = field(default=b"", compare=False, repr=False)

    @property
    def needs_payload(self) -> bool:
        """False when only ids decide, so that the payload need not be read; `matches` then takes any dict."""
        clauses = self.must + self.should + self.must_not + self.min_should
        return any(condition.needs_payload for condition in clauses)

    def matches(self, point_id: PointId, payload: dict[str, Any]) -> bool:
        """Whether a point with this canonical id and this payload matches."""
        for condition in self.must:
            if not condition.matches(point_id, payload):
                return False
        for condition in self.must_not:
            if condition.matches(point_id, payload):
                return False
        if self.should:
            for condition in self.should:
                if condition.matches(point_id, payload):
                    break
            else:
                return False
        return not self.min_count or self._enough(point_id, payload)

    def only_ids(self) -> frozenset[PointId] | None:
        """Return an upper bound of the ids that can match, None if nothing is known.

        What `must_not` excludes is not taken out: it is a bound, not the answer.
        """
        bounds = [condition.only_ids() for condition in self.must]
        if self.should:
            bounds.append(_union([condition.only_ids() for condition in self.should], 1))
        if self.min_count:
            bounds.append(_union([condition.only_ids() for condition in self.min_should], self.min_count))
        known = sorted((bound for bound in bounds if bound is not None), key=len)
        return frozenset.intersection(*known) if known else None

    def _enough(self, point_id: PointId, payload: dict[str, Any]) -> bool:
        missing = self.min_count
        for condition in self.min_should:
            if condition.matches(point_id, payload):
                missing -= 1
                if not missing:
                    return True
        return False


def _union(bounds: list[frozenset[PointId] | None], count: int) -> frozenset[PointId] | None:
    """Bound the ids that match at least `count` of the conditions with these bounds.

    Such an id misses at most n - count of them, so it is in the union of any n - count + 1.
    """
    needed = len(bounds) - count + 1
    if needed <= 0:
        return frozenset()
    known = sorted((bound for bound in bounds if bound is not None), key=len)
    return frozenset().union(*known[:needed]) if len(known) >= needed else None


class _PayloadCondition:
    """What every condition on the payload has in common."""

    __slots__ = ()

    @property
    def needs_payload(self) -> bool:
        return True

    def only_ids(self) -> frozenset[PointId] | None:
        return None


@dataclass(frozen=True, slots=True)
class HasId:
    """The id is one of these."""

    ids: frozenset[PointId]

    @property
    def needs_payload(self) -> bool:
        """Never."""
        return False

    def matches(self, point_id: PointId, payload: dict[str, Any]) -> bool:  # noqa: ARG002 - one of many conditions
        """Whether the id is one of these; the payload does not matter."""
        return point_id in self.ids

    def only_ids(self) -> frozenset[PointId] | None:
        """Return the ids themselves."""
        return self.ids


@dataclass(frozen=True, slots=True)
class Field(_PayloadCondition):
    """A value that the path selects, or an element of a list there, passes the test."""

    path: Path
    test: ValueTest

    def matches(self, point_id: PointId, payload: dict[str, Any]) -> bool:  # noqa: ARG002 - one of many conditions
        """Whether one of the values passes; a missing field never does."""
        accepts = self.test.accepts
        for value in self.path.values(payload):
            if type(value) is list:
                for element in value:
                    if accepts(element):
                        return True
            elif accepts(value):
                return True
        return False


@dataclass(frozen=True, slots=True)
class IsEmpty(_PayloadCondition):
    """The field is missing, null or an empty list, or (`expected` False) it is not."""

    path: Path
    expected: bool = True

    def matches(self, point_id: PointId, payload: dict[str, Any]) -> bool:  # noqa: ARG002 - one of many conditions
        """Whether every value that the path selects is null or an empty list, or none is selected."""
        empty = all(value is None or value == [] for value in self.path.values(payload))
        return empty is self.expected


@dataclass(frozen=True, slots=True)
class IsNull(_PayloadCondition):
    """The field is there and null or a list with a null in it, or (`expected` False) it is not."""

    path: Path
    expected: bool = True

    def matches(self, point_id: PointId, payload: dict[str, Any]) -> bool:  # noqa: ARG002 - one of many conditions
        """Whether a value that the path selects is null or has a null element."""
        null = any(
            value is None or (type(value) is list and any(element is None for element in value))
            for value in self.path.values(payload)
        )
        return null is self.expected


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """An interval; a bound that is None is open. All are numbers, or all are times of `parse_instant`."""

    gt: float | int | None = None
    gte: float | int | None = None
    lt: float | int | None = None
    lte: float | int | None = None

    def hold(self, value: float | int) -> bool:
        """Whether the value lies inside. Python compares integers and floats exactly, past 2^53 as well."""
        return (
            (self.gte is None or value >= self.gte)
            and (self.lt is None or value < self.lt)
            and (self.lte is None or value <= self.lte)
            and (self.gt is None or value > self.gt)
        )


@dataclass(frozen=True, slots=True)
class ValuesCount(_PayloadCondition):
    """The number of values: of a list its length, of null or a missing field 0, of anything else 1."""

    path: Path
    bounds: Bounds

    def matches(self, point_id: PointId, payload: dict[str, Any]) -> bool:  # noqa: ARG002 - one of many conditions
        """Whether the count at one of the selected places lies within all bounds at once."""
        values = self.path.values(payload) or [None]
        return any(self.bounds.hold(len(value) if type(value) is list else int(value is not None)) for value in values)


@dataclass(frozen=True, slots=True)
class Nested(_PayloadCondition):
    """One element of a list of objects matches a whole filter. What is no list has no elements."""

    path: Path
    filter: Filter

    def matches(self, point_id: PointId, payload: dict[str, Any]) -> bool:
        """Whether one object in the selected lists, taken as a payload, matches."""
        matches = self.filter.matches
        return any(
            matches(point_id, element)
            for value in self.path.values(payload)
            if type(value) is list
            for element in value
            if type(element) is dict
        )


@dataclass(frozen=True, slots=True)
class AnyOf:
    """The value is one of these, which are all of one type (bool, int or str)."""

    type: type
    values: frozenset[bool | int | str]

    def accepts(self, value: object) -> bool:
        """Whether the value has the type and is in the set."""
        return type(value) is self.type and value in self.values


@dataclass(frozen=True, slots=True)
class NoneOf:
    """The value is there and none of these, which are all of one type. A null is no value."""

    type: type
    values: frozenset[int | str]

    def accepts(self, value: object) -> bool:
        """Whether the value is neither null nor in the set."""
        return value is not None and not (type(value) is self.type and value in self.values)


@dataclass(frozen=True, slots=True)
class InRange:
    """The value is a number within bounds."""

    bounds: Bounds

    def accepts(self, value: object) -> bool:
        """Whether the value is an integer or a float, not a boolean, and inside."""
        return (type(value) is float or type(value) is int) and self.bounds.hold(value)


@dataclass(frozen=True, slots=True)
class InTime:
    """The value is a string that reads as a date or time within bounds."""

    bounds: Bounds

    def accepts(self, value: object) -> bool:
        """Whether the value is a time, and inside."""
        if type(value) is not str:
            return False
        instant = parse_instant(value)
        return instant is not None and self.bounds.hold(instant)


@dataclass(frozen=True, slots=True)
class Words:
    """A string holds all (or any) of the words, whole and without regard to case. No words match nothing."""

    words: frozenset[str]
    every: bool

    def accepts(self, value: object) -> bool:
        """Whether the value is a string with those words."""
        if type(value) is not str or not self.words:
            return False
        there = words_of(value)
        return self.words.issubset(there) if self.every else not self.words.isdisjoint(there)


@dataclass(frozen=True, slots=True)
class Phrase:
    """A string holds the words one after the other. No words match nothing."""

    words: tuple[str, ...]

    def accepts(self, value: object) -> bool:
        """Whether the value is a string with that phrase."""
        if type(value) is not str or not self.words:
            return False
        there, length = words_of(value), len(self.words)
        return any(tuple(there[i : i + length]) == self.words for i in range(len(there) - length + 1))


def words_of(text: str) -> list[str]:
    """Return the words of a text in lower case, in order: what Qdrant does on unindexed fields."""
    return [word.lower() for word in _WORD.findall(text)]
