"""Upkeep: merging and compaction change nothing that can be seen, whatever happens meanwhile."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from index import compaction, maintenance, merging
from index.compaction import compact, compaction_candidates
from index.maintenance import merge_segments as merge
from index.maintenance import optimize, step
from index.points import SearchParams
from index.verify import verify
from tests.index_fakes import (
    RotationFactory,
    batch_of,
    check_hits,
    config,
    contents,
    fill,
    open_store,
    vectors_of,
)

CODES = SearchParams(exact=False)
QUERIES = vectors_of(4, 99)


@pytest.fixture
def store(tmp_path):
    store = open_store(tmp_path)
    yield store
    store.close()


@pytest.fixture(params=["Cosine", "Euclid"])
def collection(store, request):
    return store.create("c", config(request.param))


def upkeep(collection):
    steps = 0
    while step(collection, idle=True):
        steps += 1
        assert steps < 500
    return steps


def sound(collection, left):
    """Check that searches of both kinds find exactly what is left."""
    assert set(contents(collection)) == set(left)
    for query in QUERIES:
        for params in (None, CODES):
            hits = collection.search(query[None], len(left) + 5, params=params)[0].hits
            check_hits(hits, query, left, len(left) + 5, collection.config.distance)
    rows = [segment.rows_at(np.arange(len(segment))) for segment in collection.view.segments]
    assert len(np.unique(np.concatenate([*rows, [-1]]))) == sum(map(len, rows)) + 1


def test_merging_keeps_everything(store, collection):
    vectors = fill(collection, 200, texts=True)
    before = contents(collection)
    segments = len(collection.view.segments)
    assert upkeep(collection) > 0
    assert len(collection.view.segments) < segments
    assert contents(collection) == before
    sound(collection, dict(enumerate(vectors)))
    collection.delete(range(0, 200, 2))
    upkeep(collection)
    sound(collection, {i: vectors[i] for i in range(1, 200, 2)})
    store.close()
    store = open_store(store.directory)
    sound(store.get("c"), {i: vectors[i] for i in range(1, 200, 2)})
    store.close()


def test_size_classes_stay_logarithmic(tmp_path):
    store = open_store(tmp_path, first_fit=8, tail_rows=4, fan_out=3, file_bytes=1 << 20)
    collection = store.create("c", config("Dot"))
    worst = 0
    for n in range(4, 400, 4):
        collection.upsert(batch_of(range(n, n + 4), vectors_of(4, n)))
        while step(collection, idle=False):
            pass
        classes = 1 + np.log(n / 4 + 1) / np.log(3)
        worst = max(worst, len(collection.view.segments) / classes)
        assert len(collection.view.segments) <= 2 * classes + 2
    assert worst > 1
    upkeep(collection)
    assert len(collection.view.segments) <= 2
    store.close()


def test_deletes_and_writes_made_during_a_merge_survive(collection, monkeypatch):
    vectors = fill(collection, 120)
    real = merging.joined
    left = dict(enumerate(vectors))

    def meanwhile(*args):
        data = real(*args)
        collection.delete([0, 50, 51])
        collection.upsert(batch_of([60], vectors_of(1, 5)))
        return data

    monkeypatch.setattr(merging, "joined", meanwhile)
    segments = collection.view.segments
    merge(collection, segments)
    assert len(collection.view.segments) == 1
    for point_id in (0, 50, 51):
        del left[point_id]
    left[60] = vectors_of(1, 5)[0]
    sound(collection, left)


def test_deletes_made_during_a_compaction_survive(store, collection, monkeypatch):
    vectors = fill(collection, 120)
    collection.delete(range(0, 72, 2))
    optimize_codes = collection.view.segments
    merge(collection, optimize_codes)
    chosen = compaction_candidates(collection, 0.0)
    assert chosen
    real = compaction.write_with_holes

    def meanwhile(*args):
        checksums = real(*args)
        collection.delete([1, 3])
        return checksums

    monkeypatch.setattr(compaction, "write_with_holes", meanwhile)
    compact(collection, chosen)
    left = {i: v for i, v in enumerate(vectors) if (i % 2 or i >= 72) and i not in (1, 3)}
    sound(collection, left)
    store.close()
    assert verify(store.directory).problems == []
    store = open_store(store.directory)
    sound(store.get("c"), left)
    store.close()


def test_compaction_drops_dead_rows_and_keeps_all_else(store, collection):
    vectors = fill(collection, 200, texts=True)
    collection.delete([i for i in range(200) if i % 10])
    left = {i: vectors[i] for i in range(0, 200, 10)}
    before, size = contents(collection), collection.info().vector_bytes
    files = len(list((collection.folder / "vectors").iterdir()))
    optimize(collection)
    info = collection.info()
    assert contents(collection) == before
    assert len(list((collection.folder / "vectors").iterdir())) < files
    assert info.vector_bytes < size
    assert any(mapped.has_holes for mapped in collection.view.maps)
    newest = collection.view.maps[-1]
    with collection.record.snapshot() as reader:
        assert (reader.tombstones() >= newest.first_row).all()
        assert reader.integrity() == []
    sound(collection, left)
    more = fill(collection, 60, first=1000, seed=8)
    left.update(zip(range(1000, 1060), more, strict=True))
    sound(collection, left)
    store.close()
    assert verify(store.directory, RotationFactory()).problems == []
    store = open_store(store.directory)
    sound(store.get("c"), left)
    store.close()


def test_a_file_of_dead_rows_disappears(store, collection):
    vectors = fill(collection, 120)
    newest = collection.view.maps[-1].first_row
    collection.delete(range(newest))
    optimize(collection)
    sound(collection, {i: vectors[i] for i in range(newest, 120)})
    assert [mapped.first_row for mapped in collection.view.maps] == [newest]
    store.close()
    assert verify(store.directory).problems == []


class Crash(BaseException):
    """What ends a process: nobody handles it."""


def crash(*_args, **_more):
    raise Crash


@pytest.mark.parametrize("before", ["swap", "unlink"])
def test_a_crash_during_compaction(store, collection, monkeypatch, before):
    vectors = fill(collection, 120)
    collection.delete(range(0, 96, 2))
    left = {i: v for i, v in enumerate(vectors) if i % 2 or i >= 96}
    collection.seal()
    chosen = compaction_candidates(collection, 0.0)
    assert chosen
    if before == "swap":
        monkeypatch.setattr(compaction, "_swap_files", crash)
    else:
        monkeypatch.setattr(type(collection.folder), "unlink", crash)
    with pytest.raises(Crash):
        compact(collection, chosen)
    monkeypatch.undo()
    with collection.record.snapshot() as reader:
        known = {file.name for file in reader.files()}
    folder = collection.folder / "vectors"
    assert {path.name for path in folder.iterdir()} > known
    store.close()
    assert verify(store.directory).problems == []
    store = open_store(store.directory)
    assert {path.name for path in folder.iterdir()} == known
    sound(store.get("c"), left)
    store.close()


def test_a_crash_while_codes_are_saved(store, collection, monkeypatch):
    vectors = fill(collection, 120)
    monkeypatch.setattr("index.durable.os.replace", crash)
    with pytest.raises(Crash):
        merge(collection, collection.view.segments)
    monkeypatch.undo()
    sound(collection, dict(enumerate(vectors)))
    store.close()
    store = open_store(store.directory)
    sound(store.get("c"), dict(enumerate(vectors)))
    store.close()


def test_a_collection_that_has_grown_gets_a_new_binarizer(collection):
    vectors = fill(collection, 40)
    first = collection.view.binarizers
    assert set(first) == {1}
    more = fill(collection, 200, first=40, seed=5)
    optimize(collection)
    assert {segment.binarizer for segment in collection.view.segments} == {2}
    with collection.record.snapshot() as reader:
        assert reader.binarizers()[-1][:2] == (2, 240)
    sound(collection, dict(enumerate(np.concatenate([vectors, more]))))


def test_upkeep_of_a_closed_collection_does_nothing(store, collection):
    fill(collection, 120)
    store.drop("c")
    assert step(collection, idle=True) is False
    assert not collection.folder.exists()


def test_upkeep_never_runs_twice_at_once(collection, monkeypatch):
    vectors = fill(collection, 150)
    real, running, most = maintenance.merge_segments, [], []

    def counted(*args):
        running.append(1)
        most.append(len(running))
        real(*args)
        running.pop()

    monkeypatch.setattr(maintenance, "merge_segments", counted)
    threads = [threading.Thread(target=upkeep, args=(collection,)) for _ in range(3)]
    threads.append(threading.Thread(target=optimize, args=(collection,)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1
    sound(collection, dict(enumerate(vectors)))


def test_the_background_thread_works_and_stops(tmp_path):
    store = open_store(tmp_path, background=True, idle_seconds=0.01)
    collection = store.create("c", config())
    vectors = fill(collection, 200)
    for _ in range(1000):
        if len(collection.view.segments) <= 2:
            break
        threading.Event().wait(0.01)
    assert len(collection.view.segments) <= 2
    sound(collection, dict(enumerate(vectors)))
    store.close()
    assert not [t for t in threading.enumerate() if t.name == "bitfold-maintenance"]
