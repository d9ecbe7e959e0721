"""Damaged files of a collection: truth is refused, what is derived is made again."""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
from dataclasses import replace

import numpy as np
import pytest

from index.codes_file import load, save
from index.errors import CorruptCollection
from index.maintenance import optimize
from index.points import SearchParams
from tests.index_fakes import (
    RotationFactory,
    batch_of,
    check_hits,
    config,
    exact_scores,
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


def damaged(store, change):
    folder = store.get("c").folder
    store.close()
    path = change(folder)
    store = open_store(store.directory)
    with pytest.raises(CorruptCollection) as caught:
        store.get("c")
    store.close()
    assert str(path) in str(caught.value)
    return str(caught.value)


def first_file(folder):
    return sorted((folder / "vectors").iterdir())[0]


def test_a_damaged_header_is_refused(store, collection):
    fill(collection, 60)

    def change(folder):
        path = first_file(folder)
        raw = bytearray(path.read_bytes())
        raw[13] ^= 1
        path.write_bytes(raw)
        return path

    assert "the header is damaged" in damaged(store, change)


def test_a_file_of_another_collection_is_refused(store, collection):
    fill(collection, 60)

    def change(folder):
        first, second, *_ = sorted((folder / "vectors").iterdir())
        shutil.copy(second, first)
        return first

    assert "does not fit the record" in damaged(store, change)


def test_a_shortened_file_is_refused(store, collection):
    fill(collection, 60)

    def change(folder):
        path = first_file(folder)
        os.truncate(path, path.stat().st_size - 1)
        return path

    assert "bytes long" in damaged(store, change)


def test_a_missing_file_is_refused(store, collection):
    fill(collection, 60)

    def change(folder):
        path = first_file(folder)
        path.unlink()
        return path

    assert "No such file" in damaged(store, change)


@pytest.mark.parametrize("content", [b"", b"garbage" * 1000, None])
def test_a_damaged_record_is_refused(store, collection, content):
    fill(collection, 60)

    def change(folder):
        path = folder / "record.db"
        path.unlink() if content is None else path.write_bytes(content)
        return path

    damaged(store, change)


@pytest.mark.usefixtures("collection")
def test_a_record_without_its_tables_is_refused(store):
    def change(folder):
        db = sqlite3.connect(folder / "record.db")
        db.execute("DROP TABLE meta")
        db.close()
        return folder

    damaged(store, change)


@pytest.mark.parametrize("harm", ["delete", "flip", "cut", "garbage", "other bits"])
@pytest.mark.parametrize("bits", [1, 2, 4])
def test_codes_are_made_again(store, caplog, harm, bits):
    collection = store.create("b", config("Dot", bits=bits))
    fill(collection, 150)
    optimize(collection)
    queries = vectors_of(5, 9)
    before = collection.search(queries, 10, params=CODES)
    folder = collection.folder
    store.close()
    files = list((folder / "codes").iterdir())
    assert files
    for path in files:
        raw = bytearray(path.read_bytes())
        raw[len(raw) // 2] ^= 8
        if harm == "delete":
            path.unlink()
        elif harm == "other bits":
            codes = load(path)
            save(path, replace(codes, planes=codes.planes.repeat(2, axis=1), factors=codes.factors.repeat(2, axis=1)))
        else:
            path.write_bytes({"flip": raw, "cut": raw[:50], "garbage": b"x" * 5000}[harm])
    factory = RotationFactory()
    with caplog.at_level(logging.WARNING):
        store = open_store(store.directory, factory)
    assert "again" in caplog.text
    assert factory.fits == 0
    after = store.get("b").search(queries, 10, params=CODES)
    assert [[h.id for h in r.hits] for r in after] == [[h.id for h in r.hits] for r in before]
    store.close()


def flip_binarizer(folder, version):
    db = sqlite3.connect(folder / "record.db")
    db.execute("UPDATE binarizers SET data = CAST(x'00' || substr(data, 2) AS BLOB) WHERE version = ?", (version,))
    changed = db.total_changes
    db.commit()
    db.close()
    return changed


def test_a_damaged_binarizer_is_fitted_again(store, collection, caplog):
    vectors = fill(collection, 150)
    folder = collection.folder
    store.close()
    assert flip_binarizer(folder, 1) == 1
    factory = RotationFactory()
    with caplog.at_level(logging.WARNING):
        store = open_store(store.directory, factory)
    assert "binarizer 1 is unusable (the checksum does not fit)" in caplog.text
    assert factory.fits == 1
    collection = store.get("c")
    assert set(collection.view.binarizers) == {2}
    hits = collection.search(vectors_of(1, 9), 150, params=CODES)[0].hits
    check_hits(hits, vectors_of(1, 9)[0], dict(enumerate(vectors)), 150, "Dot")
    store.close()
    store = open_store(store.directory, factory)
    assert factory.fits == 1
    store.close()


def test_a_damaged_binarizer_of_few_points_does_not_stop_the_next_fit(store, collection):
    vectors = fill(collection, 5)
    collection.search(vectors[:1], 3, params=CODES)
    folder = collection.folder
    store.close()
    flip_binarizer(folder, 1)
    store = open_store(store.directory)
    collection = store.get("c")
    assert collection.info().indexed == 0
    assert collection.search(vectors[:1], 5, params=CODES)[0].stages.mode == "codes"
    fill(collection, 60, first=5, seed=3)
    assert collection.info().indexed > 5
    store.close()


def test_when_everything_was_deleted_a_restart_needs_no_binarizer(store, collection):
    collection.upsert(batch_of(range(31), vectors_of(31)))
    collection.delete(range(31))
    fill(collection, 5)
    collection.delete(range(5))
    store = reopened(store)
    collection = store.get("c")
    assert (collection.count(), collection.search(vectors_of(1), 3)[0].hits) == (0, [])
    vectors = fill(collection, 40)
    assert collection.search(vectors[7:8], 1)[0].hits[0].score == pytest.approx(
        exact_scores(vectors[7], vectors, "Dot").max(), rel=1e-5
    )
    store.close()


def test_uncommitted_rows_are_overwritten(store, collection):
    """What a crash leaves behind the committed rows, and files that no commit names, do not count."""
    vectors = fill(collection, 30)
    folder = collection.folder
    store.close()
    last = sorted((folder / "vectors").iterdir())[-1]
    with last.open("ab") as file:
        file.write(b"\xff" * 1000)
    (folder / "vectors" / "000000000999.vec").write_bytes(b"stray")
    (folder / "vectors" / ".x.vec.tmp").write_bytes(b"stray")
    (folder / "codes" / ".x.codes.tmp").write_bytes(b"stray")
    store = open_store(store.directory)
    collection = store.get("c")
    more = fill(collection, 10, first=30, seed=4)
    everything = dict(enumerate(np.concatenate([vectors, more])))
    check_hits(collection.search(vectors[:1], 50)[0].hits, vectors[0], everything, 50, "Dot")
    names = [path.name for path in folder.rglob("*")]
    assert not any("999" in name or name.endswith(".tmp") for name in names)
    store.close()
