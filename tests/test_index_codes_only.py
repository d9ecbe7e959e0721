"""Collections that keep codes only: when vectors go, what stays, what can be asked, what is lost."""

from __future__ import annotations

import logging

import numpy as np
import orjson
import pytest

from index import funnel, versions
from index.dropping import drop_vectors
from index.errors import InvalidInput, VectorsDropped
from index.filters import parse_filter
from index.maintenance import optimize, step
from index.points import CodesOnlyLoss, SearchParams
from index.verify import verify
from tests.codes_only import (
    CODES,
    DISTANCES,
    D,
    check_everything,
    check_sound,
    code_scores,
    codes_only,
    dropped,
    estimates,
    lost_ids,
    reopened,
)
from tests.index_fakes import RotationFactory, batch_of, config, exact_scores, fill, open_store, trained, vectors_of


@pytest.fixture
def store(tmp_path):
    store = open_store(tmp_path)
    yield store
    store.close()


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("bits", [1, 2, 4])
def test_vectors_go_once_their_codes_are_truth(store, distance, bits):
    collection, points = dropped(store, distance=distance, bits=bits)
    info = collection.info()
    assert len(list((collection.folder / "vectors").iterdir())) == 1
    assert len(lost_ids(collection)) >= 70
    assert info.vector_bytes < 30 * D * 4 + 4096
    files = [path.name for path in (collection.folder / "codes").iterdir()]
    assert list(collection.view.named.values()) == files
    check_everything(collection, points)
    check_sound(store, points)


def test_a_collection_that_keeps_vectors_drops_none(store):
    collection = store.create("c", config("Dot"))
    fill(collection, 100)
    optimize(collection)
    assert not drop_vectors(collection)
    assert collection.view.named == {}
    assert collection.info().codes_only is None
    assert len(collection.view.maps) > 2


def test_upkeep_alone_gets_there(store):
    collection = store.create("c", codes_only())
    points = dict(enumerate(fill(collection, 200)))
    while step(collection, idle=False):
        pass
    assert len(lost_ids(collection)) > 100
    while step(collection, idle=True):
        pass
    assert len(collection.view.segments) <= 2
    check_everything(collection, points)
    check_sound(store, points)


def test_files_are_small_where_the_newest_stays(store, monkeypatch):
    monkeypatch.setattr("index.collection.CODES_ONLY_FILE_BYTES", 8 * D * 4)
    for name, wanted in (("a", codes_only()), ("b", config("Dot"))):
        fill(store.create(name, wanted), 20, step=1)
    count = {name: len(list((store.get(name).folder / "vectors").iterdir())) for name in ("a", "b")}
    assert count == {"a": 3, "b": 1}


@pytest.mark.parametrize("seed", range(3))
def test_any_sequence_beside_a_dict(tmp_path, seed):
    """Writes, overwrites, deletes, upkeep and restarts in any order."""
    rng = np.random.default_rng(seed)
    distance = DISTANCES[seed % 3]
    small = {"tail_rows": 8, "file_bytes": 12 * D * 4, "save_rows": int(rng.choice([1, 10, 1000]))}
    store = open_store(tmp_path, **small)
    store.create("c", codes_only(distance, bits=[1, 2, 4][seed % 3]))
    points: dict[int, np.ndarray] = {}
    payloads: dict[int, int] = {}
    pool = vectors_of(300, seed)
    gone = 0
    for number in range(100):
        collection = store.get("c")
        what = rng.choice(
            ["upsert", "delete", "step", "idle", "seal", "optimize", "reopen"],
            p=[0.4, 0.2, 0.15, 0.1, 0.05, 0.05, 0.05],
        )
        if what == "upsert":
            ids = [int(i) for i in rng.choice(150, rng.integers(1, 12), replace=False)]
            chosen = pool[rng.integers(0, len(pool), len(ids))]
            collection.upsert(batch_of(ids, chosen, [{"at": number}] * len(ids)))
            points.update(zip(ids, chosen, strict=True))
            payloads.update(dict.fromkeys(ids, number))
        elif what == "delete" and points:
            size = rng.integers(1, 8) if rng.random() < 0.9 else len(points)
            ids = [int(i) for i in rng.choice(sorted(points), min(size, len(points)), replace=False)]
            assert collection.delete(ids) == len(ids)
            for i in ids:
                del points[i]
                del payloads[i]
        elif what in ("step", "idle"):
            step(collection, idle=what == "idle")
        elif what == "seal":
            collection.seal()
        elif what == "optimize":
            optimize(collection)
        elif what == "reopen":
            store = reopened(store, **small)
            assert store.damaged == {}
        collection = store.get("c")
        gone = max(gone, len(lost_ids(collection)))
        found, _ = collection.scroll(limit=1000)
        assert {point.id: orjson.loads(point.payload)["at"] for point in found} == payloads
        check_everything(collection, points, seed=number)
        if number % 20 == 19:
            store.close()
            assert verify(tmp_path, RotationFactory()).problems == []
            store = open_store(tmp_path, **small)
    assert gone > 20
    store.close()


# What can be asked


def test_exact_search_is_refused_with_a_reason(store):
    collection, points = dropped(store)
    gone = len(lost_ids(collection))
    with pytest.raises(VectorsDropped, match=f"full-precision vectors of {gone} points are gone") as caught:
        collection.search(vectors_of(1), 3, params=SearchParams(exact=True))
    assert isinstance(caught.value, InvalidInput)
    assert caught.value.param == "params.exact"
    assert caught.value.hint
    assert collection.search(vectors_of(1), 3)[0].stages.mode == "codes"
    assert len(points) <= collection.options.exact_below


def test_exact_search_works_until_vectors_go(store):
    collection = store.create("c", codes_only())
    vectors = fill(collection, 100)
    query = vectors_of(1, 99)
    hits = collection.search(query, 5, params=SearchParams(exact=True))[0].hits
    best = np.argsort(-exact_scores(query[0], vectors, "Dot"))[:5]
    assert [hit.id for hit in hits] == best.tolist()


def test_vectors_that_are_gone_are_not_returned(store):
    collection, points = dropped(store)
    gone = lost_ids(collection)
    kept = sorted(set(points) - gone)
    for point in collection.points(kept, with_vector=True):
        np.testing.assert_array_equal(point.vector, points[point.id])
    one = min(gone)
    for ask in (
        lambda: collection.points([one], with_vector=True),
        lambda: collection.scroll(limit=100, with_vector=True),
        lambda: collection.search(vectors_of(1), 100, with_vector=True),
    ):
        with pytest.raises(VectorsDropped, match=r"vectors of \d+ points are gone"):
            ask()
    assert [point.id for point in collection.points([one])] == [one]


def test_rerank_reads_what_is_there(store):
    collection, points = dropped(store)
    kept = set(points) - lost_ids(collection)
    [result] = collection.search(vectors_of(1), 100, params=CODES)
    assert result.stages.reranked == len(kept) - collection.view.tail.count
    assert result.stages.bytes_read == result.stages.reranked * D * 4
    [none] = collection.search(vectors_of(1), 100, params=SearchParams(exact=False, rerank=0))
    assert none.stages.reranked == none.stages.bytes_read == 0


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("read_allowed", [0, 1000])
def test_filters_never_give_fewer(store, distance, read_allowed, monkeypatch):
    monkeypatch.setattr(funnel, "READ_ALLOWED", read_allowed)
    collection, points = dropped(store, 130, distance=distance)
    fill(collection, 9, first=130)
    for wanted in (0, 1, 5, 40, 139):
        chosen = {int(i) for i in np.random.default_rng(wanted).permutation(139)[:wanted]}
        only = parse_filter({"must": [{"has_id": sorted(chosen)}]})
        for params in (None, CODES, SearchParams(exact=False, candidates=1, rerank=0)):
            for result in collection.search(vectors_of(3, 99), 20, filter=only, params=params):
                found = [hit.id for hit in result.hits]
                assert len(set(found)) == len(found) == min(20, wanted)
                assert chosen.issuperset(found)


@pytest.mark.parametrize("distance", DISTANCES)
def test_recall_is_that_of_the_codes(tmp_path, distance):
    """The best by codes alone, computed one by one, are what is found."""
    store = open_store(tmp_path, first_fit=200, tail_rows=100, file_bytes=100 * D * 4)
    collection = store.create("c", codes_only(distance, bits=4))
    vectors = fill(collection, 2000, step=100, spread=0.5 if distance != "Cosine" else 0)
    optimize(collection)
    gone = lost_ids(collection)
    points = dict(enumerate(vectors))
    reached = 0
    queries = vectors_of(20, 99)
    for query, result in zip(queries, collection.search(queries, 10, params=SearchParams(rerank=0)), strict=True):
        scores = code_scores(collection, query, points)
        assert len(scores) == len(points)
        best = sorted(points, key=lambda i, scores=scores: -scores[i])[:10]
        reached += len({hit.id for hit in result.hits} & set(best))
    assert reached >= 0.97 * 200
    assert len(gone) == 1900
    store.close()


def test_sampling_takes_only_what_has_vectors(store):
    collection, points = dropped(store)
    kept = set(points) - lost_ids(collection)
    rows, vectors = collection.sample(1000, 0)
    assert len(rows) == len(kept)
    ids = [p.id for p in collection.points(sorted(kept))]
    np.testing.assert_array_equal(vectors, np.array([points[i] for i in ids]))
    collection.delete(sorted(kept))
    with pytest.raises(VectorsDropped, match="of all .* points are gone"):
        collection.sample(10, 0)


# Versions


def test_a_new_binarizer_codes_new_points_only(store):
    collection, points = dropped(store)
    collection.adopt(trained(vectors_of(50), bits=1, seed=3))
    more = fill(collection, 100, first=100, seed=4)
    points.update(zip(range(100, 200), more, strict=True))
    with pytest.raises(VectorsDropped, match="are gone"):
        versions.upgrade(collection)
    while step(collection, idle=True):
        pass
    optimize(collection)
    assert [segment.binarizer for segment in collection.view.segments] == [1, 2]
    assert lost_ids(collection) > set(range(90))
    check_everything(collection, points)
    again = reopened(store)
    check_everything(again.get("c"), points)
    with pytest.raises(VectorsDropped, match="are gone"):
        versions.upgrade(again.get("c"))
    check_sound(again, points)


def test_an_upgrade_before_anything_is_dropped_works(store):
    collection = store.create("c", codes_only())
    fill(collection, 100)
    collection.seal()
    collection.adopt(trained(vectors_of(50), bits=1, seed=3))
    assert versions.upgrade(collection)
    assert {segment.binarizer for segment in collection.view.segments} == {2}
    optimize(collection)
    assert lost_ids(collection)


def test_a_binarizer_of_dead_codes_is_kept_as_long_as_they_are(store):
    collection, points = dropped(store)
    collection.delete(sorted(points))
    store = reopened(store)
    assert store.damaged == {}
    collection = store.get("c")
    collection.adopt(trained(vectors_of(50), bits=1, seed=3))
    fill(collection, 40)
    store = reopened(store)
    assert store.damaged == {}
    collection = store.get("c")
    optimize(collection)
    assert collection.count() == 40
    with collection.record.snapshot() as reader:
        assert len(reader.tombstones()) <= 24
    store.close()
    assert verify(store.directory, RotationFactory()).problems == []


# The loss


@pytest.mark.parametrize("distance", DISTANCES)
def test_the_loss_is_what_a_loop_measures(tmp_path, distance, caplog):
    store = open_store(tmp_path, first_fit=200, tail_rows=100, file_bytes=100 * D * 4)
    collection = store.create("c", codes_only(distance, bits=2))
    vectors = fill(collection, 400, step=100)
    assert collection.info().codes_only is None
    with caplog.at_level(logging.INFO, logger="index.dropping"):
        optimize(collection)
    assert "codes alone reach" in caplog.text
    loss = collection.info().codes_only
    assert isinstance(loss, CodesOnlyLoss)
    assert (loss.points, loss.queries, loss.bits) == (400, 200, 2)
    [binarizer] = collection.view.binarizers.values()
    found = dict.fromkeys((10, 20, 100), 0)
    for i, query in enumerate(vectors):
        near = [j for j in np.argsort(-exact_scores(query, vectors, distance)) if j != i][:10]
        if distance == "Cosine":
            query = query / np.linalg.norm(query)
        coded = [j for j in np.argsort(-estimates(binarizer, query, vectors, distance)) if j != i]
        for k in found:
            found[k] += len(set(near) & set(coded[:k]))
    for k, hits in found.items():
        # 200 of the 400 queries were measured.
        assert getattr(loss, f"recall_at_{k}") == pytest.approx(hits / 4000, abs=0.03)
    assert loss.recall_at_10 < loss.recall_at_20 < loss.recall_at_100
    fill(collection, 300, first=400, step=100)
    optimize(collection)
    assert collection.info().codes_only == loss
    store = reopened(store)
    assert store.get("c").info().codes_only == loss
    store.close()


def test_dead_files_go_without_a_measurement(store):
    collection = store.create("c", codes_only())
    fill(collection, 100)
    collection.delete(list(range(100)))
    optimize(collection)
    assert collection.info().codes_only is None
    assert len(list((collection.folder / "vectors").iterdir())) == 1
    fill(collection, 60)
    check_everything(collection, dict(enumerate(vectors_of(60))))


def test_one_point_is_not_measured_against_nothing(store):
    collection = store.create("c", codes_only())
    fill(collection, 100)
    collection.delete(list(range(1, 100)))
    optimize(collection)
    assert lost_ids(collection) == set()
    assert [point.id for point in collection.scroll(limit=9)[0]] == [0]
