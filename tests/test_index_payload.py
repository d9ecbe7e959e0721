"""Payloads: what is accepted, and edits beside those of Qdrant's client in local mode."""

from __future__ import annotations

import copy

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qdrant_client import QdrantClient, models

from index.errors import InvalidPayload
from index.paths import MAX_STEPS, BadPath, parse_path
from index.payload import MAX_DEPTH, MAX_VALUES, PayloadEdit, parse_payload

keys = st.sampled_from(["a", "b", "c"])
scalars = st.one_of(st.none(), st.booleans(), st.integers(-3, 3), st.sampled_from(["x", "y"]))
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=8,
)
payloads = st.dictionaries(keys, values, max_size=3)
steps = st.sampled_from(["a", "b", "c", "[]", "[0]", "[1]"])


@st.composite
def paths(draw):
    first = draw(keys)
    rest = draw(st.lists(steps, max_size=3))
    return first + "".join(step if step.startswith("[") else f".{step}" for step in rest)


@pytest.fixture(scope="module")
def client():
    client = QdrantClient(":memory:")
    client.create_collection("c", vectors_config=models.VectorParams(size=1, distance=models.Distance.DOT))
    yield client
    client.close()


def put(client, payload):
    client.upsert("c", [models.PointStruct(id=1, vector=[1.0], payload=copy.deepcopy(payload))])


def got(client):
    return client.retrieve("c", [1], with_payload=True)[0].payload


@settings(max_examples=150, deadline=None, derandomize=True)
@given(payload=payloads, patch=payloads, path=st.none() | paths())
def test_set_is_qdrants(client, payload, patch, path):
    before = copy.deepcopy(payload)
    put(client, payload)
    client.set_payload("c", patch, points=[1], key=path)
    assert PayloadEdit("set", patch, path=path).apply(payload) == got(client)
    assert payload == before


@settings(max_examples=150, deadline=None, derandomize=True)
@given(payload=payloads, removed=st.lists(paths(), min_size=1, max_size=3))
def test_delete_is_qdrants(client, payload, removed):
    before = copy.deepcopy(payload)
    put(client, payload)
    client.delete_payload("c", removed, points=[1])
    assert PayloadEdit("delete", keys=tuple(removed)).apply(payload) == got(client)
    assert payload == before


@settings(max_examples=25, deadline=None, derandomize=True)
@given(payload=payloads, patch=payloads)
def test_overwrite_and_clear_are_qdrants(client, payload, patch):
    put(client, payload)
    client.overwrite_payload("c", patch, points=[1])
    assert PayloadEdit("overwrite", patch).apply(payload) == got(client)
    client.clear_payload("c", points_selector=[1])
    assert PayloadEdit("clear").apply(payload) == got(client)


@pytest.mark.parametrize(
    ("edit", "before", "after"),
    [
        (PayloadEdit("set", {"a": 2, "c": 3}), {"a": 1, "b": 1}, {"a": 2, "b": 1, "c": 3}),
        (PayloadEdit("set", {"a": None}), {"a": 1, "b": None}, {"b": None}),
        (PayloadEdit("set", {}), {"a": 1}, {"a": 1}),
        (PayloadEdit("set", {"a": {"y": 2}}), {"a": {"x": 1}}, {"a": {"y": 2}}),
        (PayloadEdit("set", {"y": 2}, path="a"), {"a": {"x": 1}}, {"a": {"x": 1, "y": 2}}),
        (PayloadEdit("set", {"y": 2}, path="a.b.c"), {}, {"a": {"b": {"c": {"y": 2}}}}),
        (PayloadEdit("set", {"y": 2}, path="a.b"), {"a": 7}, {"a": {"b": {"y": 2}}}),
        (PayloadEdit("set", {"y": 2}, path="a[]"), {"a": [{"x": 1}, 5]}, {"a": [{"x": 1, "y": 2}, {"y": 2}]}),
        (PayloadEdit("set", {"y": 2}, path="a[1].b"), {"a": [1, {}]}, {"a": [1, {"b": {"y": 2}}]}),
        (PayloadEdit("set", {"y": 2}, path="a[9]"), {"a": [1]}, {"a": [1]}),
        (PayloadEdit("set", {"y": 2}, path='"a.b"'), {"a": {"b": 1}}, {"a": {"b": 1}, "a.b": {"y": 2}}),
        (PayloadEdit("overwrite", {"b": None}), {"a": 1}, {"b": None}),
        (PayloadEdit("delete", keys=("a.b", "c")), {"a": {"b": 1, "d": 2}, "c": 3}, {"a": {"d": 2}}),
        (PayloadEdit("delete", keys=("a[].b",)), {"a": [{"b": 1, "c": 2}, 4]}, {"a": [{"c": 2}, 4]}),
        (PayloadEdit("delete", keys=("a[]",)), {"a": [1, 2]}, {"a": []}),
        (PayloadEdit("delete", keys=("a[0]",)), {"a": [1, 2]}, {"a": [1, 2]}),
        (PayloadEdit("delete", keys=("a[1].b",)), {"a": [{"b": 1}, {"b": 1}]}, {"a": [{"b": 1}, {}]}),
        (PayloadEdit("delete", keys=("x.y", "a.b.c")), {"a": 1}, {"a": 1}),
        (PayloadEdit("delete"), {"a": 1}, {"a": 1}),
        (PayloadEdit("clear"), {"a": 1}, {}),
    ],
)
def test_edits_by_hand(edit, before, after):
    original = copy.deepcopy(before)
    result = edit.apply(before)
    assert result == after
    assert before == original
    assert result is not before


@pytest.mark.parametrize(
    ("parts", "param", "message"),
    [
        ({"kind": "set"}, "payload", "needs a payload"),
        ({"kind": "overwrite"}, "payload", "needs a payload"),
        ({"kind": "clear", "payload": {}}, "payload", "takes no payload"),
        ({"kind": "delete", "payload": {}, "keys": ("a",)}, "payload", "takes no payload"),
        ({"kind": "set", "payload": {}, "keys": ("a",)}, "keys", "takes no keys"),
        ({"kind": "overwrite", "payload": {}, "path": "a"}, "key", "takes no path"),
        ({"kind": "delete", "keys": ("a", "b..c")}, "keys[1]", "not a path"),
        ({"kind": "delete", "keys": (1,)}, "keys[0]", "not a key"),
        ({"kind": "set", "payload": {}, "path": ""}, "key", "not a path"),
        ({"kind": "set", "payload": [1]}, "payload", "not a JSON object"),
        ({"kind": "merge", "payload": {}}, "kind", "unknown"),
    ],
)
def test_edits_that_do_not_fit_are_refused(parts, param, message):
    with pytest.raises(InvalidPayload, match=message) as caught:
        PayloadEdit(**parts)
    assert caught.value.param == param


def test_null_is_an_empty_payload():
    assert parse_payload(None) == {}


@settings(derandomize=True)
@given(payloads)
def test_payloads_are_returned_unchanged(payload):
    assert parse_payload(payload) == orjson.loads(orjson.dumps(payload))


def nest(depth, leaf):
    for _ in range(depth):
        leaf = [leaf]
    return leaf


def test_depth_is_bounded_and_deep_input_does_not_crash():
    fits = {"a": nest(MAX_DEPTH - 1, 1)}
    assert parse_payload(fits) is fits
    for depth in (MAX_DEPTH, 100_000):
        with pytest.raises(InvalidPayload, match=f"more than {MAX_DEPTH} deep"):
            parse_payload({"a": nest(depth, 1)})


def test_the_deepest_edit_can_still_be_written():
    deepest = {"a": nest(MAX_DEPTH - 1, 1)}
    edit = PayloadEdit("set", deepest, path=".".join(["p"] * MAX_STEPS))
    assert orjson.loads(orjson.dumps(edit.apply({})))


def test_the_number_of_values_is_bounded():
    assert parse_payload({"a": [0] * (MAX_VALUES - 1)})
    with pytest.raises(InvalidPayload, match="more than"):
        parse_payload({"a": [0] * MAX_VALUES})


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1], "not a JSON object"),
        ("x", "not a JSON object"),
        (1, "not a JSON object"),
        ({1: 2}, "not a string"),
        ({"a": [{"b": float("nan")}]}, "NaN"),
        ({"a": float("inf")}, "infinity"),
        ({"a": 2**64}, "64 bits"),
        ({"a": -(2**63) - 1}, "64 bits"),
        ({"a": "\ud800"}, "surrogate"),
        ({"\udfff": 1}, "surrogate"),
        ({"a": {1, 2}}, "type set is not a JSON value"),
    ],
)
def test_bad_payloads_are_refused(value, message):
    with pytest.raises(InvalidPayload, match=message) as caught:
        parse_payload(value)
    assert caught.value.param == "payload"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a", ("a",)),
        ("a.b-c._d", ("a", "b-c", "_d")),
        ("a[].b", ("a", None, "b")),
        ("a[0][12].b", ("a", 0, 12, "b")),
        ('"a.b"[0]."c d"', ("a.b", 0, "c d")),
        ("größe.名前", ("größe", "名前")),
        (f"a[{2**64 - 1}]", ("a", 2**64 - 1)),
        ('""', ("",)),
    ],
)
def test_paths(text, expected):
    assert parse_path(text).steps == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "a.",
        ".a",
        "a..b",
        "[0]",
        "a.[0]",
        "a[-1]",
        "a[x]",
        "a[0",
        "a]",
        "a b",
        '"a',
        '"a"b',
        "a[0]b",
        "a/b",
    ]
    + [
        f"a[{2**64}]",
        "a[" + "1" * 5000 + "]",
        ".".join(["a"] * (MAX_STEPS + 1)),
        "a" * 5000,
        "a[\u0663]",
        "a\n",
    ],
)
def test_bad_paths(text):
    with pytest.raises(BadPath):
        parse_path(text)
