"""The record of a collection: one SQLite database with ids, payloads, texts, rows, files and binarizers.

A collection with several bits a dimension, fewer code dimensions or codes only has format 2, one with a graph format 3,
so that earlier versions refuse it; one of codes only has one more table, the codes files that are truth.

It is the truth about which points exist; it does not know what a vector or a code looks like. Written by
one connection inside `transaction()`, read by any number of `snapshot()`s, each of which sees one `seq`.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from index.errors import CorruptCollection, DiskFull, UnknownCollection
from index.ids import PointId, from_key, to_key
from index.points import CodesOnlyLoss, CollectionConfig, Rows, Stored

FORMAT = 3  # the highest that opens
# Of the config: keys that came after format 1, with their defaults and the format that they came with.
LATER_KEYS = {"bits": (1, 2), "code_dimension": (None, 2), "store_vectors": (True, 2), "index": ("lists", 3)}
NO_PAYLOAD = "x'7b7d'"  # an empty one
APPLICATION_ID = 0x42464F4C  # "BFOL"
IN_CHUNK = 500  # host parameters a statement: below SQLite's oldest limit of 999
LOG_BYTES = 64 * 2**20  # the write-ahead log is cut back to this once it has been copied
WRITER_CACHE_KIB = 8 * 1024

SCHEMA = """
CREATE TABLE meta(key TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID;
CREATE TABLE points(row INTEGER PRIMARY KEY, id NOT NULL, hash BLOB NOT NULL, payload BLOB NOT NULL);
CREATE UNIQUE INDEX points_id ON points(id);
CREATE TABLE texts(row INTEGER PRIMARY KEY, text TEXT NOT NULL);
CREATE TABLE tombstones(row INTEGER PRIMARY KEY);
CREATE TABLE files(name TEXT PRIMARY KEY, first_row INTEGER NOT NULL, end_row INTEGER NOT NULL,
                   rows INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE batches(file TEXT NOT NULL, position INTEGER NOT NULL, rows INTEGER NOT NULL,
                     crc INTEGER NOT NULL, PRIMARY KEY(file, position)) WITHOUT ROWID;
CREATE TABLE binarizers(version INTEGER PRIMARY KEY, fitted_on INTEGER NOT NULL, crc INTEGER NOT NULL,
                        data BLOB NOT NULL);
"""
CODES_SCHEMA = "CREATE TABLE codes(name TEXT PRIMARY KEY) WITHOUT ROWID;"
# A trigger is part of the database: earlier versions, which know nothing of payload indexes, note their edits, too.
EDITS_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS edited(row INTEGER PRIMARY KEY, seq INTEGER NOT NULL)",
    "CREATE TRIGGER IF NOT EXISTS note_edited AFTER UPDATE OF payload ON points BEGIN"
    " INSERT OR REPLACE INTO edited SELECT NEW.row, value FROM meta WHERE key='seq'; END",
)


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A vector file: rows `first_row` (inclusive) to `end_row` (exclusive), of which `rows` are in it."""

    name: str
    first_row: int
    end_row: int
    rows: int


def connect(path: Path) -> sqlite3.Connection:
    """Open the database in WAL mode with a full sync at every commit."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=30)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute(f"PRAGMA journal_size_limit={LOG_BYTES}")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def translate(error: Exception, path: Path) -> Exception:
    """Turn SQLite's errors into ours; unknown ones are returned as they are."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return DiskFull(f"no space left to write {path}", hint="make room; writing resumes by itself")
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return CorruptCollection(f"{path}: the record is damaged ({error})", hint="restore it from a backup")
    return error


def chunked(values: Sequence[Any]) -> Iterator[tuple[str, Sequence[Any]]]:
    """Cut a list for `IN (...)`: yields the placeholders and the values."""
    for start in range(0, len(values), IN_CHUNK):
        part = values[start : start + IN_CHUNK]
        yield ",".join("?" * len(part)), part


class Reader:
    """Reads inside one transaction: everything it returns belongs to the same `seq`."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection

    def seq(self) -> int:
        """Return the number of the commit that this transaction sees."""
        return int(self._db.execute("SELECT value FROM meta WHERE key='seq'").fetchone()[0])

    def count(self) -> int:
        """Return the number of points."""
        return int(self._db.execute("SELECT value FROM meta WHERE key='points'").fetchone()[0])

    def stored(self, ids: Sequence[PointId]) -> dict[PointId, Stored]:
        """Return what is known of those ids that exist."""
        found = {}
        keys = [to_key(point_id) for point_id in ids]
        for marks, part in chunked(keys):
            query = f"SELECT id, row, hash, payload FROM points WHERE id IN ({marks})"
            for key, row, digest, payload in self._db.execute(query, part):
                found[from_key(key)] = Stored(row, digest, payload)
        return found

    def points_of(self, rows: Sequence[int], *, payload: bool) -> dict[int, tuple[PointId, bytes | None]]:
        """Return id and payload of rows that exist."""
        columns = "row, id, payload" if payload else "row, id, NULL"
        found = {}
        for marks, part in chunked(rows):
            for row, key, data in self._db.execute(f"SELECT {columns} FROM points WHERE row IN ({marks})", part):
                found[row] = (from_key(key), data)
        return found

    def number_keys(self, first_row: int, end_row: int) -> tuple[Rows, NDArray[np.int64]] | None:
        """Return the points in a range of rows, ascending, and their ids as they are stored, (n,) each.

        None where an id is no whole number.
        """
        args = (first_row, end_row)
        inside = "FROM points WHERE row >= ? AND row < ?"
        if self._db.execute(f"SELECT 1 {inside} AND typeof(id) <> 'integer' LIMIT 1", args).fetchone():
            return None
        found = np.array(self._db.execute(f"SELECT row, id {inside} ORDER BY row", args).fetchall(), dtype=np.int64)
        pairs = found.reshape(-1, 2)
        return pairs[:, 0], pairs[:, 1]

    def texts_of(self, rows: Sequence[int]) -> dict[int, str]:
        """Return the texts of rows that have one."""
        found: dict[int, str] = {}
        for marks, part in chunked(rows):
            found.update(self._db.execute(f"SELECT row, text FROM texts WHERE row IN ({marks})", part))
        return found

    def scan(self, after: PointId | None = None, *, payload: bool = True) -> Iterator[tuple[int, PointId, bytes]]:
        """Yield `(row, id, payload)` in the order of ids, from `after` (inclusive) on; quickly without payloads."""
        query, args = f"SELECT row, id, {'payload' if payload else NO_PAYLOAD} FROM points", ()
        if after is not None:
            query, args = f"{query} WHERE id >= ?", (to_key(after),)  # type: ignore[assignment]
        for row, key, data in self._db.execute(f"{query} ORDER BY id", args):
            yield row, from_key(key), data

    def scan_rows(self, *, payload: bool = True) -> Iterator[tuple[int, PointId, bytes]]:
        """Yield `(row, id, payload)` in the order of rows: the fast way to see every point."""
        column = "payload" if payload else NO_PAYLOAD
        for row, key, data in self._db.execute(f"SELECT row, id, {column} FROM points ORDER BY row"):
            yield row, from_key(key), data

    def payloads(self, first_row: int, end_row: int) -> list[tuple[int, bytes]]:
        """Return `(row, payload)` of the points in a range of rows, ascending."""
        query = "SELECT row, payload FROM points WHERE row >= ? AND row < ? ORDER BY row"
        return self._db.execute(query, (first_row, end_row)).fetchall()

    def rows(self) -> Rows:
        """Return the rows of all points, ascending."""
        return np.fromiter((row for (row,) in self._db.execute("SELECT row FROM points ORDER BY row")), np.int64)

    def tombstones(self) -> Rows:
        """Return the rows that were written and no longer count, ascending."""
        return np.fromiter((row for (row,) in self._db.execute("SELECT row FROM tombstones ORDER BY row")), np.int64)

    def files(self) -> list[FileEntry]:
        """Return the vector files in the order of rows."""
        query = "SELECT name, first_row, end_row, rows FROM files ORDER BY first_row"
        return [FileEntry(*entry) for entry in self._db.execute(query)]

    def batches(self, file: str) -> list[tuple[int, int, int]]:
        """Return `(position, rows, crc)` of the batches in a file, in order."""
        query = "SELECT position, rows, crc FROM batches WHERE file=? ORDER BY position"
        return self._db.execute(query, (file,)).fetchall()

    def binarizers(self) -> list[tuple[int, int, int, bytes]]:
        """Return `(version, fitted_on, crc, data)` of every binarizer, oldest first."""
        return self._db.execute("SELECT version, fitted_on, crc, data FROM binarizers ORDER BY version").fetchall()

    def config(self) -> CollectionConfig:
        """Return the collection's configuration."""
        raw = self._db.execute("SELECT value FROM meta WHERE key='config'").fetchone()[0]
        return CollectionConfig(**json.loads(raw))

    def codes(self) -> list[str]:
        """Return the codes files that are truth, because vectors that they were made from are dropped, sorted."""
        if self._db.execute("SELECT 1 FROM sqlite_master WHERE type='table' AND name='codes'").fetchone() is None:
            return []
        return [name for (name,) in self._db.execute("SELECT name FROM codes ORDER BY name")]

    def loss(self) -> CodesOnlyLoss | None:
        """Return what dropping vectors lost, None while none are dropped."""
        found = self._db.execute("SELECT value FROM meta WHERE key='codes_only'").fetchone()
        return CodesOnlyLoss(**json.loads(found[0])) if found else None

    def edited_after(self, seq: int) -> list[int] | None:
        """Return the rows whose payloads were edited after a commit; None if they are not noted."""
        if not self._notes_edits():
            return None
        return [row for (row,) in self._db.execute("SELECT row FROM edited WHERE seq > ? ORDER BY row", (seq,))]

    def _notes_edits(self) -> bool:
        return self._db.execute("SELECT 1 FROM sqlite_master WHERE name='note_edited'").fetchone() is not None

    def points_between(self, first_row: int, end_row: int) -> Rows:
        """Return the rows of the points in a range of rows, ascending."""
        query = "SELECT row FROM points WHERE row >= ? AND row < ? ORDER BY row"
        return np.fromiter((row for (row,) in self._db.execute(query, (first_row, end_row))), np.int64)

    def integrity(self) -> list[str]:
        """Run SQLite's own check; an empty list means sound."""
        found = [line for (line,) in self._db.execute("PRAGMA integrity_check")]
        return [] if found == ["ok"] else found


class Writer(Reader):
    """Changes inside the one write transaction."""

    def replace_points(
        self,
        first_row: int,
        ids: Sequence[PointId],
        hashes: Sequence[bytes],
        payloads: Sequence[bytes],
        texts: Sequence[str | None],
    ) -> list[int]:
        """Give distinct ids the rows `first_row`, `first_row + 1`, ...; return the rows that they leave."""
        keys = [to_key(point_id) for point_id in ids]
        dead: list[int] = []
        for marks, part in chunked(keys):
            dead.extend(row for (row,) in self._db.execute(f"SELECT row FROM points WHERE id IN ({marks})", part))
        self.kill(dead)
        rows = range(first_row, first_row + len(keys))
        self._db.executemany("INSERT INTO points VALUES (?,?,?,?)", zip(rows, keys, hashes, payloads, strict=True))
        with_text = [(row, text) for row, text in zip(rows, texts, strict=True) if text is not None]
        self._db.executemany("INSERT INTO texts VALUES (?,?)", with_text)
        self._add("points", len(keys))
        return dead

    def kill(self, rows: Sequence[int]) -> None:
        """Remove the points of these rows; the rows become tombstones."""
        if not rows:
            return
        for marks, part in chunked(rows):
            self._db.execute(f"DELETE FROM points WHERE row IN ({marks})", part)
            self._db.execute(f"DELETE FROM texts WHERE row IN ({marks})", part)
        self._db.executemany("INSERT INTO tombstones VALUES (?)", [(row,) for row in rows])
        self._add("points", -len(rows))

    def set_payloads(self, payloads: Iterable[tuple[int, bytes]]) -> None:
        """Replace the payloads of rows."""
        self._db.executemany("UPDATE points SET payload=? WHERE row=?", ((data, row) for row, data in payloads))

    def note_edits(self) -> None:
        """Note from now on which payloads are edited, and when."""
        for statement in EDITS_SCHEMA:
            self._db.execute(statement)

    def forget_edits(self, seq: int) -> None:
        """Forget which payloads were edited up to a commit."""
        if self._notes_edits():
            self._db.execute("DELETE FROM edited WHERE seq <= ?", (seq,))

    def ignore_edits(self) -> None:
        """Note no longer which payloads are edited."""
        self._db.execute("DROP TRIGGER IF EXISTS note_edited")
        self._db.execute("DROP TABLE IF EXISTS edited")

    def add_batch(self, file: str, position: int, rows: int, crc: int) -> None:
        """Note rows appended to a file, with their checksum."""
        self._db.execute("INSERT INTO batches VALUES (?,?,?,?)", (file, position, rows, crc))
        self._db.execute("UPDATE files SET rows=rows+?, end_row=end_row+? WHERE name=?", (rows, rows, file))

    def add_file(self, entry: FileEntry) -> None:
        """Note a new vector file."""
        self._db.execute("INSERT INTO files VALUES (?,?,?,?)", (entry.name, entry.first_row, entry.end_row, entry.rows))

    def swap_files(
        self,
        old: Sequence[FileEntry],
        new: FileEntry | None,
        checksums: Sequence[tuple[int, int, int]],
        dropped: Sequence[int],
    ) -> None:
        """Put a compacted file in the place of others; `dropped` tombstones are no longer needed."""
        for entry in old:
            self._db.execute("DELETE FROM batches WHERE file=?", (entry.name,))
            self._db.execute("DELETE FROM files WHERE name=?", (entry.name,))
        if new is not None:
            self.add_file(new)
            rows = [(new.name, position, count, crc) for position, count, crc in checksums]
            self._db.executemany("INSERT INTO batches VALUES (?,?,?,?)", rows)
        self.forget(dropped)

    def swap_codes(self, old: Iterable[str], new: Iterable[str]) -> None:
        """Make codes files truth in the place of others."""
        self._db.executemany("DELETE FROM codes WHERE name=?", [(name,) for name in old])
        self._db.executemany("INSERT INTO codes VALUES (?)", [(name,) for name in new])

    def forget(self, tombstones: Sequence[int]) -> None:
        """Remove tombstones of rows that no file holds any more."""
        for marks, part in chunked(tombstones):
            self._db.execute(f"DELETE FROM tombstones WHERE row IN ({marks})", part)

    def set_loss(self, loss: CodesOnlyLoss) -> None:
        """Keep what dropping vectors loses."""
        self._db.execute("INSERT OR REPLACE INTO meta VALUES ('codes_only', ?)", (json.dumps(asdict(loss)),))

    def add_binarizer(self, fitted_on: int, data: bytes) -> int:
        """Keep a binarizer; return its version, higher than that of any other there is."""
        newest = self._db.execute("SELECT max(version) FROM binarizers").fetchone()[0]
        version = 1 + (newest or 0)
        self._db.execute("INSERT INTO binarizers VALUES (?,?,?,?)", (version, fitted_on, zlib.crc32(data), data))
        return version

    def drop_binarizers(self, keep: Iterable[int]) -> None:
        """Forget binarizers that no segment uses."""
        kept = list(keep)
        marks = ",".join("?" * len(kept))
        self._db.execute(f"DELETE FROM binarizers WHERE version NOT IN ({marks})", kept)

    def set_config(self, config: CollectionConfig) -> None:
        """Replace the configuration."""
        self._db.execute("INSERT OR REPLACE INTO meta VALUES ('config', ?)", (json.dumps(_stored(config)),))

    def _add(self, counter: str, amount: int) -> None:
        self._db.execute("UPDATE meta SET value=value+? WHERE key=?", (amount, counter))


def _stored(config: CollectionConfig) -> dict[str, Any]:
    """Return what is kept of a configuration: what is as it always was is left out, so that format 1 stays readable."""
    found = asdict(config)
    return {key: value for key, value in found.items() if key not in LATER_KEYS or value != LATER_KEYS[key][0]}


def _format_of(config: CollectionConfig) -> int:
    return max((LATER_KEYS[key][1] for key in _stored(config) if key in LATER_KEYS), default=1)


class Record:
    """Opens the database, hands out snapshots and the write transaction."""

    def __init__(self, path: Path) -> None:
        """Open an existing record. Raises CorruptCollection if it is damaged or of a later format."""
        self.path = path
        self._idle: list[sqlite3.Connection] = []
        self._closed = False
        self._lock = threading.Lock()
        if not path.is_file():
            raise CorruptCollection(f"{path}: missing", hint="restore it from a backup")
        try:
            self._writer = connect(path)
        except sqlite3.Error as error:
            raise translate(error, path) from error
        try:
            self._writer.execute(f"PRAGMA cache_size=-{WRITER_CACHE_KIB}")
            self._check_format()
        except (sqlite3.Error, CorruptCollection) as error:
            self._writer.close()
            raise translate(error, path) from error

    def _check_format(self) -> None:
        found = self._writer.execute("PRAGMA user_version").fetchone()[0]
        application = self._writer.execute("PRAGMA application_id").fetchone()[0]
        if application != APPLICATION_ID:
            raise CorruptCollection(f"{self.path}: not a Bitfold record")
        if found > FORMAT:
            raise CorruptCollection(
                f"{self.path}: format {found}, this program reads up to {FORMAT}", hint="use a newer Bitfold"
            )

    @classmethod
    def create(cls, path: Path, config: CollectionConfig) -> Record:
        """Make a new record; its folder's name is the caller's to sync."""
        try:
            with closing(connect(path)) as db:
                schema = SCHEMA if config.store_vectors else SCHEMA + CODES_SCHEMA
                db.executescript(f"BEGIN; {schema} COMMIT;")
                db.execute(f"PRAGMA application_id={APPLICATION_ID}")
                db.execute(f"PRAGMA user_version={_format_of(config)}")
                db.executemany("INSERT INTO meta VALUES (?,?)", [("seq", 0), ("points", 0)])
                Writer(db).set_config(config)
        except sqlite3.Error as error:
            raise translate(error, path) from error
        return cls(path)

    @contextmanager
    def transaction(self) -> Iterator[Writer]:
        """Commit what is done inside, durably, as the next `seq`; an exception undoes all of it."""
        self.refuse_closed()
        db = self._writer
        try:
            db.execute("BEGIN IMMEDIATE")
            db.execute("UPDATE meta SET value=value+1 WHERE key='seq'")
            yield Writer(db)
            db.execute("COMMIT")
        except BaseException as error:
            if db.in_transaction:
                db.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error):
                raise translate(error, self.path) from error
            raise

    @contextmanager
    def snapshot(self) -> Iterator[Reader]:
        """Read everything as of one commit."""
        db = self._borrow()
        try:
            db.execute("BEGIN")
            yield Reader(db)
        except sqlite3.Error as error:
            raise translate(error, self.path) from error
        finally:
            if db.in_transaction:
                db.execute("ROLLBACK")
            self._give_back(db)

    def _borrow(self) -> sqlite3.Connection:
        with self._lock:
            self.refuse_closed()
            if self._idle:
                return self._idle.pop()
            try:
                return connect(self.path)
            except sqlite3.Error as error:
                raise translate(error, self.path) from error

    def _give_back(self, db: sqlite3.Connection) -> None:
        with self._lock:
            if self._closed:
                db.close()
            else:
                self._idle.append(db)

    def refuse_closed(self) -> None:
        """Raise UnknownCollection if it was closed."""
        # Another collection may have the path by now: whoever comes late must not read or write that one.
        if self._closed:
            raise UnknownCollection(f"collection {self.path.parent.name!r} was closed or dropped meanwhile")

    def trim_log(self) -> None:
        """Copy the write-ahead log into the database if readers have kept it from being reset for long.

        The caller keeps writers out. Readers at work may prevent it again; then the next call does it.
        """
        log = self.path.with_name(self.path.name + "-wal")
        if log.exists() and log.stat().st_size > LOG_BYTES:
            self._writer.execute("PRAGMA busy_timeout=100")
            self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            self._writer.execute("PRAGMA busy_timeout=30000")

    def release_memory(self) -> None:
        """Give the page caches back, for a quiet time. The caller keeps writers out."""
        with self._lock:
            for db in [*self._idle, self._writer]:
                db.execute("PRAGMA shrink_memory")

    def bytes_on_disk(self) -> int:
        """Return the size of the database and its log."""
        names = (self.path, self.path.with_name(self.path.name + "-wal"))
        return sum(name.stat().st_size for name in names if name.exists())

    def close(self) -> None:
        """Close every connection; the last one folds the log into the database."""
        with self._lock:
            self._closed = True
            for db in [*self._idle, self._writer]:
                db.close()
            self._idle.clear()
