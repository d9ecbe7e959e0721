"""FAISS's HNSW over float vectors or 8-bit codes, all in memory."""

from __future__ import annotations

from pathlib import Path

import faiss
import numpy as np

from benchmarks.peers.engine import (
    FILTERED_WIDTHS,
    GRAPH_LINKS,
    GRAPH_WIDTH,
    WIDTHS,
    Ask,
    Clock,
    Engine,
    Floats,
    Points,
    Setting,
    grid,
)

FILE = "graph.faiss"
SAMPLE = 50_000


def selector(buckets: np.ndarray, below: int) -> faiss.IDSelector:
    """Return the points whose bucket is below a number, as FAISS takes them."""
    return faiss.IDSelectorBitmap(np.packbits(buckets < below, bitorder="little"))


class FaissGraph(Engine):
    """A graph of FAISS; a filter is worked out for each query, as there is nothing that would remember it.

    Parameters
    ----------
    storage : what the graph lies over, as in FAISS's factory: `Flat` or `SQ8`.
    """

    packages = ("faiss-cpu",)

    def __init__(self, threads: int, *, storage: str, links: int = GRAPH_LINKS) -> None:
        super().__init__(threads)
        self._storage, self._links = storage, links
        faiss.omp_set_num_threads(threads)

    def build(self, points: Points, folder: Path, clock: Clock) -> None:
        """Add to the graph; every point can be found at once."""
        # Unit vectors: nearest by distance is nearest by product.
        index = faiss.index_factory(points.vectors.shape[1], f"HNSW{self._links}_{self._storage}", faiss.METRIC_L2)
        index.hnsw.efConstruction = GRAPH_WIDTH
        if not index.is_trained:
            index.train(points.sample(SAMPLE))
        for _, vectors in points.blocks():
            index.add(vectors)
        clock.searchable()
        faiss.write_index(index, str(folder / FILE))

    def open(self, points: Points, folder: Path) -> None:
        """Read the graph."""
        self._points, self._index = points, faiss.read_index(str(folder / FILE))

    def settings(self) -> list[Setting]:
        """Sweep ef."""
        return grid(ef=WIDTHS)

    def filtered_settings(self) -> list[Setting]:
        """Sweep fewer."""
        return grid(ef=FILTERED_WIDTHS)

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
