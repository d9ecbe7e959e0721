"""Turns operations into commits: vectors synced, one transaction, one new view. Concurrent writers share one.

Whoever holds the writer lock commits for everyone who waits ("leader and followers"), so that n writers pay
for about two syncs instead of 2 n, and no thread is needed.
"""

from __future__ import annotations

import errno
import sqlite3
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, TypeVar

import numpy as np

from index.appender import VectorAppender
from index.durable import FULL
from index.errors import DiskFull, ReadOnlyCollection
from index.points import Batch, Float32s, Rows
from index.record import Record, Writer

T = TypeVar("T")


class Change:
    """What one commit does, as seen by the operations inside it."""

    def __init__(self, writer: Writer, appender: VectorAppender) -> None:
        self.writer = writer
        self._appender = appender
        self.appended: list[Float32s] = []
        self.payloads: list[bytes] = []  # of what was appended
        self.edited: list[tuple[int, bytes]] = []
        self._dead: list[int] = []

    def put(self, batch: Batch) -> None:
        """Write points whose ids are distinct and whose vectors are prepared."""
        stored = self._appender.as_stored(batch.vectors)
        first_row = self._appender.append(stored, self.writer)
        dead = self.writer.replace_points(first_row, batch.ids, batch.hashes, batch.payloads, batch.texts)
        self.appended.append(stored.astype(np.float32, copy=False))
        self.payloads.extend(batch.payloads)
        self._dead.extend(dead)

    def kill(self, rows: Sequence[int]) -> None:
        """Remove the points of these rows."""
        self.writer.kill(rows)
        self._dead.extend(rows)

    def edit(self, payloads: Iterable[tuple[int, bytes]]) -> None:
        """Replace the payloads of rows."""
        edited = list(payloads)
        self.writer.set_payloads(edited)
        self.edited.extend(edited)

    @property
    def empty(self) -> bool:
        """Whether nothing has changed yet."""
        return not (self.appended or self.edited or self._dead)

    @property
    def dead(self) -> Rows:
        """Rows that stop counting, ascending."""
        return np.array(sorted(self._dead), dtype=np.int64)


class _Pending(Generic[T]):
    """An operation that waits for its commit."""

    def __init__(self, apply: Callable[[Change], T]) -> None:
        self.apply = apply
        self.done = False
        self._result: T | None = None
        self._error: BaseException | None = None

    def finish(self, result: T) -> None:
        self._result, self._error, self.done = result, None, True

    def fail(self, error: BaseException) -> None:
        self._error, self.done = error, True

    def outcome(self) -> T:
        if self._error is not None:
            raise self._error
        return self._result  # type: ignore[return-value]


class Committer:
    """Runs operations in commits of one collection.

    Parameters
    ----------
    publish : builds the next view from a change before the COMMIT; returns what makes it visible after it.
    """

    def __init__(
        self, record: Record, appender: VectorAppender, publish: Callable[[Change], Callable[[], None]]
    ) -> None:
        self._record = record
        self._appender = appender
        self._publish = publish
        self._waiting: list[_Pending[Any]] = []
        self._waiting_lock = threading.Lock()
        self.lock = threading.Lock()  # held while committing, and by maintenance while it swaps parts of the view
        self.read_only: str | None = None

    def run(self, apply: Callable[[Change], T]) -> T:
        """Apply an operation and return its result once it is durable."""
        pending = _Pending(apply)
        with self._waiting_lock:
            self._waiting.append(pending)
        with self.lock:
            if not pending.done:
                self._commit_waiting()
        return pending.outcome()

    def check_writable(self) -> None:
        """Raise ReadOnlyCollection after a failed sync."""
        if self.read_only:
            raise ReadOnlyCollection(self.read_only, hint="check the disk, then restart the service")

    def _commit_waiting(self) -> None:
        with self._waiting_lock:
            group, self._waiting = self._waiting, []
        try:
            if not self._try(group) and len(group) > 1:
                # One of them is at fault: each alone, so that it costs the others nothing.
                for pending in group:
                    pending.done = False
                    self._try([pending])
        finally:
            for pending in group:
                if not pending.done:
                    pending.fail(RuntimeError("the commit was interrupted"))

    def _try(self, group: list[_Pending[Any]]) -> bool:
        try:
            results = self._commit(group)
        except Exception as error:  # noqa: BLE001 - handed to those who wait for it
            for pending in group:
                pending.fail(error)
            return False
        for pending, result in zip(group, results, strict=True):
            pending.finish(result)
        return True

    def exclusive(self, work: Callable[[Writer], Callable[[], None]]) -> None:
        """Commit a change that appends no vectors, then call what `work` returns, which shows its view.

        For sealing and upkeep. Raises ReadOnlyCollection, DiskFull.
        """
        with self.lock:
            self._transact(work)

    def _commit(self, group: list[_Pending[Any]]) -> list[Any]:
        results: list[Any] = []

        def work(writer: Writer) -> Callable[[], None]:
            change = Change(writer, self._appender)
            results.extend(pending.apply(change) for pending in group)
            self._sync()
            return self._publish(change)

        self._transact(work)
        return results

    def _transact(self, work: Callable[[Writer], Callable[[], None]]) -> None:
        """Everything that can fail happens before the COMMIT; what `work` returns must not."""
        self.check_writable()
        try:
            with self._record.transaction() as writer:
                show = work(writer)
        except BaseException as error:
            self._appender.roll_back()
            if _is_disk_failure(error):
                raise self._give_up(error) from error
            raise
        show()
        self._appender.committed()

    def _sync(self) -> None:
        try:
            self._appender.sync()
        except OSError as error:
            if error.errno in FULL:
                raise DiskFull("no space left to sync vectors", hint="make room; writing resumes by itself") from error
            raise self._give_up(error) from error

    def _give_up(self, error: BaseException) -> ReadOnlyCollection:
        # After a failed sync the kernel may have dropped the pages: what the disk holds is unknown.
        self.read_only = f"writing stopped because the disk failed ({error})"
        return ReadOnlyCollection(self.read_only, hint="check the disk, then restart the service")


def _is_disk_failure(error: BaseException) -> bool:
    """Say whether the disk failed (or was remounted read-only), rather than being full or the input bad."""
    if isinstance(error, OSError):
        return error.errno in (errno.EIO, errno.EROFS, errno.ENODEV, errno.ESTALE)
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY)
