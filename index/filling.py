"""Fills payload indexes with the points that were there before them, piece by piece, beside reading and writing."""

from __future__ import annotations

import math
import threading
import time

from index.collection import Collection
from index.paths import Path

PIECE_ROWS = 10_000


def fill_piece(collection: Collection) -> bool:
    """Read the next rows for an index that is not complete; say whether there was one."""
    fields = collection.fields
    for path, start, end in fields.incomplete():
        stop = min(start + PIECE_ROWS, end)
        with collection.record.snapshot() as reader:
            fields.feed(path, reader.payloads(start, stop), stop)
        if stop == end:
            _finish(collection, path)
        return True
    return False


def fill(collection: Collection, *, until: float = math.inf) -> bool:
    """Complete all indexes, or as many as can be until `time.monotonic()` is that late; say whether all are."""
    while not collection.closed and (left := until - time.monotonic()) > 0:
        if not collection.upkeep.acquire(timeout=min(left, threading.TIMEOUT_MAX)):
            break
        try:
            if not fill_piece(collection):
                return True
        finally:
            collection.upkeep.release()
    return False


def _finish(collection: Collection, path: Path) -> None:
    with collection.committer.lock, collection.record.snapshot() as reader:
        rows = collection.fields.touched(path)
        stored = reader.points_of(rows.tolist(), payload=True)
        collection.fields.finish(path, [(row, payload or b"{}") for row, (_, payload) in stored.items()])
