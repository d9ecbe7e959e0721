"""Filters that are refused: the node at fault is named, depth and number are bounded."""

from __future__ import annotations

import json

import pytest

from index.errors import InvalidFilter
from index.filters import MAX_CLAUSES, MAX_DEPTH, parse_filter

X, Y = ({"key": "a", "match": {"value": value}} for value in ("x", "y"))


@pytest.mark.parametrize(
    ("raw", "param", "message"),
    [
        (None, "filter", "null is not an object"),
        ([], "filter", "a list is not an object"),
        ("x", "filter", "a string is not an object"),
        ({"musst": []}, "filter", "unknown key 'musst'"),
        ({"key": "a", "match": {"value": 1}}, "filter", "unknown key 'key'"),
        ({"must": "x"}, "filter.must", "a string is not an object"),
        ({"must": [X, 5]}, "filter.must[1]", "an integer is not an object"),
        ({"must": [None]}, "filter.must[0]", "null is not an object"),
        ({"must": {"key": 5, "match": {"value": 1}}}, "filter.must.key", "not a key"),
        ({"must": {"key": "a..b", "match": {"value": 1}}}, "filter.must.key", "not a path"),
        ({"must": {"key": "a"}}, "filter.must", "needs one of is_empty, is_null, match, range, values_count"),
        ({"must": {"match": {"value": 1}}}, "filter.must.key", "needs its key"),
        ({"must": {"key": "a", "mtach": {}}}, "filter.must", "unknown key 'mtach'"),
        ({"must": {**X, "range": {"gt": 1}}}, "filter.must", "match and range at once"),
        ({"must": {"key": "a", "match": {}}}, "filter.must.match", "needs one of"),
        (
            {"must": {"key": "a", "match": {"value": 1, "any": []}}},
            "filter.must.match",
            "any and value at once",
        ),
        ({"must": {"key": "a", "match": {"value": 1.5}}}, "filter.must.match.value", "a float is not"),
        ({"must": {"key": "a", "match": {"value": [1]}}}, "filter.must.match.value", "a list is not"),
        ({"must": {"key": "a", "match": {"any": "x"}}}, "filter.must.match.any", "not a list"),
        (
            {"must": {"key": "a", "match": {"any": [1, "x"]}}},
            "filter.must.match.any[1]",
            "a string in a list",
        ),
        (
            {"must": {"key": "a", "match": {"any": [1, True]}}},
            "filter.must.match.any[1]",
            "a boolean in a list",
        ),
        ({"must": {"key": "a", "match": {"except": [1.5]}}}, "filter.must.match.except[0]", "a float is not"),
        ({"must": {"key": "a", "match": {"text": 5}}}, "filter.must.match.text", "not a string"),
        ({"must": {"key": "a", "match": {"prefix": "x"}}}, "filter.must.match.prefix", "not supported"),
        ({"must": {"key": "a", "range": 5}}, "filter.must.range", "not an object"),
        ({"must": {"key": "a", "range": {"ge": 5}}}, "filter.must.range", "unknown key 'ge'"),
        ({"must": [{"key": "a", "range": {"gte": "5"}}]}, "filter.must[0].range.gte", "'5' is not a date"),
        (
            {"must": {"key": "a", "range": {"gte": True}}},
            "filter.must.range.gte",
            "a boolean is not a number",
        ),
        ({"must": {"key": "a", "range": {"gte": float("nan")}}}, "filter.must.range.gte", "finite"),
        (
            {"must": {"key": "a", "range": {"gt": 1, "lt": "2024-01-01"}}},
            "filter.must.range.gt",
            "range of dates",
        ),
        (
            {"must": {"key": "a", "values_count": {"gt": 1.5}}},
            "filter.must.values_count.gt",
            "not an integer",
        ),
        ({"must": {"key": "a", "values_count": {"gt": -1}}}, "filter.must.values_count.gt", "0 or more"),
        ({"must": {"key": "a", "is_null": "yes"}}, "filter.must.is_null", "not true or false"),
        ({"must": {"is_null": True}}, "filter.must.is_null", "a boolean is not an object"),
        ({"must": {"is_empty": {}}}, "filter.must.is_empty.key", "is missing"),
        ({"must": {"is_empty": {"key": "a", "x": 1}}}, "filter.must.is_empty", "unknown key 'x'"),
        ({"must": {"has_id": 5}}, "filter.must.has_id", "not a list"),
        ({"must": {"has_id": [5, 1.5]}}, "filter.must.has_id[1]", "a float is not an id"),
        ({"must": {"has_id": [5], "key": "a"}}, "filter.must", "unknown key 'has_id'"),
        ({"must": {"nested": {"key": "a"}}}, "filter.must.nested.filter", "is missing"),
        ({"must": {"nested": {"key": "a", "filter": {}, "x": 1}}}, "filter.must.nested", "unknown key 'x'"),
        ({"min_should": []}, "filter.min_should", "a list is not an object"),
        ({"min_should": {"conditions": []}}, "filter.min_should.min_count", "is missing"),
        ({"min_should": {"conditions": X, "min_count": 1}}, "filter.min_should.conditions", "not a list"),
        ({"min_should": {"conditions": [X], "min_count": 0}}, "filter.min_should.min_count", "1 or more"),
        (
            {"min_should": {"conditions": [5], "min_count": 1}},
            "filter.min_should.conditions[0]",
            "an integer is",
        ),
        ({"must_not": [{"should": [{"x": 1}]}]}, "filter.must_not[0].should[0]", "unknown key 'x'"),
        ({1: 2}, "filter", "unknown key an integer"),
    ],
)
def test_malformed_filters_name_the_node(raw, param, message):
    with pytest.raises(InvalidFilter, match=message) as caught:
        parse_filter(raw)
    assert caught.value.param == param
    assert str(caught.value).startswith(f"{param}: ")


@pytest.mark.parametrize(
    ("condition", "name"),
    [
        ({"key": "a", "geo_radius": {}}, "geo_radius"),
        ({"key": "a", "geo_bounding_box": {}}, "geo_bounding_box"),
        ({"key": "a", "geo_polygon": {}}, "geo_polygon"),
        ({"has_vector": "v"}, "has_vector"),
        ({"slice": {"total": 2, "index": 0}}, "slice"),
    ],
)
def test_conditions_that_qdrant_has_and_we_do_not_are_named(condition, name):
    with pytest.raises(InvalidFilter, match=f"Qdrant's {name} is not supported") as caught:
        parse_filter({"should": [condition]})
    assert caught.value.param == f"filter.should[0].{name}"


def test_has_id_inside_nested_is_refused():
    """Qdrant documents it as unsupported; its client's local mode takes it and matches nothing."""
    inner = {"must": [{"should": [{"has_id": [1]}]}]}
    with pytest.raises(InvalidFilter, match="nested filter") as caught:
        parse_filter({"must": [{"nested": {"key": "a", "filter": inner}}]})
    assert caught.value.param == "filter.must[0].nested.filter.must[0].should[0].has_id"


def deep(levels):
    raw = {}
    for _ in range(levels - 1):
        raw = {"must": [raw]}
    return raw


def test_depth_is_bounded():
    assert parse_filter(deep(MAX_DEPTH)).matches(1, {})
    through_nested = deep(MAX_DEPTH - 1)
    with pytest.raises(InvalidFilter, match="more than 32 deep"):
        parse_filter(deep(MAX_DEPTH + 1))
    with pytest.raises(InvalidFilter, match="more than 32 deep"):
        parse_filter({"must": [{"nested": {"key": "a", "filter": {"must": [through_nested]}}}]})


@pytest.mark.parametrize("where", ["filters", "list in match", "list in must", "objects in range"])
def test_input_of_any_depth_is_refused_without_a_crash(where):
    bottom = []
    if where == "filters":
        raw = deep(100_000)
    else:
        for _ in range(100_000):
            bottom = {"gte": bottom} if where == "objects in range" else [bottom]
        raw = {
            "list in match": {"must": {"key": "a", "match": {"any": bottom}}},
            "list in must": {"must": bottom},
            "objects in range": {"must": {"key": "a", "range": bottom}},
        }[where]
    with pytest.raises(InvalidFilter):
        parse_filter(raw)


def test_the_number_of_conditions_is_bounded():
    assert parse_filter({"should": [X] * MAX_CLAUSES}).matches(1, {"a": "x"})
    with pytest.raises(InvalidFilter, match="more than 10000 conditions"):
        parse_filter({"should": [X] * MAX_CLAUSES, "must": X})
    groups = [{"must": [X] * 99}] * (MAX_CLAUSES // 100)
    assert parse_filter({"should": groups}).matches(1, {"a": "x"})
    with pytest.raises(InvalidFilter, match="more than 10000 conditions"):
        parse_filter({"should": groups, "must_not": Y})


def test_messages_stay_short_and_can_be_sent():
    for raw in ({"\ud800" * 10_000: 1}, {"must": {"key": "\ud800" * 10_000, "match": {"value": 1}}}):
        with pytest.raises(InvalidFilter) as caught:
            parse_filter(raw)
        assert len(str(caught.value)) < 600
        assert json.dumps(str(caught.value)).encode()
        assert str(caught.value).encode()


def test_the_root_of_the_path_can_be_named():
    with pytest.raises(InvalidFilter, match=r"searches\[2\]\.filter\.must") as caught:
        parse_filter({"must": 5}, param="searches[2].filter")
    assert caught.value.param == "searches[2].filter.must"
