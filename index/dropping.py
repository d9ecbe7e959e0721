"""Drops full-precision vectors from collections that keep codes only, one whole file at a time.

First the codes of a file's rows are made truth: durable, and named in the record. Then one transaction forgets the
file, and it is removed. A crash leaves the vectors, or codes that are truth, or both.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np

from index.collection import Collection
from index.exact import Scorer, search_exact
from index.funnel import search_codes
from index.merging import merge
from index.points import CodesOnlyLoss, Distance, Rows, SearchParams
from index.record import FileEntry, Writer
from index.segment import Segment
from index.view import Tail, View

log = logging.getLogger(__name__)

NEIGHBOURS = 10  # the exact best that codes are to find
QUERIES = 200
SEED = 0
CODES_ALONE = SearchParams(exact=False, rerank=0)


def drop_vectors(collection: Collection) -> bool:
    """Drop the vector files whose rows all have codes, but never the newest; return whether there were any.

    Does nothing where vectors are kept. The caller holds `collection.upkeep`. Before the first vectors go, what that
    loses is measured and kept in the record.
    """
    if collection.config.store_vectors or len(collection.view.maps) < 2:
        return False
    with collection.snapshot() as (view, reader):
        files = [entry for entry in reader.files()[:-1] if entry.end_row <= view.tail.first_row]
    segments = [segment for segment in view.segments if _overlaps(segment, files)]
    loss = collection.loss
    if loss is None and any(segment.count for segment in segments):
        coded = replace(view, tail=Tail.empty(view.tail.first_row, collection.config.dimension))
        if coded.points < 2:
            return False  # nothing to compare with yet
        loss = measure_loss(coded, collection.config.distance)
    for segment in segments:
        if segment.first_row not in view.named:
            merge(collection, [segment], segment.binarizer, as_truth=True)
    if files:
        _forget(collection, files, loss)
    return bool(files)


def _overlaps(segment: Segment, files: Sequence[FileEntry]) -> bool:
    return any(segment.first_row < entry.end_row and segment.end_row > entry.first_row for entry in files)


def _forget(collection: Collection, files: Sequence[FileEntry], loss: CodesOnlyLoss | None) -> None:
    """Take vector files out of the record, with the tombstones that only they needed, then remove them."""
    names = {entry.name for entry in files}

    def work(writer: Writer) -> Callable[[], None]:
        now = collection.view
        coded = [_all_rows(segment) for segment in now.segments if segment.first_row in now.named]
        held = np.concatenate([np.empty(0, dtype=np.int64), *coded])
        tombstones = writer.tombstones()
        for entry in files:
            points = writer.points_between(entry.first_row, entry.end_row)
            without = np.setdiff1d(points, held, assume_unique=True)
            if len(without):
                raise RuntimeError(f"{entry.name} stays: {len(without)} of its points have no codes that are truth")
            dead = tombstones[(tombstones >= entry.first_row) & (tombstones < entry.end_row)]
            writer.forget(np.setdiff1d(dead, held, assume_unique=True).tolist())
        writer.swap_files(files, None, [], [])
        if loss is not None:
            writer.set_loss(loss)
        maps = tuple(mapped for mapped in now.maps if mapped.path.name not in names)
        after = replace(now, seq=now.seq + 1, maps=maps)

        def show() -> None:
            collection.loss = loss
            collection.show(after)

        return show

    collection.committer.exclusive(work)
    for entry in files:
        (collection.folder / "vectors" / entry.name).unlink()
    log.info("%s: dropped the vectors of rows %d to %d", collection.name, files[0].first_row, files[-1].end_row - 1)


def _all_rows(segment: Segment) -> Rows:
    """Return the rows that a segment's file holds, whether they count or not."""
    return segment.rows_at(np.arange(len(segment)))


def measure_loss(view: View, distance: Distance) -> CodesOnlyLoss:
    """Measure what codes alone find of the exact best, with vectors of the view itself as queries.

    Parameters
    ----------
    view : two or more points, all with codes and with vectors.
    """
    rows = view.alive_rows()
    top = min(NEIGHBOURS, len(rows) - 1)
    rng = np.random.default_rng(SEED)
    chosen = np.sort(rng.choice(rows, min(QUERIES, len(rows)), replace=False))
    found = dict.fromkeys((10, 20, 100), 0)
    bits = 0
    for row, query in zip(chosen, view.read(chosen), strict=True):
        scorer = Scorer(query, distance)
        exact = search_exact(view, scorer, top + 1, None, None).rows
        nearest = exact[exact != row][:top]
        [ranking] = search_codes(view, [scorer], max(found) + 1, None, CODES_ALONE, None)
        coded = ranking.rows[ranking.rows != row]
        bits = ranking.stages.bits
        for k in found:
            found[k] += len(np.intersect1d(nearest, coded[:k], assume_unique=True))
    recalls = {f"recall_at_{k}": round(hits / (top * len(chosen)), 4) for k, hits in found.items()}
    now = datetime.now(UTC).isoformat(timespec="seconds")
    loss = CodesOnlyLoss(**recalls, points=len(rows), queries=len(chosen), bits=bits, measured_at=now)
    log.info("vectors are about to be dropped; codes alone reach %s", loss)
    return loss
