"""Writing so that it stays written: the only place that syncs files and folders.

The order that every caller keeps: data, sync, then the name or the transaction that makes the data count.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from index.errors import DiskFull

FULL = (errno.ENOSPC, errno.EDQUOT)


def write_at(fd: int, data: bytes | memoryview, offset: int, path: Path) -> None:
    """Write all of `data` at `offset`. Raises DiskFull when there is no room."""
    view = memoryview(data).cast("B")
    try:
        while view:
            written = os.pwrite(fd, view, offset)
            view, offset = view[written:], offset + written
    except OSError as error:
        raise full_or_same(error, path) from error


def full_or_same(error: OSError, path: Path) -> Exception:
    """Translate 'no space left' into DiskFull; other errors are returned as they are."""
    if error.errno in FULL:
        return DiskFull(f"no space left to write {path}", hint="make room; writing resumes by itself")
    return error


def sync_file(fd: int) -> None:
    """Flush a file's data and length to the disk."""
    os.fdatasync(fd) if hasattr(os, "fdatasync") else os.fsync(fd)


def sync_directory(path: Path) -> None:
    """Flush a folder's names (created, renamed, removed files) to the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_folder(path: Path) -> None:
    """Make a folder and its missing parents; their names are durable when this returns."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in reversed(missing):
        sync_directory(folder.parent)


def replace_file(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Write a whole file under a temporary name, then rename it into place.

    With `durable` false nothing is synced: for derived files that carry a checksum.
    """
    with replacing(path, durable=durable) as (fd, temporary):
        write_at(fd, data, 0, temporary)


@contextmanager
def replacing(path: Path, *, durable: bool = True) -> Iterator[tuple[int, Path]]:
    """Yield a descriptor and name of a temporary file that takes the name `path` when the block ends well.

    Raises DiskFull when there is no room for it; then nothing is left behind.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            yield fd, temporary
            if durable:
                sync_file(fd)
        finally:
            os.close(fd)
        os.replace(temporary, path)
        if durable:
            sync_directory(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise full_or_same(error, path) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
