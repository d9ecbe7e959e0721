"""A collection: durable points, codes in memory. Joins record, vectors and codes; how it is read: `index/reading.py`.

Any number of threads may call it. Writers share commits (`index/commit.py`); each commit publishes an
immutable view; a reader keeps the view and the SQLite snapshot that it started with.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import orjson

from index import durable
from index.appender import VectorAppender
from index.binarizer import Binarizer, BinarizerFactory
from index.calibration import Calibration, load_calibration
from index.clustering import Clustering
from index.commit import Change, Committer
from index.errors import InvalidInput
from index.fields.bitmaps import bitmap_of
from index.fields.indexes import Changes, PayloadIndexes
from index.filters import Filter
from index.graph_building import GraphBuilding
from index.ids import PointId
from index.info import codes_in_memory, describe
from index.measuring import Measuring
from index.meter import RecallMeter
from index.opening import open_view
from index.options import StoreOptions
from index.parallel import Workers
from index.payload import PayloadEdit
from index.points import (
    Batch,
    CollectionConfig,
    CollectionInfo,
    Float32s,
    Rows,
    prepare_vectors,
)
from index.reading import Reading
from index.record import FileEntry, Record, Writer
from index.sealing import sealed
from index.selecting import select
from index.selections import Selections
from index.view import View

log = logging.getLogger(__name__)

T = TypeVar("T")

SEED = 0
ASKED = 256  # queries that are remembered, to calibrate with
CODES_ONLY_FILE_BYTES = 16 * 1024 * 1024  # the newest vector file stays: let that be little
EDIT_ROWS = 10_000  # payloads held at once while a filter's points are edited


class Collection(Reading):
    """One collection in its directory. Made and opened by `Store`."""

    def __init__(
        self,
        folder: Path,
        factory: BinarizerFactory,
        options: StoreOptions,
        workers: Workers,
        room: int | None = None,
    ) -> None:
        """Open the collection that lies in `folder`. Raises CorruptCollection if its truth is damaged.

        room : bytes in memory for its codes; where they take more, they stay in their files. None: any.
        """
        self.folder = folder
        self.name = folder.name
        self.factory = factory
        self.workers = workers
        self.record = Record(folder / "record.db")
        self.on_change: Callable[[], None] = lambda: None
        self.last_write = time.monotonic()
        self.last_search = -math.inf
        self.closed = False
        self.upkeep = threading.Lock()  # held by the one who merges or compacts
        self.layout: Clustering | GraphBuilding | None = None  # of a segment's codes, that upkeep is making
        self.calibration_path = folder / "calibration.npz"
        self.calibration: Calibration | None = load_calibration(self.calibration_path)
        self.measuring: Measuring | None = None  # the calibration that upkeep is making
        self.selections = Selections()
        self.meter = RecallMeter(options.recall_sample)
        self.asked: deque[Float32s] = deque(maxlen=ASKED)  # queries of late, (d,) float32
        try:
            files = self._open(options, room)
            most = options.file_bytes if self.config.store_vectors else CODES_ONLY_FILE_BYTES
            file_bytes = min(options.file_bytes, most)
            self._appender = VectorAppender(folder / "vectors", self.config, files, file_bytes)
        except BaseException:
            self.record.close()
            raise
        self._committer = Committer(self.record, self._appender, self._prepare)

    def _open(self, options: StoreOptions, room: int | None) -> list[FileEntry]:
        """Build the view of the last commit; return the vector files."""
        folder = self.folder
        with self.record.snapshot() as reader:
            self.config = reader.config()
            self.options = options = options.for_dimension(self.config.dimension)
            files = reader.files()
            durable.make_folder(folder / "codes")
            self.loss = reader.loss()
            self.codes_mapped = room is not None and codes_in_memory(folder / "codes", reader.count()) > room
            self._view = open_view(
                folder,
                reader,
                self.config,
                self.factory,
                tail_rows=options.tail_rows,
                first_fit=options.first_fit,
                mapped=self.codes_mapped,
                fit=self._fit_alone,
            )
        self.fields = PayloadIndexes(self._view.seq, bitmap_of(self._view.alive_rows()), self._view.tail.end_row)
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
        distinct = prepared.last_of_each_id()
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
            rows = self._selected(change, filter)
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
                rows = self._selected(change, filter or Filter())
            for start in range(0, len(rows), EDIT_ROWS):
                found = change.writer.points_of(rows[start : start + EDIT_ROWS], payload=True)
                edited = ((row, _edited(edit, payload)) for row, (_, payload) in found.items())
                change.edit(edited)
            return len(rows)

        return self._run(apply)

    def _selected(self, change: Change, filter: Filter) -> list[int]:
        # What others of the same commit have done, no index has followed yet.
        indexes = self.fields if change.empty else None
        chosen = select(change.writer, filter, None, indexes=indexes, view=self._view)
        rows: list[int] = chosen.rows.tolist()
        return rows

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

        rows = sum(map(len, change.appended))
        changes = Changes(view.tail.end_row - rows, change.payloads, change.dead.tolist(), change.edited)

        def show() -> None:
            self._follow(view.seq, changes)
            self._view = view
            if sealing:
                self.on_change()

        return show

    def _follow(self, seq: int, changes: Changes) -> None:
        try:
            self.fields.commit(seq, changes)
        except Exception:  # noqa: BLE001 - the commit is durable: what is derived must not undo it
            log.exception("payload indexes of %s cannot follow a commit; filters read payloads from now on", self.name)
            self.fields.give_up()

    def _sealed(self, view: View, writer: Writer) -> View:
        return sealed(view, writer, self.folder, self.config, self.fit)

    def fit(self, view: View, rows: Rows) -> Binarizer:
        """Fit a binarizer to an even sample of a view's rows."""
        sample = rows[:: -(-len(rows) // self.options.fit_rows)]
        config = self.config
        return self.factory.fit(view.read(sample), SEED, bits=config.bits, dimensions=config.code_dimension)

    def adopt(self, binarizer: Binarizer) -> int:
        """Code new rows with a binarizer from now on; durable when this returns. Returns its version.

        Codes that are there stay as they are until they merge or `maintenance.upgrade` makes them again; they are
        searched through their own binarizers. The newest binarizer, brought in again, keeps its version.
        Raises InvalidInput when it is not for this collection's vectors.
        """
        if binarizer.dimension != self.config.dimension:
            raise InvalidInput(
                f"the binarizer is for vectors of dimension {binarizer.dimension}, the collection's have "
                f"{self.config.dimension}",
                param="binarizer",
                hint="train one on vectors of this collection's space",
            )
        self.config.check_bits(binarizer.bits)
        data = binarizer.to_bytes()
        version = 0

        def work(writer: Writer) -> Callable[[], None]:
            nonlocal version
            view = self._view
            version = max(view.binarizers, default=0)
            if not version or view.binarizers[version].identity != binarizer.identity:
                version = writer.add_binarizer(view.points, data)
            # What the next start will load is used from the beginning.
            binarizers = {**view.binarizers, version: self.factory.load(data)}
            return partial(self.show, replace(view, seq=view.seq + 1, binarizers=binarizers))

        self._committer.exclusive(work)
        return version

    def _fit_alone(self, view: View) -> tuple[int, Binarizer]:
        """Fit a binarizer to a view whose binarizers are lost."""
        with self.record.transaction() as writer:
            rows = writer.rows()
            binarizer = self.fit(view, rows)
            version = writer.add_binarizer(len(rows), binarizer.to_bytes())
            writer.drop_binarizers([version])
            return version, binarizer

    # Upkeep

    @property
    def committer(self) -> Committer:
        """What writes go through; its lock guards the view."""
        return self._committer

    def show(self, view: View) -> None:
        """Publish a view; the caller holds the committer's lock."""
        self._view = view

    def info(self) -> CollectionInfo:
        """Return counts and sizes."""
        layout = self.layout
        return describe(
            self._view,
            self.config,
            self.record,
            mapped=self.codes_mapped,
            building=None if layout is None else layout.share,
            read_only=self._committer.read_only,
            loss=self.loss,
        )

    def close(self) -> None:
        """Wait for upkeep and commits under way, close the files. Whoever still reads keeps what it has."""
        with self.upkeep, self._committer.lock:
            self.closed = True
            self._appender.close()
            self.record.close()


def _edited(edit: PayloadEdit, payload: bytes | None) -> bytes:
    return orjson.dumps(edit.apply(orjson.loads(payload or b"{}")))
