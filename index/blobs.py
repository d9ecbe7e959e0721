"""Named blobs, byte strings or arrays, in one file with a checksum: what derived data is saved as.

Layout, little-endian: 8 bytes of magic, u32 CRC-32 of all that follows, u32 length of a JSON header, the header
({"about": ..., "blobs": [[name, length], ...]}), then the blobs one after the other. Dtypes and shapes of arrays are
not in the file: a magic stands for them, and whoever changes them takes another.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from index import durable

Blob = bytes | NDArray[Any]

START = struct.Struct("<8sI")
LENGTH = struct.Struct("<I")


class DamagedBlobs(Exception):
    """A file of blobs cannot be used: it is not there, cannot be read, is not whole, or is of another kind."""


def save_blobs(path: Path, magic: bytes, about: Mapping[str, Any], blobs: Mapping[str, Blob], *, synced: bool) -> None:
    """Write a file, blob after blob: nothing is held in memory twice.

    Parameters
    ----------
    magic : 8 bytes, the kind and version of the file.
    about : what JSON can hold.
    blobs : in order; arrays are written as they lie in memory, so they have to be little-endian.
    synced : whether the file is durable when this returns. Without, its checksum tells whether it is whole.

    Raises
    ------
    DiskFull
        A file that is there stays as it was.
    """
    views = {name: _bytes_of(blob) for name, blob in blobs.items()}
    header = orjson.dumps({"about": about, "blobs": [[name, len(view)] for name, view in views.items()]})
    parts: list[bytes | memoryview] = [LENGTH.pack(len(header)), header, *views.values()]
    checksum = 0
    for part in parts:
        checksum = zlib.crc32(part, checksum)
    with durable.replacing(path, durable=synced) as (fd, temporary):
        at = 0
        for part in (START.pack(magic, checksum), *parts):
            durable.write_at(fd, part, at, temporary)
            at += len(part)


def load_blobs(path: Path, magic: bytes) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Return what a file of some magic is about, and its blobs. Raises DamagedBlobs, and nothing else."""
    try:
        return _read(path, magic)
    except (OSError, struct.error, ValueError, KeyError, TypeError) as error:
        raise DamagedBlobs(f"{path}: {error}") from error


def _read(path: Path, magic: bytes) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Do what `load_blobs` does; raises ValueError and much else where the file is not whole."""
    with path.open("rb") as file:
        left = os.fstat(file.fileno()).st_size - START.size - LENGTH.size
        if left < 0:
            raise ValueError("too short")
        found, checksum = START.unpack(file.read(START.size))
        if found != magic:
            raise ValueError("of another kind or version")
        raw = file.read(LENGTH.size)
        (length,) = LENGTH.unpack(raw)
        # Lengths are not known to be sound before all is read: memory is asked for only as far as the file goes.
        header = file.read(min(length, left))
        actual = zlib.crc32(header, zlib.crc32(raw))
        parsed = orjson.loads(header)
        if any(size < 0 for _, size in parsed["blobs"]) or sum(size for _, size in parsed["blobs"]) != left - length:
            raise ValueError("its length does not fit its header")
        blobs = {}
        for name, size in parsed["blobs"]:
            blobs[name] = file.read(size)
            actual = zlib.crc32(blobs[name], actual)
    if actual != checksum:
        raise ValueError("the checksum does not fit")
    return parsed["about"], blobs


def _bytes_of(blob: Blob) -> memoryview:
    """Return the bytes of a blob; of an array in C order, without a copy where it lies so."""
    return memoryview(blob) if isinstance(blob, bytes) else np.ascontiguousarray(blob).reshape(-1).view(np.uint8).data
