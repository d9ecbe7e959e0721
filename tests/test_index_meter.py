"""The recall meter: beside recall counted by hand, and never in the way."""

from __future__ import annotations

import time

import numpy as np
import pytest

from index import meter
from index.errors import DeadlineExceeded, VectorsDropped
from index.filters import parse_filter
from index.maintenance import optimize, step
from index.meter import Measured, RecallMeter, report_of
from index.metering import measure_now, meter_piece
from index.points import SearchParams
from tests.codes_only import codes_only
from tests.index_fakes import batch_of, config, exact_scores, open_store

D = 16
N = 2000
SMALL = {"first_fit": 200, "tail_rows": 100, "save_rows": 1, "list_rows": 500, "exact_below": 0, "file_bytes": 1 << 20}
FEW = SearchParams(exact=False, probes=2, candidates=40, rerank=10)
THIRD = parse_filter({"must": [{"key": "third", "match": {"value": True}}]})


def grouped(n, seed=0):
    rng = np.random.default_rng(seed)
    middles = np.random.default_rng(1).standard_normal((40, D))
    return (middles[rng.integers(0, 40, n)] + 0.6 * rng.standard_normal((n, D))).astype(np.float32)


def written(store):
    vectors = grouped(N)
    collection = store.create("c", config(dimension=D))
    for start in range(0, N, 200):
        ids = range(start, start + 200)
        collection.upsert(batch_of(ids, vectors[ids.start : ids.stop], [{"third": i % 3 == 0} for i in ids]))
    optimize(collection)
    return collection, vectors


@pytest.fixture
def store(tmp_path):
    store = open_store(tmp_path, **SMALL, recall_sample=1.0)
    yield store
    store.close()


def found_share(collection, vectors, query, params, filter=None, k=10):
    ids = np.arange(N) if filter is None else np.arange(0, N, 3)
    best = ids[np.argsort(-exact_scores(query, vectors[ids], "Cosine"))[:k]]
    (found,) = collection.search(query[None], k, params=params, filter=filter)
    return len({hit.id for hit in found.hits} & set(best.tolist())) / k


@pytest.mark.parametrize("filter", [None, THIRD])
def test_recall_is_what_counting_gives(store, monkeypatch, filter):
    monkeypatch.setattr("index.funnel.READ_ALLOWED", 10)
    collection, vectors = written(store)
    queries = grouped(25, seed=6)
    shares = [found_share(collection, vectors, query, FEW, filter) for query in queries]
    everywhere = SearchParams(exact=False, probes=10**6, candidates=40, rerank=10)
    whole = [found_share(collection, vectors, query, everywhere, filter) for query in queries]
    free = [found_share(collection, vectors, query, FEW) for query in queries]
    collection.asked.clear()
    collection.asked.extend(queries / np.linalg.norm(queries, axis=1, keepdims=True))
    report = measure_now(collection, 25, 10, filter=filter, params=FEW)
    assert report.queries == 25
    assert report.recall == pytest.approx(np.mean(shares), abs=1e-3)
    assert report.lost_by_codes == pytest.approx(1 - np.mean(whole), abs=1e-3)
    assert report.lost_by_probing == pytest.approx(np.mean(whole) - np.mean(shares), abs=1e-3)
    assert report.recall + report.lost_by_codes + report.lost_by_probing == pytest.approx(1, abs=1e-3)
    assert report.recall < 0.9
    if filter is None:
        assert (report.filtered, report.filtered_recall, report.lost_by_filters) == (0, None, None)
    else:
        assert report.filtered == 25
        assert report.filtered_recall == report.recall
        assert report.lost_by_filters == pytest.approx(np.mean(free) - np.mean(shares), abs=1e-3)


def test_live_queries_are_measured_beside_other_work(store, monkeypatch):
    collection, _ = written(store)
    assert collection.meter.report().queries == 0
    collection.search(grouped(3, seed=2), 5, params=FEW)
    collection.search(grouped(1, seed=3), 5, params=FEW, filter=THIRD)
    collection.search(grouped(2, seed=4), 5, params=SearchParams(exact=True))  # nothing can be lost
    assert meter_piece(collection)
    assert collection.meter.report().queries == 1
    assert not meter_piece(collection)  # it rests
    monkeypatch.setattr(meter, "REST", 0)
    collection.meter._rests_until = 0
    while step(collection, idle=False):
        pass
    report = collection.meter.report()
    assert (report.queries, report.filtered) == (4, 1)
    assert 0 <= report.recall <= 1


def test_what_waits_and_what_is_kept_is_bounded(monkeypatch):
    monkeypatch.setattr(meter, "REST", 0)
    found = RecallMeter(1.0)
    for number in range(500):
        found.offer(number)
    assert found.due() == 500 - meter.WAITING
    for _ in range(2000):
        found.note(Measured(10, 0.5, 0.3, 0.2, None), 0.0)
    assert found.report().queries == meter.KEPT
    assert RecallMeter(0.0).due() is None
    for share, least, most in ((0.0, 0, 0), (0.2, 10, 80), (1.0, 200, 200)):
        assert least <= sum(RecallMeter(share).draws() for _ in range(200)) <= most


def test_a_report_of_nothing_says_nothing():
    assert set(vars_of(report_of([])).values()) == {0, None}


def vars_of(report):
    return {name: getattr(report, name) for name in report.__slots__}


def test_stored_points_ask_where_nobody_has(store):
    collection, _ = written(store)
    collection.asked.clear()
    report = measure_now(collection, 30, 10)
    assert report.queries == 30
    assert report.recall > 0.9
    empty = store.create("empty", config(dimension=D))
    assert measure_now(empty, 5, 10).queries == 0


def test_a_deadline_ends_it_with_what_there_is(store, monkeypatch):
    collection, _ = written(store)
    with pytest.raises(DeadlineExceeded):
        measure_now(collection, 5, 10, deadline=time.monotonic() - 1)
    real = meter.search_exact
    calls = []

    def slow(*args):
        calls.append(1)
        if len(calls) > 3:
            raise DeadlineExceeded("too late")
        return real(*args)

    monkeypatch.setattr(meter, "search_exact", slow)
    assert measure_now(collection, 50, 10, deadline=time.monotonic() + 60).queries == 3


def test_codes_only_cannot_be_measured(tmp_path):
    store = open_store(tmp_path, **SMALL)
    collection = store.create("c", codes_only("Cosine", dimension=D))
    with pytest.raises(VectorsDropped, match="codes only"):
        measure_now(collection, 5, 10)
    assert not meter_piece(collection)
    store.close()
