"""Filters: beside Qdrant's client in local mode on random trees, and conditions by hand."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qdrant_client import QdrantClient, models

from index.filters import parse_filter
from index.ids import parse_id
from tests.random_filters import IDS, UUIDS, fields, filters, payloads


@pytest.fixture(scope="module")
def client():
    client = QdrantClient(":memory:")
    client.create_collection("c", vectors_config=models.VectorParams(size=1, distance=models.Distance.DOT))
    yield client
    client.close()


def selected(raw, points):
    tree = parse_filter(raw)
    return {point_id for point_id, payload in points.items() if tree.matches(point_id, payload)}


@settings(max_examples=300, deadline=None, derandomize=True)
@given(stored=st.lists(payloads, min_size=len(IDS), max_size=len(IDS)), raw=filters)
def test_random_trees_select_what_qdrant_selects(client, stored, raw):
    compare(client, stored, raw)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(stored=st.lists(payloads, min_size=len(IDS), max_size=len(IDS)), condition=fields)
def test_random_conditions_select_what_qdrant_selects(client, stored, condition):
    compare(client, stored, {"must": [condition]})


def compare(client, stored, raw):
    points = dict(zip(IDS, stored, strict=True))
    client.upsert("c", [models.PointStruct(id=i, vector=[1.0], payload=p) for i, p in points.items()])
    found, _ = client.scroll("c", models.Filter.model_validate(raw), limit=len(IDS))
    assert selected(raw, points) == {point.id for point in found}


@settings(max_examples=200, deadline=None, derandomize=True)
@given(stored=st.lists(payloads, min_size=len(IDS), max_size=len(IDS)), raw=filters)
def test_only_ids_is_an_upper_bound_and_needs_payload_is_true_to_its_word(stored, raw):
    tree = parse_filter(raw)
    points = dict(zip(IDS, stored, strict=True))
    found = {i for i, payload in points.items() if tree.matches(i, payload)}
    bound = tree.only_ids()
    assert bound is None or found <= bound
    if not tree.needs_payload:
        assert found == {i for i in IDS if tree.matches(i, {})}


def matched(condition, payload, point_id=1):
    return parse_filter({"must": [condition]}).matches(point_id, payload)


@pytest.mark.parametrize(
    ("condition", "payload", "expected"),
    [
        ({"match": {"value": "x"}}, {"a": "x"}, True),
        ({"match": {"value": "x"}}, {"a": ["y", "x"]}, True),
        ({"match": {"value": "x"}}, {"a": [["x"]]}, False),  # one level
        ({"match": {"value": "x"}}, {}, False),
        ({"match": {"value": 1}}, {"a": 1}, True),
        ({"match": {"value": 1}}, {"a": 1.0}, False),
        ({"match": {"value": 1}}, {"a": True}, False),
        ({"match": {"value": True}}, {"a": 1}, False),
        ({"match": {"value": False}}, {"a": False}, True),
        ({"match": {"value": 2**63 + 1}}, {"a": 2**63 + 1}, True),
        ({"match": {"any": ["x", "y"]}}, {"a": "y"}, True),
        ({"match": {"any": [1, 2]}}, {"a": [True, 2.0]}, False),
        ({"match": {"any": []}}, {"a": "y"}, False),
        ({"match": {"any": ["x"]}}, {"a": {"x": 1}}, False),  # an object cannot be hashed
        ({"match": {"except": ["x"]}}, {"a": ["x", "y"]}, True),
        ({"match": {"except": ["x"]}}, {"a": ["x"]}, False),
        ({"match": {"except": ["x"]}}, {"a": None}, False),
        ({"match": {"except": ["x"]}}, {}, False),
        ({"match": {"except": [1]}}, {"a": True}, True),
        ({"match": {"except": []}}, {"a": 5}, True),
        ({"match": {"text": "CAR red"}}, {"a": "a red, fast car"}, True),
        ({"match": {"text": "ca"}}, {"a": "a red car"}, False),  # words, not substrings
        ({"match": {"text": "!"}}, {"a": "!"}, False),
        ({"match": {"text_any": "bus red"}}, {"a": "a red car"}, True),
        ({"match": {"phrase": "red car"}}, {"a": "a Red-car"}, True),
        ({"match": {"phrase": "car red"}}, {"a": "a red car"}, False),
        ({"range": {"gte": 1, "lt": 2}}, {"a": 1}, True),
        ({"range": {"gte": 1, "lt": 2}}, {"a": 2.0}, False),
        ({"range": {"gte": 1, "lt": 2}}, {"a": [0, 3]}, False),  # no element lies inside
        ({"range": {"gte": 0}}, {"a": True}, False),
        ({"range": {"gte": 0}}, {"a": "5"}, False),
        ({"range": {"gte": None, "lt": 1}}, {"a": -5}, True),
        ({"range": {}}, {"a": 1}, True),
        ({"range": {}}, {"a": "x"}, False),
        ({"range": {"gte": "2024-01-01"}}, {"a": "2024-01-01T00:00:00Z"}, True),
        ({"range": {"gt": "2024-01-01"}}, {"a": "2024-01-01T00:30:00+01:00"}, False),
        ({"range": {"lt": "2024-01-01"}}, {"a": "yesterday"}, False),
        ({"range": {"lt": "2024-01-01"}}, {"a": 0}, False),
        ({"values_count": {"gte": 2}}, {"a": [1, None]}, True),
        ({"values_count": {"gte": 1, "lte": 1}}, {"a": "x"}, True),
        ({"values_count": {"lt": 1}}, {}, True),
        ({"values_count": {"lt": 1}}, {"a": None}, True),
        ({"is_empty": True}, {"a": []}, True),
        ({"is_empty": True}, {"a": [None]}, False),
        ({"is_empty": False}, {"a": 0}, True),
        ({"is_empty": False}, {}, False),
        ({"is_null": True}, {"a": None}, True),
        ({"is_null": True}, {}, False),
        ({"is_null": False}, {}, True),
    ],
)
def test_field_conditions(condition, payload, expected):
    assert matched({"key": "a", **condition}, payload) is expected


@pytest.mark.parametrize(
    ("key", "payload", "expected"),
    [
        ("a.b", {"a": {"b": 1}}, True),
        ("a.b", {"a.b": 1}, False),
        ('"a.b"', {"a.b": 1}, True),
        ("a.b", {"a": [{"b": 1}]}, False),
        ("a[].b", {"a": [{"b": 0}, {"b": 1}]}, True),
        ("a[1].b", {"a": [{"b": 0}, {"b": 1}]}, True),
        ("a[0].b", {"a": [{"b": 0}, {"b": 1}]}, False),
        ("a[7]", {"a": [1]}, False),
        ("a[][]", {"a": [[0], [1]]}, True),
        ("a[]", {"a": 1}, False),
    ],
)
def test_keys_are_paths(key, payload, expected):
    assert matched({"key": key, "match": {"value": 1}}, payload) is expected


PETS = {"pets": [{"kind": "cat", "age": 3}, {"kind": "dog", "age": 9}]}


@pytest.mark.parametrize(("kind", "age", "expected"), [("cat", 3, True), ("cat", 9, False), ("dog", 9, True)])
@pytest.mark.parametrize("key", ["pets", "pets[]"])
def test_nested_asks_one_element_for_everything(key, kind, age, expected):
    inner = {"must": [{"key": "kind", "match": {"value": kind}}, {"key": "age", "match": {"value": age}}]}
    assert matched({"nested": {"key": key, "filter": inner}}, PETS) is expected
    flat = [{"key": f"pets[].{k}", "match": {"value": v}} for k, v in (("kind", kind), ("age", age))]
    assert matched({"must": flat}, PETS)


def test_nested_needs_a_list_of_objects():
    for value in ({"b": 1}, 5, [], [5, None, [{"b": 1}]]):
        assert not matched({"nested": {"key": "a", "filter": {}}}, {"a": value})
    assert matched({"nested": {"key": "a", "filter": {}}}, {"a": [5, {}]})


X, Y = ({"key": "a", "match": {"value": value}} for value in ("x", "y"))


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ({}, True),
        ({"must": None, "should": None, "must_not": None, "min_should": None}, True),
        ({"must": [], "should": [], "must_not": []}, True),
        ({"must": X}, True),
        ({"must": [X, Y]}, False),
        ({"should": [X, Y]}, True),
        ({"should": Y}, False),
        ({"must_not": X}, False),
        ({"must_not": [Y]}, True),
        ({"must": [{"should": [X, Y]}, {"must_not": [{"must": [X, Y]}]}]}, True),
        ({"must": [{}]}, True),
        ({"must_not": [{}]}, False),
        ({"min_should": {"conditions": [X, Y], "min_count": 1}}, True),
        ({"min_should": {"conditions": [X, Y], "min_count": 2}}, False),
        ({"min_should": {"conditions": [X, X], "min_count": 2}}, True),
        ({"min_should": {"conditions": [X], "min_count": 2}}, False),
        ({"min_should": {"conditions": [], "min_count": 1}}, False),
        ({"should": [X], "min_should": {"conditions": [Y], "min_count": 1}}, False),
    ],
)
def test_clauses(raw, expected):
    assert parse_filter(raw).matches(1, {"a": "x"}) is expected


def test_has_id_takes_any_form_of_an_id():
    raw = {"must": [{"has_id": [1, "urn:uuid:" + UUIDS[0].upper(), "any string"]}]}
    assert selected(raw, {i: {} for i in (1, "1", UUIDS[0], "any string", 2)}) == {1, UUIDS[0], "any string"}
    assert parse_id(UUIDS[0]) in parse_filter(raw).only_ids()


def has(*ids):
    return {"has_id": list(ids)}


@pytest.mark.parametrize(
    ("raw", "bound", "needs_payload"),
    [
        ({}, None, False),
        ({"must": [has(1, 2), has(2, 3)]}, {2}, False),
        ({"must": [has(1, 2), X]}, {1, 2}, True),
        ({"must": [has()]}, set(), False),
        ({"should": [has(1), has(2)]}, {1, 2}, False),
        ({"should": [has(1), X]}, None, True),
        ({"should": [], "must": [has(1)]}, {1}, False),
        ({"must": [has(1, 2)], "should": [has(2), has(3)]}, {2}, False),
        ({"must_not": [has(1)]}, None, False),
        ({"must_not": [{"must_not": [has(1)]}]}, None, False),
        ({"must": [{"should": [has(1), {"must": [has(2), X]}]}]}, {1, 2}, True),
        ({"min_should": {"conditions": [has(1, 2), has(2, 3), X], "min_count": 2}}, {1, 2, 3}, True),
        ({"min_should": {"conditions": [has(1, 2), X, Y], "min_count": 2}}, None, True),
        ({"min_should": {"conditions": [has(1, 2), X], "min_count": 2}}, {1, 2}, True),
        ({"min_should": {"conditions": [X], "min_count": 2}}, set(), True),
        ({"must": [{"nested": {"key": "a", "filter": {}}}]}, None, True),
    ],
)
def test_only_ids_and_needs_payload(raw, bound, needs_payload):
    tree = parse_filter(raw)
    assert tree.only_ids() == bound
    assert tree.needs_payload is needs_payload


def test_integers_past_two_to_the_53_are_compared_exactly():
    """Qdrant rounds bounds to doubles, which cannot tell these apart; it documents no such limit."""
    assert matched({"key": "a", "range": {"gt": 2**53}}, {"a": 2**53 + 1})
    assert not matched({"key": "a", "range": {"gte": 2**53 + 1}}, {"a": 2**53})
    assert matched({"key": "a", "range": {"lt": 10**400}}, {"a": 1.5})


def test_times_are_compared_to_the_nanosecond():
    """The client's local mode cuts times to microseconds; RFC 3339 sets no limit."""
    bound = {"gt": "2024-01-01T00:00:00.123456788Z"}
    assert matched({"key": "a", "range": bound}, {"a": "2024-01-01T00:00:00.123456789Z"})
