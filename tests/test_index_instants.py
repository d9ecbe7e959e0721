"""Dates and times in every form, and what is none."""

from __future__ import annotations

import pytest

from index.errors import InvalidFilter
from index.filters import parse_filter
from index.instants import parse_instant


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-01", 0),
        ("1969-12-31T23:59:59Z", -1),
        ("1970-01-02 00:00", 86_400),
        ("1970-01-01T00:00:01", 1),
        ("1970-01-01t00:00:01z", 1),
        ("1970-01-01T00:00:01 UTC", 1),
        ("1970-01-01 00:00:01 +00:00", 1),
        ("1970-01-01T01:00:00+01:00", 0),
        ("1970-01-01T01:00:00+01", 0),
        ("1970-01-01T01:30:00+0130", 0),
        ("1969-12-31T20:30:00-03:30", 0),
        ("  1970-01-01T00:00:01.5Z", 1.5),
        ("1972-06-30T23:59:60Z", 78_796_800),
        ("2000-02-29", 951_782_400),
    ],
)
def test_times_in_every_form(text, seconds):
    assert parse_instant(text) == seconds * 10**9


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "1970",
        "1970-01",
        "1970-13-01",
        "1970-02-30",
        "0000-01-01",
        "1970-01-01T24:00:00Z",
        "1970-01-01 12",
    ]
    + [
        "1970-01-01T00:60:00Z",
        "1970-01-01T00:00:61Z",
        "1970-01-01T00:00Z",
        "1970-01-01Z",
        "1970-01-01T00:00:00+24",
    ]
    + ["1970-01-01T00:00:00.Z", "1970-01-01T00:00:00Z ", "1970-01-01T00:00:00+01:60", "\u0661970-01-01"],
)
def test_what_is_no_time(text):
    assert parse_instant(text) is None
    with pytest.raises(InvalidFilter, match="is not a date"):
        parse_filter({"must": [{"key": "a", "range": {"lt": text}}]})
