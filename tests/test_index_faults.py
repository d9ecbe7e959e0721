"""What upkeep and commits do when something under them fails: nothing is lost, nothing hangs, it says why."""

from __future__ import annotations

import errno
import os

import numpy as np
import pytest

from index import compaction, maintenance, merging
from index.errors import DiskFull, ReadOnlyCollection
from index.filters import parse_filter
from index.options import StoreOptions
from index.points import SearchParams
from index.record import Writer
from tests.index_fakes import batch_of, config, fill, open_store

D = 16


@pytest.fixture
def store(tmp_path):
    opened = open_store(tmp_path, exact_below=0, file_bytes=40 * D * 4)
    yield opened
    opened.close()


def filled(store, n=105):
    collection = store.create("c", config("Dot"))
    fill(collection, n, step=10)
    return collection


def ids(collection):
    points, _ = collection.scroll(limit=1000)
    return [point.id for point in points]


def fail(monkeypatch, target, name, error):
    def raiser(*_args, **_kwargs):
        raise error

    monkeypatch.setattr(target, name, raiser)


def test_a_compaction_that_cannot_map_its_file_changes_nothing(store, monkeypatch):
    collection = filled(store)
    collection.delete(list(range(30)))
    with monkeypatch.context() as patch:
        fail(patch, compaction, "map_file", OSError(errno.EMFILE, "too many open files"))
        with pytest.raises(OSError, match="too many"):
            maintenance.optimize(collection)
    assert ids(collection) == list(range(30, 105))
    maintenance.optimize(collection)
    assert ids(collection) == list(range(30, 105))


def test_a_compaction_that_meets_a_full_disk_at_its_commit_leaves_no_file(store, monkeypatch):
    collection = filled(store)
    collection.delete(list(range(30)))
    before = sorted(path.name for path in (collection.folder / "vectors").iterdir())
    with monkeypatch.context() as patch:
        fail(patch, Writer, "swap_files", DiskFull("no space left"))
        with pytest.raises(DiskFull, match="no space"):
            maintenance.optimize(collection)
    assert sorted(path.name for path in (collection.folder / "vectors").iterdir()) == before
    assert ids(collection) == list(range(30, 105))


def test_a_merge_goes_on_when_its_codes_cannot_be_saved(store, monkeypatch, caplog):
    collection = filled(store)
    collection.seal()
    with monkeypatch.context() as patch:
        fail(patch, merging, "save", DiskFull("no space left"))
        maintenance.merge_segments(collection, collection.view.segments)
    assert "not saved" in caplog.text
    assert len(collection.view.segments) == 1
    assert collection.info().indexed == 105


@pytest.mark.parametrize("number", [errno.EIO, errno.EROFS])
def test_a_failed_disk_makes_upkeep_and_writes_read_only(store, monkeypatch, number):
    collection = filled(store)
    with monkeypatch.context() as patch:
        fail(patch, os, "pwrite", OSError(number, os.strerror(number)))
        with pytest.raises(ReadOnlyCollection, match=os.strerror(number)):
            collection.upsert(batch_of([1000], np.ones((1, D), np.float32)))
    with pytest.raises(ReadOnlyCollection, match="disk failed"):
        collection.seal()
    assert not maintenance.step(collection, idle=True)
    assert ids(collection) == list(range(105))


def test_what_a_failed_commit_appended_is_overwritten(store, monkeypatch):
    collection = filled(store, 30)
    with monkeypatch.context() as patch:
        fail(patch, Writer, "replace_points", DiskFull("no space left"))
        for _ in range(5):  # enough to start another vector file, twice
            with pytest.raises(DiskFull, match="no space"):
                collection.upsert(batch_of(range(500, 530), np.ones((30, D), np.float32)))
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((30, D)).astype(np.float32)
    collection.upsert(batch_of(range(30, 60), vectors))
    found = collection.points(list(range(30, 60)), with_vector=True)
    np.testing.assert_array_equal(np.stack([point.vector for point in found]), vectors)
    assert ids(collection) == list(range(60))


def test_an_idle_tail_gets_codes(store):
    collection = filled(store, 40)
    collection.upsert(batch_of(range(40, 46), np.eye(6, D, dtype=np.float32)))
    assert collection.info().indexed < 46
    while maintenance.step(collection, idle=True):
        pass
    assert collection.info().indexed == 46


def test_an_empty_filter_is_no_filter(store):
    collection = filled(store)
    query = np.ones((1, D), np.float32)
    for params in (SearchParams(exact=True), SearchParams(exact=False)):
        plain = collection.search(query, 10, params=params)[0]
        empty = collection.search(query, 10, params=params, filter=parse_filter({}))[0]
        assert [hit.id for hit in plain.hits] == [hit.id for hit in empty.hits]
        assert empty.stages.filtered_to is None
    assert collection.count(parse_filter({"must": []})) == 105


def test_rows_held_in_memory_shrink_with_the_dimension():
    wide = StoreOptions().for_dimension(65_536)
    assert StoreOptions().for_dimension(384) == StoreOptions()
    for rows in (wide.first_fit, wide.tail_rows):
        assert 1 <= rows * 65_536 * 4 <= 64 * 2**20
    assert 1 <= wide.fit_rows * 65_536 * 4 <= 256 * 2**20
