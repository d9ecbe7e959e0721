"""Replaces segments of codes by one over the same rows, in memory and on disk.

The new segment is built beside the old ones, then swapped into the view under the committer's lock, where the deletes
made meanwhile are applied. Codes that are truth, because vectors are dropped, are written durably and swapped in the
record too.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from index.codes_file import codes_name, planes_in, save, span_of
from index.collection import Collection
from index.errors import DiskFull
from index.indexing import save_fields
from index.opening import LAYOUTS
from index.points import Float32s, Rows
from index.record import Writer
from index.rows import located
from index.segment import Segment
from index.segment_data import SegmentData, encode_rows, joined
from index.view import View

log = logging.getLogger(__name__)

CODED_FOR_GOOD = "points without vectors keep their codes; sent again, they get codes of the newest binarizer"


def merge(
    collection: Collection,
    old: Sequence[Segment],
    version: int,
    on_rows: Callable[[int], None] = lambda _: None,
    *,
    as_truth: bool = False,
) -> None:
    """Replace neighbouring segments by one, coded by a version of the binarizer.

    Codes that are all of that version are taken over, else every row is coded again from its vector; `on_rows` hears
    how many rows were, before each piece of them. What it raises ends the merge, and nothing has changed.

    When the codes of an old segment are truth, or with `as_truth`, so are the new one's: its file is durable and named
    in the record when this returns. Raises VectorsDropped when rows to code again have no vectors, DiskFull.
    """
    view = collection.view
    span = (old[0].first_row, old[-1].end_row)
    alive = alive_rows(old)
    if all(segment.binarizer == version for segment in old):
        data = joined([segment.data() for segment in old], span)
    else:
        view.require_vectors(alive, hint=CODED_FOR_GOOD)
        pieces = _watched(_filtered(view.pieces(*span), alive), on_rows)
        data = encode_rows(pieces, span, version, view.binarizers[version], collection.config.distance)
    named = as_truth or any(segment.first_row in view.named for segment in old)
    path = collection.folder / "codes" / codes_name(span, version, view.seq if named else None)
    merged: Segment | None = None
    if len(data):
        filed = planes_in(path) if _saved(path, data, collection, named=named) else None
        merged = Segment.build(data, collection.config.distance, filed=filed, mapped=collection.codes_mapped)

    def swapped(now: View) -> View:
        replaced = [s for s in now.segments if span[0] <= s.first_row and s.end_row <= span[1]]
        others = [s for s in now.segments if s.end_row <= span[0] or s.first_row >= span[1]]
        if merged is not None:
            died = np.setdiff1d(alive, alive_rows(replaced), assume_unique=True)
            others.append(merged.without(died))
        return replace(now, segments=tuple(sorted(others, key=lambda segment: segment.first_row)))

    if named:
        _swap_truth(collection, path, data, swapped)
    else:
        with collection.committer.lock:
            collection.show(swapped(collection.view))
    _remove_superseded(collection, span, path.name)


def _swap_truth(collection: Collection, path: Path, data: SegmentData, swapped: Callable[[View], View]) -> None:
    """Make durable codes truth, in the place of all that there is in their range of rows.

    Tombstones of rows that are in no file any more go in the same transaction.
    """
    first, end = data.first_row, data.end_row

    def work(writer: Writer) -> Callable[[], None]:
        now = collection.view
        named = dict(now.named)
        superseded = [named.pop(row) for row in now.named if first <= row < end]
        if len(data):
            named[first] = path.name
        writer.swap_codes(superseded, [path.name] if len(data) else [])
        dead = writer.tombstones()
        dead = dead[(dead >= first) & (dead < end)]
        for entry in writer.files():
            dead = dead[(dead < entry.first_row) | (dead >= entry.end_row)]
        writer.forget(np.setdiff1d(dead, data.rows(), assume_unique=True).tolist())
        return partial(collection.show, replace(swapped(now), seq=now.seq + 1, named=named))

    try:
        collection.committer.exclusive(work)
    except DiskFull:
        path.unlink(missing_ok=True)
        raise


def _saved(path: Path, data: SegmentData, collection: Collection, *, named: bool) -> bool:
    """Save codes; say whether that was done.

    What is named in the record is durable then. The rest is derived: little of it waits for the next close, and on a
    full disk that tries again.
    """
    if named:
        save(path, data, synced=True)
        return True
    if len(data) < collection.options.save_rows:
        return False
    try:
        save(path, data)
    except DiskFull as error:
        log.warning("codes are not saved, the next start makes them again: %s", error)
        return False
    return True


def alive_rows(segments: Iterable[Segment]) -> Rows:
    """Return the rows of segments that count."""
    parts = [segment.alive_rows() for segment in segments]
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)


def _filtered(pieces: Iterable[tuple[Rows, Float32s]], alive: Rows) -> Iterator[tuple[Rows, Float32s]]:
    for rows, vectors in pieces:
        _, keep = located(rows, alive)
        yield (rows, vectors) if keep.all() else (rows[keep], vectors[keep])


def _watched(
    pieces: Iterable[tuple[Rows, Float32s]], on_rows: Callable[[int], None]
) -> Iterator[tuple[Rows, Float32s]]:
    done = 0
    for rows, vectors in pieces:
        on_rows(done)
        yield rows, vectors
        done += len(rows)


def _remove_superseded(collection: Collection, span: tuple[int, int], keep: str) -> None:
    folder = collection.folder / "codes"
    for path in (path for pattern in ("*.codes", *LAYOUTS) for path in folder.glob(pattern)):
        first, end = span_of(path)
        if path.name != keep and first >= span[0] and end <= span[1]:
            path.unlink(missing_ok=True)


def save_all(collection: Collection) -> None:
    """Save payload indexes, and the codes of segments that have no file: the next start need not make them again."""
    for segment in collection.view.segments:
        if segment.first_row in collection.view.named:
            continue
        path = collection.folder / "codes" / codes_name((segment.first_row, segment.end_row), segment.binarizer)
        if not path.exists():
            save(path, segment.data())
    if not collection.committer.read_only:
        save_fields(collection)
