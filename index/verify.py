"""Checks a data directory that no service uses: every promise that can be told from the bytes.

Reads only, changes nothing on disk. Opening a collection checks headers and lengths; this checks everything.
"""

from __future__ import annotations

import json
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
from index.codes import pack, unpack
from index.errors import CorruptCollection, IndexingError
from index.ids import from_key, parse_id
from index.lock import borrow_lock
from index.points import NUMPY_TYPES, CollectionConfig, Rows, content_hash
from index.record import APPLICATION_ID, FORMAT, FileEntry, Reader
from index.segment import DamagedCodes, SegmentData, load
from index.store import UNFINISHED
from index.vector_file import CHUNK_ROWS, HEADER_BYTES, Layout, VectorMap, read_layout

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

    def _say(self, path: Path, message: str) -> None:
        self._problems.append(Problem(str(path), message))

    def _say_some(self, path: Path, message: str, which: list[int] | Rows) -> None:
        """Report rows, naming the first few."""
        if len(which):
            named = ", ".join(str(row) for row in which[:MOST_EXAMPLES])
            more = f" and {len(which) - MOST_EXAMPLES} more" if len(which) > MOST_EXAMPLES else ""
            self._say(path, f"{message}: row {named}{more}")

    def check(self) -> None:
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
        self._rows(reader, held)
        self._points(db, reader)
        self._texts(db)
        self._codes(reader, config)

    def _file(self, reader: Reader, entry: FileEntry, config: CollectionConfig) -> Rows:
        """Check a vector file; return the rows that it holds (by the record, if the file is unreadable)."""
        path = self._folder / "vectors" / entry.name
        self._checked["vector files"] += 1
        batches = reader.batches(entry.name)
        at = 0
        for position, count, _ in batches:
            if position != at:
                self._say(self._path, f"{entry.name}: a batch begins at {position}, the one before ends at {at}")
            at = position + count
        if at != entry.rows:
            self._say(self._path, f"{entry.name}: its batches have {at} rows, it has {entry.rows}")
        try:
            layout = read_layout(path)
            if not self._header_fits(path, layout, entry, config):
                return np.arange(entry.first_row, entry.end_row, dtype=np.int64)
            rows = np.array(VectorMap(path, rows=entry.rows).row_numbers()) if entry.rows else np.arange(0)
            if (np.diff(rows) <= 0).any() or (len(rows) and not entry.first_row <= rows[0] <= rows[-1] < entry.end_row):
                self._say(path, "the table of row numbers is damaged")
            with path.open("rb") as file:
                for position, count, checksum in batches:
                    file.seek(layout.data_offset + position * layout.row_bytes)
                    self._batch(path, file.read, layout, rows[position : position + count], checksum, config)
        except CorruptCollection as error:
            self._say(path, str(error))
        except OSError as error:
            self._say(path, f"cannot be read ({error.strerror})")
        else:
            return rows
        return np.arange(entry.first_row, entry.end_row, dtype=np.int64)
