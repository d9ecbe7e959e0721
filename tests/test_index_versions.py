"""Several binarizers in one collection: bringing one in, scores that compare, damage, a kill on the way."""

from __future__ import annotations

import sqlite3

import numpy as np
import pytest

from index.errors import InvalidInput
from index.maintenance import optimize, upgrade
from index.points import SearchParams
from index.record import Writer
from index.verify import verify
from tests.index_fakes import (
    RandomRotation,
    RotationFactory,
    batch_of,
    brute_force,
    config,
    estimates_of,
    fill,
    open_store,
    trained,
    vectors_of,
)
from tests.several_versions import (
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
