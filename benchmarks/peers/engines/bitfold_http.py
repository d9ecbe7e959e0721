"""Bitfold's server, `bitfold serve` of this checkout with its default settings but for encoders, over HTTP.

Loaded by one stream of NDJSON lines with base64 vectors, asked by Qdrant's query route.
"""

from __future__ import annotations

import base64
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.peers.engine import Ask, Clock, Floats, Points, Setting, grid
from benchmarks.peers.engines.bitfold import NAME, TARGETS, BitfoldStore
from benchmarks.peers.http_engine import HttpEngine

COLLECTION = f"/collections/{NAME}"
NDJSON = {"content-type": "application/x-ndjson"}
BLOCK = 2_000  # lines that are made at once
QUIET_SECONDS = 12.0  # of a server whose upkeep is done; it begins 5 s after the last write
INDEX_SECONDS = 0.5  # between questions whether the index on the filtered field is filled


class BitfoldServer(HttpEngine):
    """A collection with so many bits a dimension and an index on the filtered field."""

    packages = ("faiss-cpu", "httpx", "numpy", "uvicorn")
    float_paths = BitfoldStore.float_paths
    ready = "/readyz"
    own_variables = "BITFOLD_"

    def __init__(self, threads: int, *, bits: int) -> None:
        super().__init__(threads)
        self._bits = bits

    def command(self, folder: Path, port: int) -> tuple[list[str], dict[str, str]]:
        """Return `bitfold serve`, without texts."""
        variables = {"DATA_DIR": str(folder), "PORT": str(port), "ENCODER": "none", "LOG_LEVEL": "warning"}
        return [sys.executable, "-m", "service.cli", "serve"], {f"BITFOLD_{k}": v for k, v in variables.items()}

    def build(self, points: Points, folder: Path, clock: Clock) -> None:
        """Load everything in one request, index the field, and wait until upkeep has nothing left to do."""
        del folder
        vectors = {"size": points.vectors.shape[1], "distance": "Cosine"}
        self.call("PUT", COLLECTION, {"vectors": vectors, "bits": self._bits})
        load = self._http.post(f"{COLLECTION}/points/bulk", content=_lines(points), headers=NDJSON)
        counts = self.answer(load)["result"]
        if counts["rejected"]:
            raise RuntimeError(f"not loaded: {counts}")
        clock.searchable()
        index = {"field_name": "bucket", "field_schema": "integer"}
        while self.call("PUT", f"{COLLECTION}/index", index)["result"]["status"] != "completed":
            time.sleep(INDEX_SECONDS)
        clock.optimized(self.server.wait_quiet(QUIET_SECONDS))

    def open(self, points: Points, folder: Path) -> None:
        """Serve what was built."""
        del points
        self.start(folder)

    def settings(self) -> list[Setting]:
        """Ask for a recall, as in process."""
        return grid(target_recall=TARGETS)

    def asker(self, setting: Setting, k: int, below: int | None) -> Ask:
        """See `Engine`; codes are used at any size."""
        body: dict[str, Any] = {"limit": k, "params": {"exact": False, **setting}, "with_payload": False}
        if below is not None:
            body["filter"] = {"must": [{"key": "bucket", "range": {"lt": below}}]}

        def ask(query: Floats) -> list[int]:
            found = self.call("POST", f"{COLLECTION}/points/query", {"query": query, **body})
            return [hit["id"] for hit in found["result"]["points"]]

        return ask


def _lines(points: Points) -> Iterator[bytes]:
    """Yield the lines of all points, a block at once."""
    for start, vectors in points.blocks(BLOCK):
        buckets = points.buckets[start : start + len(vectors)]
        yield b"".join(
            b'{"id":%d,"vector":"%s","payload":{"bucket":%d}}\n' % (id_, base64.b64encode(vector.tobytes()), bucket)
            for id_, (vector, bucket) in enumerate(zip(vectors, buckets, strict=True), start)
        )
