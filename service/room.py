"""Whether there is room for points, in memory and on disk, before any of them is written.

Memory is what collections take themselves (`index.footprint.memory_of`), against the limit that was set. An estimate
counts points that take the place of others once, because they take no more room when upkeep has been by.
"""

from __future__ import annotations

import math
import shutil
import threading
import time
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from index.collection import Collection
from index.errors import DiskFull
from index.footprint import memory_of
from index.growth import disk_growth, memory_growth
from service.byte_sizes import shown_bytes
from service.catalog import Catalog
from service.errors import WillNotFit
from service.ingest import Incoming
from service.metrics import MemoryUse
from service.payload_schema import wished_kinds

_FRESH_SECONDS: Final = 1.0
# Looking at every term of large payload indexes may take a while, in which commits wait.
_REST: Final = 50
# Lines differ in length: of a number that was guessed from the first ones, this share is taken for sure.
_SURE: Final = 0.9


@dataclass(frozen=True, slots=True)
class Expected:
    """How many points a load will have; `told` by its sender, or guessed."""

    points: int
    told: bool


class Room:
    """What the collections of a server take, and what they may.

    Parameters
    ----------
    directory : where they lie; the free bytes of its file system are what a load may take.
    limit : bytes in memory; None: any.
    """

    def __init__(self, catalog: Catalog, directory: Path, limit: int | None) -> None:
        self._catalog = catalog
        self._directory = directory
        self._limit = limit
        self._lock = threading.Lock()
        self._stale_at = -math.inf
        self._sizes: weakref.WeakKeyDictionary[Collection, int] = weakref.WeakKeyDictionary()

    def memory(self) -> MemoryUse:
        """Return what each collection takes, as of a second ago at most (later where counting takes long)."""
        return MemoryUse({collection.name: size for collection, size in self._taken().items()}, self._limit)

    def disk_free(self) -> int:
        """Return the bytes that are free where the collections lie."""
        return shutil.disk_usage(self._directory).free

    def require(self, collection: Collection, incoming: Incoming, expected: Expected | None = None) -> None:
        """Check that there is room for points that are about to be written.

        Parameters
        ----------
        expected : how many points the load has that begins with these; None: these are all, and the disk is not
            asked, because it says itself when it is full.

        Raises
        ------
        WillNotFit, DiskFull
            Even if of the points that are stored already nothing is written anew.
        """
        if expected is None and self._limit is None:
            return
        ids = set(incoming.ids)
        most = len(ids) if expected is None else max(expected.points, len(ids))
        if self._problem(collection, incoming, most, expected) is None:
            return
        new = len(ids) - len(collection.stored(list(ids)))
        problem = self._problem(collection, incoming, _new_points(collection, new, len(ids), expected), expected)
        if problem is not None:
            raise problem

    def _problem(
        self, collection: Collection, incoming: Incoming, points: int, expected: Expected | None
    ) -> WillNotFit | DiskFull | None:
        """Return what stands against so many new points, None when there is room."""
        if not points:
            return None
        about = "" if expected is None or expected.told else "about "
        what = f"{about}{points:,} new points are expected in {collection.name!r}, which would take"
        if self._limit is not None:
            problem = self._memory_problem(collection, points, what, self._limit)
            if problem is not None:
                return problem
        return None if expected is None else self._disk_problem(collection, incoming, points, what)

    def _memory_problem(self, collection: Collection, points: int, what: str, limit: int) -> WillNotFit | None:
        taken = self._taken()
        kinds = wished_kinds(collection)
        more = memory_growth(collection, points, taken=taken.get(collection, 0), payload_indexes=kinds)
        used = sum(taken.values())
        if used + more <= limit:
            return None
        return WillNotFit(
            f"{what} {shown_bytes(more)} more of memory: all collections take {shown_bytes(used)} now, and the limit "
            f"is {shown_bytes(limit)}",
            hint="load fewer points, make the collection with fewer bits or code_dimensions (POST /collections/plan "
            "foretells what it takes), or raise BITFOLD_MEMORY_LIMIT",
        )

    def _disk_problem(self, collection: Collection, incoming: Incoming, points: int, what: str) -> DiskFull | None:
        count = len(incoming.ids)
        more = disk_growth(
            collection,
            points,
            payload_bytes=sum(map(len, incoming.payloads)) / count,
            text_bytes=sum(len(text.encode()) for text in incoming.texts if text is not None) / count,
            payload_indexes=wished_kinds(collection),
        )
        free = self.disk_free()
        if more <= free:
            return None
        return DiskFull(
            f"{what} {shown_bytes(more)} on disk, where {shown_bytes(free)} are free",
            hint="make room, or load fewer points; POST /collections/plan foretells what a collection takes",
        )

    def _taken(self) -> dict[Collection, int]:
        with self._lock:
            started = time.monotonic()
            if started >= self._stale_at:
                for collection in self._catalog.opened():
                    self._sizes[collection] = sum(memory_of(collection).values())
                ended = time.monotonic()
                self._stale_at = ended + max(_FRESH_SECONDS, _REST * (ended - started))
            # One that was dropped since takes nothing; one that was made since has nothing yet.
            return {collection: self._sizes.get(collection, 0) for collection in self._catalog.opened()}


def _new_points(collection: Collection, new: int, ids: int, expected: Expected | None) -> int:
    """Return how many new points come at least, when `new` of the first `ids` are.

    The share of new ones among the first stands for all: a load that is sent again is not refused, whether it is
    whole or goes on where it ended. Where the sender says how many there are, more than are stored must be new.
    """
    if expected is None:
        return new
    if expected.told:
        return max(math.ceil(expected.points * new / ids), expected.points - collection.view.points, new)
    return max(math.floor(_SURE * expected.points * new / ids), new)
