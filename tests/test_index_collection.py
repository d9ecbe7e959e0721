"""Collections: writing, reading, threads, failing disks, and what a restart changes: nothing."""

from __future__ import annotations

import errno
import os
import threading

import numpy as np
import orjson
import pytest

from index import durable
from index.collection import Collection
from index.errors import DiskFull, InvalidVector, ReadOnlyCollection
from index.filters import parse_filter
from index.ids import order_key
from index.maintenance import optimize
from index.payload import PayloadEdit
from index.points import SearchParams
from tests.index_fakes import (
    batch_of,
    check_hits,
    config,
    contents,
    fill,
    open_store,
    vectors_of,
)

CODES = SearchParams(exact=False)


@pytest.fixture
def store(tmp_path):
    store = open_store(tmp_path)
    yield store
    store.close()


@pytest.fixture
def collection(store):
    return store.create("c", config("Dot"))


def reopened(store, **changes):
    store.close()
    return open_store(store.directory, **changes)


def fails(number):
    def call(*_args, **_more):
        raise OSError(number, os.strerror(number))

    return call


def where(key, value):
    return parse_filter({"must": [{"key": key, "match": {"value": value}}]})


def test_points_come_back_as_they_were_sent(collection):
    ids = [2**64 - 1, "1", 1, "é", "0b5c6d3e-0000-4000-8000-000000000000"]
    vectors = vectors_of(5)
    payloads = [{"a": i, "b": [None, {"c": "ü"}]} for i in range(5)]
    collection.upsert(batch_of(ids, vectors, payloads, ["t", None, "", "long" * 1000, "\U0001f600"]))
    got = collection.points([*reversed(ids), "unknown", 1], with_vector=True, with_text=True)
    assert [point.id for point in got] == list(reversed(ids))
    for point in got:
        at = ids.index(point.id)
        assert orjson.loads(point.payload) == payloads[at]
        np.testing.assert_array_equal(point.vector, vectors[at])
    assert [point.text for point in got] == ["\U0001f600", "long" * 1000, "", None, "t"]
    bare = collection.points([1])[0]
    assert (bare.text, bare.vector) == (None, None)


def test_overwriting_replaces_everything(collection):
    old, new = vectors_of(2)
    collection.upsert(batch_of([1, 2], np.array([old, old]), texts=["old", "kept"]))
    collection.upsert(batch_of([1], new[None], [{"new": True}]))
    point = collection.points([1], with_vector=True, with_text=True)[0]
    assert (point.payload, point.text) == (b'{"new": true}', None)
    np.testing.assert_array_equal(point.vector, new)
    assert collection.count() == 2
    assert collection.stored([1])[1].row == 2
    assert len(collection.search(new[None], 10)[0].hits) == 2


def test_of_an_id_sent_twice_the_later_counts(collection):
    vectors = vectors_of(5)
    collection.upsert(batch_of([1, 2, 1, 3, 2], vectors, texts=["a", "b", "c", "d", "e"]))
    assert collection.count() == 3
    for point_id, at in [(1, 2), (2, 4), (3, 3)]:
        point = collection.points([point_id], with_vector=True, with_text=True)[0]
        assert point.text == "abcde"[at]
        assert orjson.loads(point.payload) == {"n": at}
        np.testing.assert_array_equal(point.vector, vectors[at])


def test_a_batch_is_a_loop(store):
    rng = np.random.default_rng(0)
    ids = [int(i) for i in rng.integers(0, 40, 100)]
    vectors = vectors_of(100)
    one, many = store.create("one", config()), store.create("many", config())
    for i in range(100):
        one.upsert(batch_of([ids[i]], vectors[i][None], [{"n": i}], [f"t{i}"]))
    many.upsert(batch_of(ids, vectors, [{"n": i} for i in range(100)], [f"t{i}" for i in range(100)]))
    assert contents(one) == contents(many)


def test_an_empty_batch_does_nothing(collection):
    collection.upsert(batch_of([], np.empty((0, 16))))
    assert collection.count() == 0


def test_bad_vectors_cost_the_whole_batch(collection):
    vectors = vectors_of(3)
    vectors[1, 4] = np.inf
    with pytest.raises(InvalidVector, match="vector 1 holds NaN or infinite"):
        collection.upsert(batch_of([1, 2, 3], vectors))
    assert collection.count() == 0


def test_deleting(collection):
    vectors = fill(collection, 40)
    assert collection.delete([3, 3, 4, 99, "3"]) == 2
    assert collection.delete([3]) == 0
    assert collection.delete_where(where("even", True)) == 19
    left = {i: vectors[i] for i in range(40) if i % 2 and i != 3}
    assert collection.count() == len(left)
    assert collection.delete_where(parse_filter({"must": [{"has_id": [5, 6]}]})) == 1
    del left[5]
    assert set(contents(collection)) == set(left)
    check_hits(collection.search(vectors[:1], 50)[0].hits, vectors[0], left, 50, "Dot")
    collection.upsert(batch_of([3], vectors[3][None]))
    assert collection.points([3])


def test_editing_payloads(collection):
    fill(collection, 6)
    before = {i: collection.stored([i])[i] for i in range(6)}
    assert collection.edit_payload(PayloadEdit("set", {"x": 1}), ids=[0, 1, 77]) == 2
    assert collection.edit_payload(PayloadEdit("delete", keys=("n",)), filter=where("even", True)) == 3
    assert collection.edit_payload(PayloadEdit("set", {"all": None, "y": 2})) == 6
    after = {i: collection.stored([i])[i] for i in range(6)}
    assert orjson.loads(after[0].payload) == {"even": True, "x": 1, "y": 2}
    assert orjson.loads(after[1].payload) == {"even": False, "n": 1, "x": 1, "y": 2}
    assert {i: (s.row, s.hash) for i, s in after.items()} == {i: (s.row, s.hash) for i, s in before.items()}
    assert collection.edit_payload(PayloadEdit("clear"), ids=[5]) == 1
    assert collection.stored([5])[5].payload == b"{}"


def test_scrolling_in_the_order_of_ids(collection):
    ids = [5, "b", 2**64 - 1, 0, "a", 2**63, "é", "B"]
    collection.upsert(batch_of(ids, vectors_of(8)))
    expected = sorted(ids, key=order_key)
    for limit in (1, 3, 8, 9):
        got, after = [], None
        while True:
            points, after = collection.scroll(after=after, limit=limit)
            got += [point.id for point in points]
            if after is None:
                break
        assert got == expected
    points, following = collection.scroll(limit=2, filter=where("n", 3))
    assert ([p.id for p in points], following) == ([0], None)
    points, following = collection.scroll(after="B", limit=2, with_text=True)
    assert ([p.id for p in points], following) == (["B", "a"], "b")


def test_attributes_can_change(store, collection):
    collection.set_attributes({"encoder": "x"})
    assert collection.config.attributes == {"encoder": "x"}
    store = reopened(store)
    assert store.get("c").config == config("Dot", encoder="x")
    store.close()


@pytest.mark.parametrize(("distance", "dtype"), [("Cosine", "float16"), ("Dot", "float32"), ("Euclid", "float32")])
def test_a_restart_changes_nothing(store, distance, dtype):
    collection = store.create("x", config(distance, dtype=dtype))
    fill(collection, 150, texts=True)
    collection.delete(range(0, 150, 5))
    fill(collection, 20, first=30, seed=5)
    queries = vectors_of(5, 9)
    before, exact = contents(collection), collection.search(queries, 10)
    coded = collection.search(queries, 10, params=CODES)
    store = reopened(store)
    collection = store.get("x")
    assert contents(collection) == before
    assert [r.hits for r in collection.search(queries, 10, with_vector=False)] == [r.hits for r in exact]
    again = collection.search(queries, 10, params=CODES)
    assert [[h.id for h in r.hits] for r in again] == [[h.id for h in r.hits] for r in coded]
    fill(collection, 5, first=1000)
    assert collection.count() == len(before) + 5
    store.close()


def test_writers_share_syncs(collection, monkeypatch):
    real, calls = durable.sync_file, []

    def slow(fd):
        calls.append(fd)
        gate.wait(0.05)
        real(fd)

    gate = threading.Event()
    fill(collection, 1)
    monkeypatch.setattr(durable, "sync_file", slow)
    threads = [threading.Thread(target=fill, args=(collection, 1), kwargs={"first": 10 + i}) for i in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert collection.count() == 13
    assert 1 <= len(calls) < 12


def versions_of(vector, payload, text):
    """The version that each part of a point says it belongs to."""
    return {float(vector[0]) - 1, orjson.loads(payload)["v"], int(text[1:])}


def test_readers_see_whole_versions(collection):
    """Writers overwrite all points at once; everything that a reader sees must be of one version."""
    n, seen = 10, []
    stop = threading.Event()

    def write(version):
        vectors = np.full((n, 16), 1.0 + version, dtype=np.float32)
        collection.upsert(batch_of(range(n), vectors, [{"v": version}] * n, [f"t{version}"] * n))

    def read(params):
        query = np.ones((1, 16), dtype=np.float32)
        while not stop.is_set():
            result = collection.search(query, n, params=params, with_vector=True, with_text=True)[0]
            points, _ = collection.scroll(limit=n, with_vector=True, with_text=True)
            for found in (result.hits, points):
                versions = set().union(*(versions_of(p.vector, p.payload, p.text) for p in found))
                seen.append((len(found), len(versions)))

    write(0)
    readers = [threading.Thread(target=read, args=(p,)) for p in (SearchParams(exact=True), CODES)]
    for thread in readers:
        thread.start()
    for version in range(1, 40):
        write(version)
        if version % 13 == 0:
            optimize(collection)
    stop.set()
    for thread in readers:
        thread.join()
    assert set(seen) == {(n, 1)}


@pytest.mark.parametrize("name", ["pwrite", "fdatasync"])
def test_a_full_disk_refuses_the_write_and_nothing_else(store, collection, monkeypatch, name):
    vectors = fill(collection, 30)
    before = contents(collection)
    monkeypatch.setattr(os, name, fails(errno.ENOSPC))
    with pytest.raises(DiskFull, match="no space left"):
        collection.upsert(batch_of([1, 500], vectors_of(2, 7)))
    assert contents(collection) == before
    assert collection.search(vectors[:1], 3)[0].hits
    monkeypatch.undo()
    assert collection.info().read_only is None
    fill(collection, 10, first=500, seed=7)
    after = contents(collection)
    assert len(after) == 40
    store = reopened(store)
    assert contents(store.get("c")) == after
    store.close()


def test_a_full_disk_under_a_codes_search_is_no_error(collection, monkeypatch):
    vectors = fill(collection, 5)
    monkeypatch.setattr(Collection, "seal", lambda _self: (_ for _ in ()).throw(DiskFull("full")))
    assert [hit.id for hit in collection.search(vectors[2:3], 5, params=CODES)[0].hits][0] == 2


@pytest.mark.parametrize("name", ["fdatasync", "pwrite"])
def test_a_failing_disk_stops_writing_but_not_reading(store, collection, monkeypatch, name):
    vectors = fill(collection, 30)
    before = contents(collection)
    monkeypatch.setattr(os, name, fails(errno.EIO))
    with pytest.raises(ReadOnlyCollection, match="Input/output error"):
        collection.upsert(batch_of([900], vectors_of(1)))
    monkeypatch.undo()
    for write in (
        lambda: collection.upsert(batch_of([900], vectors_of(1))),
        lambda: collection.delete([1]),
        lambda: collection.edit_payload(PayloadEdit("clear")),
        collection.seal,
    ):
        with pytest.raises(ReadOnlyCollection, match="writing stopped because the disk failed"):
            write()
    assert "Input/output error" in collection.info().read_only
    assert contents(collection) == before
    assert len(collection.search(vectors[:1], 5, params=CODES)[0].hits) == 5
    store = reopened(store)
    collection = store.get("c")
    assert contents(collection) == before
    fill(collection, 1, first=900)
    assert collection.count() == 31
    store.close()


def test_one_bad_operation_costs_the_others_nothing(collection):
    fill(collection, 3)
    outcomes = {}

    def run(name, operation):
        try:
            outcomes[name] = operation()
        except Exception as error:
            outcomes[name] = error

    def bad(_change):
        raise ZeroDivisionError("mine")

    operations = {f"put {i}": lambda i=i: fill(collection, 1, first=100 + i) for i in range(5)}
    operations["bad"] = lambda: collection._run(bad)
    operations["delete"] = lambda: collection.delete([0, 1])
    threads = [threading.Thread(target=run, args=item) for item in operations.items()]
    with collection.committer.lock:
        for thread in threads:
            thread.start()
        while len(collection.committer._waiting) < len(threads):
            threading.Event().wait(0.001)
    for thread in threads:
        thread.join()
    assert isinstance(outcomes.pop("bad"), ZeroDivisionError)
    assert outcomes.pop("delete") == 2
    assert not any(isinstance(outcome, Exception) for outcome in outcomes.values())
    assert set(contents(collection)) == {2, 100, 101, 102, 103, 104}


def test_info(collection):
    fill(collection, 70)
    collection.delete([0])
    info = collection.info()
    files = list((collection.folder / "vectors").iterdir())
    assert (info.points, info.rows, info.read_only) == (69, 70, None)
    assert 0 < info.indexed <= 69
    assert info.code_bytes_per_point == 2 + 4
    assert info.vector_bytes == sum(path.stat().st_size for path in files) > 70 * 64
    assert info.record_bytes > 0


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
