"""Search: exact beside an obvious oracle, codes by recall, filters never short, deadlines."""

from __future__ import annotations

import time

import numpy as np
import pytest

from index import funnel, widths
from index.errors import DeadlineExceeded, InvalidVector
from index.filters import parse_filter
from index.kernels import best
from index.maintenance import optimize, step
from index.points import SearchParams
from index.vector_table import VectorTable
from tests.index_fakes import batch_of, check_hits, config, exact_scores, fill, open_store, vectors_of

DISTANCES = ["Cosine", "Dot", "Euclid"]
EVEN = parse_filter({"must": [{"key": "even", "match": {"value": True}}]})


@pytest.fixture
def store(tmp_path):
    store = open_store(tmp_path, first_fit=500, tail_rows=200, save_rows=10_000, file_bytes=1 << 20)
    yield store
    store.close()


def make(store, distance, n, *, dimension=16, spread=0.0, step=100, dtype="float32"):
    collection = store.create(f"{distance}-{n}", config(distance, dimension=dimension, dtype=dtype))
    return collection, fill(collection, n, step=step, spread=spread)


def recall(collection, vectors, queries, distance, k=10, allowed=None, **params):
    """Share of the true k best scores reached (ties count)."""
    ids = np.arange(len(vectors)) if allowed is None else allowed
    results = collection.search(
        queries, k, params=SearchParams(exact=False, **params), filter=None if allowed is None else EVEN
    )
    reached = 0
    for query, result in zip(queries, results, strict=True):
        scores = exact_scores(query, vectors, distance)
        worst = np.sort(scores[ids])[::-1][k - 1]
        assert len({hit.id for hit in result.hits}) == len(result.hits) == k
        reached += sum(scores[hit.id] >= worst - 1e-4 * abs(worst) for hit in result.hits)
        assert [hit.score for hit in result.hits] == sorted((h.score for h in result.hits), reverse=True)
    return reached / (k * len(queries))


def test_best_is_a_sort():
    rng = np.random.default_rng(0)
    for n, k in [(0, 3), (3, 3), (50, 7), (50, 60)]:
        rows = np.sort(rng.permutation(1000)[:n])
        scores = rng.integers(0, 6, n).astype(np.float32)
        got_rows, got = best(rows, scores, k)
        expected = sorted(zip(-scores, rows, strict=True))[:k]
        assert got_rows.tolist() == [row for _, row in expected]
        assert got.tolist() == [-score for score, _ in expected]


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("n", [1, 90, 700])
def test_exact_is_the_oracle(store, distance, n):
    collection, vectors = make(store, distance, n)
    by_id = dict(enumerate(vectors))
    queries = vectors_of(5, 99)
    for k in (1, 10, 1000):
        for query, result in zip(queries, collection.search(queries, k), strict=True):
            assert result.stages.mode == "exact"
            assert result.stages.scanned == result.stages.reranked == n
            check_hits(result.hits, query, by_id, k, distance)
    evens = {i: v for i, v in by_id.items() if i % 2 == 0}
    for query, result in zip(queries, collection.search(queries, 7, filter=EVEN), strict=True):
        check_hits(result.hits, query, evens, 7, distance)
        assert result.stages.filtered_to == len(evens)


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("filter", [None, EVEN])
@pytest.mark.parametrize("params", [SearchParams(exact=True), SearchParams(exact=False, candidates=700, rerank=700)])
def test_within_a_part_of_the_space_documents_count_by_their_direction_there(store, distance, filter, params):
    """Cut queries under Cosine: whole vectors of length 1 are shorter in a part, each by another factor."""
    collection, vectors = make(store, distance, 700, step=150)
    within = np.linalg.qr(vectors_of(16, 5, dimension=16))[0][:5]
    queries = vectors_of(4, 99) @ within.T @ within
    parts = vectors @ within.T @ within if distance == "Cosine" else vectors
    by_id = {i: part for i, part in enumerate(parts) if filter is None or i % 2 == 0}
    results = collection.search(queries, 10, filter=filter, params=params, within=within)
    for query, result in zip(queries, results, strict=True):
        check_hits(result.hits, query, by_id, 10, distance)


def test_a_document_without_a_part_in_it_scores_0(store):
    collection = store.create("c", config("Cosine", dimension=4))
    collection.upsert(batch_of([1, 2], np.array([[0, 0, 0, 1], [1, 0, 0, 1]], np.float32)))
    (result,) = collection.search(np.eye(1, 4, dtype=np.float32), 2, within=np.eye(2, 4, dtype=np.float32))
    assert [(hit.id, hit.score) for hit in result.hits] == [(2, pytest.approx(1)), (1, 0)]


def test_exact_with_half_precision(store):
    collection, vectors = make(store, "Cosine", 700, dtype="float16")
    query = vectors_of(1, 99)
    check_hits(collection.search(query, 10)[0].hits, query[0], dict(enumerate(vectors)), 10, "Cosine", 2e-3)


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("exact", [True, False])
def test_ties_go_to_the_earlier_row(store, distance, exact):
    collection = store.create("ties", config(distance))
    one, other = vectors_of(2)
    ids = [*range(30, 0, -1)]
    for point_id in ids:
        collection.upsert(batch_of([point_id], (one if point_id % 3 else other)[None]))
    hits = collection.search(one[None], 12, params=SearchParams(exact=exact))[0].hits
    assert [hit.id for hit in hits] == [i for i in ids if i % 3][:12]


@pytest.mark.parametrize("distance", DISTANCES)
def test_codes_reach_recall(store, distance):
    collection, vectors = make(store, distance, 3000, dimension=64)
    assert collection.info().indexed > 2500
    reached = recall(collection, vectors, vectors_of(20, 99, dimension=64), distance)
    assert reached >= 0.95


@pytest.mark.parametrize("distance", ["Dot", "Euclid"])
@pytest.mark.parametrize("merged", [False, True])
def test_codes_reach_recall_when_norms_are_spread(store, distance, merged):
    collection, vectors = make(store, distance, 6000, dimension=64, spread=0.8, step=500)
    if merged:
        optimize(collection)
        assert max(segment.index.bands for segment in collection.view.segments) == 3
    queries = vectors_of(30, 99, dimension=64, spread=0.8)
    assert recall(collection, vectors, queries, distance) >= 0.98


@pytest.mark.parametrize("distance", DISTANCES)
def test_more_work_never_finds_less(store, distance, monkeypatch):
    monkeypatch.setattr(widths, "CANDIDATES", 10)
    monkeypatch.setattr(widths, "default_rerank", lambda *_: 10)
    collection, vectors = make(store, distance, 3000, dimension=32, step=1000)
    optimize(collection)
    collection.calibration = None
    queries = vectors_of(20, 99, dimension=32)
    by_rerank = [recall(collection, vectors, queries, distance, rerank=n) for n in (10, 40, 160, 3000)]
    assert by_rerank == sorted(by_rerank)
    assert by_rerank[0] < 0.9
    assert by_rerank[-1] == 1.0


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("read_allowed", [1000, 0])
def test_filtered_search_is_never_short(store, distance, read_allowed, monkeypatch):
    monkeypatch.setattr(funnel, "READ_ALLOWED", read_allowed)
    collection, vectors = make(store, distance, 930, spread=1.0)
    assert len(collection.view.segments) > 0
    assert collection.view.tail.count > 0
    queries = vectors_of(4, 99)
    for wanted in (0, 1, 5, 40, 450):
        chosen = {int(i) for i in np.random.default_rng(wanted).permutation(930)[:wanted]}
        only = parse_filter({"must": [{"has_id": sorted(chosen)}]})
        for result in collection.search(queries, 30, filter=only, params=SearchParams(exact=False)):
            found = [hit.id for hit in result.hits]
            assert len(set(found)) == len(found) == min(30, wanted)
            assert chosen.issuperset(found)
    everything = collection.search(queries, 2000, params=SearchParams(exact=False))
    assert all({hit.id for hit in result.hits} == set(range(930)) for result in everything)
    allowed = np.arange(0, 930, 2)
    assert recall(collection, vectors, queries, distance, allowed=allowed) >= 0.9


def test_segments_and_tail_are_joined(store):
    collection, vectors = make(store, "Cosine", 780)
    view = collection.view
    assert (view.tail.first_row, view.tail.count) == (700, 80)
    for target in (3, 650, 701, 779):
        result = collection.search(vectors[target][None], 3, params=SearchParams(exact=False))[0]
        assert result.hits[0].id == target
        assert result.hits[0].score == pytest.approx(1, abs=1e-5)
    stages = result.stages
    assert (stages.mode, stages.bits, stages.scanned) == ("codes", 1, 780)
    assert stages.reranked == stages.candidates == 700
    assert stages.bytes_read == 700 * 64
    assert set(stages.milliseconds) == {"rotate", "scan", "refine", "rerank", "tail", "fetch"}
    fewer = collection.search(vectors[:1], 3, params=SearchParams(exact=False, rerank=20, candidates=50))[0]
    assert fewer.stages.reranked == 20
    assert fewer.stages.candidates == 50 * len(view.segments)


def test_deleted_points_are_not_found(store):
    collection, vectors = make(store, "Dot", 780)
    dead = list(range(0, 780, 3))
    collection.delete(dead)
    alive = {i: v for i, v in enumerate(vectors) if i % 3}
    query = vectors_of(1, 99)
    for exact in (True, False):
        hits = collection.search(query, 780, params=SearchParams(exact=exact))[0].hits
        check_hits(hits, query[0], alive, 780, "Dot")
    while step(collection, idle=True):
        pass
    hits = collection.search(query, 780, params=SearchParams(exact=False))[0].hits
    check_hits(hits, query[0], alive, 780, "Dot")


def test_the_size_decides_when_nothing_is_said(tmp_path):
    store = open_store(tmp_path, exact_below=50)
    collection = store.create("c", config())
    query = vectors_of(1, 99)
    fill(collection, 50)
    assert collection.search(query, 3)[0].stages.mode == "exact"
    fill(collection, 10, first=50, seed=1)
    assert collection.search(query, 3)[0].stages.mode == "codes"
    assert collection.search(query, 3, params=SearchParams(exact=True))[0].stages.mode == "exact"
    store.close()


def test_codes_on_demand_for_a_small_collection(store):
    collection, vectors = make(store, "Cosine", 7)
    assert collection.info().indexed == 0
    result = collection.search(vectors[2][None], 3, params=SearchParams(exact=False))[0]
    assert (result.stages.mode, result.stages.candidates, result.hits[0].id) == ("codes", 7, 2)
    assert collection.info().indexed == 7


def test_an_empty_collection_has_no_hits(store):
    collection = store.create("empty", config())
    for exact in (None, True, False):
        assert collection.search(vectors_of(2), 5, params=SearchParams(exact=exact))[0].hits == []


def test_hits_carry_what_is_asked_for(store):
    collection = store.create("c", config())
    vectors = fill(collection, 5, texts=True)
    plain, full = (
        collection.search(vectors[:1], 1, with_payload=more, with_text=more, with_vector=more)[0].hits[0]
        for more in (False, True)
    )
    assert (plain.id, plain.payload, plain.text, plain.vector) == (0, None, None, None)
    assert (full.payload, full.text) == (b'{"n": 0, "even": true}', "text 0")
    np.testing.assert_allclose(full.vector, vectors[0] / np.linalg.norm(vectors[0]), rtol=1e-5)


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("condition", [None, EVEN])
def test_the_deadline_is_kept(store, exact, condition):
    collection, _ = make(store, "Cosine", 600)
    past = time.monotonic() - 1
    with pytest.raises(DeadlineExceeded, match="the search took longer"):
        collection.search(vectors_of(1), 3, params=SearchParams(exact=exact), filter=condition, deadline=past)
    later = time.monotonic() + 60
    assert collection.search(vectors_of(1), 3, params=SearchParams(exact=exact), deadline=later)[0].hits


def test_scroll_and_count_keep_the_deadline(store):
    collection, _ = make(store, "Cosine", 5)
    past = time.monotonic() - 1
    with pytest.raises(DeadlineExceeded):
        collection.scroll(limit=3, filter=EVEN, deadline=past)
    with pytest.raises(DeadlineExceeded):
        collection.count(EVEN, deadline=past)


@pytest.mark.parametrize(
    ("distance", "query", "message"),
    [
        ("Cosine", np.zeros(16), "all zeros"),
        ("Dot", np.full(16, np.nan), "NaN or infinite"),
        ("Dot", np.full(16, 1e18), "norm above"),
        ("Euclid", np.ones(15), "15 dimensions, the collection has 16"),
    ],
)
def test_bad_queries_are_refused(store, distance, query, message):
    collection, _ = make(store, distance, 5)
    with pytest.raises(InvalidVector, match=message):
        collection.search(query[None].astype(np.float32), 3)


@pytest.mark.parametrize("distance", ["Dot", "Euclid"])
def test_a_query_of_zeros_finds_k(store, distance):
    collection, vectors = make(store, distance, 600)
    query = np.zeros((1, 16), np.float32)
    hits = collection.search(query, 10, params=SearchParams(exact=False))[0].hits
    assert len(hits) == 10
    check_hits(collection.search(query, 10)[0].hits, query[0], dict(enumerate(vectors)), 10, distance)


@pytest.mark.parametrize("distance", ["Cosine", "Dot", "Euclid"])
@pytest.mark.parametrize("bits", [1, 4])
def test_one_call_ends_a_search_as_step_by_step(store, monkeypatch, distance, bits):
    vectors = vectors_of(900)
    collection = store.create("c", config(distance, bits=bits))
    collection.upsert(batch_of(range(900), vectors))
    optimize(collection)
    called = []
    real = VectorTable.finish
    monkeypatch.setattr(VectorTable, "finish", lambda *args, **kw: called.append(1) or real(*args, **kw))

    def found(**params):
        results = collection.search(vectors_of(6, 9), 10, params=SearchParams(exact=False, **params))
        return [
            ([(hit.id, hit.score) for hit in one.hits], one.stages.reranked, one.stages.bytes_read) for one in results
        ]

    asked = ({}, {"rerank": 10}, {"rerank": 900, "candidates": 900}, {"symmetric": True})
    together = [found(**params) for params in asked]
    assert len(called) == 6 * len(asked)
    monkeypatch.setattr(VectorTable, "finish", lambda *_, **__: None)
    assert [found(**params) for params in asked] == together
    monkeypatch.setattr(VectorTable, "finish", None)  # what is not read is shown with its estimate
    assert len(found(rerank=4)[0][0]) == 10
    collection.upsert(batch_of([5000], vectors_of(1, 77)))
    assert found()[0][1] == together[0][0][1], "a tail joins"
