"""Ids in memory: those of the record, for every reader; not asked for where there are others."""

from __future__ import annotations

import numpy as np
import pytest

from index import number_ids
from index.errors import UnknownCollection
from index.filters import Filter, parse_filter
from index.footprint import footprint, foretell
from index.maintenance import ids_piece, optimize, step
from index.points import SearchParams
from index.record import Reader, Record
from tests.index_fakes import batch_of, config, open_store, vectors_of

N = 600
CODES = SearchParams(exact=False)


@pytest.fixture
def store(tmp_path):
    store = open_store(tmp_path, first_fit=100, tail_rows=50, list_rows=100, exact_below=0, file_bytes=1 << 16)
    yield store
    store.close()


def written(store, ids):
    collection = store.create("c", config())
    vectors = vectors_of(len(ids))
    for start in range(0, len(ids), 100):
        collection.upsert(batch_of(ids[start : start + 100], vectors[start : start + 100]))
    return collection


def found(collection, k=N, **options):
    results = collection.search(vectors_of(4, 9), k, params=CODES, with_payload=False, **options)
    return [[(hit.id, hit.score) for hit in result.hits] for result in results]


@pytest.fixture
def no_record(monkeypatch):
    """A record that is not asked for ids."""

    def refuse(*_args, **_options):
        raise AssertionError("the record was asked")

    return lambda: monkeypatch.setattr(Reader, "points_of", refuse)


def numbers():
    """Small ones, the largest there are, and none in order."""
    ids = [*range(N - 3), 2**63, 2**64 - 1, 2**63 - 1]
    return [ids[i] for i in np.random.default_rng(0).permutation(N)]


@pytest.mark.parametrize("piece", [7, 1 << 16])
def test_numbers_are_found_without_the_record(store, monkeypatch, no_record, piece):
    monkeypatch.setattr(number_ids, "PIECE", piece)
    collection = written(store, numbers())
    before = found(collection)
    assert sorted(point for point, _ in before[0]) == sorted(numbers())
    optimize(collection)
    (segment,) = collection.view.segments
    assert not segment.ids.wanted
    no_record()
    after = found(collection)
    assert [[point for point, _ in hits] for hits in after] == [[point for point, _ in hits] for hits in before]
    assert all(type(point) is int for point, _ in after[0])
    with pytest.raises(AssertionError, match="the record was asked"):
        collection.search(vectors_of(1), 3, params=CODES)


def test_bare_hits_take_no_snapshot_of_the_record(store, monkeypatch):
    collection = written(store, numbers())
    optimize(collection)
    narrow = parse_filter({"must": [{"has_id": [1, 2, 3]}]})
    before = found(collection), found(collection, filter=narrow), found(collection, filter=Filter())

    def refuse(*_args):
        raise AssertionError("a snapshot was taken")

    monkeypatch.setattr(Record, "snapshot", refuse)
    assert (found(collection), found(collection, filter=narrow), found(collection, filter=Filter())) == before
    for wanted in ({"with_payload": True}, {"with_payload": False, "with_text": True}):
        with pytest.raises(AssertionError, match="a snapshot was taken"):
            collection.search(vectors_of(1, 9), 5, params=CODES, **wanted)
    with pytest.raises(AssertionError, match="a snapshot was taken"):
        found(collection, filter=parse_filter({"must": [{"has_id": [1, 2]}]}))
    collection.record.close()
    with pytest.raises(UnknownCollection, match="was closed or dropped meanwhile"):
        found(collection)


def test_what_is_not_coded_yet_is_asked_for(store):
    collection = written(store, list(range(N)))
    optimize(collection)
    query = vectors_of(1, 77)
    collection.upsert(batch_of([5000], query))
    (result,) = collection.search(query, 3, params=CODES, with_payload=False)
    assert result.hits[0].id == 5000


@pytest.mark.parametrize("others", [["a"], ["0"], ["6f9619ff-8b86-d011-b42d-00c04fc964ff"]])
def test_other_ids_stay_in_the_record(store, others):
    ids = [*range(N - 1), *others]
    collection = written(store, ids)
    optimize(collection)
    (segment,) = collection.view.segments
    assert not segment.ids.wanted
    assert segment.ids.nbytes == 0
    assert {point for point, _ in found(collection)[0]} == set(ids)


def test_readers_of_an_earlier_commit_ask_the_record(store):
    """A row that died before its id was read is a point to them."""
    collection = written(store, list(range(N)))
    collection.seal()
    view = collection.view
    with collection.snapshot() as (_, reader):
        known = {row: point for row, (point, _) in reader.points_of(list(range(N)), payload=False).items()}
        collection.delete([3, 4, 300])
        while ids_piece(collection):
            pass
        (segment, *_) = (one for one in view.segments if one.first_row == 0)
        rows = np.arange(segment.first_row, segment.end_row)
        assert segment.number_ids(rows, view.seq) is None
    now = collection.view
    alive = now.alive_rows()
    for segment in now.segments:
        rows = alive[(alive >= segment.first_row) & (alive < segment.end_row)][::-1]
        assert segment.number_ids(rows, now.seq).tolist() == [known[row] for row in rows.tolist()]


def test_ids_follow_merges_and_deletes(store, no_record):
    collection = written(store, list(range(N)))
    optimize(collection)
    collection.delete(list(range(0, N, 3)))
    collection.upsert(batch_of(range(1000, 1200), vectors_of(200, 5)))
    optimize(collection)
    (segment,) = collection.view.segments
    assert segment.offsets is not None
    no_record()
    alive = {i for i in range(N) if i % 3} | set(range(1000, 1200))
    assert {point for point, _ in found(collection, k=2 * N)[0]} == alive


def test_upkeep_reads_them_in_quiet_times(store):
    collection = written(store, list(range(N)))
    while step(collection, idle=True):
        pass
    assert not any(segment.ids.wanted for segment in collection.view.segments)
    assert sum(segment.ids.nbytes for segment in collection.view.segments) == 8 * sum(
        map(len, collection.view.segments)
    )


def test_they_are_counted_and_foretold(store):
    collection = written(store, list(range(N)))
    optimize(collection)
    counted, told = footprint(collection), foretell(N, collection.config, collection.options)
    assert counted.memory["ids"] >= 8 * N
    assert told.memory["ids"] == pytest.approx(counted.memory["ids"], rel=0.2)  # lists of 8: blocks are hardly filled
