"""Files of codes: derived from vectors, or in a collection of codes only the truth.

Derived ones are saved only to start faster. Those that the record names are all that is left of dropped vectors.

Layout (`codes/*.codes`), little-endian: b"BFCODES2", u32 CRC-32 of the header and all that follows, u32 length of a
JSON header, the header, then planes (n x bits x m/8 bytes), factors (n x bits float16 or float32), with Euclid `beta`
(n float32), and where the range has holes `offsets` (n uint32, row minus first row). b"BFCODES1" files are the same
with one plane and float32 factors.
"""

from __future__ import annotations

import json
import mmap
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from index import durable
from index.codes import Planes
from index.segment_data import SegmentData

MAGIC, FIRST_MAGIC = b"BFCODES2", b"BFCODES1"
PREFIX = struct.Struct("<8sII")


class DamagedCodes(Exception):
    """A codes file cannot be used."""


def codes_name(span: tuple[int, int], version: int, seq: int | None = None) -> str:
    """Return the name of the codes file of a range of rows, coded by a version of the binarizer.

    With the number of the last commit the name is one that no commit names yet: what is truth is never replaced.
    """
    unique = "" if seq is None else f"-{seq}"
    return f"{span[0]:012d}-{span[1]:012d}-{version}{unique}.codes"


def span_of(path: Path) -> tuple[int, int]:
    """Return the range of rows in a codes file's name."""
    first, end, *_ = path.stem.split("-")
    return int(first), int(end)


def save(path: Path, data: SegmentData, *, synced: bool = False) -> None:
    """Write a codes file. Where it is derived it need not be synced: its checksum tells whether it is whole."""
    header = {
        "first_row": data.first_row,
        "end_row": data.end_row,
        "binarizer": data.binarizer,
        "n": len(data),
        "bits": data.planes.shape[1],
        "code_bytes": data.planes.shape[2],
        "factor_bytes": data.factors.itemsize,
        "beta": data.beta is not None,
        "holes": data.offsets is not None,
    }
    raw = json.dumps(header).encode()
    arrays: list[NDArray[Any]] = [data.planes, data.factors.astype(f"<f{data.factors.itemsize}")]
    arrays += [data.beta.astype("<f4")] if data.beta is not None else []
    arrays += [data.offsets.astype("<u4")] if data.offsets is not None else []
    body = b"".join([raw, *(array.tobytes() for array in arrays)])
    durable.replace_file(path, PREFIX.pack(MAGIC, zlib.crc32(body), len(raw)) + body, durable=synced)


def planes_in(path: Path) -> Planes:
    """Map the planes, (n, bits, m / 8), of a codes file that was written just now: nothing is checked.

    Raises OSError.
    """
    mapping = _mapped(path)
    raw = memoryview(mapping)
    _, _, length = PREFIX.unpack(raw[: PREFIX.size])
    body = raw[PREFIX.size :]
    return _arrays(json.loads(bytes(body[:length])), body[length:], mapping).planes


def _mapped(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def load(path: Path) -> SegmentData:
    """Read a codes file; its planes stay mapped. Raises DamagedCodes when it is not exactly what was written."""
    try:
        mapping = _mapped(path)
        raw = memoryview(mapping)
        magic, checksum, length = PREFIX.unpack(raw[: PREFIX.size])
        body = raw[PREFIX.size :]
        if magic not in (MAGIC, FIRST_MAGIC) or zlib.crc32(body) != checksum:
            raise DamagedCodes(f"{path}: the checksum does not fit")
        header = json.loads(bytes(body[:length]))
        if magic == FIRST_MAGIC:
            header |= {"bits": 1, "factor_bytes": 4}
        data = _arrays(header, body[length:], mapping)
    except (OSError, struct.error, ValueError, KeyError) as error:
        raise DamagedCodes(f"{path}: {error}") from error
    data.release()  # the checksum took all of it
    return data


def _arrays(header: dict[str, Any], body: memoryview, mapping: mmap.mmap) -> SegmentData:
    n, bits, width, factor_bytes = (header[key] for key in ("n", "bits", "code_bytes", "factor_bytes"))
    cut = [n * bits * width, n * bits * factor_bytes, 4 * n * header["beta"], 4 * n * header["holes"]]
    ends = np.cumsum([0, *cut])
    part = [body[ends[i] : ends[i + 1]] for i in range(4)]
    return SegmentData(
        first_row=header["first_row"],
        end_row=header["end_row"],
        binarizer=header["binarizer"],
        planes=np.frombuffer(part[0], np.uint8).reshape(n, bits, width),
        factors=np.frombuffer(part[1], f"<f{factor_bytes}").reshape(n, bits).copy(),
        beta=np.frombuffer(part[2], "<f4").copy() if header["beta"] else None,
        offsets=np.frombuffer(part[3], "<u4").copy() if header["holes"] else None,
        mapping=mapping,
    )
