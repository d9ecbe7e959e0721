"""Bitfold's own store in process: codes in memory, full-precision vectors mapped from its files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.peers.engine import Ask, Clock, Engine, Floats, Points, Setting, grid
from index import maintenance
from index.collection import Collection
from index.filters import parse_filter
from index.ids import PointId
from index.indexing import fill, index_field, save_fields
from index.options import StoreOptions
from index.parallel import set_threads
from index.paths import parse_path
from index.points import Batch, CollectionConfig, SearchParams
from index.store import Store
from models.binarizers import Binarizers

NAME = "points"
BATCH = 10_000
TARGETS = (0.8, 0.85, 0.9, 0.91, 0.92, 0.93, 0.94, 0.95, 0.96, 0.97, 0.98, 0.985, 0.99, 0.995)


def _index_buckets(collection: Collection) -> None:
    """Make the index of the filtered field, or take up the saved one: a service does so at its start."""
    index_field(collection, parse_path("bucket"), "integer")
    fill(collection)


class BitfoldStore(Engine):
    """A collection with an index on the filtered field.

    Parameters
    ----------
    bits : of codes, a dimension.
    index : how codes are searched, `lists` or `graph`; None: as a collection does by itself.
    """

    packages = ("faiss-cpu", "numpy")
    float_paths = ("/vectors/",)

    def __init__(self, threads: int, *, bits: int, index: str | None = None) -> None:
        super().__init__(threads)
        self._codes: dict[str, Any] = {"bits": bits} if index is None else {"bits": bits, "index": index}

    def _store(self, folder: Path) -> Store:
        set_threads(self.threads)
        return Store(folder, Binarizers(), StoreOptions(background=False))

    def build(self, points: Points, folder: Path, clock: Clock) -> None:
        """Load in batches, each durable; upkeep runs between them as it would in its thread."""
        store = self._store(folder)
        collection = store.create(NAME, CollectionConfig(points.vectors.shape[1], "Cosine", **self._codes))
        for start, vectors in points.blocks(BATCH):
            ids: list[PointId] = list(range(start, start + len(vectors)))
            payloads = [b'{"bucket":%d}' % bucket for bucket in points.buckets[start : start + len(vectors)]]
            collection.upsert(Batch(ids, vectors, payloads, [None] * len(ids), [bytes(16)] * len(ids)))
            maintenance.step(collection, idle=False)
        clock.searchable()
        _index_buckets(collection)
        maintenance.optimize(collection)
        save_fields(collection)
        store.close()

    def open(self, points: Points, folder: Path) -> None:
        """Open the store; what it needs is in it."""
        del points
        self._opened = self._store(folder)
        self._collection = self._opened.get(NAME)
        _index_buckets(self._collection)
        # What a server does in its first quiet seconds.
        while maintenance.step(self._collection, idle=True):
            pass

    def settings(self) -> list[Setting]:
        """Ask for a recall: what it takes, the collection has measured."""
        return grid(target_recall=TARGETS)

    def asker(self, setting: Setting, k: int, below: int | None) -> Ask:
        """See `Engine`; codes are used at any size."""
        collection, params = self._collection, SearchParams(exact=False, target_recall=setting["target_recall"])
        tree = None
        if below is not None:
            tree = parse_filter({"must": [{"key": "bucket", "range": {"lt": below}}]})

        def ask(query: Floats) -> list[int]:
            result = collection.search(query[None], k, filter=tree, params=params, with_payload=False)[0]
            return [int(hit.id) for hit in result.hits]

        return ask

    def close(self) -> None:
        """Give the lock back."""
        self._opened.close()
