"""Payload indexes across restarts: what was saved is read, what came since replayed, what does not fit made again."""

from __future__ import annotations

import shutil
import sqlite3

import orjson
import pytest
from pyroaring import BitMap

from index.blobs import load_blobs, save_blobs
from index.field_files import MAGIC, load_index
from index.fields.field import KINDS, FieldIndex
from index.filters import parse_filter
from index.ids import to_key
from index.indexing import drop_field, fill, index_field, save_fields
from index.maintenance import step
from index.paths import parse_path
from index.payload import PayloadEdit
from index.record import Reader
from tests.index_fakes import batch_of, config, open_store, vectors_of

PATH = parse_path("n")
VALUES = ["red", 3, 2.5, True, None, [], ["a b", None, 7], "2024-01-01", "2999-01-01", "été", 2**63 - 1, "b a", {}]


def payload(i):
    return {"n": VALUES[i % len(VALUES)], "i": i}


def write(collection, ids):
    collection.upsert(batch_of(list(ids), vectors_of(len(ids), 3), [payload(i) for i in ids]))


def trees():
    conditions = [
        {"match": {"value": "red"}},
        {"match": {"except": ["red"]}},
        {"match": {"value": 3}},
        {"match": {"value": True}},
        {"range": {"gte": 2.5}},
        {"range": {"gt": "2500-01-01"}},
        {"match": {"text": "a b"}},
        {"is_empty": True},
        {"is_null": True},
        {"values_count": {"gte": 2}},
    ]
    return [parse_filter({"must": {"key": "n", **condition}}) for condition in conditions]


def agrees(collection):
    """Counts by index beside reading every payload."""
    with collection.snapshot() as (_, reader):
        stored = {i: orjson.loads(data) for _, i, data in reader.scan_rows()}
    for tree in trees():
        assert collection.count(tree) == sum(tree.matches(i, p) for i, p in stored.items())


@pytest.fixture
def read(monkeypatch):
    """How many payloads were read to fill indexes."""
    rows, payloads = [], Reader.payloads

    def counted(self, first_row, end_row):
        found = payloads(self, first_row, end_row)
        rows.extend(row for row, _ in found)
        return found

    monkeypatch.setattr(Reader, "payloads", counted)
    return rows


def begin(folder, kind):
    """Open a store as at a start, and wait for its index."""
    store = open_store(folder, first_fit=50, tail_rows=30)
    collection = store.get("c")
    index_field(collection, PATH, kind)
    assert fill(collection)
    return store, collection


def made(folder, kind="keyword", n=100):
    store = open_store(folder, first_fit=50, tail_rows=30)
    collection = store.create("c", config("Cosine"))
    write(collection, range(n))
    index_field(collection, PATH, kind)
    assert fill(collection)
    return store, collection


@pytest.mark.parametrize("kind", KINDS)
def test_a_start_reads_what_came_since(tmp_path, kind, read):
    live, killed = tmp_path / "live", tmp_path / "killed"
    store, collection = made(live, kind)
    collection.edit_payload(PayloadEdit("set", {"n": "red"}), ids=[1, 2])
    save_fields(collection)
    collection.edit_payload(PayloadEdit("set", {"n": 3}), ids=[2, 3])
    collection.delete([0, 13])
    write(collection, range(95, 110))
    collection.edit_payload(PayloadEdit("delete", keys=("n",)), ids=[4, 109])
    agrees(collection)
    # A process that is killed: what lies on disk is all there is.
    shutil.copytree(live, killed)
    store.close()
    read.clear()
    store, collection = begin(killed, kind)
    assert len(read) == 15
    agrees(collection)
    store.close()
    # One that was stopped had time to save everything.
    read.clear()
    store, collection = begin(live, kind)
    assert read == []
    agrees(collection)
    write(collection, range(3))
    agrees(collection)
    store.close()


def test_edits_are_noted_from_the_first_save_on_and_forgotten_when_saved(tmp_path):
    store, collection = made(tmp_path)

    def noted():
        with collection.record.snapshot() as reader:
            return reader.edited_after(0)

    collection.edit_payload(PayloadEdit("set", {"n": 1}), ids=[1])
    assert noted() is None
    save_fields(collection)
    assert noted() == []
    collection.edit_payload(PayloadEdit("set", {"n": 1}), ids=[1, 5])
    with collection.snapshot() as (_, reader):
        assert noted() == sorted(stored.row for stored in reader.stored([1, 5]).values())
    save_fields(collection)
    assert noted() == []
    collection.edit_payload(PayloadEdit("set", {"n": 2}), ids=[7])
    drop_field(collection, PATH)
    assert noted() is None
    assert list((tmp_path / "collections" / "c" / "fields").iterdir()) == []
    store.close()


def test_an_earlier_version_edits_payloads_and_the_index_learns_of_it(tmp_path):
    store, collection = made(tmp_path)
    store.close()
    db = sqlite3.connect(tmp_path / "collections" / "c" / "record.db")
    with db:
        db.execute("UPDATE meta SET value=value+1 WHERE key='seq'")
        db.executemany("UPDATE points SET payload=? WHERE id=?", [(b'{"n":"red"}', to_key(i)) for i in (1, 14)])
    db.close()
    store, collection = begin(tmp_path, "keyword")
    assert collection.count(trees()[0]) == 8 + 2
    agrees(collection)
    store.close()


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "other kind", "from the future"])
def test_a_file_that_does_not_fit_is_made_again(tmp_path, damage, read):
    store, collection = made(tmp_path)
    store.close()
    (file,) = (tmp_path / "collections" / "c" / "fields").iterdir()
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    about, blobs = load_blobs(file, MAGIC)
    if damage == "from the future":
        save_blobs(file, MAGIC, about | {"seq": about["seq"] + 1000}, blobs, synced=True)
    elif damage != "other kind":
        file.write_bytes({"flip": bytes(data), "cut": file.read_bytes()[:-3], "empty": b""}[damage])
    read.clear()
    store, collection = begin(tmp_path, "text" if damage == "other kind" else "keyword")
    assert len(read) == 100
    agrees(collection)
    store.close()


def test_quiet_times_save_what_has_changed_much(tmp_path, monkeypatch):
    monkeypatch.setattr("index.maintenance.SAVED_ROWS", 10)
    store, collection = made(tmp_path)
    while step(collection, idle=False):
        pass
    folder = tmp_path / "collections" / "c" / "fields"
    assert not folder.exists()
    while step(collection, idle=True):
        pass
    (file,) = folder.iterdir()
    about, _ = load_blobs(file, MAGIC)
    write(collection, range(5))
    while step(collection, idle=True):
        pass
    assert load_blobs(file, MAGIC)[0] == about
    write(collection, range(20))
    while step(collection, idle=True):
        pass
    assert load_blobs(file, MAGIC)[0]["end_row"] == 125
    store.close()


@pytest.mark.parametrize("kind", KINDS)
def test_saved_is_live(kind):
    index = FieldIndex(PATH, kind)
    for row, value in enumerate(VALUES):
        index.add(row, {"n": value} if row != 4 else {})
    again = FieldIndex.from_blobs(PATH, kind, index.to_blobs())
    assert again.to_blobs() == index.to_blobs()
    index.add(50, {"n": ["red", 4]})
    again.add(50, {"n": ["red", 4]})
    rows = BitMap([*range(len(VALUES)), 50])
    for tree in trees():
        (condition,) = tree.must
        assert again.answer(condition, rows) == index.answer(condition, rows)


def test_nothing_saved_is_nothing_loaded(tmp_path):
    store, collection = made(tmp_path)
    with collection.record.snapshot() as reader:
        assert load_index(tmp_path / "none", PATH, "keyword", reader, 100) is None
    store.close()
