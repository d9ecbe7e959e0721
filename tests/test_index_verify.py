"""The offline check: silent about sound data, names the file of every planted damage, changes nothing."""

from __future__ import annotations

import os
import shutil
import sqlite3
import zlib
from dataclasses import replace

import numpy as np
import pytest

from index.codes_file import load, save
from index.errors import DataDirLocked
from index.maintenance import optimize
from index.record import FORMAT
from index.vector_file import HEADER_BYTES, VectorMap
from index.verify import verify
from tests.index_fakes import RotationFactory, batch_of, config, fill, open_store, vectors_of


@pytest.fixture(scope="module", params=["Cosine-float16-1", "Euclid-float32-4", "Dot-float32-2"])
def built(tmp_path_factory, request):
    """A closed data directory: several files, one with holes, tombstones, texts, codes."""
    tmp_path = tmp_path_factory.mktemp("built")
    distance, dtype, bits = request.param.split("-")
    store = open_store(tmp_path)
    collection = store.create("c", config(distance, dtype=dtype, bits=int(bits)))
    fill(collection, 120, texts=True)
    collection.delete(range(0, 60, 3))
    optimize(collection)
    collection.upsert(batch_of([1, 500], vectors_of(2, 3)))
    store.close()
    return tmp_path


@pytest.fixture
def data(built, tmp_path):
    return shutil.copytree(built, tmp_path / "data")


def folder(data):
    return data / "collections" / "c"


def snapshot(data):
    return {path: path.read_bytes() for path in data.rglob("*") if path.is_file()}


def sql(data, statement, *args):
    db = sqlite3.connect(folder(data) / "record.db")
    db.execute(statement, args)
    assert db.total_changes > 0
    db.commit()
    db.close()


def flip(path, at):
    raw = bytearray(path.read_bytes())
    raw[at] ^= 16
    path.write_bytes(raw)


def found(data, factory=None):
    problems = verify(data, factory).problems
    assert problems
    return problems


def complains(data, path, message, factory=None):
    problems = found(data, factory)
    assert any(str(path) == p.path and message in p.message for p in problems), problems


def files_of(data, suffix):
    return sorted(folder(data).rglob(f"*{suffix}"))


def with_holes(data):
    return next(path for path in files_of(data, ".vec") if "-" in path.name)


def dense(data):
    return next(path for path in files_of(data, ".vec") if "-" not in path.name)


@pytest.mark.parametrize("factory", [None, RotationFactory()])
def test_sound_data_is_sound_and_stays_as_it_is(data, factory):
    before = snapshot(data)
    report = verify(data, factory)
    assert report.problems == []
    assert snapshot(data) == before
    assert report.checked["collections"] == 1
    assert report.checked["points"] == 101
    assert report.checked["rows"] >= 101
    assert report.checked["texts"] == 99
    assert report.checked["vector files"] == len(files_of(data, ".vec")) >= 2
    assert report.checked["codes files"] >= 1
    assert (report.checked.get("codes", 0) > 0) == (factory is not None)


def test_a_directory_in_use_is_refused(data):
    store = open_store(data)
    with pytest.raises(DataDirLocked, match="in use by another process"):
        verify(data)
    store.close()
    assert verify(data).problems == []
    open_store(data).close()


def test_no_data_directory(tmp_path):
    (problem,) = verify(tmp_path).problems
    assert problem.path == str(tmp_path / "collections")
    (tmp_path / "collections").mkdir()
    assert verify(tmp_path).problems == []


def test_a_log_left_by_a_crash_is_read_and_left(data, tmp_path_factory):
    store = open_store(data)
    fill(store.get("c"), 9, first=900)
    copy = tmp_path_factory.mktemp("crashed")
    for path in data.rglob("*"):
        target = copy / path.relative_to(data)
        if path.is_dir():
            target.mkdir()
        else:
            target.write_bytes(path.read_bytes())
    store.close()
    assert (folder(copy) / "record.db-wal").stat().st_size > 0
    before = snapshot(copy)
    report = verify(copy)
    assert report.problems == []
    assert report.checked["points"] == 110
    assert snapshot(copy) == before


@pytest.mark.parametrize("at", [0, 9, 13, 17, 21, 25, 33, 41, 44, 2000, HEADER_BYTES - 1])
@pytest.mark.parametrize("which", [dense, with_holes])
def test_flipped_header_bytes(data, which, at):
    path = which(data)
    flip(path, at)
    complains(data, path, "header")


def test_every_part_of_the_vectors_is_checked(data):
    for path in files_of(data, ".vec"):
        start = HEADER_BYTES
        rows = 0
        if "-" in path.name:
            rows = int.from_bytes(path.read_bytes()[32:40], "little")
            start += 8 * rows
        length = path.stat().st_size
        for at in np.linspace(start, length - 1, 9).astype(int).tolist():
            flip(path, at)
            complains(data, path, "the checksum of positions")
            flip(path, at)
    assert verify(data).problems == []


@pytest.mark.parametrize("at", [0, 3, 8, 31])
def test_the_table_of_row_numbers_is_checked(data, at):
    path = with_holes(data)
    flip(path, HEADER_BYTES + at)
    assert all(p.path in (str(path), str(folder(data) / "record.db")) for p in found(data))


def test_short_and_missing_files(data):
    path = dense(data)
    size = path.stat().st_size
    os.truncate(path, size - 1)
    complains(data, path, "bytes long")
    os.truncate(path, 10)
    complains(data, path, "too few for a header")
    path.unlink()
    complains(data, path, "cannot be read")


def test_every_byte_of_a_codes_file(data):
    path = files_of(data, ".codes")[0]
    for at in np.linspace(0, path.stat().st_size - 1, 25).astype(int).tolist():
        flip(path, at)
        complains(data, path, "")
        flip(path, at)
    assert verify(data).problems == []


def test_codes_of_other_vectors(data):
    path = files_of(data, ".codes")[0]
    codes = load(path)
    for plane in range(codes.planes.shape[1]):
        changed = codes.planes.copy()
        changed[3, plane] ^= 255
        save(path, replace(codes, planes=changed))
        assert verify(data).problems == []
        complains(data, path, "the codes do not fit the vectors", RotationFactory())
    save(path, replace(codes, planes=codes.planes[::-1]))
    complains(data, path, "the codes do not fit the vectors", RotationFactory())


def test_codes_of_another_shape(data):
    path = files_of(data, ".codes")[0]
    codes = load(path)
    bits = codes.planes.shape[1]
    wide = replace(codes, planes=np.concatenate([codes.planes] * 2, axis=2))
    more = replace(codes, planes=codes.planes.repeat(2, axis=1), factors=codes.factors.repeat(2, axis=1))
    for other, said in ((wide, f"{bits} bits of 32"), (more, f"{2 * bits} bits of 16")):
        save(path, other)
        complains(data, path, f"{said} dimensions, but binarizer", RotationFactory())


@pytest.mark.parametrize(("change", "message"), [
    ({"end_row": 100_000}, "does not fit the record"),
    ({"first_row": 5}, "does not fit the record"),
    ({"binarizer": 77}, "binarizer 77 is damaged or not in the record"),
])  # fmt: skip
def test_codes_of_another_range_or_binarizer(data, change, message):
    path = files_of(data, ".codes")[0]
    codes = load(path)
    offsets = None if "first_row" in change else codes.offsets
    save(path, replace(codes, offsets=offsets, **change))
    complains(data, path, message)


@pytest.mark.parametrize(("statement", "message"), [
    ("UPDATE points SET payload = x'5b5d' WHERE row = (SELECT max(row) FROM points)", "no JSON object"),
    ("UPDATE points SET payload = x'7b' WHERE row = (SELECT max(row) FROM points)", "no JSON object"),
    ("UPDATE points SET hash = x'00' WHERE row = (SELECT max(row) FROM points)", "wrong length"),
    ("UPDATE points SET id = '' WHERE row = (SELECT max(row) FROM points)", "no valid id"),
    ("UPDATE points SET id = 1.5 WHERE row = (SELECT max(row) FROM points)", "no valid id"),
    ("UPDATE texts SET text = text || '!' WHERE row = (SELECT max(row) FROM texts)", "its content hash: row"),
    ("INSERT INTO texts VALUES (99999, 'x')", "a text without a point: row 99999"),
    ("INSERT INTO tombstones VALUES (99999)", "a tombstone without a vector: row 99999"),
    ("INSERT INTO tombstones SELECT max(row) FROM points", "a point and a tombstone"),
    ("DELETE FROM points WHERE row = (SELECT max(row) FROM points)", "neither a point nor a tombstone"),
    ("UPDATE points SET row = 99999 WHERE row = (SELECT max(row) FROM points)", "a point without a vector"),
    ("UPDATE meta SET value = value + 1 WHERE key = 'points'", "the counter says 102 points, there are 101"),
    ("UPDATE meta SET value = '{' WHERE key = 'config'", "cannot be read"),
    ("DELETE FROM meta", "cannot be read"),
    ("UPDATE batches SET rows = rows + 1", "do not add up"),
    ("UPDATE batches SET position = 1 WHERE position = 0", "do not add up"),
    ("DELETE FROM batches WHERE position = 0", "do not add up"),
    ("DELETE FROM files WHERE first_row = 0", "a point without a vector"),
    ("UPDATE binarizers SET crc = crc + 1", "the checksum of binarizer"),
])  # fmt: skip
def test_damage_inside_the_record(data, statement, message):
    sql(data, statement)
    complains(data, folder(data) / "record.db", message)


def test_a_binarizer_that_cannot_be_read(data):
    sql(data, "UPDATE binarizers SET data = x'00', crc = ?", zlib.crc32(b"\0"))
    assert not any("binarizer" in p.message for p in verify(data).problems)
    complains(data, folder(data) / "record.db", "cannot be read: ", RotationFactory())


def test_vectors_that_are_not_what_was_promised(data):
    path = dense(data)
    raw = bytearray(path.read_bytes())
    value_bytes = raw[16]
    raw[HEADER_BYTES : HEADER_BYTES + value_bytes] = np.array(np.nan, f"<f{value_bytes}").tobytes()
    path.write_bytes(raw)
    complains(data, path, "not finite: row")


def test_vectors_of_another_length_than_one(tmp_path):
    store = open_store(tmp_path)
    collection = store.create("c", config("Dot"))
    fill(collection, 5)
    store.close()
    sql(tmp_path, """UPDATE meta SET value = replace(value, 'Dot', 'Cosine') WHERE key = 'config'""")
    (path,) = files_of(tmp_path, ".vec")
    complains(tmp_path, path, "not of unit length: row 0, 1, 2, 3, 4")


@pytest.mark.parametrize("content", [None, b"", b"garbage" * 1000])
def test_no_record(data, content):
    path = folder(data) / "record.db"
    path.unlink() if content is None else path.write_bytes(content)
    complains(data, path, "")


def test_pages_of_the_record(data):
    path = folder(data) / "record.db"
    size = path.stat().st_size
    for page in range(0, size, 4096):
        flip(path, page)  # the type of a page's tree node, or the file's magic
        assert str(path) in {p.path for p in found(data)}
        flip(path, page)
    os.truncate(path, size - 4096)
    assert str(path) in {p.path for p in found(data)}


def test_a_later_format(data):
    db = sqlite3.connect(folder(data) / "record.db")
    db.execute(f"PRAGMA user_version = {FORMAT + 1}")
    db.close()
    complains(data, folder(data) / "record.db", f"format {FORMAT + 1}, this program reads 1 to {FORMAT}")


def test_sound_collections_beside_a_damaged_one(data):
    store = open_store(data)
    fill(store.create("b", config()), 40)
    store.close()
    path = dense(data)
    flip(path, path.stat().st_size - 1)
    assert {p.path for p in found(data)} == {str(path)}
    assert verify(data).checked["collections"] == 2


def test_row_numbers_are_listed_once_a_file_and_not_once_a_batch(tmp_path, monkeypatch):
    """Listing them costs a file's length, so once a batch would be quadratic after many small writes."""
    store = open_store(tmp_path)
    collection = store.create("c", config("Cosine"))
    for i in range(40):
        collection.upsert(batch_of([i], vectors_of(1, i)))
    store.close()
    listed = []
    original = VectorMap.row_numbers
    monkeypatch.setattr(VectorMap, "row_numbers", lambda mapped: listed.append(mapped) or original(mapped))
    report = verify(tmp_path)
    assert report.problems == []
    assert report.checked["batches"] == 40
    assert len(listed) == report.checked["vector files"] < 40
