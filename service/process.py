"""What holds for a whole serving process: how memory goes back, how threads share cores and the interpreter.

Called once by whoever owns the process (the CLI, a parser worker), never by the application itself.
"""

from __future__ import annotations

import ctypes
import resource
import sys
import threading
import time

from threadpoolctl import threadpool_limits

# glibc's numbers for mallopt.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_MIB = 1 << 20


def return_memory_early(*, trim_seconds: float | None = None) -> None:
    """Make glibc give large blocks back to the system when they are freed; elsewhere do nothing.

    With `trim_seconds` a thread also gives back, that often, what lies free between small blocks that are in use:
    a million loaded vectors left 24 MiB of it.

    By default it raises its threshold to the largest block it has seen, after which batches of vectors come from
    heaps that never shrink: 100,000 loaded vectors left 145 MiB behind, with this 47 MiB (docs/log.md).
    """
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):
        return
    libc.mallopt(_M_MMAP_THRESHOLD, _MIB)
    libc.mallopt(_M_TRIM_THRESHOLD, _MIB)
    libc.mallopt(_M_ARENA_MAX, 2)
    if trim_seconds is not None:
        threading.Thread(target=_trim, args=(libc, trim_seconds), name="bitfold-trim", daemon=True).start()


def _trim(libc: ctypes.CDLL, seconds: float) -> None:
    while True:
        time.sleep(seconds)
        libc.malloc_trim(0)


def allow_open_files() -> None:
    """Raise the limit of open files to what the system allows: each connection and each segment is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):
            return  # macOS calls a limit endless that it does not grant


def share_cores(switch_seconds: float = 0.001) -> None:
    """Keep one request from holding up others.

    BLAS computes in the calling thread, as FAISS does: requests are what runs in parallel. And a thread that
    computes in Python gives way after 1 ms instead of 5, so that a load does not show in a search's p99.
    """
    threadpool_limits(limits=1, user_api="blas")
    sys.setswitchinterval(switch_seconds)
