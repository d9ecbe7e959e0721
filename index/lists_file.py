"""Files of inverted lists (`codes/*.lists`): derived, saved to start faster and to go on where finding them stopped.

A file of blobs (`index/blobs.py`): `centroids`, (lists, d) float32, and `membership`, the list of each position, (n,)
uint16, of which those of rows below `next_row` are known. It is about those rows, see `identity`, and `next_row`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from index.blobs import DamagedBlobs, load_blobs, save_blobs
from index.lists import Lists
from index.segment_data import Spanned, identity

MAGIC = b"BFLISTS2"


@dataclass(frozen=True, slots=True)
class SavedLists:
    """Lists of a segment's rows, of which those below `next_row` have theirs."""

    lists: Lists
    next_row: int


def lists_path(folder: Path, segment: Spanned) -> Path:
    """Return the lists file of a segment, in the folder of its codes."""
    return folder / f"{segment.first_row:012d}-{segment.end_row:012d}.lists"


def save_lists(path: Path, segment: Spanned, saved: SavedLists) -> None:
    """Write a lists file. Raises DiskFull."""
    centroids, membership = saved.lists.centroids, saved.lists.membership
    blobs = {"centroids": centroids.astype("<f4", copy=False), "membership": membership.astype("<u2", copy=False)}
    about = identity(segment) | {"dimension": centroids.shape[1], "next_row": saved.next_row}
    save_blobs(path, MAGIC, about, blobs, synced=False)


def load_lists(path: Path, segment: Spanned, dimension: int) -> SavedLists:
    """Read the lists of a segment of vectors of some dimension. Raises DamagedBlobs unless there are any."""
    about, blobs = load_blobs(path, MAGIC)
    if not (identity(segment) | {"dimension": dimension}).items() <= about.items():
        raise DamagedBlobs(f"{path}: of other rows")
    centroids = np.frombuffer(blobs["centroids"], "<f4").reshape(-1, dimension)
    membership = np.frombuffer(blobs["membership"], "<u2").copy()  # whoever goes on finding them writes into it
    return SavedLists(Lists(centroids, membership), about["next_row"])
