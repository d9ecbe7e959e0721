"""Work that makes searching cheaper and gives disk space back, beside reading and writing.

Segments of codes merge by size class, so that a query visits few; vector files that hold mostly dead rows are
rewritten without them. Both build the new thing beside the old one, then swap it into the view under the
committer's lock, applying the deletes made meanwhile.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from index.appender import file_name
from index.collection import Collection
from index.errors import DiskFull
from index.opening import map_file
from index.points import Float32s, Rows
from index.record import FileEntry, Writer
from index.segment import Segment, SegmentData, codes_name, encode_rows, save, span_of
from index.vector_file import Layout, VectorMap, chunk_rows, write_with_holes
from index.view import View

log = logging.getLogger(__name__)

REFIT_GROWTH = 4  # a merge this many times larger than what the binarizer was fitted to fits a new one
RETRY_SECONDS = 10.0


def size_class(rows: int, collection: Collection) -> int:
    """Return the class of a segment: 0 up to fan_out tails, 1 up to fan_out times that, and so on."""
    options = collection.options
    size = 0
    while rows >= options.tail_rows * options.fan_out ** (size + 1):
        size += 1
    return size


def merge_candidates(collection: Collection, *, idle: bool) -> tuple[Segment, ...]:
    """Return the neighbouring segments to merge next, none when all is well.

    Under load only runs of `fan_out` segments of one class merge: each row is coded again once a class. In a
    quiet time whatever is left over merges too, unless one segment holds most rows already.
    """
    options = collection.options
    segments = collection.view.segments
    for segment in segments:
        if segment.count < len(segment) / 2:
            return (segment,)
    start = 0
    while start < len(segments):
        end = start + 1
        of_class = size_class(len(segments[start]), collection)
        while end < len(segments) and size_class(len(segments[end]), collection) == of_class:
            end += 1
        run = segments[start:end][: options.fan_out]
        if len(run) == options.fan_out and sum(map(len, run)) <= options.max_segment_rows:
            return run
        start = end
    total = sum(map(len, segments))
    if idle and len(segments) > 2 and total <= options.max_segment_rows:
        if max(map(len, segments)) < 0.75 * total:
            return segments
        largest = max(range(len(segments)), key=lambda i: len(segments[i]))
        rest = segments[largest + 1 :]
        return rest if len(rest) > 2 else ()
    return ()


def merge(collection: Collection, old: Sequence[Segment]) -> None:
    """Replace neighbouring segments by one over the same rows, coded by the newest binarizer."""
    view = collection.view
    span = (old[0].first_row, old[-1].end_row)
    alive = _alive_rows(old)
    version, view = _binarizer_for(collection, view, alive)
    pieces = _filtered(view.pieces(*span), alive)
    data = encode_rows(pieces, span, version, view.binarizers[version], collection.config.distance)
    merged = Segment.build(data, collection.config.distance) if len(data.codes) else None
    path = collection.folder / "codes" / codes_name(span, version)
    if merged is not None and len(data.codes) >= collection.options.save_rows:
        _save_if_room(path, data)
    with collection.committer.lock:
        now = collection.view
        replaced = [s for s in now.segments if span[0] <= s.first_row and s.end_row <= span[1]]
        others = [s for s in now.segments if s.end_row <= span[0] or s.first_row >= span[1]]
        if merged is not None:
            died = np.setdiff1d(alive, _alive_rows(replaced), assume_unique=True)
            others.append(merged.without(died))
        segments = tuple(sorted(others, key=lambda segment: segment.first_row))
        collection.show(replace(now, segments=segments))
    _remove_superseded(collection, span, path.name)


def _save_if_room(path: Path, data: SegmentData) -> None:
    """Save codes; on a full disk go on without: they are derived, and the next close tries again."""
    try:
        save(path, data)
    except DiskFull as error:
        log.warning("codes are not saved, the next start makes them again: %s", error)


def _alive_rows(segments: Iterable[Segment]) -> Rows:
    parts = [segment.alive_rows() for segment in segments]
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)


def _filtered(pieces: Iterable[tuple[Rows, Float32s]], alive: Rows) -> Iterator[tuple[Rows, Float32s]]:
    for rows, vectors in pieces:
        keep = _contained(rows, alive)
        yield (rows, vectors) if keep.all() else (rows[keep], vectors[keep])


def _contained(rows: Rows, ascending: Rows) -> NDArray[np.bool_]:
    """Return which rows are in an ascending list."""
    if not len(ascending):
        return np.zeros(len(rows), dtype=np.bool_)
    at = np.minimum(np.searchsorted(ascending, rows), len(ascending) - 1)
    return np.asarray(ascending[at] == rows)


def _binarizer_for(collection: Collection, view: View, alive: Rows) -> tuple[int, View]:
    """Return the newest binarizer's version, fitting a new one when the collection has outgrown it."""
    version = max(view.binarizers)
    with collection.record.snapshot() as reader:
        fitted_on = {number: rows for number, rows, *_ in reader.binarizers()}
    if len(alive) < REFIT_GROWTH * fitted_on.get(version, 0):
        return version, view
    binarizer = collection.fit(view, alive)

    def work(writer: Writer) -> Callable[[], None]:
        nonlocal version
        now = collection.view
        version = writer.add_binarizer(len(alive), binarizer.to_bytes())
        kept = {segment.binarizer: now.binarizers[segment.binarizer] for segment in now.segments}
        writer.drop_binarizers({*kept, version})
        changed = replace(now, seq=now.seq + 1, binarizers={**kept, version: binarizer})
        return partial(collection.show, changed)

    collection.committer.exclusive(work)
    return version, replace(view, binarizers={**view.binarizers, version: binarizer})


def _remove_superseded(collection: Collection, span: tuple[int, int], keep: str) -> None:
    for path in (collection.folder / "codes").glob("*.codes"):
        first, end = span_of(path)
        if path.name != keep and first >= span[0] and end <= span[1]:
            path.unlink(missing_ok=True)


def save_all(collection: Collection) -> None:
    """Save the codes of segments that have no file, so that the next start need not make them again."""
    view = collection.view
    folder = collection.folder / "codes"
    for segment in view.segments:
        span = (segment.first_row, segment.end_row)
        path = folder / codes_name(span, segment.binarizer)
        if path.exists():
            continue
        pieces = _filtered(view.pieces(*span), _alive_rows([segment]))
        binarizer = view.binarizers[segment.binarizer]
        save(path, encode_rows(pieces, span, segment.binarizer, binarizer, collection.config.distance))


def compaction_candidates(collection: Collection, dead_share: float) -> list[VectorMap]:
    """Return neighbouring full vector files to rewrite as one without dead rows, none if all is well."""
    view = collection.view
    maps = view.maps[:-1]  # the newest file is still appended to
    if sum(map(len, view.maps)) <= sum(segment.count for segment in view.segments):
        return []  # the usual case: nothing was deleted
    rows = view.alive_rows()
    capacity = max((len(mapped) for mapped in maps), default=0)
    chosen: list[VectorMap] = []
    kept_rows = 0
    for mapped in maps:
        low, high = np.searchsorted(rows, [mapped.first_row, mapped.end_row])
        alive = int(high - low)
        worth = alive < len(mapped) and len(mapped) - alive >= len(mapped) * dead_share
        fits = kept_rows + alive <= capacity
        if chosen and not (worth and fits):
            break
        if worth:
            chosen.append(mapped)
            kept_rows += alive
    return chosen


def compact(collection: Collection, old: Sequence[VectorMap]) -> None:
    """Rewrite neighbouring vector files as one file of the rows that still count."""
    folder = collection.folder / "vectors"
    view = collection.view
    first, end = old[0].first_row, old[-1].end_row
    rows = view.alive_rows()
    rows = rows[(rows >= first) & (rows < end)]
    with collection.record.snapshot() as reader:
        entries = [e for e in reader.files() if e.name in {mapped.path.name for mapped in old}]
    new: FileEntry | None = None
    checksums: list[tuple[int, int, int]] = []
    if len(rows):
        new = FileEntry(file_name(first, f"-{view.seq}"), first, entries[-1].end_row, len(rows))
        size = chunk_rows(collection.config.dimension)
        pieces = [rows[start : start + size] for start in range(0, len(rows), size)]
        layout = Layout(
            dimension=collection.config.dimension,
            value_bytes=old[0].layout.value_bytes,
            first_row=first,
            table=len(rows),
        )
        stored = (_as_stored(view.read(piece), old[0]) for piece in pieces)
        crcs = write_with_holes(folder / new.name, layout, rows, stored)
        checksums = [(i * size, len(piece), crc) for i, (piece, crc) in enumerate(zip(pieces, crcs, strict=True))]
    _swap_files(collection, entries, new, checksums, rows)


def _as_stored(vectors: Float32s, like: VectorMap) -> NDArray[np.floating]:
    return vectors.astype(like.vectors.dtype, copy=False)


def _swap_files(
    collection: Collection,
    old: Sequence[FileEntry],
    new: FileEntry | None,
    checksums: Sequence[tuple[int, int, int]],
    rows: Rows,
) -> None:
    folder = collection.folder / "vectors"
    names = {entry.name for entry in old}
    fresh = [map_file(folder, new, collection.config)] if new is not None else []

    def work(writer: Writer) -> Callable[[], None]:
        dead = writer.tombstones()
        dead = dead[(dead >= old[0].first_row) & (dead < old[-1].end_row)]
        dropped = np.setdiff1d(dead, rows, assume_unique=True).tolist()
        writer.swap_files(old, new, checksums, dropped)
        now = collection.view
        maps = [*(mapped for mapped in now.maps if mapped.path.name not in names), *fresh]
        ordered = tuple(sorted(maps, key=lambda mapped: mapped.first_row))
        return partial(collection.show, replace(now, seq=now.seq + 1, maps=ordered))

    try:
        collection.committer.exclusive(work)
    except DiskFull:
        for mapped in fresh:
            mapped.path.unlink(missing_ok=True)
        raise
    for entry in old:
        (folder / entry.name).unlink()


def step(collection: Collection, *, idle: bool) -> bool:
    """Do the next piece of upkeep; return whether there was one."""
    with collection.upkeep:
        if collection.closed or collection.committer.read_only:
            return False
        with collection.committer.lock:
            collection.record.trim_log()
            if idle:
                collection.record.release_memory()
        if idle and collection.view.binarizers and collection.view.tail.count >= collection.options.tail_rows / 4:
            collection.seal()
            return True
        segments = merge_candidates(collection, idle=idle)
        if segments:
            merge(collection, segments)
            return True
        files = compaction_candidates(collection, collection.options.dead_share)
        if files:
            compact(collection, files)
            return True
        return False


def optimize(collection: Collection) -> None:
    """Do all upkeep at once: codes for every row, one segment, no dead rows but in the newest file."""
    collection.seal()
    with collection.upkeep:
        if collection.closed:
            return
        segments = collection.view.segments
        if len(segments) > 1 or any(segment.count < len(segment) for segment in segments):
            merge(collection, segments)
        files = compaction_candidates(collection, 0.0)
        while files:
            compact(collection, files)
            files = compaction_candidates(collection, 0.0)


class Maintainer:
    """A thread that keeps collections in shape."""

    def __init__(self, collections: Callable[[], list[Collection]], idle_seconds: float) -> None:
        self._collections = collections
        self._idle_seconds = idle_seconds
        self._wake = threading.Condition()
        self._due = False
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="bitfold-maintenance", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Say that there may be work."""
        with self._wake:
            self._due = True
            self._wake.notify()

    def stop(self) -> None:
        """Finish the piece of work under way and end the thread."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping:
            worked = any([self._tend(collection) for collection in self._collections()])
            with self._wake:
                if not worked and not self._due and not self._stopping:
                    self._wake.wait(timeout=self._idle_seconds)
                self._due = False

    def _tend(self, collection: Collection) -> bool:
        idle = time.monotonic() - collection.last_write > self._idle_seconds
        try:
            return not self._stopping and step(collection, idle=idle)
        except DiskFull as error:
            log.warning("upkeep of %s waits: %s", collection.name, error)
        except Exception:  # noqa: BLE001 - upkeep must not end; nothing it does is needed for the truth
            log.exception("upkeep of %s failed; it is tried again", collection.name)
        with self._wake:
            if not self._stopping:
                self._wake.wait(timeout=RETRY_SECONDS)
        return False
