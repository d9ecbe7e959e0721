"""Hypothesis strategies: payloads and Qdrant's filter trees over few keys and values, so that they meet."""

from __future__ import annotations

from hypothesis import strategies as st

UUIDS = ["00000000-0000-0000-0000-00000000000a", "00000000-0000-0000-0000-00000000000b"]
IDS = [0, 1, 2, 2**64 - 1, *UUIDS]
TIMES = [
    "2024-01-01",
    "2024-01-01T00:00:00Z",
    "2024-01-01T12:30:00+02:00",
    "2024-01-01 10:30:00",
    "2024-01-01T10:30:00.250000Z",
    "2024-01-02",
]
WORDS = ["red", "Red car", "car, red!", "a red-hot car", "carred", "", "été Rouge"]
# Few keys and few values, so that conditions meet what they ask for.
names = st.sampled_from(["a", "b", "c"])
strings = st.sampled_from(["x", "y", *WORDS, *TIMES])
numbers = st.one_of(st.integers(-2, 3), st.sampled_from([0.0, 1.0, 1.5, -0.5, 2**40]))
scalars = st.one_of(st.none(), st.booleans(), numbers, strings)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=6,
)
payloads = st.dictionaries(names, values, max_size=3)
# Lists of objects are rare among free values, and the paths with brackets need them.
rows = st.lists(st.dictionaries(names, scalars, max_size=3), max_size=3)
payloads = payloads | st.fixed_dictionaries({"a": rows}, optional={"b": values, "c": scalars})
paths = st.sampled_from(["a", "b", "c", "a.b", "a[].b", "a[].c", "a[0]", "a[0].b", "a[]", "b[]", '"a"."b"', "a.b.c"])


def bounds(of):
    return st.dictionaries(st.sampled_from(["gt", "gte", "lt", "lte"]), of, max_size=3)


def one(name, of):
    return of.map(lambda value: {name: value})


matches = st.one_of(
    one("value", st.one_of(st.booleans(), st.integers(-2, 3), strings)),
    one("any", st.lists(strings, max_size=3) | st.lists(st.integers(-2, 3), max_size=3)),
    one("except", st.lists(strings, max_size=3) | st.lists(st.integers(-2, 3), max_size=3)),
    *(
        one(name, st.sampled_from([*WORDS, "RED", "red car", "car red", "!"]))
        for name in ("text", "text_any", "phrase")
    ),
)
tests = st.one_of(
    one("match", matches),
    one("range", bounds(st.none() | numbers)),
    one("range", bounds(st.sampled_from(TIMES))),
    one("values_count", bounds(st.integers(0, 3))),
    one("is_empty", st.booleans()),
    one("is_null", st.booleans()),
)
fields = st.one_of(
    st.builds(lambda key, test: {"key": key, **test}, paths, tests),
    st.builds(lambda key: {"is_empty": {"key": key}}, paths),
    st.builds(lambda key: {"is_null": {"key": key}}, paths),
)
has_ids = st.lists(st.sampled_from([*IDS, 77, UUIDS[0].upper()]), max_size=3).map(lambda ids: {"has_id": ids})


def trees(conditions):
    clause = st.none() | conditions | st.lists(conditions, max_size=3)
    minimum = st.fixed_dictionaries({"conditions": st.lists(conditions, max_size=3), "min_count": st.integers(1, 4)})
    return st.fixed_dictionaries(
        {}, optional={"must": clause, "should": clause, "must_not": clause, "min_should": st.none() | minimum}
    )


def nested(inner):
    return st.builds(lambda key, tree: {"nested": {"key": key, "filter": tree}}, paths, inner)


within = trees(st.recursive(fields, lambda more: trees(more) | nested(trees(more)), max_leaves=3))
leaves = st.one_of(fields, fields, has_ids, nested(within))
filters = trees(st.recursive(leaves, trees, max_leaves=4))
