"""Decides what upkeep a collection needs, and does it beside reading and writing.

Segments of codes merge by size class, so that a query visits few (`index/merging.py`); large ones get inverted lists
or a graph (`index/layouts.py`); vector files that hold mostly
dead rows are rewritten without them (`index/compaction.py`). Where codes are all that is to be kept, vector files are
dropped once they are coded (`index/dropping.py`).
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable, Sequence

from index.calibrating import calibrate_piece
from index.collection import Collection
from index.compaction import compact, compaction_candidates
from index.dropping import drop_vectors
from index.errors import DiskFull
from index.indexing import fill_piece, save_fields
from index.layouts import layout_piece
from index.merging import alive_rows, merge
from index.metering import meter_piece
from index.segment import Segment
from index.versions import upgrade as upgrade
from index.versions import version_for

log = logging.getLogger(__name__)

# A calibration takes turns with searches for every step in Python. Where there is one already that serves them, a new
# one rests beside them so many times as long as it works (docs/log.md).
REST = 3.0
SEARCHED_SECONDS = 5.0
RETRY_SECONDS = 10.0
SAVED_ROWS = 10_000  # changed rows for which payload indexes are saved again in a quiet time, at least
SAVED_SHARE = 20  # or this part of all


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
    for segment in collection.view.segments:
        if segment.count < len(segment) / 2:
            return (segment,)
    runs = (_of_a_run(run, collection, idle=idle) for run in mergeable_runs(collection))
    return next((chosen for chosen in runs if chosen), ())


def mergeable_runs(collection: Collection) -> list[tuple[Segment, ...]]:
    """Return the runs of neighbouring segments that may become one: all, or those of one binarizer's version.

    Without vectors nothing can be coded again.
    """
    segments = collection.view.segments
    if collection.config.store_vectors:
        return [segments]
    return [tuple(run) for _, run in itertools.groupby(segments, key=lambda segment: segment.binarizer)]


def _of_a_run(segments: tuple[Segment, ...], collection: Collection, *, idle: bool) -> tuple[Segment, ...]:
    options = collection.options
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


def merge_segments(collection: Collection, segments: Sequence[Segment]) -> None:
    """Replace neighbouring segments by one, coded by the binarizer that the collection should have by now.

    Codes that are truth keep the binarizer that they have.
    """
    keep = any(segment.first_row in collection.view.named for segment in segments)
    version = segments[0].binarizer if keep else version_for(collection, alive_rows(segments))
    merge(collection, segments, version)


def ids_piece(collection: Collection) -> bool:
    """Read the next ids of points whose codes are in memory into it; say whether there were any."""
    if collection.codes_mapped:
        return False
    for segment in collection.view.segments:
        if segment.ids.wanted:
            with collection.record.snapshot() as reader:
                segment.ids.read(reader, segment.first_row, segment.offsets)
            return True
    return False


def step(collection: Collection, *, idle: bool) -> bool:
    """Do the next piece of upkeep; return whether there was one."""
    with collection.upkeep:
        if collection.closed or collection.committer.read_only:
            return False
        with collection.committer.lock:
            collection.record.trim_log()
            if idle:
                collection.record.release_memory()
        if fill_piece(collection):
            return True
        collection.fields.purge()
        if idle and collection.fields.changed > max(SAVED_ROWS, collection.view.points // SAVED_SHARE):
            save_fields(collection)
            return True
        if idle and collection.view.binarizers and collection.view.tail.count >= collection.options.tail_rows / 4:
            collection.seal()
            return True
        segments = merge_candidates(collection, idle=idle)
        if segments:
            merge_segments(collection, segments)
            return True
        if drop_vectors(collection):
            return True
        files = compaction_candidates(collection, collection.options.dead_share)
        if files:
            compact(collection, files)
            return True
        if layout_piece(collection) or (idle and ids_piece(collection)):
            return True
        return (idle and calibrate_piece(collection)) or meter_piece(collection)


def optimize(collection: Collection) -> None:
    """Do all upkeep at once: codes for all, one segment with its lists or graph, dead rows in the newest file only."""
    collection.seal()
    with collection.upkeep:
        if collection.closed:
            return
        for segments in mergeable_runs(collection):
            if len(segments) > 1 or any(segment.count < len(segment) for segment in segments):
                merge_segments(collection, segments)
        drop_vectors(collection)
        files = compaction_candidates(collection, 0.0)
        while files:
            compact(collection, files)
            files = compaction_candidates(collection, 0.0)
        while layout_piece(collection) or ids_piece(collection) or calibrate_piece(collection):
            pass


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
        started = time.monotonic()
        idle = started - collection.last_write > self._idle_seconds
        try:
            worked = not self._stopping and step(collection, idle=idle)
            known = collection.calibration
            served = known is not None and known.shape.layouts == collection.view.layouts
            if served and collection.measuring is not None and started - collection.last_search < SEARCHED_SECONDS:
                self._rest(REST * (time.monotonic() - started))
            return worked
        except DiskFull as error:
            log.warning("upkeep of %s waits: %s", collection.name, error)
        except Exception:  # noqa: BLE001 - upkeep must not end; nothing it does is needed for the truth
            log.exception("upkeep of %s failed; it is tried again", collection.name)
        self._rest(RETRY_SECONDS)
        return False

    def _rest(self, seconds: float) -> None:
        with self._wake:
            if not self._stopping:
                self._wake.wait(timeout=seconds)
