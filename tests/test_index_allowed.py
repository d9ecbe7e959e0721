"""What filters select, remembered: the same as worked out anew, gone with the next commit, bounded."""

from __future__ import annotations

import gc
import json
import weakref
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from index import selections
from index.allowed import Allowed
from index.filters import parse_filter
from index.footprint import footprint
from index.maintenance import optimize
from index.payload import PayloadEdit
from index.points import SearchParams
from index.selecting import Selection
from index.selections import Selections
from tests.index_fakes import batch_of, config, open_store, vectors_of
from tests.random_filters import filters

N = 3000
ONE = parse_filter({"must": [{"key": "a", "match": {"value": 1}}]})
TRUE = parse_filter({"must": [{"key": "a", "match": {"value": True}}]})


@pytest.fixture
def store(tmp_path):
    store = open_store(tmp_path, first_fit=200, tail_rows=100, list_rows=1000, exact_below=0, file_bytes=1 << 20)
    yield store
    store.close()


def written(store):
    collection = store.create("c", config())
    vectors = vectors_of(N)
    for start in range(0, N, 500):
        ids = range(start, start + 500)
        payloads = [{"a": 1 if i % 2 else True, "n": i} for i in ids]
        collection.upsert(batch_of(ids, vectors[start : start + 500], payloads))
    optimize(collection)
    return collection


def ids(collection, tree, k=N):
    (found,) = collection.search(vectors_of(1, 3), k, filter=tree, params=SearchParams(exact=False))
    return {hit.id for hit in found.hits}, found.stages


def test_a_filter_is_worked_out_once_a_commit(store, monkeypatch):
    collection = written(store)
    odd = {i for i in range(N) if i % 2}
    assert ids(collection, ONE)[0] == odd
    monkeypatch.setattr("index.reading.select", None)
    assert ids(collection, ONE)[0] == odd
    assert collection.count(ONE) == len(odd)
    monkeypatch.undo()
    collection.edit_payload(PayloadEdit("set", {"a": 2}), ids=[1, 3])
    assert ids(collection, ONE)[0] == odd - {1, 3}
    collection.delete([5])
    assert ids(collection, ONE)[0] == odd - {1, 3, 5}
    collection.upsert(batch_of([2], vectors_of(1, 9), [{"a": 1}]))
    assert ids(collection, ONE)[0] == (odd - {1, 3, 5}) | {2}


def test_values_that_are_equal_in_python_are_other_filters(store):
    collection = written(store)
    assert ids(collection, ONE)[0] == {i for i in range(N) if i % 2}
    assert ids(collection, TRUE)[0] == {i for i in range(N) if not i % 2}


@settings(max_examples=50, deadline=None)
@given(filters)
def test_every_filter_can_be_remembered(raw):
    tree = parse_filter(raw)
    assert tree == parse_filter(json.loads(tree.written))
    kept = Selections()
    rows = np.arange(2000)
    assert kept.get(tree, 5) is None
    assert kept.keep(tree, 5, Selection(rows, 7)).read == 7
    found = kept.get(parse_filter(raw), 5)
    assert found is not None
    assert (found.allowed.rows.tolist(), found.read) == (rows.tolist(), 0)
    assert kept.get(tree, 6) is None


def test_what_is_kept_is_bounded(monkeypatch):
    kept = Selections()
    trees = [parse_filter({"must": [{"key": "a", "match": {"value": i}}]}) for i in range(100)]
    for tree in trees:
        kept.keep(tree, 1, Selection(np.arange(0, 200_000, 100), 0))
    assert [kept.get(tree, 1) is not None for tree in trees] == [False] * 68 + [True] * 32
    assert kept.memory_bytes() == 32 * 16_000
    kept.keep(trees[99], 2, Selection(np.arange(0, 400_000, 100), 0))
    assert kept.memory_bytes() == 31 * 16_000 + 32_000
    monkeypatch.setattr(selections, "KEPT_BYTES", 100_000)
    kept.keep(trees[0], 2, Selection(np.arange(0, 500_000, 100), 0))
    assert kept.memory_bytes() <= 100_000
    assert kept.get(trees[0], 2) is not None
    kept.keep(trees[1], 2, Selection(np.arange(1_000_000), 0))  # a bit for each
    assert kept.memory_bytes() == 125_000
    assert kept.get(trees[0], 2) is None
    assert kept.get(trees[1], 2) is not None


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 300), st.integers(0, 3000), st.floats(0, 1))
def test_rows_are_the_same_as_a_bitmap(seed, first, span, share):
    rng = np.random.default_rng(seed)
    rows = np.flatnonzero(rng.random(span) < share) + first
    found = Allowed(rows)
    assert len(found) == len(rows)
    assert found.nbytes <= min(rows.nbytes, span // 8 + 1)
    np.testing.assert_array_equal(found.rows, rows)
    for start in rng.integers(0, first + span + 10, 5).tolist():
        np.testing.assert_array_equal(found.rows_from(start), rows[rows >= start])


@pytest.mark.parametrize("seed", range(4))
def test_places_are_where_the_rows_are(store, seed):
    collection = written(store)
    collection.delete(list(range(0, N, 7)))
    rng = np.random.default_rng(seed)
    rows = np.flatnonzero(rng.random(N + 50) < 0.3)
    found = Allowed(rows)
    for segment in collection.view.segments:
        places = found.places(segment)
        inside = [i for i, row in enumerate(segment.rows_at(np.arange(len(segment)))) if row in set(rows.tolist())]
        flags = np.unpackbits(places.bitmap, bitorder="little")[: len(segment)]
        assert np.flatnonzero(flags).tolist() == inside
        assert (places.count, places.lists.sum()) == (len(inside), len(inside))
        assert found.places(segment) is places


def test_codes_that_are_gone_are_not_held(store):
    collection = written(store)
    ids(collection, ONE)
    gone = weakref.ref(collection.view.segments[0].index)
    collection.seal()
    collection.upsert(batch_of(range(N, N + 500), vectors_of(500, 5)))
    optimize(collection)
    gc.collect()
    assert gone() is None


def test_what_is_remembered_is_counted(store):
    collection = written(store)
    before = footprint(collection).memory["filters"]
    ids(collection, ONE)
    assert (before, footprint(collection).memory["filters"]) == (0, -(-(N - 1) // 8))


def test_a_filter_that_cannot_be_written_is_worked_out_every_time(store):
    huge = parse_filter({"must_not": [{"key": "n", "range": {"gt": 2**70}}]})
    assert huge.written == b""
    collection = written(store)
    assert len(ids(collection, huge)[0]) == N
    assert collection.selections.memory_bytes() == 0


@pytest.mark.parametrize("lists", [1, 7, 300])
def test_few_rows_are_found_list_by_list(store, lists):
    rng = np.random.default_rng(lists)
    collection = written(store)
    (segment,) = collection.view.segments
    membership = rng.integers(0, lists, len(segment))
    bands = [np.flatnonzero(membership == i) for i in range(lists)]
    listed = replace(segment, index=segment.index.in_lists(bands))
    rows = np.sort(rng.choice(segment.rows_at(np.arange(len(segment))), 100, replace=False))
    places = Allowed(rows).places(listed)
    positions = segment.positions_of(rows)
    assert sorted(places.few.tolist()) == positions.tolist()
    for count in (0, 1, lists):
        chosen = rng.permutation(lists)[:count]
        inside = positions[np.isin(membership[positions], chosen)]
        assert sorted(places.few_in(chosen).tolist()) == inside.tolist()
