"""Payload indexes: answers about random payloads beside reading every one of them, changes, columns by hand."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyroaring import BitMap

from index.fields import column as columns
from index.fields.answering import Answering
from index.fields.bitmaps import bitmap_of, rows_of
from index.fields.column import Column
from index.fields.field import KINDS, FieldIndex
from index.fields.terms import Terms
from index.filters import parse_filter
from index.matching import Bounds
from index.paths import parse_path
from tests.random_filters import IDS, fields, filters, paths, payloads

stores = st.lists(payloads, min_size=len(IDS), max_size=len(IDS))
kinds = st.dictionaries(paths, st.sampled_from(KINDS), max_size=4)
numbers = st.one_of(
    st.integers(-3, 3),
    st.sampled_from([2**53, 2**53 + 1, -(2**53) - 1, 2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 10**30, -(10**400)]),
    st.floats(-3, 3).map(lambda x: round(x, 1)),
    st.sampled_from([float(2**53), float(2**53 + 2), float(2**63), 1e300, -1e300]),
)


def indexed(kinds, stored, rows=None):
    """Return the indexes of some fields over all rows, or over some."""
    made = [FieldIndex(parse_path(path), kind) for path, kind in kinds.items()]
    for row, payload in enumerate(stored):
        if rows is None or row in rows:
            for index in made:
                index.add(row, payload)
    return {index.path.steps: index for index in made}


def ask(fields, raw, rows):
    tree = parse_filter(raw)

    def rows_of_ids(ids: Iterable) -> BitMap:
        return BitMap([IDS.index(i) for i in ids if i in IDS])

    return Answering(fields, BitMap(rows), rows_of_ids, lambda: None).answer(tree)


def check(fields, raw, stored, rows):
    """What is sure fulfils the filter; what does is sure or maybe; the two do not overlap."""
    tree = parse_filter(raw)
    true = {row for row in rows if tree.matches(IDS[row], stored[row])}
    sure, maybe = ask(fields, raw, rows)
    assert set(sure) <= true <= set(sure | maybe) <= set(rows)
    assert not sure & maybe
    return sure, maybe


@settings(max_examples=400, deadline=None, derandomize=True)
@given(kinds=kinds, stored=stores, raw=filters)
def test_answers_to_random_trees_hold(kinds, stored, raw):
    check(indexed(kinds, stored), raw, stored, range(len(IDS)))


@settings(max_examples=600, deadline=None, derandomize=True)
@given(data=st.data(), stored=stores, condition=fields)
def test_answers_to_random_conditions_hold(data, stored, condition):
    key = condition.get("key") or next(iter(condition.values()))["key"]
    check(indexed({key: data.draw(st.sampled_from(KINDS))}, stored), {"must": [condition]}, stored, range(len(IDS)))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    kinds=kinds,
    stored=stores,
    again=stores,
    raw=filters,
    gone=st.sets(st.integers(0, len(IDS) - 1)),
    edited=st.sets(st.integers(0, len(IDS) - 1)),
)
def test_rows_that_went_and_came_are_as_if_they_had_always_been_so(kinds, stored, again, raw, gone, edited):
    found, other = indexed(kinds, stored), indexed(kinds, again, edited)
    for steps, index in found.items():
        index.discard(BitMap(gone | edited))
        index.absorb(other[steps])
    now = [again[row] if row in edited else stored[row] for row in range(len(IDS))]
    rows = sorted(set(range(len(IDS))) - (gone - edited))
    sure, maybe = check(found, raw, now, rows)
    afresh = ask(indexed(kinds, now), raw, rows)
    assert (sure, maybe) == afresh


@pytest.mark.parametrize(
    ("kind", "condition"),
    [
        ("keyword", {"match": {"value": "red"}}),
        ("keyword", {"match": {"any": ["red", "blue"]}}),
        ("keyword", {"match": {"except": ["red"]}}),
        ("uuid", {"match": {"value": "00000000-0000-0000-0000-00000000000a"}}),
        ("integer", {"match": {"value": 3}}),
        ("integer", {"match": {"except": [3]}}),
        ("integer", {"range": {"gte": 1, "lt": 2.5}}),
        ("float", {"range": {"gt": -1}}),
        ("bool", {"match": {"value": True}}),
        ("datetime", {"range": {"gte": "2024-01-01"}}),
        ("text", {"match": {"text": "red car"}}),
        ("text", {"match": {"text_any": "red car"}}),
        *((kind, {"values_count": {"gt": 0}}) for kind in KINDS),
        *((kind, {"is_empty": True}) for kind in KINDS),
        *((kind, {"is_null": False}) for kind in KINDS),
    ],
)
def test_what_a_kind_is_for_needs_no_payload(kind, condition):
    values = ["red", "blue", 3, 1.5, True, None, "2024-05-05", "a red car", "00000000-0000-0000-0000-00000000000a"]
    stored = [{"k": value} for value in values]
    found = indexed({"k": kind}, stored)
    universe = range(len(values))
    sure, maybe = Answering(found, BitMap(universe), lambda _: BitMap(), lambda: None).answer(
        parse_filter({"must": {"key": "k", **condition}})
    )
    tree = parse_filter({"must": {"key": "k", **condition}})
    assert set(sure) == {row for row in universe if tree.matches(row, stored[row])}
    assert sure
    assert not maybe


def test_a_count_of_very_many_conditions_is_left_open():
    condition = {"key": "a", "match": {"value": "x"}}
    raw = {"min_should": {"conditions": [condition] * 1000, "min_count": 900}}
    assert ask(indexed({"a": "keyword"}, [{}] * 3), raw, range(3)) == (BitMap(), BitMap(range(3)))
    raw["min_should"]["min_count"] = 1001
    assert ask(indexed({"a": "keyword"}, [{}] * 3), raw, range(3)) == (BitMap(), BitMap())


@settings(max_examples=400, deadline=None, derandomize=True)
@given(
    held=st.lists(numbers, max_size=12),
    ordered=st.integers(0, 12),
    bounds=st.dictionaries(st.sampled_from(["gt", "gte", "lt", "lte"]), numbers, max_size=3),
    gone=st.sets(st.integers(0, 11)),
)
def test_ranges_of_a_column_compare_as_python_does(held, ordered, bounds, gone):
    column, tested = Column(), Bounds(**bounds)
    for row, number in enumerate(held):
        column.add(row, number)
        if row == ordered:
            column.to_blobs()  # puts all into one order
    assert len(column) == len(held)
    assert set(column.rows(tested)) == {row for row, number in enumerate(held) if tested.hold(number)}
    column.discard(BitMap(gone))
    left = {row for row, number in enumerate(held) if tested.hold(number)} - gone
    assert set(column.rows(tested)) == left


def test_a_column_sorts_itself_and_takes_another_over(monkeypatch):
    monkeypatch.setattr(columns, "YOUNG", 100)
    rng = np.random.default_rng(0)
    held = rng.integers(-1000, 1000, 3000).tolist()
    one, two = Column(), Column()
    bounds = Bounds(gte=-10, lt=333.5)
    for row, number in enumerate(held):
        (one if row % 3 else two).add(row, number / 4 if row % 5 == 0 else number)
        if row % 700 == 0:
            one.rows(bounds)
    one.add(len(held), math.nan)
    assert len(one) + len(two) == len(held)
    assert len(one._recent) < 100
    assert len(one._ints._young) <= 100
    one.absorb(two)
    true = {row for row, n in enumerate(held) if bounds.hold(n / 4 if row % 5 == 0 else n)}
    assert set(one.rows(bounds)) == true
    assert set(Column.from_blobs(one.to_blobs()).rows(bounds)) == true


def test_terms():
    terms = Terms()
    for row, term in enumerate("abacabad"):
        terms.add(row, term)
        terms.add(row, term)
    assert len(terms) == 4
    assert set(terms.rows("bd?")) == {1, 5, 7}
    assert set(terms.rows("")) == set()
    terms.add(1, "c")
    assert set(terms.common("bc")) == {1}
    terms.discard(BitMap([1, 5, 7]))
    assert (len(terms), set(terms.rows("abcd"))) == (2, {0, 2, 3, 4, 6})


def test_bitmaps_and_rows():
    rows = np.array([3, 1, 2**32 - 1, 3])
    assert rows_of(bitmap_of(rows)).tolist() == [1, 3, 2**32 - 1]
    assert rows_of(BitMap()).tolist() == []
