"""Vector files: bytes, appending, holes, and what is refused."""

from __future__ import annotations

import errno
import os
import struct
import zlib

import numpy as np
import pytest

from index import vector_file
from index.errors import CorruptCollection, DiskFull
from index.vector_file import HEADER_BYTES, Layout, VectorMap, VectorWriter, read_layout, write_with_holes

FLOAT32 = Layout(dimension=5, value_bytes=4, first_row=100, table=0)
FLOAT16 = Layout(dimension=5, value_bytes=2, first_row=100, table=0)


def values(n, dtype="<f4", seed=0):
    return np.random.default_rng(seed).standard_normal((n, 5)).astype(dtype)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.vec"


def written(path, layout, *parts):
    writer = VectorWriter.create(path, layout)
    checksums = [writer.append(part) for part in parts]
    writer.sync()
    writer.close()
    return checksums


def test_the_header_by_hand(path):
    written(path, FLOAT32)
    raw = path.read_bytes()
    head = b"BFVECTOR" + struct.pack("<IIIIQQ", 1, 5, 4, 0, 100, 0)
    assert raw == (head + struct.pack("<I", zlib.crc32(head))).ljust(4096, b"\0")
    assert read_layout(path) == FLOAT32


@pytest.mark.parametrize(("layout", "dtype"), [(FLOAT32, "<f4"), (FLOAT16, "<f2")])
def test_appended_rows_come_back(path, layout, dtype):
    parts = [values(3, dtype), values(1, dtype, 1), values(4, dtype, 2)]
    checksums = written(path, layout, *parts)
    everything = np.concatenate(parts)
    assert checksums == [zlib.crc32(part.tobytes()) for part in parts]
    assert path.read_bytes()[HEADER_BYTES:] == everything.tobytes()
    mapped = VectorMap(path, rows=8)
    assert (len(mapped), mapped.first_row, mapped.end_row, mapped.has_holes) == (8, 100, 108, False)
    assert mapped.row_numbers().tolist() == list(range(100, 108))
    np.testing.assert_array_equal(mapped.vectors, everything)
    got = mapped.read(np.array([101, 107]))
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, everything[[1, 7]].astype(np.float32))


def test_only_committed_rows_are_mapped_and_the_rest_is_overwritten(path):
    written(path, FLOAT32, values(2), values(3, seed=1))
    assert len(VectorMap(path, rows=2)) == 2
    writer = VectorWriter(path, FLOAT32, rows=2)
    writer.append(values(1, seed=2))
    writer.close()
    expected = np.concatenate([values(2), values(1, seed=2)])
    np.testing.assert_array_equal(VectorMap(path, rows=3).vectors, expected)


@pytest.mark.parametrize("dtype", ["<f4", "<f2"])
def test_files_with_holes(path, dtype):
    rows = np.array([100, 103, 104, 900], dtype=np.int64)
    layout = Layout(dimension=5, value_bytes=np.dtype(dtype).itemsize, first_row=100, table=4)
    everything = values(4, dtype)
    checksums = write_with_holes(path, layout, rows, iter([everything[:3], everything[3:]]))
    assert checksums == [zlib.crc32(everything[:3].tobytes()), zlib.crc32(everything[3:].tobytes())]
    raw = path.read_bytes()
    assert raw[HEADER_BYTES : HEADER_BYTES + 32] == rows.astype("<i8").tobytes()
    assert raw[HEADER_BYTES + 32 :] == everything.tobytes()
    mapped = VectorMap(path, rows=4)
    assert (mapped.first_row, mapped.end_row, mapped.has_holes) == (100, 901, True)
    assert mapped.row_numbers().tolist() == rows.tolist()
    np.testing.assert_array_equal(mapped.read(np.array([103, 900])), everything[[1, 3]].astype("<f4"))
    assert os.listdir(path.parent) == [path.name]


def test_short_files_are_refused(path):
    written(path, FLOAT32, values(3))
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(CorruptCollection, match=r"a\.vec: .* bytes long, 3 committed rows need 4156"):
        VectorMap(path, rows=3)
    assert len(VectorMap(path, rows=2)) == 2
    os.truncate(path, 20)
    with pytest.raises(CorruptCollection, match=r"a\.vec: 20 bytes are too few for a header"):
        read_layout(path)
    path.unlink()
    with pytest.raises(CorruptCollection, match=r"a\.vec: cannot be read \(No such file"):
        VectorMap(path, rows=2)


@pytest.mark.parametrize("offset", [0, 8, 12, 16, 20, 24, 32, 40, 43])
def test_a_flipped_header_byte_is_refused(path, offset):
    written(path, FLOAT32, values(3))
    raw = bytearray(path.read_bytes())
    raw[offset] ^= 4
    path.write_bytes(raw)
    with pytest.raises(CorruptCollection, match=r"a\.vec: the header is damaged"):
        read_layout(path)


def test_a_later_version_is_refused(path):
    head = b"BFVECTOR" + struct.pack("<IIIIQQ", 2, 5, 4, 0, 100, 0)
    path.write_bytes((head + struct.pack("<I", zlib.crc32(head))).ljust(4096, b"\0"))
    with pytest.raises(CorruptCollection, match=r"a\.vec: format version 2, this program reads 1"):
        read_layout(path)


def fails(number):
    def call(*_args, **_more):
        raise OSError(number, os.strerror(number))

    return call


@pytest.mark.parametrize("name", ["pwrite", "fdatasync", "open"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_no_room_leaves_nothing_behind(path, monkeypatch, name, number):
    monkeypatch.setattr(os, name, fails(number))
    with pytest.raises(DiskFull, match=r"no space left to write .*a\.vec"):
        VectorWriter.create(path, FLOAT32)
    monkeypatch.undo()
    layout = Layout(dimension=5, value_bytes=4, first_row=0, table=2)
    monkeypatch.setattr(os, name, fails(number))
    with pytest.raises(DiskFull):
        write_with_holes(path, layout, np.array([0, 5]), iter([values(2)]))
    monkeypatch.undo()
    assert os.listdir(path.parent) == []


def test_partial_writes_are_continued(path, monkeypatch):
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: real(fd, bytes(data)[:7], offset))
    written(path, FLOAT32, values(3))
    monkeypatch.undo()
    np.testing.assert_array_equal(VectorMap(path, rows=3).vectors, values(3))


def test_other_errors_are_not_called_disk_full(path, monkeypatch):
    monkeypatch.setattr(os, "pwrite", fails(errno.EIO))
    with pytest.raises(OSError, match="Input/output error"):
        VectorWriter.create(path, FLOAT32)


@pytest.mark.parametrize("layout", [FLOAT32, FLOAT16])
@pytest.mark.parametrize("holes", [False, True])
@pytest.mark.parametrize("hints", [True, False])
def test_rows_here_and_there_are_read_right_whether_they_are_in_memory_or_not(path, layout, holes, hints, monkeypatch):
    monkeypatch.setattr(vector_file, "HINTS", hints and vector_file.HINTS)
    n = 3000
    stored = values(n, "<f4" if layout is FLOAT32 else "<f2")
    numbers = np.arange(100, 100 + n)
    if holes:
        numbers = np.sort(np.random.default_rng(1).choice(10_000, n, replace=False)) + 100
        with_table = Layout(dimension=5, value_bytes=layout.value_bytes, first_row=100, table=n)
        write_with_holes(path, with_table, numbers, iter([stored]))
    else:
        written(path, layout, stored)
    mapped = VectorMap(path, rows=n)
    announced = []
    real = mapped._announce
    monkeypatch.setattr(mapped, "_announce", lambda positions: announced.append(len(positions)) or real(positions))
    for slow in (False, True):
        monkeypatch.setattr(vector_file, "COLD_SECONDS", -1 if slow else 1)  # every read seems slow, or none
        mapped.read(numbers[[0, n - 1]])
        announced.clear()
        for chosen in ([0], [n - 1], [0, n - 1], [5, 900, 901, 2999], list(range(0, n, 50)), list(range(700)), []):
            found = mapped.read(numbers[np.array(chosen, dtype=np.int64)])
            assert found.dtype == np.float32
            np.testing.assert_array_equal(found, stored[chosen].astype(np.float32).reshape(-1, 5))
        # Rows that lie together are read with what is between them, by the system's own reading ahead.
        assert announced == ([2, 4, 60] if slow and vector_file.HINTS else [])
