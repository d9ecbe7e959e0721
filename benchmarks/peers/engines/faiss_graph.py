"""FAISS's HNSW over float vectors or 8-bit codes, all in memory."""

from __future__ import annotations

import faiss
import numpy as np

from benchmarks.peers.engine import Ask, Floats, Points, Setting
from benchmarks.peers.engines.faiss_file import FaissFile, selector
from benchmarks.peers.graph import GRAPH_LINKS, GRAPH_WIDTH, GraphEngine

SAMPLE = 50_000


class FaissGraph(FaissFile, GraphEngine):
    """A graph of FAISS; a filter is worked out for each query, as there is nothing that would remember it.

    Parameters
    ----------
    storage : what the graph lies over, as in FAISS's factory: `Flat` or `SQ8`.
    """

    file = "graph.faiss"

    def __init__(self, threads: int, *, storage: str, links: int = GRAPH_LINKS) -> None:
        super().__init__(threads)
        self._storage, self._links = storage, links

    def trained(self, points: Points) -> faiss.Index:
        """Return an empty graph; what it lies over is trained if it needs that."""
        # Unit vectors: nearest by distance is nearest by product.
        index = faiss.index_factory(points.vectors.shape[1], f"HNSW{self._links}_{self._storage}", faiss.METRIC_L2)
        index.hnsw.efConstruction = GRAPH_WIDTH
        if not index.is_trained:
            index.train(points.sample(SAMPLE))
        return index

    def asker(self, setting: Setting, k: int, below: int | None) -> Ask:
        """See `Engine`."""
        index, buckets = self._index, self._points.buckets
        plain = faiss.SearchParametersHNSW(efSearch=setting["ef"])

        def ask(query: Floats) -> np.ndarray:
            params = plain
            if below is not None:
                params = faiss.SearchParametersHNSW(efSearch=setting["ef"], sel=selector(buckets, below))
            return index.search(query[None], k, params=params)[1][0]

        return ask
