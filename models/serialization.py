"""A self-describing byte format for a few arrays and a small header. Knows nothing of what they mean.

Layout, little-endian: 8 bytes magic `BITFOLDA`; uint32 length of the header; the header, UTF-8 JSON with
`version`, the caller's `meta` and `arrays` (name, dtype, shape in order); the arrays' raw bytes one after
another in C order; uint32 CRC-32 of everything before it.
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.errors import CorruptBinarizer

MAGIC = b"BITFOLDA"
VERSION = 1
DTYPES = {"<f4": np.dtype("<f4"), "<i4": np.dtype("<i4")}
LENGTH = struct.Struct("<I")


def write_arrays(meta: Mapping[str, str | int], arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Return the bytes of a header and float32 or int32 arrays. Equal input gives equal bytes."""
    entries = []
    parts = []
    for name, array in arrays.items():
        stored = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        entries.append({"name": name, "dtype": stored.dtype.str, "shape": list(stored.shape)})
        parts.append(stored.tobytes())
    header = {"version": VERSION, "meta": dict(meta), "arrays": entries}
    encoded = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    body = b"".join([MAGIC, LENGTH.pack(len(encoded)), encoded, *parts])
    return body + LENGTH.pack(zlib.crc32(body))


def read_arrays(data: bytes) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Read what `write_arrays` wrote; the arrays are read-only copies in native byte order.

    Raises
    ------
    CorruptBinarizer
        Cut, damaged, or of a format that this version does not read.
    """
    start = len(MAGIC) + LENGTH.size
    if len(data) < start + LENGTH.size or data[: len(MAGIC)] != MAGIC:
        raise CorruptBinarizer("these bytes are not a stored binarizer")
    if zlib.crc32(data[: -LENGTH.size]) != LENGTH.unpack(data[-LENGTH.size :])[0]:
        raise CorruptBinarizer("a stored binarizer is damaged: its checksum does not match")
    try:
        (length,) = LENGTH.unpack_from(data, len(MAGIC))
        header = json.loads(data[start : start + length])
        if header["version"] != VERSION:
            raise CorruptBinarizer(f"a binarizer in format version {header['version']}, not {VERSION}")
        return dict(header["meta"]), _cut(header["arrays"], data[start + length : -LENGTH.size])
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, CorruptBinarizer):
            raise
        raise CorruptBinarizer(f"a stored binarizer has an unreadable header: {error}") from error


def _cut(entries: list[dict[str, Any]], body: bytes) -> dict[str, NDArray[Any]]:
    arrays = {}
    offset = 0
    for entry in entries:
        dtype = DTYPES[entry["dtype"]]
        shape = tuple(int(size) for size in entry["shape"])
        count = math.prod(shape)
        array = np.frombuffer(body, dtype=dtype, count=count, offset=offset).reshape(shape)
        arrays[str(entry["name"])] = array.astype(dtype.newbyteorder("="))
        arrays[str(entry["name"])].flags.writeable = False
        offset += count * dtype.itemsize
    if offset != len(body):
        raise ValueError("the arrays do not fill the bytes")
    return arrays
