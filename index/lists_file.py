"""Files of inverted lists (`codes/*.lists`): derived, saved to start faster and to go on where finding them stopped.

Layout, little-endian: b"BFLISTS1", u32 CRC-32 of the header and all that follows, u32 length of a JSON header, the
header, centroids (lists x d float32), and the list of each position (n uint16), of which those of rows below
`next_row` are known.
"""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from index import durable
from index.lists import Lists
from index.segment import Segment
from index.segment_data import SegmentData

MAGIC = b"BFLISTS1"
PREFIX = struct.Struct("<8sII")


@dataclass(frozen=True, slots=True)
class SavedLists:
    """Lists of a segment's rows, of which those below `next_row` have theirs."""

    lists: Lists
    next_row: int


def lists_path(folder: Path, segment: Segment | SegmentData) -> Path:
    """Return the lists file of a segment, in the folder of its codes."""
    return folder / f"{segment.first_row:012d}-{segment.end_row:012d}.lists"


def save_lists(path: Path, segment: Segment, saved: SavedLists) -> None:
    """Write a lists file. Raises DiskFull."""
    header = _identity(segment) | {"lists": len(saved.lists.centroids), "next_row": saved.next_row}
    raw = json.dumps(header).encode()
    centroids, membership = saved.lists.centroids.astype("<f4"), saved.lists.membership.astype("<u2")
    body = raw + centroids.tobytes() + membership.tobytes()
    durable.replace_file(path, PREFIX.pack(MAGIC, zlib.crc32(body), len(raw)) + body, durable=False)


def load_lists(path: Path, segment: Segment | SegmentData, dimension: int) -> SavedLists | None:
    """Read the lists of a segment of vectors of some dimension; None unless there are any of the same rows."""
    try:
        raw = path.read_bytes()
        magic, checksum, length = PREFIX.unpack(raw[: PREFIX.size])
        body = memoryview(raw)[PREFIX.size :]
        if magic != MAGIC or zlib.crc32(body) != checksum:
            return None
        header = json.loads(bytes(body[:length]))
        if _identity(segment).items() - header.items():
            return None
        cut = length + 4 * header["lists"] * dimension
        centroids = np.frombuffer(body[length:cut], "<f4").reshape(header["lists"], dimension)
        membership = np.frombuffer(body[cut:], "<u2").copy()
        if len(membership) != len(segment):
            return None
        return SavedLists(Lists(centroids, membership), header["next_row"])
    except (OSError, struct.error, ValueError, KeyError):
        return None


def _identity(segment: Segment | SegmentData) -> dict[str, int]:
    """Return what tells whether lists are of a segment's rows."""
    offsets = 0 if segment.offsets is None else zlib.crc32(segment.offsets.tobytes())
    return {"first_row": segment.first_row, "end_row": segment.end_row, "n": len(segment), "offsets": offsets}
