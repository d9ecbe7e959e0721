"""The record: ids and rows in SQLite, transactions, snapshots, and what is refused."""

from __future__ import annotations

import json
import sqlite3
import threading

import pytest

from index.errors import CorruptCollection, UnknownCollection
from index.points import CollectionConfig
from index.record import FORMAT, FileEntry, Record

CONFIG = CollectionConfig(dimension=3, distance="Dot", attributes={"encoder": "x", "n": [1, None]})


@pytest.fixture
def record(tmp_path):
    record = Record.create(tmp_path / "record.db", CONFIG)
    yield record
    record.close()


def put(record, first_row, ids, payload=b"{}", texts=None):
    with record.transaction() as writer:
        n = len(ids)
        return writer.replace_points(first_row, ids, [b"h" * 16] * n, [payload] * n, texts or [None] * n)


def test_a_new_record_is_empty_and_knows_its_configuration(record):
    with record.snapshot() as reader:
        assert (reader.seq(), reader.count(), reader.files(), reader.binarizers()) == (0, 0, [], [])
        assert reader.config() == CONFIG
        assert reader.integrity() == []


def test_points_keep_ids_of_every_kind(record):
    ids = [0, 2**64 - 1, 2**63, "1", 1, "\U0001f600", "z" * 512]
    assert put(record, 10, ids) == []
    with record.snapshot() as reader:
        assert {i: s.row for i, s in reader.stored(ids).items()} == dict(zip(ids, range(10, 17), strict=True))
        order = [point_id for _, point_id, _ in reader.scan()]
        assert order == [0, 1, 2**63, 2**64 - 1, "1", "z" * 512, "\U0001f600"]
        assert [i for _, i, _ in reader.scan(after=2**63)] == order[2:]
        assert [i for _, i, _ in reader.scan(after="2")] == order[5:]
        assert [row for row, *_ in reader.scan_rows()] == list(range(10, 17))
        assert reader.count() == 7


def test_more_ids_than_a_statement_takes(record):
    ids = list(range(1300))
    put(record, 0, ids, texts=[f"t{i}" for i in ids])
    assert sorted(put(record, 1300, ids)) == ids
    with record.snapshot() as reader:
        assert len(reader.stored(ids)) == reader.count() == 1300
        assert len(reader.points_of(range(1300, 2600), payload=True)) == 1300
        assert reader.texts_of(range(2600)) == {}
        assert len(reader.tombstones()) == 1300


def test_overwritten_and_killed_rows_become_tombstones(record):
    put(record, 0, [1, 2, 3], texts=["a", None, "c"])
    assert put(record, 3, [2, 9], b'{"new":1}') == [1]
    with record.transaction() as writer:
        writer.kill([0])
        writer.set_payloads([(2, b'{"edited":1}')])
    with record.snapshot() as reader:
        assert reader.tombstones().tolist() == [0, 1]
        assert reader.rows().tolist() == [2, 3, 4]
        assert reader.texts_of([0, 1, 2, 3, 4]) == {2: "c"}
        assert reader.points_of([0, 2, 3], payload=True) == {2: (3, b'{"edited":1}'), 3: (2, b'{"new":1}')}
        assert reader.points_of([2], payload=False) == {2: (3, None)}
        assert reader.count() == 3
        assert reader.seq() == 3


def test_rows_come_ascending_whatever_the_order_of_ids(record):
    put(record, 0, [9, "b", 5, 1, "a"])
    with record.snapshot() as reader:
        assert reader.rows().tolist() == [0, 1, 2, 3, 4]
        assert [row for row, *_ in reader.scan_rows(payload=False)] == [0, 1, 2, 3, 4]
        assert [row for row, *_ in reader.scan()] == [3, 2, 0, 4, 1]


def test_a_failed_transaction_leaves_nothing(record):
    put(record, 0, [1])

    def fail():
        with record.transaction() as writer:
            writer.kill([0])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with record.snapshot() as reader:
        assert (reader.seq(), reader.count(), reader.tombstones().tolist()) == (1, 1, [])


def test_a_snapshot_sees_one_commit(record):
    put(record, 0, [1])
    with record.snapshot() as before:
        assert before.seq() == 1
        put(record, 1, [2])
        with record.snapshot() as after:
            assert (after.seq(), after.count()) == (2, 2)
        assert (before.seq(), before.count(), list(before.stored([1, 2]))) == (1, 1, [1])


def test_snapshots_of_many_threads(record):
    put(record, 0, list(range(50)))
    wrong = []

    def look():
        for _ in range(30):
            with record.snapshot() as reader:
                if reader.count() != reader.seq() + 49:
                    wrong.append((reader.count(), reader.seq()))

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for n in range(20):
        put(record, 50 + n, [50 + n])
    for thread in threads:
        thread.join()
    assert wrong == []


def test_files_batches_and_binarizers(record):
    entry = FileEntry("a.vec", 0, 0, 0)
    with record.transaction() as writer:
        writer.add_file(entry)
        writer.add_batch("a.vec", 0, 5, 11)
        writer.add_batch("a.vec", 5, 2, 2**32 - 1)
        writer.add_file(FileEntry("b.vec", 7, 7, 0))
        writer.add_batch("b.vec", 0, 3, 13)
        assert writer.add_binarizer(7, b"one") == 1
        assert writer.add_binarizer(70, b"two") == 2
    with record.transaction() as writer:
        writer.drop_binarizers([2])
        assert writer.add_binarizer(99, b"three") == 3
    with record.snapshot() as reader:
        assert reader.files() == [FileEntry("a.vec", 0, 7, 7), FileEntry("b.vec", 7, 10, 3)]
        assert reader.batches("a.vec") == [(0, 5, 11), (5, 2, 2**32 - 1)]
        assert [(v, n, data) for v, n, _, data in reader.binarizers()] == [(2, 70, b"two"), (3, 99, b"three")]
    with record.transaction() as writer:
        writer.swap_files([FileEntry("a.vec", 0, 7, 7)], FileEntry("c.vec", 0, 7, 4), [(0, 4, 17)], [1, 2, 3])
        writer.drop_binarizers([])
    with record.snapshot() as reader:
        assert [file.name for file in reader.files()] == ["c.vec", "b.vec"]
        assert reader.batches("a.vec") == []
        assert reader.batches("c.vec") == [(0, 4, 17)]
        assert reader.binarizers() == []


def test_the_configuration_can_change(record):
    changed = CollectionConfig(dimension=3, distance="Dot", attributes={"metadata": "ü"})
    with record.transaction() as writer:
        writer.set_config(changed)
    with record.snapshot() as reader:
        assert reader.config() == changed


def test_commits_are_synced(record):
    assert record._writer.execute("PRAGMA synchronous").fetchone() == (2,)
    assert record._writer.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_what_is_no_record_is_refused(tmp_path):
    path = tmp_path / "record.db"
    with pytest.raises(CorruptCollection, match=r"record\.db: missing"):
        Record(path)
    path.write_bytes(b"not a database, but long enough to look at" * 100)
    with pytest.raises(CorruptCollection, match=r"record\.db: the record is damaged"):
        Record(path)
    path.unlink()
    sqlite3.connect(path).close()
    with pytest.raises(CorruptCollection, match=r"record\.db: not a Bitfold record"):
        Record(path)


@pytest.mark.parametrize(("more", "number", "keys"), [
    ({}, 1, set()),
    ({"bits": 4}, 2, {"bits"}),
    ({"code_dimension": 3}, 2, {"code_dimension"}),
    ({"store_vectors": False}, 2, {"store_vectors"}),
    ({"bits": 4, "index": "graph"}, 3, {"bits", "index"}),
])  # fmt: skip
def test_what_the_first_version_cannot_read_has_another_format(tmp_path, more, number, keys):
    """And what it can has nothing in it that it does not know."""
    record = Record.create(tmp_path / "new.db", CollectionConfig(4, "Dot", **more))
    with record.snapshot() as reader:
        assert reader.config() == CollectionConfig(4, "Dot", **more)
    record.close()
    db = sqlite3.connect(tmp_path / "new.db")
    assert db.execute("PRAGMA user_version").fetchone() == (number,)
    stored = json.loads(db.execute("SELECT value FROM meta WHERE key='config'").fetchone()[0])
    assert stored.keys() == {"dimension", "distance", "dtype", "attributes"} | keys
    db.close()


def test_a_later_format_is_refused(tmp_path):
    path = tmp_path / "record.db"
    Record.create(path, CONFIG).close()
    db = sqlite3.connect(path)
    db.execute(f"PRAGMA user_version={FORMAT + 1}")
    db.close()
    with pytest.raises(CorruptCollection, match=rf"record\.db: format {FORMAT + 1}, this program reads up to {FORMAT}"):
        Record(path)


def test_a_closed_record_refuses_latecomers_and_lets_readers_finish(record):
    put(record, 0, [1])
    with record.snapshot() as reader:
        record.close()
        assert reader.count() == 1
    with pytest.raises(UnknownCollection, match="was closed or dropped"), record.snapshot():
        pass
    with pytest.raises(UnknownCollection, match="was closed or dropped"), record.transaction():
        pass
    assert sorted(path.name for path in record.path.parent.iterdir()) == ["record.db"]
