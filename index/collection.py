"""A collection: durable points, codes in memory, search. Joins record, vectors, codes and the funnel.

Any number of threads may call it. Writers share commits (`index/commit.py`); each commit publishes an
immutable view; a reader keeps the view and the SQLite snapshot that it started with.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import orjson

from index import durable
from index.appender import VectorAppender
from index.binarizer import Binarizer, BinarizerFactory
from index.commit import Change, Committer
from index.errors import DiskFull, ReadOnlyCollection
from index.filters import Filter
from index.ids import PointId
from index.opening import map_file, open_view
from index.options import StoreOptions
from index.payload import PayloadEdit
from index.points import (
    Batch,
    CollectionConfig,
    CollectionInfo,
    Float32s,
    Hit,
    Point,
    Rows,
    SearchParams,
    SearchResult,
    Stored,
    prepare_vectors,
)
from index.record import FileEntry, Reader, Record, Writer
from index.search import Clock, Ranking, check_deadline, search_codes, search_exact
from index.segment import Segment, encode_rows
from index.view import Tail, View

T = TypeVar("T")

SEED = 0
SNAPSHOT_SECONDS = 10.0
EDIT_ROWS = 10_000  # payloads held at once while a filter's points are edited
CHECK_EVERY = 1024  # rows between two looks at the clock


def matching(reader: Reader, condition: Filter, deadline: float | None) -> Rows:
    """Return the rows, ascending, of the points that fulfil a filter."""
    only = condition.only_ids()
    if only is not None:
        stored = reader.stored(list(only))
        found = [s.row for i, s in stored.items() if condition.matches(i, orjson.loads(s.payload))]
        return np.array(sorted(found), dtype=np.int64)
    if condition == Filter():
        return reader.rows()
    rows = []
    for number, (row, point_id, payload) in enumerate(reader.scan_rows(payload=condition.needs_payload)):
        if number % CHECK_EVERY == 0:
            check_deadline(deadline)
        if condition.matches(point_id, orjson.loads(payload) if condition.needs_payload else {}):
            rows.append(row)
    return np.array(rows, dtype=np.int64)


class Collection:
    """One collection in its directory. Made and opened by `Store`."""

    def __init__(self, folder: Path, factory: BinarizerFactory, options: StoreOptions) -> None:
        """Open the collection that lies in `folder`. Raises CorruptCollection if its truth is damaged."""
        self.folder = folder
        self.name = folder.name
        self.factory = factory
        self.record = Record(folder / "record.db")
        self.on_change: Callable[[], None] = lambda: None
        self.last_write = time.monotonic()
        self.closed = False
        self.upkeep = threading.Lock()  # held by the one who merges or compacts
        try:
            files = self._open(options)
            self._appender = VectorAppender(folder / "vectors", self.config, files, options.file_bytes)
        except BaseException:
            self.record.close()
            raise
        self._committer = Committer(self.record, self._appender, self._prepare)

    def _open(self, options: StoreOptions) -> list[FileEntry]:
        """Build the view of the last commit; return the vector files."""
        folder = self.folder
        with self.record.snapshot() as reader:
            self.config = reader.config()
            self.options = options = options.for_dimension(self.config.dimension)
            files = reader.files()
            (folder / "codes").mkdir(exist_ok=True)
            self._view = open_view(
                folder,
                reader,
                self.config,
                self.factory,
                tail_rows=options.tail_rows,
                first_fit=options.first_fit,
                fit=self._fit_alone,
            )
        return files

    @classmethod
    def create(cls, folder: Path, config: CollectionConfig) -> None:
        """Make an empty collection's files; the folder's own name is the caller's to sync."""
        (folder / "vectors").mkdir(parents=True)
        (folder / "codes").mkdir()
        Record.create(folder / "record.db", config).close()
        durable.sync_directory(folder)

    # Writing

    def upsert(self, batch: Batch) -> None:
        """Write points; durable when this returns. Raises InvalidVector, DiskFull, ReadOnlyCollection."""
        if not len(batch):
            return
        prepared = replace(batch, vectors=prepare_vectors(batch.vectors, self.config))
        distinct = _last_of_each_id(prepared)
        self._run(lambda change: change.put(distinct))

    def delete(self, ids: Sequence[PointId]) -> int:
        """Remove points; return how many there were. Unknown ids are no error."""

        def apply(change: Change) -> int:
            rows = [stored.row for stored in change.writer.stored(ids).values()]
            change.kill(rows)
            return len(rows)

        return self._run(apply)

    def delete_where(self, filter: Filter) -> int:
        """Remove all points that fulfil a filter; return how many there were."""

        def apply(change: Change) -> int:
            rows = matching(change.writer, filter, None).tolist()
            change.kill(rows)
            return len(rows)

        return self._run(apply)

    def edit_payload(
        self, edit: PayloadEdit, ids: Sequence[PointId] | None = None, filter: Filter | None = None
    ) -> int:
        """Edit the payloads of points chosen by id or filter; return how many were chosen."""

        def apply(change: Change) -> int:
            if ids is not None:
                rows = sorted(stored.row for stored in change.writer.stored(ids).values())
            else:
                rows = (matching(change.writer, filter, None) if filter else change.writer.rows()).tolist()
            for start in range(0, len(rows), EDIT_ROWS):
                found = change.writer.points_of(rows[start : start + EDIT_ROWS], payload=True)
                edited = ((row, _edited(edit, payload)) for row, (_, payload) in found.items())
                change.writer.set_payloads(edited)
            return len(rows)

        return self._run(apply)

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Replace the caller's attributes."""
        config = replace(self.config, attributes=dict(attributes))
        self._run(lambda change: change.writer.set_config(config))
        self.config = config

    def seal(self) -> None:
        """Give codes to all rows that have none yet."""

        def work(writer: Writer) -> Callable[[], None]:
            view = replace(self._view, seq=self._view.seq + 1)
            return partial(self.show, self._sealed(view, writer) if view.tail.count else view)

        if self._view.tail.count:
            self._committer.exclusive(work)
            self.on_change()

    def _run(self, apply: Callable[[Change], T]) -> T:
        result = self._committer.run(apply)
        self.last_write = time.monotonic()
        return result

    def _prepare(self, change: Change) -> Callable[[], None]:
        """Build the next view from a change that is about to be committed."""
        view = replace(self._view, seq=self._view.seq + 1)
        tail = view.tail
        for vectors in change.appended:
            tail = tail.extended(vectors)
        view = replace(view, tail=tail).without(change.dead)
        full = self.options.tail_rows if view.binarizers else self.options.first_fit
        sealing = tail.count >= full
        if sealing:
            view = self._sealed(view, change.writer)

        def show() -> None:
            self._view = view
            if sealing:
                self.on_change()

        return show

    def _sealed(self, view: View, writer: Writer) -> View:
        """Return the view with its tail turned into a segment."""
        tail, files = view.tail, writer.files()
        known = {mapped.path.name: mapped for mapped in view.maps}
        maps = []
        for entry in files:
            mapped = known.get(entry.name)
            fresh = mapped is not None and len(mapped) == entry.rows
            maps.append(mapped if mapped and fresh else map_file(self.folder / "vectors", entry, self.config))
        alive = np.flatnonzero(tail.alive)
        binarizers = dict(view.binarizers)
        segments = view.segments
        if len(alive):
            vectors = tail.vectors[alive]
            if not binarizers:
                fitted = self.fit(view, alive + tail.first_row)
                binarizers[writer.add_binarizer(len(alive), fitted.to_bytes())] = fitted
            version = max(binarizers)
            span = (tail.first_row, tail.end_row)
            pieces = [(alive + tail.first_row, vectors)]
            data = encode_rows(pieces, span, version, binarizers[version], self.config.distance)
            segments = (*segments, Segment.build(data, self.config.distance))
        empty = Tail.empty(tail.end_row, self.config.dimension)
        return replace(view, maps=tuple(maps), segments=segments, tail=empty, binarizers=binarizers)

    def fit(self, view: View, rows: Rows) -> Binarizer:
        """Fit a binarizer to an even sample of a view's rows."""
        sample = rows[:: -(-len(rows) // self.options.fit_rows)]
        return self.factory.fit(view.read(sample), SEED)

    def _fit_alone(self, view: View) -> tuple[int, Binarizer]:
        """Fit a binarizer to a view whose binarizers are lost."""
        with self.record.transaction() as writer:
            rows = writer.rows()
            binarizer = self.fit(view, rows)
            version = writer.add_binarizer(len(rows), binarizer.to_bytes())
            writer.drop_binarizers([version])
            return version, binarizer

    # Reading

    @contextmanager
    def snapshot(self) -> Iterator[tuple[View, Reader]]:
        """Take a view and a reader of the record that belong together."""
        with ExitStack() as stack:
            end = time.monotonic() + SNAPSHOT_SECONDS
            while True:
                reader = stack.enter_context(self.record.snapshot())
                view = self._view
                if reader.seq() == view.seq:
                    break
                # Between a COMMIT and its view lie microseconds: begin again.
                stack.close()
                if time.monotonic() > end:
                    raise RuntimeError(f"{self.folder}: the record and the view have come apart; restart the service")
                time.sleep(0.0001)
            yield view, reader

    def stored(self, ids: Sequence[PointId]) -> dict[PointId, Stored]:
        """Return hash and payload of those ids that exist."""
        with self.record.snapshot() as reader:
            return reader.stored(ids)

    def points(self, ids: Sequence[PointId], *, with_vector: bool = False, with_text: bool = False) -> list[Point]:
        """Return those points that exist, in the order of `ids`."""
        with self.snapshot() as (view, reader):
            found = reader.stored(ids)
            chosen = [(point_id, found[point_id]) for point_id in dict.fromkeys(ids) if point_id in found]
            rows = [(stored.row, point_id, stored.payload) for point_id, stored in chosen]
            return _points(view, reader, rows, with_vector=with_vector, with_text=with_text)

    def scroll(
        self,
        *,
        after: PointId | None = None,
        limit: int,
        filter: Filter | None = None,
        with_vector: bool = False,
        with_text: bool = False,
        deadline: float | None = None,
    ) -> tuple[list[Point], PointId | None]:
        """Return up to `limit` points in the order of ids, from `after` (inclusive) on, and the next id."""
        chosen: list[tuple[int, PointId, bytes]] = []
        following = None
        with self.snapshot() as (view, reader):
            for number, (row, point_id, payload) in enumerate(reader.scan(after)):
                if number % CHECK_EVERY == 0:
                    check_deadline(deadline)
                if filter is not None and not filter.matches(point_id, orjson.loads(payload)):
                    continue
                if len(chosen) == limit:
                    following = point_id
                    break
                chosen.append((row, point_id, payload))
            points = _points(view, reader, chosen, with_vector=with_vector, with_text=with_text)
        return points, following

    def count(self, filter: Filter | None = None, deadline: float | None = None) -> int:
        """Return the number of points, of those that fulfil a filter if one is given."""
        with self.record.snapshot() as reader:
            return reader.count() if filter is None else len(matching(reader, filter, deadline))

    def search(
        self,
        queries: Float32s,
        k: int,
        *,
        filter: Filter | None = None,
        params: SearchParams | None = None,
        with_payload: bool = True,
        with_text: bool = False,
        with_vector: bool = False,
        deadline: float | None = None,
    ) -> list[SearchResult]:
        """Find the k best points for each query.

        Parameters
        ----------
        queries : (nq, d) float32; normalised here under Cosine.
        k : how many, at least 1. Never fewer come back while so many (matching) points exist.
        deadline : `time.monotonic()` after which DeadlineExceeded is raised.

        Returns
        -------
        One result a query; scores: higher is better, under Euclid the negative distance.
        """
        params = params or SearchParams()
        prepared = prepare_vectors(queries, self.config)
        if params.exact is False and not self._view.segments:
            # Without room to write the tail stays as it is and is scored exactly.
            with suppress(DiskFull, ReadOnlyCollection):
                self.seal()
        with self.snapshot() as (view, reader):
            started = time.perf_counter()
            allowed = None if filter in (None, Filter()) else matching(reader, filter, deadline)
            filtering = (time.perf_counter() - started) * 1e3
            results = []
            for query in prepared:
                ranking = self._rank(view, query, k, allowed, params, deadline)
                if allowed is not None:
                    ranking.stages.filtered_to = len(allowed)
                    ranking.stages.milliseconds["filter"] = round(filtering, 4)
                with Clock(ranking.stages, deadline).stage("fetch"):
                    hits = _hits(view, reader, ranking, with_payload, with_text, with_vector)
                results.append(SearchResult(hits=hits, stages=ranking.stages))
            return results

    def _rank(
        self,
        view: View,
        query: Float32s,
        k: int,
        allowed: Rows | None,
        params: SearchParams,
        deadline: float | None,
    ) -> Ranking:
        distance = self.config.distance
        exact = view.points <= self.options.exact_below if params.exact is None else params.exact
        if exact:
            return search_exact(view, query, k, distance, allowed, deadline)
        return search_codes(view, query, k, distance, allowed, params.candidates, params.rerank, deadline)

    # Upkeep

    @property
    def view(self) -> View:
        """The picture of the last commit."""
        return self._view

    @property
    def committer(self) -> Committer:
        """What writes go through; its lock guards the view."""
        return self._committer

    def show(self, view: View) -> None:
        """Publish a view; the caller holds the committer's lock."""
        self._view = view

    def info(self) -> CollectionInfo:
        """Return counts and sizes."""
        view = self._view
        coded = sum(segment.count for segment in view.segments)
        code_bytes = sum(segment.bytes_per_point * segment.count for segment in view.segments)
        return CollectionInfo(
            points=view.points,
            indexed=coded,
            segments=len(view.segments),
            rows=view.tail.end_row,
            code_bytes_per_point=code_bytes / coded if coded else 0.0,
            vector_bytes=_folder_bytes(self.folder / "vectors"),
            record_bytes=self.record.bytes_on_disk(),
            code_file_bytes=_folder_bytes(self.folder / "codes"),
            read_only=self._committer.read_only,
        )

    def close(self) -> None:
        """Wait for upkeep and commits under way, close the files. Whoever still reads keeps what it has."""
        with self.upkeep, self._committer.lock:
            self.closed = True
            self._appender.close()
            self.record.close()


def _folder_bytes(folder: Path) -> int:
    total = 0
    for path in folder.iterdir():
        with suppress(FileNotFoundError):  # upkeep replaces files meanwhile
            total += path.stat().st_size
    return total


def _last_of_each_id(batch: Batch) -> Batch:
    last = {point_id: position for position, point_id in enumerate(batch.ids)}
    if len(last) == len(batch):
        return batch
    keep = sorted(last.values())
    return Batch(
        ids=[batch.ids[i] for i in keep],
        vectors=batch.vectors[keep],
        payloads=[batch.payloads[i] for i in keep],
        texts=[batch.texts[i] for i in keep],
        hashes=[batch.hashes[i] for i in keep],
    )


def _edited(edit: PayloadEdit, payload: bytes | None) -> bytes:
    return orjson.dumps(edit.apply(orjson.loads(payload or b"{}")))


def _vectors_of(view: View, rows: Sequence[int]) -> dict[int, Float32s]:
    ordered = np.array(sorted(rows), dtype=np.int64)
    return dict(zip(ordered.tolist(), view.read(ordered), strict=True))


def _points(
    view: View,
    reader: Reader,
    chosen: Sequence[tuple[int, PointId, bytes]],
    *,
    with_vector: bool,
    with_text: bool,
) -> list[Point]:
    rows = [row for row, _, _ in chosen]
    vectors = _vectors_of(view, rows) if with_vector else {}
    texts = reader.texts_of(rows) if with_text else {}
    return [Point(point_id, payload, texts.get(row), vectors.get(row)) for row, point_id, payload in chosen]


def _hits(
    view: View, reader: Reader, ranking: Ranking, with_payload: bool, with_text: bool, with_vector: bool
) -> list[Hit]:
    rows = ranking.rows.tolist()
    points = reader.points_of(rows, payload=with_payload)
    texts = reader.texts_of(rows) if with_text else {}
    vectors = _vectors_of(view, rows) if with_vector else {}
    return [
        Hit(points[row][0], score, points[row][1], texts.get(row), vectors.get(row))
        for row, score in zip(rows, ranking.scores.tolist(), strict=True)
    ]
