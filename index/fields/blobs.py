"""Named byte strings in one file with a checksum: what a payload index is saved as.

Layout, little-endian: b"BFFIELD1", u32 CRC-32 of all that follows, u32 length of a JSON header, the header
({"about": ..., "blobs": [[name, length], ...]}), then the blobs one after the other.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from index import durable

MAGIC = b"BFFIELD1"
PREFIX = struct.Struct("<8sII")


class DamagedBlobs(Exception):
    """A file of blobs cannot be used."""


def save_blobs(path: Path, about: Mapping[str, Any], blobs: Mapping[str, bytes]) -> None:
    """Write a file; it is durable when this returns. Raises DiskFull."""
    header = orjson.dumps({"about": about, "blobs": [[name, len(blob)] for name, blob in blobs.items()]})
    body = b"".join([struct.pack("<I", len(header)), header, *blobs.values()])
    durable.replace_file(path, b"".join([MAGIC, struct.pack("<I", zlib.crc32(body)), body]))


def load_blobs(path: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Read a file; raises DamagedBlobs, OSError."""
    data = path.read_bytes()
    if len(data) < PREFIX.size:
        raise DamagedBlobs(f"{path}: too short")
    magic, checksum, length = PREFIX.unpack_from(data)
    if magic != MAGIC or zlib.crc32(memoryview(data)[12:]) != checksum:
        raise DamagedBlobs(f"{path}: damaged, or of another version")
    header = orjson.loads(data[PREFIX.size : PREFIX.size + length])
    at, found = PREFIX.size + length, {}
    for name, size in header["blobs"]:
        found[name] = data[at : at + size]
        at += size
    return header["about"], found
