"""Reads Qdrant's JSON filter tree into conditions. Knows nothing of how they are decided (`index.matching`).

Qdrant's geo conditions, `has_vector`, `slice` and the matches `prefix` and `substring` are refused by
name, and unknown keys too: a condition that is not understood must not widen or narrow a result.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import orjson

from index.errors import InvalidFilter, InvalidId
from index.ids import parse_ids
from index.instants import parse_instant
from index.json_kinds import kind_of
from index.matching import (
    AnyOf,
    Bounds,
    Condition,
    Field,
    Filter,
    HasId,
    InRange,
    InTime,
    IsEmpty,
    IsNull,
    Nested,
    NoneOf,
    Phrase,
    ValuesCount,
    ValueTest,
    Words,
    words_of,
)
from index.paths import Path, read_path

__all__ = ["MAX_CLAUSES", "MAX_DEPTH", "Filter", "parse_filter"]

MAX_DEPTH = 32
MAX_CLAUSES = 10_000

_CLAUSES = ("must", "should", "must_not")
_FILTER_KEYS = frozenset({*_CLAUSES, "min_should"})
_FIELD_TESTS = frozenset({"match", "range", "values_count", "is_empty", "is_null"})
_BOUNDS = ("gt", "gte", "lt", "lte")
_UNSUPPORTED = frozenset(
    {"geo_bounding_box", "geo_radius", "geo_polygon", "has_vector", "slice", "prefix", "substring"}
)


def parse_filter(raw: object, *, param: str = "filter") -> Filter:
    """Read a filter as it came in a request.

    Parameters
    ----------
    raw : a parsed JSON value: an object with `must`, `should`, `must_not`, `min_should`; `{}` matches every
        point. Null is refused, because a filter that failed to be set would select everything.
    param : the name of the input, the root of the path in errors.

    Raises
    ------
    InvalidFilter : malformed, not supported, deeper than 32 filters or of more than 10,000 conditions;
        `param` names the node, as in `filter.must[0].range.gte`.
    """
    tree = _Parser().filter(raw, param, depth=1, nested=False)
    try:
        return replace(tree, written=orjson.dumps(raw))
    except TypeError:  # numbers beyond 64 bits: nothing tells this filter from others as fast
        return tree


@dataclass(slots=True)
class _Parser:
    """Walks one tree and counts its conditions."""

    clauses: int = 0

    def filter(self, raw: object, at: str, *, depth: int, nested: bool) -> Filter:
        if depth > MAX_DEPTH:
            _fail(at, f"filters are nested more than {MAX_DEPTH} deep", "flatten the filter")
        node = _object(raw, at)
        _only(node, _FILTER_KEYS, at, hint="put conditions into must, should or must_not")
        clauses: dict[str, Any] = {
            name: self._conditions(node[name], f"{at}.{name}", depth=depth, nested=nested)
            for name in _CLAUSES
            if node.get(name) is not None
        }
        if node.get("min_should") is not None:
            at = f"{at}.min_should"
            minimum = _object(node["min_should"], at)
            _only(minimum, frozenset({"conditions", "min_count"}), at)
            conditions = _required(minimum, "conditions", at)
            if not isinstance(conditions, list):
                _fail(f"{at}.conditions", f"{kind_of(conditions)} is not a list of conditions")
            clauses["min_count"] = _integer(_required(minimum, "min_count", at), f"{at}.min_count", least=1)
            clauses["min_should"] = self._conditions(conditions, f"{at}.conditions", depth=depth, nested=nested)
        return Filter(**clauses)

    def _conditions(self, raw: object, at: str, *, depth: int, nested: bool) -> tuple[Condition, ...]:
        if not isinstance(raw, list):
            return (self._condition(raw, at, depth=depth, nested=nested),)
        return tuple(self._condition(item, f"{at}[{i}]", depth=depth, nested=nested) for i, item in enumerate(raw))

    def _condition(self, raw: object, at: str, *, depth: int, nested: bool) -> Condition:
        self.clauses += 1
        if self.clauses > MAX_CLAUSES:
            _fail(
                at,
                f"the filter has more than {MAX_CLAUSES} conditions",
                "use match.any or has_id for long lists",
            )
        node = _object(raw, at)
        if "key" in node:
            return _field(node, at)
        if "has_id" in node:
            return _has_id(node, at, nested=nested)
        if "nested" in node:
            return self._nested(node, at, depth=depth)
        if "is_empty" in node:
            return IsEmpty(_payload_field(node, "is_empty", at))
        if "is_null" in node:
            return IsNull(_payload_field(node, "is_null", at))
        if not _FIELD_TESTS.isdisjoint(node):
            _fail(f"{at}.key", "a condition on a field needs its key", 'as in {"key": "city", "match": ...}')
        return self.filter(node, at, depth=depth + 1, nested=nested)

    def _nested(self, node: dict[str, Any], at: str, *, depth: int) -> Condition:
        _only(node, frozenset({"nested"}), at)
        at = f"{at}.nested"
        inner = _object(node["nested"], at)
        _only(inner, frozenset({"key", "filter"}), at)
        key = _required(inner, "key", at)
        if isinstance(key, str) and len(key) > 2:
            # `data` and `data[]` name the same list here.
            key = key.removesuffix("[]")
        path = read_path(key, f"{at}.key", wrong=InvalidFilter)
        return Nested(path, self.filter(_required(inner, "filter", at), f"{at}.filter", depth=depth + 1, nested=True))


def _has_id(node: dict[str, Any], at: str, *, nested: bool) -> Condition:
    _only(node, frozenset({"has_id"}), at)
    at = f"{at}.has_id"
    if nested:
        # Qdrant documents this as not supported; its client's local mode silently lets it match nothing.
        _fail(at, "has_id does not work in a nested filter", "put it beside the nested condition, in must")
    try:
        return HasId(frozenset(parse_ids(node["has_id"], param=at)))
    except InvalidId as error:
        raise InvalidFilter(str(error), param=error.param, hint=error.hint) from None


def _payload_field(node: dict[str, Any], name: str, at: str) -> Path:
    _only(node, frozenset({name}), at)
    at = f"{at}.{name}"
    inner = _object(node[name], at)
    _only(inner, frozenset({"key"}), at)
    return read_path(_required(inner, "key", at), f"{at}.key", wrong=InvalidFilter)


def _field(node: dict[str, Any], at: str) -> Condition:
    _only(node, _FIELD_TESTS | {"key"}, at)
    path = read_path(node["key"], f"{at}.key", wrong=InvalidFilter)
    # Qdrant's server joins several tests in one condition by OR, its client's local mode takes the first, and
    # neither is documented: refused, so that nobody gets the other meaning.
    name = _single(node, _FIELD_TESTS, at, "put each test into a condition of its own")
    value, at = node[name], f"{at}.{name}"
    if name == "match":
        return Field(path, _match(value, at))
    if name == "range":
        return Field(path, _range(value, at))
    if name == "values_count":
        return ValuesCount(path, _bounds(value, at, lambda bound, where: _integer(bound, where, least=0)))
    if not isinstance(value, bool):
        _fail(at, f"{kind_of(value)} is not true or false")
    return IsEmpty(path, value) if name == "is_empty" else IsNull(path, value)


def _match(raw: object, at: str) -> ValueTest:
    node = _object(raw, at)
    names = frozenset({"value", "any", "except", "text", "text_any", "phrase"})
    _only(node, names, at)
    name = _single(node, names, at, "put each match into a condition of its own")
    value, at = node[name], f"{at}.{name}"
    if name == "value":
        if not isinstance(value, bool | int | str):
            hint = "use range with gte and lte for floats" if isinstance(value, float) else None
            _fail(at, f"{kind_of(value)} is not a string, an integer or a boolean", hint)
        return AnyOf(type(value), frozenset({value}))
    if name in ("any", "except"):
        kind, values = _variants(value, at)
        return AnyOf(kind, values) if name == "any" else NoneOf(kind, values)
    if not isinstance(value, str):
        _fail(at, f"{kind_of(value)} is not a string")
    words = words_of(value)
    return Phrase(tuple(words)) if name == "phrase" else Words(frozenset(words), every=name == "text")


def _variants(raw: object, at: str) -> tuple[type, frozenset[Any]]:
    if not isinstance(raw, list):
        _fail(at, f"{kind_of(raw)} is not a list")
    kind = type(raw[0]) if raw else str
    if kind not in (str, int):
        _fail(f"{at}[0]", f"{kind_of(raw[0])} is not a string or an integer")
    for i, value in enumerate(raw):
        if type(value) is not kind:
            _fail(f"{at}[{i}]", f"{kind_of(value)} in a list that starts with {kind_of(raw[0])}", "do not mix types")
    return kind, frozenset(raw)


def _range(raw: object, at: str) -> ValueTest:
    strings = [isinstance(value, str) for value in _object(raw, at).values() if value is not None]
    if any(strings):
        return InTime(_bounds(raw, at, _instant))
    return InRange(_bounds(raw, at, _number))


def _bounds(raw: object, at: str, read: Callable[[object, str], float | int]) -> Bounds:
    node = _object(raw, at)
    _only(node, frozenset(_BOUNDS), at)
    given = {name: read(node[name], f"{at}.{name}") for name in _BOUNDS if node.get(name) is not None}
    return Bounds(**given)


def _number(value: object, at: str) -> float | int:
    if isinstance(value, bool) or not isinstance(value, int | float):
        _fail(at, f"{kind_of(value)} is not a number or a date")
    if isinstance(value, float) and not math.isfinite(value):
        _fail(at, "a bound must be finite", "leave it out for no bound")
    return value


def _instant(value: object, at: str) -> int:
    if not isinstance(value, str):
        _fail(at, f"{kind_of(value)} in a range of dates", "give all bounds as numbers or all as dates")
    instant = parse_instant(value)
    if instant is None:
        _fail(at, f"{_shown(value)} is not a date", "use RFC 3339, as in 2024-05-01T12:00:00Z or 2024-05-01")
    return instant


def _integer(value: object, at: str, *, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        _fail(at, f"{kind_of(value)} is not an integer")
    if value < least:
        _fail(at, f"must be {least} or more")
    return value


def _object(raw: object, at: str) -> dict[str, Any]:
    if not isinstance(raw, dict):
        _fail(at, f"{kind_of(raw)} is not an object")
    return raw


def _required(node: dict[str, Any], name: str, at: str) -> object:
    if name not in node:
        _fail(f"{at}.{name}", "is missing")
    return node[name]


def _single(node: dict[str, Any], names: frozenset[str], at: str, hint: str) -> str:
    given = sorted(name for name in names if node.get(name) is not None)
    if not given:
        _fail(at, f"needs one of {', '.join(sorted(names))}")
    if len(given) > 1:
        _fail(at, f"has {' and '.join(given)} at once", hint)
    return given[0]


def _only(node: dict[str, Any], allowed: frozenset[str], at: str, *, hint: str | None = None) -> None:
    for name in node:
        if name in allowed:
            continue
        if name in _UNSUPPORTED:
            _fail(f"{at}.{name}", f"Qdrant's {name} is not supported here")
        _fail(at, f"unknown key {_shown(name)}", hint or f"known here: {', '.join(sorted(allowed))}")


def _fail(at: str, message: str, hint: str | None = None) -> NoReturn:
    raise InvalidFilter(f"{at}: {message}", param=at, hint=hint)


def _shown(text: object) -> str:
    """Quote a piece of the input: only its start, and with everything that is no plain character escaped."""
    return ascii(text[:60]) if isinstance(text, str) else kind_of(text)
