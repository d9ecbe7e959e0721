"""Segments and queries side by side: the same results, errors that arrive, no thread that waits for itself."""

from __future__ import annotations

import threading
import time

import pytest

from index.errors import DeadlineExceeded
from index.filters import parse_filter
from index.parallel import Workers
from index.points import SearchParams
from tests.index_fakes import batch_of, config, open_store, vectors_of

N = 600
SMALL = {"first_fit": 64, "tail_rows": 64, "fan_out": 100, "exact_below": 0}


def test_work_is_shared_out_and_comes_back_in_order():
    workers = Workers(3)
    meeting = threading.Barrier(3, timeout=10)

    def met(item):
        meeting.wait()  # passes only if three are at work
        return item, threading.current_thread().name

    found = workers.map(met, [3, 1, 2])
    assert [item for item, _ in found] == [3, 1, 2]
    assert len({name for _, name in found}) == 3
    me = threading.current_thread().name
    assert {name for _, name in workers.map(lambda item: (item, threading.current_thread().name), [1])} == {me}
    workers.close()
    assert Workers(1).map(lambda item: (item, threading.current_thread().name), [1, 2]) == [(1, me), (2, me)]


def test_a_worker_that_asks_for_workers_does_it_by_itself():
    workers = Workers(2)
    nested = workers.map(lambda a: workers.map(lambda b: (a, b, threading.current_thread().name), [1, 2, 3]), range(20))
    assert [[(a, b) for a, b, _ in row] for row in nested] == [[(a, b) for b in (1, 2, 3)] for a in range(20)]
    assert all(len({name for _, _, name in row}) == 1 for row in nested)
    workers.close()


def test_errors_arrive():
    workers = Workers(2)

    def fail(item):
        if item:
            raise ValueError(f"item {item}")

    with pytest.raises(ValueError, match="item 1"):
        workers.map(fail, [0, 1, 2])
    workers.close()


@pytest.mark.parametrize("filtered", [False, True])
def test_threads_change_no_result(tmp_path, filtered):
    vectors, queries = vectors_of(N), vectors_of(30, seed=1)
    tree = parse_filter({"must": [{"key": "n", "range": {"lt": 400}}]}) if filtered else None
    found = []
    for threads in (1, 3):
        store = open_store(tmp_path / str(threads), **SMALL, threads=threads)
        collection = store.create("c", config(bits=4))
        for start in range(0, N, 64):
            ids = range(start, min(start + 64, N))
            collection.upsert(batch_of(ids, vectors[ids.start : ids.stop], [{"n": i} for i in ids]))
        assert len(collection.view.segments) > 5
        params = SearchParams(exact=False, candidates=40, rerank=30)
        batch = collection.search(queries, 10, filter=tree, params=params)
        alone = [collection.search(query[None], 10, filter=tree, params=params)[0] for query in queries]
        assert [result.hits for result in batch] == [result.hits for result in alone]
        assert [result.stages.scanned for result in batch] == [result.stages.scanned for result in alone]
        found.append([[(hit.id, hit.score) for hit in result.hits] for result in batch])
        with pytest.raises(DeadlineExceeded):
            collection.search(queries, 10, params=params, deadline=time.monotonic() - 1)
        store.close()
    assert found[0] == found[1]
