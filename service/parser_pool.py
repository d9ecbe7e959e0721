"""Parses blocks of NDJSON in worker processes, so that searches keep the serving interpreter to themselves.

Knows nothing of HTTP. A worker lives as long as the other end of its pipe: it ends when the server is killed.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
from multiprocessing.connection import Connection
from typing import Final

from service.errors import ParserFailed
from service.ndjson import LineSpec, ParsedBlock, parse_block
from service.process import return_memory_early

_CLOSE_SECONDS: Final = 5.0


class ParserPool:
    """Worker processes, started when they are first needed.

    Parameters
    ----------
    workers : processes at most, 1 or more; further calls wait for one.
    nice : how far a worker lowers its priority.
    """

    def __init__(self, *, workers: int, nice: int) -> None:
        self._nice = nice
        self._slots = threading.BoundedSemaphore(workers)
        self._lock = threading.Lock()  # guards _idle and _closed
        self._idle: list[_Worker] = []
        self._closed = False

    def parse(self, data: bytes, first_line: int, spec: LineSpec) -> ParsedBlock:
        """Return what `parse_block` returns; may be called from several threads.

        Raises
        ------
        ParserFailed
            A worker died over this block, and so did its replacement; or the pool is closed.
        """
        with self._slots:
            try:
                return self._attempt(self._borrow(), data, first_line, spec)
            except (EOFError, OSError):
                pass  # killed by somebody, or out of memory: a new process may do better
            try:
                return self._attempt(self._replace(), data, first_line, spec)
            except (EOFError, OSError) as error:
                raise ParserFailed(
                    f"two processes died while they parsed the block at line {first_line}",
                    hint="send the load again; if it happens again, is there enough memory?",
                ) from error

    def _attempt(self, worker: _Worker, data: bytes, first_line: int, spec: LineSpec) -> ParsedBlock:
        try:
            block = worker.parse(data, first_line, spec)
        except BaseException:
            worker.close()
            raise
        self._give_back(worker)
        return block

    def process_ids(self) -> list[int]:
        """Return the process ids of idle workers."""
        with self._lock:
            return [worker.pid for worker in self._idle]

    def close(self) -> None:
        """End the workers; one that is at work ends after its block."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for worker in idle:
            worker.close()

    def _borrow(self) -> _Worker:
        with self._lock:
            if self._closed:
                raise ParserFailed("the server is shutting down", hint="send the load again when it is back")
            if self._idle:
                return self._idle.pop()
        return _Worker(self._nice)

    def _replace(self) -> _Worker:
        """Return a new worker; an idle one, which may have met the same end, makes room for it."""
        with self._lock:
            idle = self._idle.pop() if self._idle else None
        if idle is not None:
            idle.close()
        return _Worker(self._nice)

    def _give_back(self, worker: _Worker) -> None:
        with self._lock:
            if not self._closed:
                self._idle.append(worker)
                return
        worker.close()


class _Worker:
    """One process and our end of its pipe; used by one thread at a time."""

    def __init__(self, nice: int) -> None:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        try:
            self._process = context.Process(target=_serve, args=(theirs, nice), name="bitfold-parser", daemon=True)
            self._process.start()
        except OSError as error:
            ours.close()
            raise ParserFailed(f"a process for parsing cannot be started: {error}") from error
        finally:
            theirs.close()  # or the pipe would stay open when the worker dies
        self._connection = ours
        self.pid = self._process.pid or 0

    def parse(self, data: bytes, first_line: int, spec: LineSpec) -> ParsedBlock:
        """Send a block and wait for its columns; raises EOFError or OSError when the process is gone."""
        self._connection.send((first_line, spec))
        self._connection.send_bytes(data)
        head, sizes = self._connection.recv()
        buffers = [bytearray(size) for size in sizes]
        for buffer in buffers:
            self._connection.recv_bytes_into(buffer)
        block: ParsedBlock = pickle.loads(head, buffers=buffers)
        return block

    def close(self) -> None:
        """Hang up, and make sure that the process is gone."""
        self._connection.close()
        self._process.join(_CLOSE_SECONDS)
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()
        self._process.close()


def _serve(connection: Connection, nice: int) -> None:
    """Parse until the other end hangs up. Runs in the worker process."""
    # Ctrl-C reaches the whole process group, and the server still needs its workers while it drains.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(nice)
    return_memory_early()
    while True:
        try:
            first_line, spec = connection.recv()
            block = parse_block(connection.recv_bytes(), first_line, spec)
            _answer(connection, block)
        except (EOFError, ConnectionError):
            return


def _answer(connection: Connection, block: ParsedBlock) -> None:
    """Send a block: first everything but the arrays, then their buffers as they are."""
    buffers: list[pickle.PickleBuffer] = []
    head = pickle.dumps(block, protocol=5, buffer_callback=buffers.append)
    raw = [buffer.raw() for buffer in buffers]
    connection.send((head, [view.nbytes for view in raw]))
    for view in raw:
        connection.send_bytes(view)
