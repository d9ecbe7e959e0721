"""The lock of a data directory: one process owns it at a time. Knows nothing of what lies in it."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from index.errors import DataDirLocked


def take_lock(directory: Path) -> int:
    """Take the directory for this process; return the descriptor that holds it until it is closed.

    Raises DataDirLocked, naming the process that owns the directory.
    """
    fd = os.open(directory / "LOCK", os.O_RDWR | os.O_CREAT, 0o644)
    _lock(fd, directory)
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    return fd


def borrow_lock(directory: Path) -> int | None:
    """Take the directory without writing to it; None where no process has ever owned it."""
    try:
        fd = os.open(directory / "LOCK", os.O_RDONLY)
    except FileNotFoundError:
        return None
    _lock(fd, directory)
    return fd


def _lock(fd: int, directory: Path) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        owner = os.read(fd, 32).decode(errors="replace").strip()
        os.close(fd)
        raise DataDirLocked(
            f"{directory} is in use by another process (pid {owner or 'unknown'})",
            hint="stop that one, or choose another directory with BITFOLD_DATA_DIR",
        ) from error
