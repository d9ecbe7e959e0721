"""Chroma's server (`chroma run`) over HTTP: filled and asked by its own routes."""

from __future__ import annotations

import base64
import sys
from pathlib import Path

from benchmarks.peers.engine import Ask, Clock, Floats, Points, Setting, grid
from benchmarks.peers.engines.chroma import BATCH, EF, NAME, graph
from benchmarks.peers.http_engine import HttpEngine

# `chroma` on the path may belong to another Python.
CHROMA = "from chromadb.cli.cli import app; app()"
COLLECTIONS = "/api/v2/tenants/default_tenant/databases/default_database/collections"


class ChromaServer(HttpEngine):
    """A collection of a server on one machine."""

    packages = ("chromadb", "httpx")
    ready = "/api/v2/heartbeat"
    own_variables = "CHROMA_"

    def command(self, folder: Path, port: int) -> tuple[list[str], dict[str, str]]:
        """Return `chroma run`; by default it logs every request, which would slow it down."""
        self._folder = folder
        program = [sys.executable, "-c", CHROMA, "run", "--path", str(folder), "--host", "127.0.0.1"]
        return [*program, "--port", str(port)], {"RUST_LOG": "error", "ANONYMIZED_TELEMETRY": "False"}

    def build(self, points: Points, folder: Path, clock: Clock) -> None:
        """Add in batches, as in process; vectors travel as base64, as Chroma's own client sends them."""
        del folder
        made = self.call("POST", COLLECTIONS, {"name": NAME, "configuration": {"hnsw": graph(self.threads)}})
        for start, vectors in points.blocks(BATCH):
            end = start + len(vectors)
            batch = {
                "ids": [str(i) for i in range(start, end)],
                "embeddings": [base64.b64encode(vector.tobytes()).decode() for vector in vectors],
                "metadatas": [{"bucket": int(bucket)} for bucket in points.buckets[start:end]],
            }
            self.call("POST", f"{COLLECTIONS}/{made['id']}/add", batch)
        first = {"query_embeddings": points.vectors[:1].tolist(), "n_results": 1, "include": []}
        self.call("POST", f"{COLLECTIONS}/{made['id']}/query", first)
        clock.searchable()

    def open(self, points: Points, folder: Path) -> None:
        """Serve what was built; each setting serves it anew."""
        del points
        self.start(folder)

    def settings(self) -> list[Setting]:
        """Sweep ef, as in process."""
        return grid(ef=EF)

    def asker(self, setting: Setting, k: int, below: int | None) -> Ask:
        """See `Engine`; another ef is only used once the server starts again."""
        name = self.call("GET", f"{COLLECTIONS}/{NAME}")["id"]
        self.call("PUT", f"{COLLECTIONS}/{name}", {"new_configuration": {"hnsw": {"ef_search": setting["ef"]}}})
        self.start(self._folder)
        body = {"n_results": k, "include": [], "where": None if below is None else {"bucket": {"$lt": below}}}

        def ask(query: Floats) -> list[int]:
            found = self.call("POST", f"{COLLECTIONS}/{name}/query", {"query_embeddings": query[None], **body})
            return [int(id_) for id_ in found["ids"][0]]

        return ask
