"""How much of one kind of work runs at once in threads that also do other things. Knows nothing of the work."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from index.errors import DeadlineExceeded


class Places:
    """A count of places; may be used from any thread.

    Parameters
    ----------
    count : how many there are.
    """

    def __init__(self, count: int) -> None:
        self._free = threading.Semaphore(count)

    @contextmanager
    def taken(self, deadline: float | None) -> Iterator[None]:
        """Take a place, waiting for it until the deadline (`time.monotonic()` seconds); raises DeadlineExceeded."""
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        if not self._free.acquire(timeout=left):
            raise DeadlineExceeded(
                "the request waited longer than it may", hint="try again, or raise BITFOLD_SEARCH_TIMEOUT_MS"
            )
        try:
            yield
        finally:
            self._free.release()
