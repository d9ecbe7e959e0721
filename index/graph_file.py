"""Files of graphs (`codes/*.graph`): derived, saved to start faster and to go on where building them stopped.

A file of blobs (`index/blobs.py`): `levels` (n int32) and `neighbours` (int32), see `Links`. What they link are the
first codes in the codes file of the same rows; the file is about those rows and the binarizer of the codes, see
`_identity`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from index.blobs import DamagedBlobs, load_blobs, save_blobs
from index.graph import Links
from index.segment import Segment
from index.segment_data import SegmentData, identity

MAGIC = b"BFGRAPH2"


def graph_path(folder: Path, segment: Segment | SegmentData) -> Path:
    """Return the graph file of a segment, in the folder of its codes."""
    return folder / f"{segment.first_row:012d}-{segment.end_row:012d}.graph"


def save_links(path: Path, segment: Segment, links: Links) -> None:
    """Write the links among codes, the first ones of a segment. Raises DiskFull."""
    blobs = {"levels": links.levels.astype("<i4", copy=False), "neighbours": links.neighbours.astype("<i4", copy=False)}
    save_blobs(path, MAGIC, _identity(segment), blobs, synced=False)


def load_links(path: Path, segment: Segment | SegmentData) -> Links:
    """Read the links among the first codes of a segment. Raises DamagedBlobs unless there are any of the same rows."""
    about, blobs = load_blobs(path, MAGIC)
    if not _identity(segment).items() <= about.items():
        raise DamagedBlobs(f"{path}: of other rows")
    # Copied into memory of NumPy's, which the system gives in large pages.
    levels, neighbours = (np.frombuffer(blobs[name], "<i4").astype(np.int32) for name in ("levels", "neighbours"))
    if len(levels) > len(segment) or neighbours.max(initial=-1) >= len(levels):
        raise DamagedBlobs(f"{path}: {len(levels)} nodes, {len(segment)} codes")
    return Links(levels, neighbours)


def _identity(segment: Segment | SegmentData) -> dict[str, int]:
    return identity(segment) | {"binarizer": segment.binarizer}
