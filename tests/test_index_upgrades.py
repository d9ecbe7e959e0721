"""Codes made again by a newer binarizer: upgrades that end and go on, merges, what a kill leaves."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from index import merging, versions
from index.codes import unpack
from index.codes_file import load
from index.maintenance import optimize, step, upgrade
from index.points import SearchParams
from index.verify import verify
from tests.index_fakes import (
    RandomRotation,
    RotationFactory,
    batch_of,
    check_hits,
    config,
    contents,
    exact_scores,
    fill,
    open_store,
    trained,
    vectors_of,
)
from tests.several_versions import (
    CODES,
    MORE_BITS,
    QUERIES,
    Crash,
    crash,
    killed,
    reopened,
    sound,
    stored_versions,
    versions_of,
)


@pytest.fixture
def store(tmp_path):
    store = open_store(tmp_path)
    yield store
    store.close()


@pytest.fixture(params=["Cosine", "Dot", "Euclid"])
def collection(store, request):
    return store.create("c", config(request.param))


def cancel_after(points):
    """Callbacks for `upgrade` that end it when so many points are done; `seen` collects the progress."""
    seen = []

    def on_progress(done, total):
        seen.append((done, total))

    return seen, {"on_progress": on_progress, "cancelled": lambda: seen[-1][0] >= points}


def recall(collection, vectors, queries, k=10):
    reached = 0
    results = collection.search(queries, k, params=SearchParams(exact=False, candidates=60, rerank=15))
    for query, result in zip(queries, results, strict=True):
        scores = exact_scores(query, vectors, collection.config.distance)
        worst = np.sort(scores)[::-1][k - 1]
        reached += sum(scores[hit.id] >= worst - 1e-4 * abs(worst) for hit in result.hits)
    return reached / (k * len(queries))


@pytest.mark.parametrize("better", [{"bits": 1}, {"bits": 4}])
@pytest.mark.parametrize("distance", ["Cosine", "Dot", "Euclid"])
def test_a_half_upgraded_collection_finds_no_less(tmp_path, distance, better):
    store = open_store(tmp_path, first_fit=100, tail_rows=100, file_bytes=1 << 20)
    collection = store.create("c", config(distance, dimension=32))
    vectors = vectors_of(2000, dimension=32) + np.float32(0.5)
    if distance == "Cosine":
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    # Few directions and a mean that is not theirs.
    collection.adopt(trained(vectors[:200] - np.float32(0.5) * vectors.mean(), rows=16, seed=1))
    for start in range(0, 2000, 100):
        collection.upsert(batch_of(range(start, start + 100), vectors[start : start + 100]))
    assert len(collection.view.segments) == 20
    queries = vectors_of(40, 99, dimension=32) + np.float32(0.5)
    found = [recall(collection, vectors, queries)]
    collection.adopt(trained(vectors, seed=2, **better))
    for share in (0.5, 1.0):
        _, until = cancel_after(2000 * share)
        upgrade(collection, **until)
        coded = sum(segment.count for segment in collection.view.segments if segment.binarizer == 2)
        assert coded == 2000 * share
        found.append(recall(collection, vectors, queries))
    assert found == sorted(found)
    assert found[2] > found[0] + 0.1
    store.close()


def test_an_upgrade_goes_on_where_it_was_ended(store, collection):
    vectors = fill(collection, 150, texts=True)
    collection.delete([3, 40, 41])
    left = {i: v for i, v in enumerate(vectors) if i not in (3, 40, 41)}
    before = contents(collection)
    collection.seal()
    collection.adopt(trained(vectors, **MORE_BITS))
    segments = len(collection.view.segments)
    assert segments > 4
    seen, until = cancel_after(50)
    assert upgrade(collection, **until) is False
    half = versions_of(collection)
    assert set(half) == {1, 2}
    sound(collection, left)
    store = reopened(store, factory := RotationFactory())
    collection = store.get("c")
    assert set(versions_of(collection)) == {1, 2}
    more, until = cancel_after(10**9)
    assert upgrade(collection, **until) is True
    assert set(versions_of(collection)) == {2}
    assert (stored_versions(collection), list(collection.view.binarizers)) == ([2], [2])
    for progress in (seen, more):
        done = [part for part, _ in progress]
        assert done == sorted(done)
        assert {total for _, total in progress} == {147}
    assert more[-1] == (147, 147)
    assert contents(collection) == before
    sound(collection, left)
    assert upgrade(collection) is True
    store = reopened(store, factory)
    assert set(versions_of(store.get("c"))) == {2}
    sound(store.get("c"), left)
    assert factory.fits == 0
    store.close()
    assert verify(store.directory, RotationFactory()).problems == []


def test_an_upgrade_ended_inside_a_segment_leaves_it(tmp_path, monkeypatch):
    store = open_store(tmp_path)
    collection = store.create("c", config())
    vectors = fill(collection, 120)
    optimize(collection)
    collection.adopt(trained(vectors, bits=2))
    seen, until = cancel_after(1)
    files = {path: path.read_bytes() for path in (collection.folder / "codes").iterdir()}
    assert upgrade(collection, **until) is False
    assert versions_of(collection) == [1]
    assert len(seen) > 1
    assert {path: path.read_bytes() for path in (collection.folder / "codes").iterdir()} == files
    sound(collection, dict(enumerate(vectors)))
    monkeypatch.setattr(RandomRotation, "encode", None)
    assert upgrade(collection, cancelled=lambda: True) is False
    monkeypatch.undo()
    assert upgrade(collection) is True
    store.close()
    assert upgrade(collection) is False


def test_deletes_and_writes_made_during_an_upgrade_survive(collection, monkeypatch):
    vectors = fill(collection, 120)
    left = dict(enumerate(vectors))
    collection.adopt(trained(vectors, **MORE_BITS))
    real = merging.encode_rows

    def meanwhile(*args):
        data = real(*args)
        monkeypatch.setattr(merging, "encode_rows", real)
        collection.delete([0, 50, 51])
        collection.upsert(batch_of([60], vectors_of(1, 5)))
        return data

    monkeypatch.setattr(merging, "encode_rows", meanwhile)
    assert upgrade(collection) is True
    for point_id in (0, 50, 51):
        del left[point_id]
    left[60] = vectors_of(1, 5)[0]
    sound(collection, left)


def test_searches_go_on_during_an_upgrade(collection):
    vectors = fill(collection, 200)
    by_id = dict(enumerate(vectors))
    problems, done = [], threading.Event()

    def look():
        while not done.is_set():
            try:
                for query in QUERIES:
                    hits = collection.search(query[None], 200, params=CODES)[0].hits
                    check_hits(hits, query, by_id, 200, collection.config.distance)
            except Exception as error:  # noqa: BLE001
                problems.append(error)
                return

    threads = [threading.Thread(target=look) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(3):
        collection.adopt(trained(vectors, bits=(1, 2, 4)[number], seed=number))
        assert upgrade(collection)
    done.set()
    for thread in threads:
        thread.join()
    assert problems == []
    assert list(collection.view.binarizers) == [4]


def test_merges_take_codes_of_one_version_over(collection, monkeypatch):
    vectors = fill(collection, 100)
    optimize(collection)
    collection.adopt(trained(vectors, **MORE_BITS))
    upgrade(collection)
    more = fill(collection, 100, first=100, seed=6)
    collection.seal()
    collection.delete([5, 150])
    assert len(collection.view.segments) > 3
    everything = np.concatenate([vectors, more])
    left = {i: v for i, v in enumerate(everything) if i not in (5, 150)}
    with monkeypatch.context() as patch:
        patch.setattr(RandomRotation, "encode", None)
        while step(collection, idle=True):
            pass
        optimize(collection)
    (segment,) = collection.view.segments
    (binarizer,) = collection.view.binarizers.values()
    stored = np.array(sorted(segment.rows_at(np.arange(len(segment))).tolist()))
    levels, factors = binarizer.encode(collection.view.read(stored))
    data = segment.data()
    assert (unpack(data.planes) != levels).mean() < 1e-3
    np.testing.assert_allclose(data.factors.astype(np.float32), factors, rtol=2e-3)
    sound(collection, left)


def test_merges_of_two_versions_code_again(collection):
    vectors = fill(collection, 100)
    collection.adopt(trained(vectors, **MORE_BITS))
    more = fill(collection, 60, first=100, seed=6)
    assert set(versions_of(collection)) == {1, 2}
    while step(collection, idle=True):
        pass
    optimize(collection)
    assert versions_of(collection) == [2]
    sound(collection, dict(enumerate(np.concatenate([vectors, more]))))


def test_the_newest_binarizer_is_never_forgotten(store, collection):
    vectors = fill(collection, 60)
    newer = trained(vectors, bits=2)
    collection.adopt(newer)
    collection.delete(range(60))
    collection.seal()
    assert upgrade(collection) is True
    assert stored_versions(collection)[-1] == 2
    store = reopened(store)
    collection = store.get("c")
    assert collection.view.binarizers[2].identity == newer.identity
    assert collection.adopt(trained(vectors, bits=4)) == 3
    store.close()


@pytest.mark.parametrize("when", ["while saving", "before the swap", "before old files go", "before forgetting"])
def test_a_kill_during_an_upgrade(store, collection, monkeypatch, tmp_path_factory, when):
    vectors = fill(collection, 120)
    optimize(collection)
    collection.adopt(trained(vectors, **MORE_BITS))
    if when == "while saving":
        monkeypatch.setattr("index.durable.os.replace", crash)
    elif when == "before the swap":
        monkeypatch.setattr(type(collection), "show", crash)
    elif when == "before old files go":
        monkeypatch.setattr(merging, "_remove_superseded", crash)
    else:
        monkeypatch.setattr(versions, "_forget_unused", crash)
    with pytest.raises(Crash):
        upgrade(collection)
    monkeypatch.undo()
    copy = killed(store, tmp_path_factory.mktemp("x"))
    names = sorted(path.name for path in (copy / "collections" / "c" / "codes").glob("*.codes"))
    expected = {"while saving": "1", "before the swap": "12", "before old files go": "12", "before forgetting": "2"}
    assert [name[-7] for name in names] == list(expected[when])
    again = open_store(copy, factory := RotationFactory())
    opened = again.get("c")
    assert set(versions_of(opened)) == ({1} if when == "while saving" else {2})
    left = dict(enumerate(vectors))
    sound(opened, left)
    assert upgrade(opened) is True
    sound(opened, left)
    assert stored_versions(opened) == [2]
    (path,) = (copy / "collections" / "c" / "codes").iterdir()
    assert load(path).binarizer == 2
    assert factory.fits == 0
    again.close()
    assert verify(copy, RotationFactory()).problems == []
