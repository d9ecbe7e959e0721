"""Bytes that more points will add to a collection, beside what they come to take."""

from __future__ import annotations

import pytest

from index.footprint import memory_of
from index.growth import disk_growth, memory_growth
from index.indexing import fill, index_field
from index.maintenance import optimize
from index.paths import parse_path
from tests.index_fakes import batch_of, config, open_store, vectors_of


@pytest.mark.parametrize("distance", ["Cosine", "Dot"])
@pytest.mark.parametrize("bits", [1, 4])
def test_growth_is_what_points_come_to_take(tmp_path, distance, bits):
    store = open_store(tmp_path, first_fit=500, tail_rows=200, save_rows=1)
    made = config(distance, dimension=32, bits=bits)
    collection = store.create("c", made)
    index_field(collection, parse_path("n"), "keyword")
    kinds = {"n": "keyword"}
    fill(collection)
    try:
        most = at = 0
        told = memory_growth(collection, 5000, taken=total(collection), payload_indexes=kinds)
        told_disk = disk_growth(collection, 5000, payload_bytes=10, text_bytes=0, payload_indexes=kinds)
        while at < 5000:
            ids = list(range(at, at + 100))
            collection.upsert(
                batch_of(ids, vectors_of(100, at, dimension=32), [{"n": f"colour {i % 16}"} for i in ids])
            )
            at += 100
            most = max(most, total(collection))
        optimize(collection)
        assert total(collection) <= 1.1 * told
        most = max(most, total(collection))  # ids are read at rest
        assert 0.7 * told < most < 1.3 * told
        files = (path for path in collection.folder.rglob("*") if not path.name.endswith(("-wal", "-shm")))
        taken = sum(path.stat().st_size for path in files if path.is_file())
        assert 0.7 * taken < told_disk < 1.3 * taken
        # And from there on: what is taken already is not counted again.
        more = memory_growth(collection, 5000, taken=total(collection), payload_indexes=kinds)
        assert 0.5 * told < more < 1.2 * told
        assert memory_growth(collection, 10, taken=total(collection) + 10**6, payload_indexes=kinds) < 5000
    finally:
        store.close()


def test_points_that_wait_for_codes_are_what_takes_most(tmp_path):
    store = open_store(tmp_path, first_fit=500, tail_rows=20)
    try:
        collection = store.create("c", config("Cosine", dimension=64))
        waiting = 499 * 4 * 64
        assert memory_growth(collection, 600, taken=0) > waiting
        assert memory_growth(collection, 600, taken=0) == memory_growth(collection, 510, taken=0)
        for start in (0, 300):
            ids = list(range(start, start + 300))
            collection.upsert(batch_of(ids, vectors_of(300, start, dimension=64)))
        assert collection.view.binarizers
        collection.delete(list(range(300)))
        # Few points have codes now, and do not wait for them again.
        assert memory_growth(collection, 100, taken=total(collection)) < waiting / 4
    finally:
        store.close()


def total(collection):
    return sum(memory_of(collection).values())
