"""The index of one payload field: what its rows hold, and which rows a condition on it accepts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal, NamedTuple, Self, get_args

from pyroaring import BitMap

from index.fields.bitmaps import bytes_of, union
from index.fields.column import Column
from index.fields.terms import Terms
from index.instants import parse_instant
from index.matching import (
    AnyOf,
    Condition,
    Field,
    InRange,
    InTime,
    IsEmpty,
    IsNull,
    NoneOf,
    Phrase,
    ValuesCount,
    ValueTest,
    Words,
    words_of,
)
from index.paths import Path

FieldKind = Literal["keyword", "integer", "float", "bool", "datetime", "uuid", "text"]
KINDS: Final[tuple[FieldKind, ...]] = get_args(FieldKind)
# What a kind finds by equality: values of this type.
_TERM_TYPES: Final[dict[FieldKind, type]] = {"keyword": str, "uuid": str, "integer": int, "bool": bool}


_PRESENCE: Final = ("filled", "nulls", "one", "many")


class Answer(NamedTuple):
    """Rows that fulfil a condition for sure, and others of which only the payload can tell. They do not overlap."""

    sure: BitMap
    maybe: BitMap


class FieldIndex:
    """What the values of one field are, row by row.

    Values are those that the path selects, elements those of their lists, one level deep, and the values that are
    no lists, as in `index.matching`.

    Attributes
    ----------
    path, kind : what is indexed, and how: the kind says which conditions are answered without any payload. All
        answer whether the field is empty or null, and how many values it has.
    """

    def __init__(self, path: Path, kind: FieldKind) -> None:
        self.path = path
        self.kind: FieldKind = kind
        self._counts: dict[int, BitMap] = {}  # number of values -> rows
        self._filled, self._nulls = BitMap(), BitMap()
        self._one, self._many = BitMap(), BitMap()  # rows with one element that is not null, and with several
        self._terms, self._numbers = Terms(), Column()

    def add(self, row: int, payload: dict[str, Any]) -> None:
        """Read a row that is not there yet."""
        values = self.path.values(payload)
        elements: list[Any] = []
        for value in values or (None,):
            lot: list[Any] = value if type(value) is list else [] if value is None else [value]
            self._counts.setdefault(len(lot), BitMap()).add(row)
            if lot:
                self._filled.add(row)
                elements += lot
            if values and (value is None or any(element is None for element in lot)):
                self._nulls.add(row)
        elements = [element for element in elements if element is not None]
        if elements:
            (self._many if len(elements) > 1 else self._one).add(row)
            self._add_elements(row, elements)

    def _add_elements(self, row: int, elements: list[Any]) -> None:
        wanted = _TERM_TYPES.get(self.kind)
        for element in elements:
            kind = type(element)
            if kind is wanted:
                self._terms.add(row, element)
            if self.kind in ("integer", "float"):
                if kind is int or kind is float:
                    self._numbers.add(row, element)
            elif kind is str:
                if self.kind == "text":
                    for word in words_of(element):
                        self._terms.add(row, word)
                elif self.kind == "datetime" and (instant := parse_instant(element)) is not None:
                    self._numbers.add(row, instant)

    def memory_bytes(self) -> int:
        """Return about how many bytes this takes in memory."""
        presence = (*self._counts.values(), self._filled, self._nulls, self._one, self._many)
        return sum(map(bytes_of, presence)) + self._terms.memory_bytes() + self._numbers.memory_bytes()

    def to_blobs(self) -> dict[str, bytes]:
        """Return what `from_blobs` reads."""
        counts = {f"count {count}": rows.serialize() for count, rows in self._counts.items()}
        presence = {name: getattr(self, f"_{name}").serialize() for name in _PRESENCE}
        return counts | presence | self._terms.to_blobs() | self._numbers.to_blobs()

    @classmethod
    def from_blobs(cls, path: Path, kind: FieldKind, blobs: Mapping[str, bytes]) -> Self:
        """Read `to_blobs` of an index of the same path and kind."""
        made = cls(path, kind)
        for name, blob in blobs.items():
            if name.startswith("count "):
                made._counts[int(name.removeprefix("count "))] = BitMap.deserialize(blob)
        for name in _PRESENCE:
            setattr(made, f"_{name}", BitMap.deserialize(blobs[name]))
        made._terms, made._numbers = Terms.from_blobs(blobs), Column.from_blobs(blobs)
        return made

    @property
    def filled(self) -> BitMap:
        """Rows with a value that is neither null nor an empty list; not to be changed."""
        return self._filled

    def discard(self, rows: BitMap) -> None:
        """Forget rows. Costs as much as there is in the index."""
        for there in (*self._counts.values(), self._filled, self._nulls, self._one, self._many):
            there -= rows
        self._terms.discard(rows)
        self._numbers.discard(rows)

    def absorb(self, other: FieldIndex) -> None:
        """Take over all rows of another index of the field, which must not be used afterwards."""
        for count, rows in other._counts.items():
            self._counts[count] = self._counts.get(count, BitMap()) | rows
        self._filled |= other._filled
        self._nulls |= other._nulls
        self._one |= other._one
        self._many |= other._many
        self._terms.absorb(other._terms)
        self._numbers.absorb(other._numbers)

    def answer(self, condition: Condition, universe: BitMap) -> Answer | None:
        """Return which rows of `universe` fulfil a condition on this field; None if the index cannot say.

        The index may know more rows; the answer may, too.
        """
        match condition:
            case Field(test=test):
                return self._tested(test)
            case IsEmpty(expected=empty):
                return _sure(universe - self._filled if empty else self._filled)
            case IsNull(expected=null):
                return _sure(self._nulls if null else universe - self._nulls)
            case ValuesCount(bounds=bounds):
                return _sure(union(rows for count, rows in self._counts.items() if bounds.hold(count)))
        return None

    def _tested(self, test: ValueTest) -> Answer | None:
        wanted = _TERM_TYPES.get(self.kind)
        match test:
            case AnyOf(type=kind, values=values) if kind is wanted:
                return _sure(self._terms.rows(values))
            case NoneOf(type=kind, values=values) if kind is wanted:
                excluded = self._terms.rows(values)
                # Of several elements, one that is excluded says nothing about the others.
                return Answer((self._one | self._many) - excluded, self._many & excluded)
            case InRange(bounds=bounds) if self.kind in ("integer", "float"):
                return _sure(self._numbers.rows(bounds))
            case InTime(bounds=bounds) if self.kind == "datetime":
                return _sure(self._numbers.rows(bounds))
            case Words(words=words, every=every) if self.kind == "text":
                return self._worded(words) if every else _sure(self._terms.rows(words))
            case Phrase(words=words) if self.kind == "text":
                found = self._worded(frozenset(words))
                return found if len(words) == 1 else Answer(BitMap(), found.sure | found.maybe)
        return None

    def _worded(self, words: Iterable[str]) -> Answer:
        wanted = list(words)
        if len(wanted) < 2:
            return _sure(self._terms.rows(wanted))
        found = self._terms.common(wanted)
        # The words must be in one string; of several strings, each may hold some.
        return Answer(found - self._many, found & self._many)


def _sure(rows: BitMap) -> Answer:
    return Answer(rows, BitMap())
