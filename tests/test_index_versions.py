"""Several binarizers in one collection: bringing one in, scores that compare, upgrading, crashes on the way."""

from __future__ import annotations

import shutil
import sqlite3
import threading

import numpy as np
import pytest

from index import merging, versions
from index.codes import unpack
from index.codes_file import load
from index.errors import InvalidInput
from index.maintenance import optimize, step, upgrade
from index.points import SearchParams
from index.record import Writer
from index.verify import verify
from tests.index_fakes import (
    RandomRotation,
    RotationFactory,
    batch_of,
    brute_force,
    check_hits,
    config,
    contents,
    estimates_of,
    exact_scores,
    fill,
    open_store,
    trained,
    vectors_of,
)

CODES = SearchParams(exact=False)
QUERIES = vectors_of(4, 99)
MORE_BITS = {"bits": 4, "seed": 3}


@pytest.fixture
def store(tmp_path):
    store = open_store(tmp_path)
    yield store
    store.close()


@pytest.fixture(params=["Cosine", "Dot", "Euclid"])
def collection(store, request):
    return store.create("c", config(request.param))


def versions_of(collection):
    return [segment.binarizer for segment in collection.view.segments]


def stored_versions(collection):
    with collection.record.snapshot() as reader:
        return [version for version, *_ in reader.binarizers()]


def cancel_after(points):
    """Callbacks for `upgrade` that end it when so many points are done; `seen` collects the progress."""
    seen = []

    def on_progress(done, total):
        seen.append((done, total))

    return seen, {"on_progress": on_progress, "cancelled": lambda: seen[-1][0] >= points}


def sound(collection, left):
    """Check that searches that may read everything find exactly what is left."""
    assert set(contents(collection)) == set(left)
    for query in QUERIES:
        for params in (None, CODES, SearchParams(exact=False, symmetric=True)):
            hits = collection.search(query[None], len(left) + 5, params=params)[0].hits
            check_hits(hits, query, left, len(left) + 5, collection.config.distance)


def reopened(store, factory=None):
    store.close()
    return open_store(store.directory, factory)


def test_an_adopted_binarizer_codes_what_is_new(store, collection):
    vectors = fill(collection, 100)
    before = versions_of(collection)
    assert set(before) == {1}
    newer = trained(vectors, **MORE_BITS)
    assert collection.adopt(newer) == 2
    assert versions_of(collection) == before
    more = fill(collection, 60, first=100, seed=5)
    assert set(versions_of(collection)) == {1, 2}
    left = dict(enumerate(np.concatenate([vectors, more])))
    sound(collection, left)
    info = collection.info()
    old, new = info.binarizers
    assert (old.version, old.learned, new.version, new.learned, new.name) == (1, False, 2, True, newer.identity)
    assert old.points == sum(s.count for s in collection.view.segments if s.binarizer == 1) > 0
    assert old.points + new.points == info.indexed
    assert info.bits == 4
    store = reopened(store, factory := RotationFactory())
    collection = store.get("c")
    assert set(versions_of(collection)) == {1, 2}
    assert factory.fits == 0
    sound(collection, left)
    store.close()


def test_adopted_before_there_are_codes(collection):
    assert collection.adopt(trained(vectors_of(50), bits=2)) == 1
    vectors = fill(collection, 60)
    assert set(versions_of(collection)) == {1}
    assert collection.factory.fits == 0
    assert {segment.bits for segment in collection.view.segments} == {2}
    sound(collection, dict(enumerate(vectors)))


def test_the_same_binarizer_again_keeps_its_version(collection):
    vectors = fill(collection, 60)
    newer = trained(vectors, bits=2)
    assert [collection.adopt(newer), collection.adopt(newer)] == [2, 2]
    assert stored_versions(collection) == [1, 2]
    assert collection.adopt(trained(vectors, bits=2, seed=1)) == 3


@pytest.mark.parametrize(("dimension", "bits", "message"), [
    (12, 1, "is for vectors of dimension 12, the collection's have 16"),
    (16, 3, "3 bits a dimension cannot be kept"),
])  # fmt: skip
def test_a_binarizer_that_cannot_be_used_is_refused(collection, dimension, bits, message):
    fill(collection, 60)
    with pytest.raises(InvalidInput, match=message):
        collection.adopt(trained(vectors_of(50, dimension=dimension), bits=bits))
    assert stored_versions(collection) == [1]


@pytest.mark.parametrize("bits", [(1, 1), (1, 4), (4, 2)])
def test_scores_of_two_versions_compare(collection, bits):
    """Different means, directions and numbers of planes: every score is its own segment's brute force."""
    vectors = vectors_of(240) + np.float32(0.8)
    collection.adopt(trained(vectors[:60] + np.float32(1), bits=bits[0], seed=1))
    collection.upsert(batch_of(range(120), vectors[:120]))
    collection.adopt(trained(vectors, bits=bits[1], seed=2))
    collection.upsert(batch_of(range(120, 240), vectors[120:]))
    collection.seal()
    assert set(versions_of(collection)) == {1, 2}
    distance = collection.config.distance
    for query in QUERIES:
        asked = query / np.linalg.norm(query) if distance == "Cosine" else query
        result = collection.search(query[None], 240, params=SearchParams(exact=False, rerank=0))[0]
        assert result.stages.bits == max(bits)
        expected, slack = brute_force(collection, asked, max(bits))
        if distance == "Euclid":
            expected = np.minimum(expected, (asked**2).sum() / 2)  # no distance is below zero
        got = estimates_of(result, asked, distance)
        assert (np.abs(got - expected) <= slack + 1e-4 * np.abs(expected).max()).all()


def test_bits_go_up_to_what_the_newest_binarizer_stores(collection):
    vectors = fill(collection, 60)
    collection.adopt(trained(vectors, bits=4))
    assert collection.search(QUERIES, 3, params=SearchParams(exact=False, bits=4))[0].stages.bits == 1
    collection.upsert(batch_of(range(100, 140), vectors_of(40, 7)))
    assert collection.search(QUERIES, 3, params=SearchParams(exact=False, bits=3))[0].stages.bits == 3
    collection.adopt(trained(vectors, bits=2))
    with pytest.raises(InvalidInput, match="bits 4 were asked for, this collection stores 2"):
        collection.search(QUERIES, 3, params=SearchParams(bits=4))


@pytest.mark.parametrize("symmetric", [False, True])
def test_one_mapping_serves_what_the_newest_binarizer_reads(collection, monkeypatch, symmetric):
    vectors = vectors_of(120)
    collection.adopt(trained(vectors, rows=8))
    collection.upsert(batch_of(range(60), vectors[:60]))
    collection.adopt(trained(vectors, rows=16, reads_older=True))
    collection.upsert(batch_of(range(60, 120), vectors[60:]))
    collection.seal()
    assert set(versions_of(collection)) == {1, 2}
    assert {b.code_dimension for b in collection.view.binarizers.values()} == {8, 16}
    params = SearchParams(exact=False, rerank=0, symmetric=symmetric)
    asked = []
    name = "query_levels" if symmetric else "queries"
    real = getattr(RandomRotation, name)
    monkeypatch.setattr(
        RandomRotation, name, lambda self, queries: asked.append(len(self.matrix)) or real(self, queries)
    )
    together = collection.search(QUERIES[:1], 120, params=params)[0]
    assert asked == [16]
    monkeypatch.setattr(RandomRotation, "reads", lambda _self, _older: False)
    apart = collection.search(QUERIES[:1], 120, params=params)[0]
    assert sorted(asked[1:]) == [8, 16]
    if not symmetric:  # a shorter code of the query has another scale
        np.testing.assert_allclose([h.score for h in together.hits], [h.score for h in apart.hits], rtol=1e-4)


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


def test_a_learned_binarizer_is_never_fitted_again(collection):
    vectors = fill(collection, 40)
    fits = collection.factory.fits
    collection.adopt(trained(vectors, bits=2))
    more = fill(collection, 300, first=40, seed=5)
    optimize(collection)
    assert (collection.factory.fits, set(versions_of(collection))) == (fits, {2})
    collection.adopt(trained(vectors, bits=2, learned=False))
    fill(collection, 100, first=40, seed=5)
    assert collection.count() == 340
    assert len(more) == 300


def test_a_refit_gives_way_to_what_was_adopted_meanwhile(collection, monkeypatch):
    vectors = fill(collection, 200)
    better = trained(vectors, bits=2)
    real = type(collection).fit

    def fit(self, view, rows):
        made = real(self, view, rows)
        self.adopt(better)
        return made

    monkeypatch.setattr(type(collection), "fit", fit)
    optimize(collection)
    assert versions_of(collection) == [2]
    assert collection.view.binarizers[2].identity == better.identity
    sound(collection, dict(enumerate(vectors)))


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


def test_missing_codes_are_made_with_the_newest_binarizer(store, collection):
    vectors = fill(collection, 120)
    collection.adopt(trained(vectors, **MORE_BITS))
    folder = collection.folder
    store.close()
    for path in (folder / "codes").iterdir():
        path.unlink()
    store = open_store(store.directory, factory := RotationFactory())
    assert set(versions_of(store.get("c"))) == {2}
    assert factory.fits == 0
    sound(store.get("c"), dict(enumerate(vectors)))
    store.close()


def test_a_damaged_newest_binarizer_leaves_the_older_one(store, collection, caplog):
    vectors = fill(collection, 120)
    collection.adopt(trained(vectors, **MORE_BITS))
    upgrade(collection)
    collection.adopt(trained(vectors, bits=2))
    folder = collection.folder
    store.close()
    db = sqlite3.connect(folder / "record.db")
    db.execute("UPDATE binarizers SET data = CAST(x'00' || substr(data, 2) AS BLOB) WHERE version = 3")
    db.commit()
    db.close()
    store = open_store(store.directory, factory := RotationFactory())
    assert "binarizer 3 is unusable" in caplog.text
    assert (set(versions_of(store.get("c"))), factory.fits) == ({2}, 0)
    assert store.get("c").adopt(trained(vectors, bits=2)) == 4
    sound(store.get("c"), dict(enumerate(vectors)))
    store.close()


class Crash(BaseException):
    """What ends a process: nobody handles it."""


def crash(*_args, **_more):
    raise Crash


def killed(store, tmp_path):
    """What lies on disk at this moment, opened as after a SIGKILL."""
    copy = shutil.copytree(store.directory, tmp_path / "killed")
    (copy / "LOCK").unlink()
    return copy


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_kill_during_adopt(store, collection, monkeypatch, tmp_path_factory, when):
    vectors = fill(collection, 120)
    newer = trained(vectors, **MORE_BITS)
    if when == "before":
        real = Writer.add_binarizer

        def stop(*args):
            real(*args)
            raise Crash

        monkeypatch.setattr(Writer, "add_binarizer", stop)
    else:
        monkeypatch.setattr(type(collection), "show", crash)
    with pytest.raises(Crash):
        collection.adopt(newer)
    monkeypatch.undo()
    copy = killed(store, tmp_path_factory.mktemp(when))
    assert verify(copy, RotationFactory()).problems == []
    again = open_store(copy, factory := RotationFactory())
    opened = again.get("c")
    assert stored_versions(opened) == ([1] if when == "before" else [1, 2])
    assert factory.fits == 0
    sound(opened, dict(enumerate(vectors)))
    again.close()


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


@pytest.mark.parametrize("n", [30, 160, 1000])
def test_a_sample_is_even(store, n):
    collection = store.create("c", config("Dot"))
    vectors = fill(collection, 170)
    collection.delete(range(0, 170, 17))
    rows, drawn = collection.sample(n, 5)
    assert (np.diff(rows) > 0).all()
    assert len(rows) == len(drawn) == min(n, 160)
    alive = {i for i in range(170) if i % 17}
    assert set(rows.tolist()) <= alive
    np.testing.assert_array_equal(drawn, vectors[rows])
    again, other = collection.sample(n, 5)[0], collection.sample(n, 6)[0]
    np.testing.assert_array_equal(rows, again)
    if n < 160:
        assert not np.array_equal(rows, other)
        counts = sum(np.isin(np.arange(170), collection.sample(n, seed)[0]).astype(int) for seed in range(300))
        assert counts[sorted(alive)].min() > 0.5 * 300 * n / 160
        assert (counts[:170:17] == 0).all()
