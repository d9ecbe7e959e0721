"""Data directories: the lock, names, making and dropping collections, damage to one of many."""

from __future__ import annotations

import errno
import os

import pytest

from index import durable
from index.errors import (
    CollectionExists,
    CorruptCollection,
    DataDirLocked,
    DiskFull,
    InvalidName,
    UnknownCollection,
)
from index.store import check_name
from tests.index_fakes import config, contents, fill, open_store, vectors_of


@pytest.fixture
def store(tmp_path):
    store = open_store(tmp_path / "data")
    yield store
    store.close()


def test_one_process_owns_a_directory(store):
    with pytest.raises(DataDirLocked, match=rf"data is in use by another process \(pid {os.getpid()}\)"):
        open_store(store.directory)
    store.close()
    open_store(store.directory).close()


def test_closing_twice_is_closing_once(store):
    store.close()
    other = open_store(store.directory)
    store.close()
    with pytest.raises(DataDirLocked):
        open_store(store.directory)
    other.close()


@pytest.mark.parametrize("name", ["a", "Ünï cödé", "a.b-c_d", "x" * 200, "#1 [new]"])
def test_names_that_are_fine(store, name):
    store.create(name, config())
    store.close()
    again = open_store(store.directory)
    assert again.names() == [name]
    again.close()


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", ".hidden", "a/b", "../a", "/a", "a\\b", "a\0b", "a\nb", "a:b", "a*", " a", "a ",
     "x" * 201, "é" * 101, "\ud800", "\x7f"],
)  # fmt: skip
def test_names_that_are_not(store, name):
    with pytest.raises(InvalidName, match="collection name"):
        store.create(name, config())
    with pytest.raises(UnknownCollection):
        store.get(name)
    assert store.drop(name) is False
    assert os.listdir(store.directory / "collections") == []


def test_good_names_are_returned():
    assert check_name("abc") == "abc"


def test_making_and_dropping(store):
    collection = store.create("a", config("Dot"))
    store.create("b", config("Euclid"))
    with pytest.raises(CollectionExists, match="'a' exists already"):
        store.create("a", config())
    fill(collection, 60)
    assert store.names() == ["a", "b"]
    assert store.get("a") is collection
    assert store.drop("a") is True
    assert store.drop("a") is False
    with pytest.raises(UnknownCollection, match="'a' does not exist"):
        store.get("a")
    assert os.listdir(store.directory / "collections") == ["b"]
    assert store.create("a", config("Cosine")).count() == 0


def test_everything_is_there_after_a_restart(store):
    before = {}
    for name, distance in [("a", "Dot"), ("b", "Cosine")]:
        collection = store.create(name, config(distance, metadata={"x": [1]}))
        fill(collection, 60, texts=True)
        before[name] = contents(collection)
    store.close()
    store = open_store(store.directory)
    assert {name: contents(store.get(name)) for name in store.names()} == before
    assert store.get("a").config.attributes == {"metadata": {"x": [1]}}
    store.close()


def test_whoever_holds_a_dropped_collection_is_told(store):
    collection = store.create("a", config())
    fill(collection, 60)
    with collection.snapshot() as (view, reader):
        store.drop("a")
        new = store.create("a", config())
        fill(new, 3)
        assert (reader.count(), view.points) == (60, 60)
    for use in (
        lambda: collection.search(vectors_of(1), 1),
        lambda: collection.count(),
        lambda: fill(collection, 1),
        lambda: collection.delete([1]),
        lambda: collection.seal(),
    ):
        with pytest.raises(UnknownCollection, match="'a' was closed or dropped meanwhile"):
            use()
    assert new.count() == 3


def test_damage_to_one_does_not_stop_the_others(store):
    for name in "abc":
        fill(store.create(name, config()), 60)
    before = contents(store.get("b"))
    store.close()
    folder = store.directory / "collections"
    (folder / "a" / "record.db").write_bytes(b"x" * 10_000)
    file = sorted((folder / "c" / "vectors").iterdir())[0]
    file.unlink()
    store = open_store(store.directory)
    assert store.names() == ["b"]
    assert contents(store.get("b")) == before
    assert set(store.damaged) == {"a", "c"}
    with pytest.raises(CorruptCollection, match=r"a/record\.db"):
        store.get("a")
    with pytest.raises(CorruptCollection, match=file.name):
        store.get("c")
    with pytest.raises(CollectionExists):
        store.create("a", config())
    assert store.drop("a") is True
    store.create("a", config())
    store.close()
    assert (folder / "c").is_dir()


def test_interrupted_making_and_dropping_is_cleaned_up(store):
    fill(store.create("a", config()), 5)
    store.close()
    folder = store.directory / "collections"
    (folder / ".making-b" / "vectors").mkdir(parents=True)
    (folder / ".dropped-c" / "vectors").mkdir(parents=True)
    (folder / ".DS_Store").write_bytes(b"not ours")
    (folder / "README").write_bytes(b"not ours")
    store = open_store(store.directory)
    assert store.names() == ["a"]
    assert sorted(os.listdir(folder)) == [".DS_Store", "README", "a"]
    store.close()


@pytest.mark.parametrize("name", ["fsync", "mkdir"])
def test_making_on_a_full_disk_leaves_nothing(store, monkeypatch, name):
    def full(*_args, **_more):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, name, full)
    with pytest.raises(DiskFull, match="no space left"):
        store.create("a", config())
    monkeypatch.undo()
    assert os.listdir(store.directory / "collections") == []
    assert store.names() == []
    store.create("a", config())


def test_a_directory_is_synced_when_its_names_change(store, monkeypatch):
    synced = []
    monkeypatch.setattr(durable, "sync_directory", synced.append)
    store.create("a", config())
    assert store.directory / "collections" in synced
    synced.clear()
    store.drop("a")
    assert store.directory / "collections" in synced
