"""Files of inverted lists (`codes/*.lists`): derived, saved to start faster and to go on where finding them stopped.

A file of blobs (`index/blobs.py`): `centroids`, (lists, d) float32, and `membership`, the list of each position, (n,)
uint16, of which those of rows below `next_row` are known. It is about those rows, see `_identity`, and `next_row`.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from index.blobs import DamagedBlobs, load_blobs, save_blobs
from index.lists import Lists
from index.segment import Segment
from index.segment_data import SegmentData

MAGIC = b"BFLISTS2"


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
    centroids, membership = saved.lists.centroids, saved.lists.membership
    blobs = {"centroids": centroids.astype("<f4", copy=False), "membership": membership.astype("<u2", copy=False)}
    about = _identity(segment, centroids.shape[1]) | {"next_row": saved.next_row}
    save_blobs(path, MAGIC, about, blobs, synced=False)


def load_lists(path: Path, segment: Segment | SegmentData, dimension: int) -> SavedLists | None:
    """Read the lists of a segment of vectors of some dimension; None unless there are any of the same rows."""
    try:
        about, blobs = load_blobs(path, MAGIC)
        if not _identity(segment, dimension).items() <= about.items():
            return None
        centroids = np.frombuffer(blobs["centroids"], "<f4").reshape(-1, dimension)
        membership = np.frombuffer(blobs["membership"], "<u2").copy()  # whoever goes on finding them writes into it
        return SavedLists(Lists(centroids, membership), about["next_row"])
    except (DamagedBlobs, ValueError, KeyError):
        return None


def _identity(segment: Segment | SegmentData, dimension: int) -> dict[str, int]:
    """Return what tells whether lists are of a segment's rows; `offsets` is the CRC-32 of theirs, 0 without."""
    return {
        "first_row": segment.first_row,
        "end_row": segment.end_row,
        "n": len(segment),
        "offsets": 0 if segment.offsets is None else zlib.crc32(segment.offsets.tobytes()),
        "dimension": dimension,
    }
