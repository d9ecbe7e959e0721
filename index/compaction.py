"""Gives disk space back: vector files that hold mostly dead rows are rewritten without them.

The new file is built beside the old ones; the record names it in their place in one transaction, which applies the
deletes made meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from index.appender import file_name
from index.collection import Collection
from index.errors import DiskFull
from index.opening import map_file
from index.points import Float32s, Rows
from index.record import FileEntry, Writer
from index.vector_file import Layout, VectorMap, chunk_rows, write_with_holes


def compaction_candidates(collection: Collection, dead_share: float) -> list[VectorMap]:
    """Return neighbouring full vector files to rewrite as one without dead rows, none if all is well."""
    if not collection.config.store_vectors:
        return []  # files are dropped whole, and tombstones must last as long as codes of their rows
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
