"""Work that is done on several threads at once: segments of one query, queries of one batch.

The kernels, SQLite and NumPy's larger operations let other Python threads run.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import faiss

T = TypeVar("T")
R = TypeVar("R")


def set_threads(count: int) -> None:
    """Set how many threads FAISS, and what finds links beside it, use for calls from the current thread."""
    faiss.omp_set_num_threads(count)


def threads() -> int:
    """Return how many threads FAISS, and what finds links beside it, use for calls from the current thread."""
    return int(faiss.omp_get_max_threads())


class Workers:
    """So many threads, shared by all who ask; with one, everything is done by whoever asks."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._pool: ThreadPoolExecutor | None = None
        self._here = threading.local()
        if threads > 1:
            self._pool = ThreadPoolExecutor(threads, thread_name_prefix="bitfold-search", initializer=self._prepare)

    def _prepare(self) -> None:
        self._here.one_of_them = True

    def map(self, work: Callable[[T], R], items: Sequence[T]) -> list[R]:
        """Return what `work` makes of each item, in their order. Raises what the first of them that failed raised."""
        # A worker that waited for other workers could wait for ever.
        if self._pool is None or len(items) < 2 or getattr(self._here, "one_of_them", False):
            return [work(item) for item in items]
        return list(self._pool.map(work, items))

    def close(self) -> None:
        """End the threads, after what they are doing."""
        if self._pool is not None:
            self._pool.shutdown()


ALONE = Workers(1)
