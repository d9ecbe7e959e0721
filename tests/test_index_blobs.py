"""Files of named blobs: what was saved is read; whatever else lies there is one error."""

from __future__ import annotations

import os
import struct
import zlib

import numpy as np
import orjson
import pytest

from index.blobs import DamagedBlobs, load_blobs, save_blobs
from index.errors import DiskFull

MAGIC = b"BFTEST01"
BLOBS = {"x": b"12", "": b"", "y": b"345"}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "a"
    save_blobs(path, MAGIC, {"a": 1}, BLOBS, synced=False)
    return path


def test_what_was_saved_is_read(file):
    assert load_blobs(file, MAGIC) == ({"a": 1}, BLOBS)
    assert [path.name for path in file.parent.iterdir()] == ["a"]


def test_the_bytes_are_those_of_the_documents(file):
    header = b'{"about":{"a":1},"blobs":[["x",2],["",0],["y",3]]}'
    rest = struct.pack("<I", len(header)) + header + b"12345"
    assert file.read_bytes() == MAGIC + struct.pack("<I", zlib.crc32(rest)) + rest


@pytest.mark.parametrize("array", [
    np.arange(12, dtype="<f4").reshape(3, 4),
    np.arange(24, dtype="<u2").reshape(4, 6)[::2, 1::2],  # as it does not lie in memory
    np.asfortranarray(np.arange(6, dtype="<i4").reshape(2, 3)),
    np.empty((0, 5), dtype="<f4"),
])  # fmt: skip
def test_arrays_are_saved_in_c_order(tmp_path, array):
    save_blobs(tmp_path / "a", MAGIC, {}, {"array": array, "after": b"x"}, synced=False)
    _, blobs = load_blobs(tmp_path / "a", MAGIC)
    np.testing.assert_array_equal(np.frombuffer(blobs["array"], array.dtype).reshape(array.shape), array)
    assert blobs["after"] == b"x"


@pytest.mark.parametrize(("magic", "problem"), [(b"BFTEST02", "of another kind or version"), (b"BF", "too short")])
def test_a_file_of_another_kind_is_refused(file, magic, problem):
    file.write_bytes(magic + (file.read_bytes()[8:] if len(magic) == 8 else b""))
    with pytest.raises(DamagedBlobs, match=problem):
        load_blobs(file, MAGIC)


def test_every_bit_and_every_length_counts(file):
    whole = file.read_bytes()
    for at in range(8 * len(whole)):
        flipped = bytearray(whole)
        flipped[at // 8] ^= 1 << at % 8
        file.write_bytes(flipped)
        with pytest.raises(DamagedBlobs):
            load_blobs(file, MAGIC)
    for other in (*(whole[:end] for end in range(len(whole))), whole + b"x"):
        file.write_bytes(other)
        with pytest.raises(DamagedBlobs):
            load_blobs(file, MAGIC)


@pytest.mark.parametrize("header", [
    [],
    {"about": {}},
    {"blobs": []},
    {"about": {}, "blobs": [["x", 10**15]]},
    {"about": {}, "blobs": [["x", -1], ["y", 1]]},
    {"about": {}, "blobs": [["x", 0.0]]},
    {"about": {}, "blobs": [["x"]]},
    {"about": {}, "blobs": [[[], 0]]},
])  # fmt: skip
def test_a_header_of_something_else_is_refused(tmp_path, header):
    raw = orjson.dumps(header)
    rest = struct.pack("<I", len(raw)) + raw
    (tmp_path / "a").write_bytes(MAGIC + struct.pack("<I", zlib.crc32(rest)) + rest)
    with pytest.raises(DamagedBlobs):
        load_blobs(tmp_path / "a", MAGIC)


def test_what_cannot_be_read_is_refused(tmp_path):
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(DamagedBlobs):
            load_blobs(path, MAGIC)


def test_a_full_disk_leaves_what_is_there(file, monkeypatch):
    def full(*_):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("index.durable.os.pwrite", full)
    with pytest.raises(DiskFull):
        save_blobs(file, MAGIC, {"a": 2}, BLOBS, synced=False)
    monkeypatch.undo()
    assert load_blobs(file, MAGIC)[0] == {"a": 1}
    assert [path.name for path in file.parent.iterdir()] == ["a"]
