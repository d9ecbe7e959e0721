"""Makes, fills, saves and drops the payload indexes of a collection, beside reading and writing.

An index begins with what was saved of it, if anything fits. The points that it lacks are read piece by piece by upkeep,
or by whoever waits for it; until it has all, filters read payloads.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from index.collection import Collection
from index.field_files import load_index, remove_index, save_indexes
from index.fields.field import FieldIndex, FieldKind
from index.paths import Path
from index.record import Writer

FOLDER = "fields"
PIECE_ROWS = 10_000


def index_field(collection: Collection, path: Path, kind: FieldKind) -> None:
    """Keep an index on a payload field while the collection is open; it is complete when `fill` is."""
    with collection.committer.lock, collection.record.snapshot() as reader:
        there, end_row = collection.fields.state(path), collection.view.tail.end_row
        if there is None or there.kind != kind:
            saved = load_index(collection.folder / FOLDER, path, kind, reader, end_row)
            if saved is None:
                collection.fields.build(FieldIndex(path, kind), end_row)
            else:
                collection.fields.build(saved.index, end_row, fed=saved.end_row, touched=saved.edited)
    collection.on_change()


def drop_field(collection: Collection, path: Path) -> None:
    """Forget the index on a payload field; nothing if there is none. Raises ReadOnlyCollection, DiskFull."""
    collection.fields.drop(path)
    remove_index(collection.folder / FOLDER, path)
    if not collection.fields.needs_payloads:
        _change_record(collection, Writer.ignore_edits)


def save_fields(collection: Collection) -> None:
    """Save payload indexes, so that the next start need not read all payloads. Raises ReadOnlyCollection, DiskFull."""
    if collection.fields.changed:
        save_indexes(collection.folder / FOLDER, collection.fields, partial(_change_record, collection))


def _change_record(collection: Collection, change: Callable[[Writer], None]) -> None:
    def work(writer: Writer) -> Callable[[], None]:
        change(writer)
        return partial(collection.show, replace(collection.view, seq=collection.view.seq + 1))

    collection.committer.exclusive(work)


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
