"""A data directory: owns its lock, its collections and their upkeep.

DATA_DIR/LOCK                      held by the one process that owns the directory
DATA_DIR/collections/<name>/       one collection (`index/collection.py`)
DATA_DIR/collections/.<something>  being made or dropped; removed at the next start
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
from pathlib import Path

from index import durable, kernels
from index.binarizer import BinarizerFactory
from index.collection import Collection
from index.errors import CollectionExists, CorruptCollection, InvalidName, UnknownCollection
from index.footprint import memory_of
from index.lock import take_lock
from index.maintenance import Maintainer
from index.merging import save_all
from index.options import StoreOptions
from index.parallel import Workers
from index.points import CollectionConfig

log = logging.getLogger(__name__)

FORBIDDEN = set('/\\<>:"|?*')
MAX_NAME_BYTES = 200
UNFINISHED = (".making-", ".dropped-")


def check_name(name: str) -> str:
    """Return a name that can be a directory. Raises InvalidName for paths and other surprises."""
    bad = sorted({c for c in name if c in FORBIDDEN or ord(c) < 32 or ord(c) == 127 or 0xD800 <= ord(c) < 0xE000})
    problem = None
    if bad:
        problem = f"holds {', '.join(map(repr, bad))}"
    elif not name or name.startswith(".") or name != name.strip():
        problem = "is empty, starts with a dot, or has spaces around it"
    elif len(name.encode()) > MAX_NAME_BYTES:
        problem = f"is longer than {MAX_NAME_BYTES} bytes"
    if problem:
        raise InvalidName(
            f"collection name {name[:80]!r} {problem}",
            param="collection",
            hint="use letters, digits, - and _",
        )
    return name


class Store:
    """All collections of one data directory."""

    def __init__(self, directory: Path, factory: BinarizerFactory, options: StoreOptions | None = None) -> None:
        """Take the directory's lock and open every collection.

        A collection whose truth is damaged is refused (see `damaged`); the others open.
        Raises DataDirLocked when another process owns the directory, ImportError where the kernels are not compiled.
        """
        kernels.require()
        self.directory = directory
        self._folder = directory / "collections"
        self._factory = factory
        self._options = options or StoreOptions()
        self._workers = Workers(self._options.threads)
        self._lock = threading.Lock()
        self._open: dict[str, Collection] = {}
        self.damaged: dict[str, str] = {}
        durable.make_folder(self._folder)
        # A start that was killed may have made the folder and not synced its name.
        durable.sync_directory(directory)
        self._lock_fd: int | None = take_lock(directory)
        for path in sorted(self._folder.iterdir()):
            if path.name.startswith(UNFINISHED):
                shutil.rmtree(path)
            elif path.is_dir() and not path.name.startswith("."):
                self._try_open(path)
        self._maintainer = None
        if self._options.background:
            self._maintainer = Maintainer(self._all, self._options.idle_seconds)

    def _try_open(self, path: Path) -> None:
        try:
            self._add(path)
        except CorruptCollection as error:
            log.error("collection %s is refused: %s", path.name, error)
            self.damaged[path.name] = str(error)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with one must not stop the others
            log.exception("collection %s cannot be opened", path.name)
            self.damaged[path.name] = f"{path}: cannot be opened ({error})"

    def _add(self, path: Path) -> Collection:
        collection = Collection(path, self._factory, self._options, self._workers, self._room())
        collection.on_change = self._wake
        self._open[path.name] = collection
        return collection

    def _room(self) -> int | None:
        """Return the bytes in memory that the limit leaves, None without one."""
        limit = self._options.memory_limit
        if limit is None:
            return None
        return limit - sum(sum(memory_of(collection).values()) for collection in self._all())

    def _wake(self) -> None:
        if self._maintainer is not None:
            self._maintainer.wake()

    def _all(self) -> list[Collection]:
        return list(self._open.values())  # atomic: making or dropping a collection must not hold up others

    def names(self) -> list[str]:
        """Return the names of the collections that are open, sorted."""
        return sorted(collection.name for collection in self._all())

    def get(self, name: str) -> Collection:
        """Return a collection. Raises UnknownCollection, or CorruptCollection for a refused one."""
        found = self._open.get(name)
        if found is not None:
            return found
        if name in self.damaged:
            raise CorruptCollection(self.damaged[name], hint="restore it from a backup, or drop it")
        raise UnknownCollection(
            f"collection {name[:80]!r} does not exist",
            param="collection",
            hint="create it with PUT /collections/{name}",
        )

    def create(self, name: str, config: CollectionConfig) -> Collection:
        """Make a collection; it is durable when this returns. Raises InvalidName, CollectionExists."""
        path = self._folder / check_name(name)
        with self._lock:
            if name in self._open or name in self.damaged or path.exists():
                raise CollectionExists(f"collection {name!r} exists already", param="collection")
            being_made = self._folder / f".making-{name}"
            shutil.rmtree(being_made, ignore_errors=True)
            try:
                Collection.create(being_made, config)
            except OSError as error:
                shutil.rmtree(being_made, ignore_errors=True)
                raise durable.full_or_same(error, being_made) from error
            except Exception:
                shutil.rmtree(being_made, ignore_errors=True)
                raise
            being_made.rename(path)
            try:
                durable.sync_directory(self._folder)
                return self._add(path)
            except Exception as error:
                self.damaged[name] = f"{path}: was made but cannot be used ({error})"
                raise

    def drop(self, name: str) -> bool:
        """Remove a collection and its files; return whether it existed. Readers under way finish."""
        with self._lock:
            collection = self._open.pop(name, None)
            if collection is None and self.damaged.pop(name, None) is None:
                return False
        if collection is not None:
            # Closed before its path is free: nothing late may reach a new collection of the same name.
            collection.close()
        with self._lock:
            dropped = self._folder / f".dropped-{name}"
            shutil.rmtree(dropped, ignore_errors=True)
            try:
                (self._folder / name).rename(dropped)
                durable.sync_directory(self._folder)
            except OSError as error:
                self.damaged[name] = f"{self._folder / name}: is closed but could not be removed ({error})"
                raise
        shutil.rmtree(dropped, ignore_errors=True)
        return True

    def close(self) -> None:
        """Stop upkeep, save what makes the next start fast, close everything, give back the lock."""
        if self._maintainer is not None:
            self._maintainer.stop()
        with self._lock:
            for collection in self._open.values():
                try:
                    save_all(collection)
                except Exception:  # noqa: BLE001 - derived files only
                    log.exception("the codes of %s were not saved; the next start makes them again", collection.name)
                collection.close()
            self._open.clear()
        self._workers.close()
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None
