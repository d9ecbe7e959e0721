"""Ids: the canonical form, what is refused, and the order that SQLite gives them."""

from __future__ import annotations

import sqlite3
import uuid

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from index.errors import InvalidId
from index.ids import MAX_INTEGER, from_key, order_key, parse_id, parse_ids, to_key

CANONICAL = "936da01f-9abd-4d9d-80c7-02af85c822a8"

texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=40)
integers = st.one_of(st.integers(0, MAX_INTEGER), st.sampled_from([0, 1, 2**63 - 1, 2**63, 2**63 + 1, MAX_INTEGER]))
point_ids = st.one_of(integers, texts, st.uuids().map(str)).map(parse_id)


@pytest.mark.parametrize("value", [0, 1, 2**53 + 1, 2**63, MAX_INTEGER])
def test_unsigned_integers_are_ids(value):
    assert parse_id(value) == value
    assert type(parse_id(value)) is int


@pytest.mark.parametrize(
    "value",
    [
        CANONICAL,
        CANONICAL.upper(),
        CANONICAL.replace("-", ""),
        CANONICAL.replace("-", "").upper(),
        f"urn:uuid:{CANONICAL}",
        f"URN:UUID:{CANONICAL.upper()}",
        f"{{{CANONICAL}}}",
    ],
)
def test_each_form_of_a_uuid_becomes_one_id(value):
    assert parse_id(value) == CANONICAL


@pytest.mark.parametrize(
    "value",
    [
        "936d-a01f9abd4d9d80c702af85c822a8-x",  # 36 characters
        "936da01f9-abd-4d9d-80c7-02af85c822a8",  # hyphens elsewhere: uuid.UUID would take it
        "936da01f9abd4d9d80c702af85c822ag",
        f"{{{CANONICAL}",
        f" {CANONICAL}",
        f"{CANONICAL}\n",
        "urn:uuid:936da01f9abd4d9d80c702af85c822a8",
        "{936da01f9abd4d9d80c702af85c822a8}",
        "936da01f9abd4d9d80c702af85c822a\u0663",  # an Arabic digit
        "urn:uu\u0131d:" + CANONICAL,  # a dotless i
    ],
)
def test_what_only_resembles_a_uuid_stays_a_string(value):
    assert parse_id(value) == value


@pytest.mark.parametrize("value", ["1", "Oslo", "a/b c?", "é" * 256, "x" * 512, " ", "\U0001f600" * 128])
def test_other_strings_stay_as_they_are(value):
    assert parse_id(value) == value


def test_one_and_the_string_one_differ():
    assert len({parse_id(1), parse_id("1")}) == 2
    assert to_key(1) != to_key("1")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (-1, "negative"),
        (2**64, "above 2"),
        pytest.param(10**5000, "above 2", id="too many digits to print"),
        (True, "a boolean is not an id"),
        (1.0, "a float is not an id"),
        (None, "null is not an id"),
        ([1], "a list is not an id"),
        ({}, "an object is not an id"),
        (b"x", "type bytes"),
        ("", "empty"),
        ("a\0b", "NUL"),
        ("\ud800", "surrogate"),
        ("x" * 513, "513 UTF-8 bytes"),
        ("é" * 257, "514 UTF-8 bytes"),
    ],
)
def test_everything_else_is_refused(value, message):
    with pytest.raises(InvalidId, match=message) as caught:
        parse_id(value)
    assert caught.value.param == "id"
    assert caught.value.hint


def test_a_list_keeps_order_and_repetitions():
    assert parse_ids([3, CANONICAL.upper(), 3, "3"]) == [3, CANONICAL, 3, "3"]
    assert parse_ids([]) == []


def test_a_list_names_the_bad_member():
    with pytest.raises(InvalidId, match="a boolean") as caught:
        parse_ids([1, "a", True], param="points")
    assert caught.value.param == "points[2]"


@pytest.mark.parametrize("value", [None, "abc", 1, {"1": 2}])
def test_ids_must_be_a_list(value):
    with pytest.raises(InvalidId, match="not a list"):
        parse_ids(value)


@settings(deadline=None, derandomize=True)
@given(point_ids)
def test_keys_are_stored_by_sqlite_and_turn_back(point_id):
    database = sqlite3.connect(":memory:")
    stored = database.execute("SELECT ?", (to_key(point_id),)).fetchone()[0]
    database.close()
    assert from_key(stored) == point_id
    assert type(from_key(stored)) is type(point_id)


@settings(deadline=None, derandomize=True)
@given(st.uuids())
def test_canonical_uuids_agree_with_the_standard_library(value):
    for form in (value.hex, str(value).upper(), value.urn):
        assert parse_id(form) == str(uuid.UUID(form))


@settings(deadline=None, derandomize=True)
@given(st.lists(point_ids, unique=True, max_size=30))
def test_sqlite_sorts_keys_as_python_sorts_ids(ids):
    database = sqlite3.connect(":memory:")
    database.execute("CREATE TABLE points (id NOT NULL)")
    database.execute("CREATE UNIQUE INDEX by_id ON points (id)")
    database.executemany("INSERT INTO points VALUES (?)", [(to_key(point_id),) for point_id in ids])
    found = [from_key(key) for (key,) in database.execute("SELECT id FROM points ORDER BY id")]
    for after in ids[:3]:
        rest = database.execute("SELECT id FROM points WHERE id >= ? ORDER BY id", (to_key(after),)).fetchall()
        assert [from_key(key) for (key,) in rest] == [i for i in found if order_key(i) >= order_key(after)]
    database.close()

    by_bytes = sorted((i for i in ids if isinstance(i, str)), key=lambda text: text.encode())
    assert found == sorted(i for i in ids if isinstance(i, int)) + by_bytes
    assert found == sorted(ids, key=order_key)


def test_a_large_list_of_integers_matches_the_single_form():
    values = np.random.default_rng(5).integers(0, MAX_INTEGER, 2000, dtype=np.uint64, endpoint=True).tolist()
    assert parse_ids(values) == [parse_id(value) for value in values]
