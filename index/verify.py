"""Checks a data directory that no service uses: every promise that can be told from the bytes.

Reads only, changes nothing on disk. Opening a collection checks headers and lengths; this checks everything.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import orjson

from index.binarizer import Binarizer, BinarizerFactory
from index.codes import unpack
from index.codes_file import DamagedCodes, load, span_of
from index.errors import CorruptCollection, IndexingError
from index.ids import from_key, parse_id
from index.lock import borrow_lock
from index.points import NUMPY_TYPES, CollectionConfig, Rows, content_hash
from index.record import APPLICATION_ID, FORMAT, FileEntry, Reader
from index.segment_data import SegmentData
from index.store import UNFINISHED
from index.vector_file import HEADER_BYTES, Layout, VectorMap, chunk_rows, read_layout

READ_BYTES = 16 * 1024 * 1024
NORM_TOLERANCE = {"float32": 1e-4, "float16": 1e-2}
MOST_EXAMPLES = 5
HASH_BYTES = 16


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is not as it was written, and the file that it is in."""

    path: str
    message: str


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What is wrong (nothing: the list is empty), and how much of what was checked."""

    problems: list[Problem] = field(default_factory=list)
    checked: dict[str, int] = field(default_factory=dict)


def verify(directory: Path, factory: BinarizerFactory | None = None) -> VerifyReport:
    """Check every collection of a data directory.

    Parameters
    ----------
    directory : the data directory.
    factory : reads the stored binarizers; with it, codes are compared with what the vectors give.

    Raises
    ------
    DataDirLocked : a service uses the directory.
    """
    problems: list[Problem] = []
    checked: Counter[str] = Counter()
    lock = borrow_lock(directory)
    try:
        folder = directory / "collections"
        if not folder.is_dir():
            return VerifyReport([Problem(str(folder), "missing: this is no data directory")])
        for path in sorted(folder.iterdir()):
            if path.is_dir() and not path.name.startswith((*UNFINISHED, ".")):
                checked["collections"] += 1
                _Collection(path, factory, problems, checked).check()
    finally:
        if lock is not None:
            os.close(lock)
    return VerifyReport(problems, dict(checked))


@contextmanager
def read_only(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a record without changing a byte beside it.

    SQLite cannot read a write-ahead log without writing its index file, so where a crash has left a log,
    copies are read.
    """
    log = path.with_name(path.name + "-wal")
    with tempfile.TemporaryDirectory() as scratch:
        if log.exists() and log.stat().st_size:
            shutil.copy(log, scratch)
            path, mode = Path(shutil.copy(path, scratch)), "rw"
        else:
            mode = "ro&immutable=1"
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode={mode}", uri=True)) as db:
            yield db


class _Collection:
    """Checks one collection's directory; adds to the lists that it is given."""

    def __init__(
        self, folder: Path, factory: BinarizerFactory | None, problems: list[Problem], checked: Counter[str]
    ) -> None:
        self._folder = folder
        self._factory = factory
        self._problems = problems
        self._checked = checked
        self._path = folder / "record.db"
        self._maps: list[VectorMap] = []

    def _say(self, path: Path, message: str) -> None:
        self._problems.append(Problem(str(path), message))

    def _say_some(self, path: Path, message: str, which: list[int] | Rows) -> None:
        """Report rows, naming the first few."""
        if len(which):
            named = ", ".join(str(row) for row in which[:MOST_EXAMPLES])
            more = f" and {len(which) - MOST_EXAMPLES} more" if len(which) > MOST_EXAMPLES else ""
            self._say(path, f"{message}: row {named}{more}")

    def check(self) -> None:
        """Check all there is."""
        if not self._path.is_file():
            self._say(self._path, "missing")
            return
        try:
            with read_only(self._path) as db:
                if self._format_is_right(db):
                    self._everything(db)
        except (sqlite3.Error, ValueError, TypeError, KeyError, IndexingError) as error:
            self._say(self._path, f"cannot be read: {error}")

    def _format_is_right(self, db: sqlite3.Connection) -> bool:
        application = db.execute("PRAGMA application_id").fetchone()[0]
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if application != APPLICATION_ID:
            self._say(self._path, "not a Bitfold record (application_id)")
        elif not 1 <= version <= FORMAT:
            self._say(self._path, f"format {version}, this program reads 1 to {FORMAT}")
        else:
            return True
        return False

    def _everything(self, db: sqlite3.Connection) -> None:
        reader = Reader(db)
        for line in reader.integrity():
            self._say(self._path, f"SQLite: {line}")
        config = reader.config()
        held = [self._file(reader, entry, config) for entry in reader.files()]
        self._rows(reader, held, self._codes(reader))
        self._points(db)
        self._texts(db)

    def _file(self, reader: Reader, entry: FileEntry, config: CollectionConfig) -> Rows:
        """Check a vector file; return the rows that it holds, by the record if the file cannot tell."""
        path = self._folder / "vectors" / entry.name
        self._checked["vector files"] += 1
        batches = self._batches(reader, entry)
        try:
            layout = read_layout(path)
            self._header(path, layout, entry, config)
            mapped = VectorMap(path, rows=entry.rows)
            rows = mapped.row_numbers()
            inside = len(rows) == entry.rows and rows[0] >= entry.first_row and rows[-1] < entry.end_row
            if not inside or (np.diff(rows) <= 0).any():
                raise CorruptCollection(f"{path}: the row numbers do not fit the record")
            for batch in batches:
                self._batch(mapped, rows, batch, config)
        except CorruptCollection as error:
            self._say(path, str(error).removeprefix(f"{path}: "))
            return np.arange(entry.first_row, entry.end_row, dtype=np.int64)
        self._maps.append(mapped)
        return rows

    def _batches(self, reader: Reader, entry: FileEntry) -> list[tuple[int, int, int]]:
        """Return a file's batches if they follow each other and add up to the file's rows, else none."""
        batches = reader.batches(entry.name)
        ends = np.cumsum([0, *(count for _, count, _ in batches)])
        if [position for position, *_ in batches] != ends[:-1].tolist() or ends[-1] != entry.rows:
            self._say(self._path, f"the batches of {entry.name} do not add up to its {entry.rows} rows")
            return []
        return batches

    def _header(self, path: Path, layout: Layout, entry: FileEntry, config: CollectionConfig) -> None:
        value_bytes = NUMPY_TYPES[config.dtype].itemsize
        table = entry.rows if layout.table else 0
        if layout != Layout(config.dimension, value_bytes, entry.first_row, table) or not entry.rows:
            raise CorruptCollection(f"{path}: the header does not fit the record")
        with path.open("rb") as file:
            if file.read(HEADER_BYTES) != layout.header():
                self._say(path, "the padding of the header is damaged")

    def _batch(self, mapped: VectorMap, rows: Rows, batch: tuple[int, int, int], config: CollectionConfig) -> None:
        """Check a batch, `(position, count, checksum)`, of a file that holds `rows`."""
        position, count, checksum = batch
        self._checked["batches"] += 1
        step = max(1, READ_BYTES // mapped.layout.row_bytes)
        crc = 0
        for start in range(position, position + count, step):
            vectors = mapped.vectors[start : min(start + step, position + count)]
            crc = zlib.crc32(vectors.data, crc)
            numbers = rows[start : start + len(vectors)]
            norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))
            self._say_some(mapped.path, "not finite", numbers[~np.isfinite(norms)])
            if config.distance == "Cosine":
                off = np.abs(norms - 1) > NORM_TOLERANCE[config.dtype]
                self._say_some(mapped.path, "not of unit length", numbers[off])
        if crc != checksum:
            self._say(mapped.path, f"the checksum of positions {position} to {position + count - 1} does not fit")

    def _rows(self, reader: Reader, held: list[Rows], coded: list[Rows]) -> None:
        """Check that a row in the files is either a point or a tombstone, and every one of those a row.

        `held` are the rows of vector files, `coded` those of codes files that are truth.
        """
        points, tombstones = reader.rows(), reader.tombstones()
        say = self._say_some
        for kind, parts in (("vector", held), ("codes", coded)):
            once, times = np.unique(np.concatenate([np.empty(0, dtype=np.int64), *parts]), return_counts=True)
            say(self._path, f"in two {kind} files", once[times > 1])
        once = np.unique(np.concatenate([np.empty(0, dtype=np.int64), *held, *coded]))
        self._checked["rows"] += len(once)
        self._checked["points"] += len(points)
        say(self._path, "a point and a tombstone", np.intersect1d(points, tombstones))
        say(self._path, "a point without a vector", np.setdiff1d(points, once))
        say(self._path, "a tombstone without a vector", np.setdiff1d(tombstones, once))
        say(self._path, "neither a point nor a tombstone", np.setdiff1d(once, np.union1d(points, tombstones)))
        if reader.count() != len(points):
            self._say(self._path, f"the counter says {reader.count()} points, there are {len(points)}")

    def _points(self, db: sqlite3.Connection) -> None:
        seen: set[int | str] = set()
        bad: dict[str, list[int]] = {}
        # Not by the index of ids, which may be what is damaged.
        for row, key, digest, payload in db.execute("SELECT row, id, hash, payload FROM points NOT INDEXED"):
            faults = {
                "an id twice": key in seen,
                "no valid id": not _is_id(key),
                "a content hash of the wrong length": len(digest) != HASH_BYTES,
                "the payload is no JSON object": not _is_object(payload),
            }
            seen.add(key)
            for name in (name for name, found in faults.items() if found):
                bad.setdefault(name, []).append(row)
        for name, rows in bad.items():
            self._say_some(self._path, name, rows)

    def _texts(self, db: sqlite3.Connection) -> None:
        alone, changed = [], []
        query = "SELECT texts.row, text, hash FROM texts LEFT JOIN points ON points.row = texts.row"
        for row, text, digest in db.execute(query):
            self._checked["texts"] += 1
            if digest is None:
                alone.append(row)
            elif content_hash(text.encode()) != digest:
                changed.append(row)
        self._say_some(self._path, "a text without a point", alone)
        self._say_some(self._path, "the text does not fit its content hash", changed)

    def _binarizers(self, reader: Reader) -> dict[int, Binarizer | None]:
        """Return the sound binarizers by version; None for each when there is no factory to read them."""
        sound: dict[int, Binarizer | None] = {}
        for version, _, checksum, data in reader.binarizers():
            self._checked["binarizers"] += 1
            if zlib.crc32(data) != checksum:
                self._say(self._path, f"the checksum of binarizer {version} does not fit")
                continue
            try:
                sound[version] = self._factory.load(data) if self._factory else None
            except Exception as error:  # noqa: BLE001 - the factory's own errors are not known here
                self._say(self._path, f"binarizer {version} cannot be read: {error}")
        return sound

    def _codes(self, reader: Reader) -> list[Rows]:
        """Check the codes files; return the rows of those that are truth, by the record if a file cannot tell."""
        binarizers = self._binarizers(reader)
        files = reader.files()
        named = set(reader.codes())
        held = []
        there = (self._folder / "codes").glob("*.codes")
        for path in sorted({*there, *(self._folder / "codes" / name for name in named)}):
            self._checked["codes files"] += 1
            try:
                data = load(path)
                if data.binarizer not in binarizers:
                    raise DamagedCodes(f"binarizer {data.binarizer} is damaged or not in the record")
                _check_range(data, files[-1].end_row if files else 0)
                binarizer = binarizers[data.binarizer]
                if binarizer is not None:
                    _check_shape(data, binarizer)
                    self._compare(path, data, binarizer)
                if path.name in named:
                    held.append(data.rows())
            except DamagedCodes as error:
                self._say(path, str(error).removeprefix(f"{path}: "))
                if path.name in named:
                    known = np.union1d(reader.rows(), reader.tombstones())
                    held.append(known[slice(*np.searchsorted(known, span_of(path)))])
        return held

    def _compare(self, path: Path, data: SegmentData, binarizer: Binarizer) -> None:
        """Compare codes with what their vectors give now; rows without a vector any more are passed over."""
        rows = data.rows()
        for mapped in self._maps:
            there = np.intersect1d(rows, mapped.row_numbers())
            size = chunk_rows(mapped.layout.dimension)
            for start in range(0, len(there), size):
                part = there[start : start + size]
                levels, _ = binarizer.encode(mapped.read(part))
                stored = unpack(data.planes[np.searchsorted(rows, part)])
                steps = np.abs(levels.astype(np.int16) - stored)
                # Rounding may move a value next to a step to its other side; another vector moves most of them.
                wrong = (steps.max(axis=1) > 1) | ((steps > 0).sum(axis=1) > levels.shape[1] / 32)
                self._checked["codes"] += len(part)
                self._say_some(path, "the codes do not fit the vectors", part[wrong])


def _check_range(data: SegmentData, end_row: int) -> None:
    rows = data.rows()
    span = data.end_row - data.first_row
    whole = data.offsets is not None or len(rows) == span
    inside = not len(rows) or (rows[0] >= data.first_row and rows[-1] < data.end_row)
    if not (whole and inside and 0 <= data.first_row <= data.end_row <= end_row and (np.diff(rows) > 0).all()):
        raise DamagedCodes(f"the range of rows {data.first_row} to {data.end_row} does not fit the record")


def _check_shape(data: SegmentData, binarizer: Binarizer) -> None:
    bits, width = data.planes.shape[1:]
    if (bits, width * 8) != (binarizer.bits, binarizer.code_dimension):
        made = f"{binarizer.bits} bits of {binarizer.code_dimension} dimensions"
        raise DamagedCodes(f"{bits} bits of {width * 8} dimensions, but binarizer {data.binarizer} makes {made}")


def _is_id(key: int | str) -> bool:
    try:
        return parse_id(from_key(key)) == from_key(key)
    except (IndexingError, TypeError):
        return False


def _is_object(payload: bytes) -> bool:
    try:
        return isinstance(orjson.loads(payload), dict)
    except ValueError:
        return False
