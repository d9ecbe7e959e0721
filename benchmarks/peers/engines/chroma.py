"""Chroma in process: its graph over float vectors, records in SQLite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import chromadb
from chromadb.config import Settings

from benchmarks.peers.engine import Ask, Clock, Engine, Floats, Points, Setting, grid
from benchmarks.peers.graph import GRAPH_LINKS, GRAPH_WIDTH

NAME = "points"
BATCH = 5_000  # it takes 5,461
EF = (10, 16, 32, 64, 128, 256, 512)


def graph(threads: int) -> dict[str, Any]:
    """Return how the graph is built."""
    return {"space": "ip", "max_neighbors": GRAPH_LINKS, "ef_construction": GRAPH_WIDTH, "num_threads": threads}


class ChromaCollection(Engine):
    """A collection of a persistent client."""

    packages = ("chromadb",)

    def _client(self) -> Any:  # noqa: ANN401 - the library's type of a client has no `close`
        return chromadb.PersistentClient(str(self._folder), settings=Settings(anonymized_telemetry=False))

    def build(self, points: Points, folder: Path, clock: Clock) -> None:
        """Add in batches; each is in the graph when the call returns, but for the newest, which are scanned."""
        self._folder = folder
        client = self._client()
        collection = client.create_collection(
            NAME, configuration={"hnsw": graph(self.threads)}, embedding_function=None
        )
        for start, vectors in points.blocks(BATCH):
            end = start + len(vectors)
            collection.add(
                ids=[str(i) for i in range(start, end)],
                embeddings=vectors,
                metadatas=[{"bucket": int(bucket)} for bucket in points.buckets[start:end]],
            )
        collection.query(query_embeddings=[points.vectors[0]], n_results=1, include=[])
        clock.searchable()
        client.close()

    def open(self, points: Points, folder: Path) -> None:
        """Note where it is; each setting opens it anew."""
        del points
        self._folder = folder
        self._opened = self._client()

    def settings(self) -> list[Setting]:
        """Sweep ef."""
        return grid(ef=EF)

    def asker(self, setting: Setting, k: int, below: int | None) -> Ask:
        """See `Engine`; another ef is only used once the collection is opened again."""
        self._opened.get_collection(NAME, embedding_function=None).modify(
            configuration={"hnsw": {"ef_search": setting["ef"]}}
        )
        self.close()
        self._opened = self._client()
        collection = self._opened.get_collection(NAME, embedding_function=None)
        where = None if below is None else {"bucket": {"$lt": below}}

        def ask(query: Floats) -> list[int]:
            found = collection.query(query_embeddings=[query], n_results=k, where=where, include=[])
            return [int(name) for name in found["ids"][0]]

        return ask

    def close(self) -> None:
        """Close the client."""
        self._opened.close()
