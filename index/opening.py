"""From what lies on disk to a view: map the vectors, load the codes, make again what is missing."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from index.binarizer import Binarizer, BinarizerFactory
from index.blobs import DamagedBlobs
from index.codes_file import DamagedCodes, load, span_of
from index.errors import CorruptCollection
from index.graph_file import graph_path, load_links
from index.lists_file import lists_path, load_lists
from index.points import NUMPY_TYPES, CollectionConfig, Rows
from index.record import FileEntry, Reader
from index.segment import Segment
from index.segment_data import SegmentData, encode_rows
from index.vector_file import VectorMap
from index.view import Tail, View

log = logging.getLogger(__name__)

LAYOUTS = ("*.lists", "*.graph")  # files beside those of the codes
REBUILD_ROWS = 262_144  # rows a segment when codes are made again: bounds the memory of a rebuild


def map_file(folder: Path, entry: FileEntry, config: CollectionConfig) -> VectorMap:
    """Map a file's committed rows. Raises CorruptCollection when it is not what the record says."""
    path = folder / entry.name
    mapped = VectorMap(path, rows=entry.rows)
    layout = mapped.layout
    wanted = (config.dimension, NUMPY_TYPES[config.dtype].itemsize)
    fits = (layout.dimension, layout.value_bytes) == wanted and layout.first_row == entry.first_row
    if not fits or layout.table not in (0, entry.rows):
        raise CorruptCollection(f"{path}: the header does not fit the record")
    return mapped


def remove_strays(folder: Path, known: set[str]) -> None:
    """Remove files that no commit names: what a crash left behind."""
    for path in folder.iterdir():
        if path.is_file() and path.name not in known:
            log.info("removing %s, which no commit names", path)
            path.unlink()


def load_binarizers(reader: Reader, factory: BinarizerFactory, config: CollectionConfig) -> dict[int, Binarizer]:
    """Load every sound binarizer; damaged ones are left out with a warning (their codes are made again)."""
    found: dict[int, Binarizer] = {}
    for version, _, checksum, data in reader.binarizers():
        try:
            if zlib.crc32(data) != checksum:
                raise ValueError("the checksum does not fit")
            binarizer = factory.load(data)
            if binarizer.dimension != config.dimension:
                raise ValueError(f"it is for {binarizer.dimension} dimensions")
            found[version] = binarizer
        except Exception as error:  # noqa: BLE001 - derived: whatever is wrong, it is fitted again
            log.warning("binarizer %d is unusable (%s); codes made with it are made again", version, error)
    return found


def load_named(
    folder: Path, names: list[str], binarizers: dict[int, Binarizer], end_row: int
) -> dict[str, SegmentData]:
    """Load the codes files that are truth, by name. Raises CorruptCollection unless all are as they were written."""
    found: dict[str, SegmentData] = {}
    at = 0
    for name in sorted(names, key=lambda name: span_of(Path(name))):
        path = folder / name
        hint = "restore it from a backup: the vectors that these codes were made from are dropped"
        try:
            data = load(path)
        except DamagedCodes as error:
            raise CorruptCollection(str(error), hint=hint) from error
        binarizer = binarizers.get(data.binarizer)
        if binarizer is None:
            record = folder.parent / "record.db"
            raise CorruptCollection(f"{record}: binarizer {data.binarizer}, which made {path}, is damaged", hint=hint)
        if data.first_row < at or data.end_row > end_row or not _made_by(binarizer, data):
            raise CorruptCollection(f"{path}: it does not fit the record", hint=hint)
        found[name] = data
        at = data.end_row
    return found


def load_codes(
    folder: Path, binarizers: dict[int, Binarizer], end_row: int, named: dict[str, SegmentData]
) -> list[SegmentData]:
    """Load sound codes files that overlap neither each other nor those that are truth, the larger and newer ones.

    The rest is removed. Returns all, in the order of rows.
    """
    sound: list[tuple[Path, SegmentData]] = []
    remove_strays(folder, {path.name for pattern in ("*.codes", *LAYOUTS) for path in folder.glob(pattern)})
    for path in sorted(path for path in folder.glob("*.codes") if path.name not in named):
        try:
            data = load(path)
        except DamagedCodes as error:
            log.warning("codes are made again from the vectors: %s", error)
            path.unlink()
            continue
        binarizer = binarizers.get(data.binarizer)
        if binarizer is None or data.end_row > end_row or not _made_by(binarizer, data):
            log.warning("%s does not fit the record; its codes are made again", path)
            path.unlink()
            continue
        sound.append((path, data))
    chosen = list(named.values())
    for path, data in sorted(sound, key=lambda pair: (-len(pair[1]), -pair[1].binarizer)):
        if all(data.end_row <= other.first_row or data.first_row >= other.end_row for other in chosen):
            chosen.append(data)
        else:
            path.unlink()
    layouts = {path(folder, data).name for data in chosen for path in (lists_path, graph_path)}
    for pattern in LAYOUTS:
        for path in folder.glob(pattern):
            if path.name not in layouts:
                path.unlink()
    return sorted(chosen, key=lambda data: data.first_row)


def _made_by(binarizer: Binarizer, data: SegmentData) -> bool:
    return data.planes.shape[1:] == (binarizer.bits, binarizer.code_dimension // 8)


def gaps(covered: list[SegmentData], end_row: int) -> list[tuple[int, int]]:
    """Return the ranges below `end_row` that no segment covers."""
    found, at = [], 0
    for data in covered:
        if data.first_row > at:
            found.append((at, data.first_row))
        at = data.end_row
    if at < end_row:
        found.append((at, end_row))
    return found


def open_view(
    folder: Path,
    reader: Reader,
    config: CollectionConfig,
    factory: BinarizerFactory,
    *,
    tail_rows: int,
    first_fit: int,
    mapped: bool,
    fit: Callable[[View], tuple[int, Binarizer]],
) -> View:
    """Build the view of the last commit.

    Parameters
    ----------
    folder : the collection's directory, with `vectors/` and `codes/`.
    tail_rows, first_fit : see `StoreOptions`.
    mapped : codes stay in their files.
    fit : fits a binarizer to a view's vectors and keeps it; asked when there is none that can be used.
    """
    files = reader.files()
    maps = tuple(map_file(folder / "vectors", entry, config) for entry in files if entry.rows)
    end_row = files[-1].end_row if files else 0
    dead = reader.tombstones()
    binarizers = load_binarizers(reader, factory, config)
    truth = load_named(folder / "codes", reader.codes(), binarizers, end_row)
    named = {data.first_row: name for name, data in truth.items()}
    # Nothing is removed before what must be there is known to be.
    remove_strays(folder / "vectors", {entry.name for entry in files})
    covered = load_codes(folder / "codes", binarizers, end_row, truth)
    missing = gaps(covered, end_row) if reader.count() else []
    start = missing[-1][0] if missing and missing[-1][1] == end_row else end_row
    if end_row - start < (tail_rows if binarizers else first_fit):
        missing = missing[:-1] if start < end_row else missing
    else:
        start = end_row
    tail = _tail(maps, start, end_row, config.dimension).without(dead)
    view = View(seq=reader.seq(), maps=maps, segments=(), tail=tail, binarizers=binarizers, named=named)
    if missing and not binarizers:
        version, binarizer = fit(view)
        view = replace(view, seq=view.seq + 1, binarizers={version: binarizer})
    segments = [_without_missing(_built(folder / "codes", data, config, mapped=mapped), view, dead) for data in covered]
    for gap in missing:
        segments += _encode_gap(view, gap, dead, config)
    kept = (segment for segment in segments if segment.count or segment.first_row in named)
    view = replace(view, segments=tuple(sorted(kept, key=lambda segment: segment.first_row)))
    if named and view.points != reader.count():
        raise CorruptCollection(
            f"{folder / 'record.db'}: {reader.count()} points, but vectors or codes of {view.points}",
            hint="restore the collection from a backup",
        )
    return view


def _built(folder: Path, data: SegmentData, config: CollectionConfig, *, mapped: bool) -> Segment:
    """Return a segment of codes, in its lists or its graph if all of it was found and saved."""
    graph = config.index == "graph" and not mapped
    path = graph_path(folder, data) if graph else lists_path(folder, data)
    if path.exists():
        try:
            segment = _in_graph(path, data, config) if graph else _in_lists(path, data, config, mapped=mapped)
            if segment is not None:
                return segment
        except (DamagedBlobs, ValueError) as error:
            log.warning("%s does not fit its codes, and is made again: %s", path, error)
            path.unlink()
    return Segment.build(data, config.distance, filed=data.planes, mapped=mapped)


def _in_lists(path: Path, data: SegmentData, config: CollectionConfig, *, mapped: bool) -> Segment | None:
    saved = load_lists(path, data, config.dimension)
    if saved.next_row < data.end_row:
        return None
    return Segment.build(data, config.distance, saved.lists, filed=data.planes, mapped=mapped)


def _in_graph(path: Path, data: SegmentData, config: CollectionConfig) -> Segment | None:
    links = load_links(path, data)
    return Segment.build(data, config.distance, links=links) if len(links.levels) == len(data) else None


def _tail(maps: tuple[VectorMap, ...], start: int, end_row: int, dimension: int) -> Tail:
    tail = Tail.empty(start, dimension)
    if start == end_row:
        return tail
    vectors = np.zeros((end_row - start, dimension), dtype=np.float32)
    present = np.zeros(end_row - start, dtype=np.bool_)
    view = View(seq=0, maps=maps, segments=(), tail=tail, binarizers={})
    for rows, piece in view.pieces(start, end_row):
        vectors[rows - start] = piece
        present[rows - start] = True
    return replace(tail.extended(vectors), alive=present)


def _without_missing(segment: Segment, view: View, dead: Rows) -> Segment:
    """Mark tombstones and, unless the codes are truth, rows that no vector file holds any more."""
    if segment.first_row in view.named:
        return segment.without(dead)
    flags = np.zeros(len(segment), dtype=np.bool_)
    for mapped in view.maps:
        if mapped.end_row > segment.first_row and mapped.first_row < segment.end_row:
            flags |= segment.flags_of(mapped.row_numbers())
    if not flags.all():
        segment = segment.without(segment.rows_at(np.flatnonzero(~flags)))
    return segment.without(dead)


def _encode_gap(view: View, gap: tuple[int, int], dead: Rows, config: CollectionConfig) -> list[Segment]:
    version = max(view.binarizers)
    segments: list[Segment] = []
    if not any(mapped.first_row < gap[1] and mapped.end_row > gap[0] for mapped in view.maps):
        return segments  # all of these rows died long ago
    log.warning("making the codes of rows %d to %d again from their vectors", gap[0], gap[1] - 1)
    for first_row in range(gap[0], gap[1], REBUILD_ROWS):
        span = (first_row, min(first_row + REBUILD_ROWS, gap[1]))
        data = encode_rows(view.pieces(*span), span, version, view.binarizers[version], config.distance)
        if len(data):
            segments.append(Segment.build(data, config.distance).without(dead))
    return segments
