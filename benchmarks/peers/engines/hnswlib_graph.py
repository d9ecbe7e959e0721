"""hnswlib: a graph over float vectors, all in memory."""

from __future__ import annotations

from pathlib import Path

import hnswlib
import numpy as np

from benchmarks.peers.engine import Ask, Clock, Floats, Points, Setting
from benchmarks.peers.graph import GRAPH_LINKS, GRAPH_WIDTH, GraphEngine

FILE = "graph.hnsw"


class HnswlibGraph(GraphEngine):
    """A graph of hnswlib; a filter is worked out for each query and then asked about every point that is met."""

    packages = ("hnswlib",)

    def __init__(self, threads: int, *, links: int = GRAPH_LINKS, width: int = GRAPH_WIDTH) -> None:
        super().__init__(threads)
        self._links, self._width = links, width

    def build(self, points: Points, folder: Path, clock: Clock) -> None:
        """Add to the graph; every point can be found at once."""
        index = hnswlib.Index(space="ip", dim=points.vectors.shape[1])
        index.init_index(max_elements=len(points), M=self._links, ef_construction=self._width)
        for start, vectors in points.blocks():
            index.add_items(vectors, np.arange(start, start + len(vectors)), num_threads=self.threads)
        clock.searchable()
        index.save_index(str(folder / FILE))

    def open(self, points: Points, folder: Path) -> None:
        """Load the graph."""
        self._points = points
        self._index = hnswlib.Index(space="ip", dim=points.vectors.shape[1])
        self._index.load_index(str(folder / FILE))

    def asker(self, setting: Setting, k: int, below: int | None) -> Ask:
        """See `Engine`."""
        index, buckets = self._index, self._points.buckets
        index.set_ef(setting["ef"])

        def ask(query: Floats) -> np.ndarray:
            try:
                if below is None:
                    return index.knn_query(query, k, num_threads=1)[0][0]
                allowed = (buckets < below).tobytes().__getitem__
                return index.knn_query(query, k, num_threads=1, filter=allowed)[0][0]
            except RuntimeError:  # it found fewer than k, and then returns none
                return np.empty(0, np.int64)

        return ask
