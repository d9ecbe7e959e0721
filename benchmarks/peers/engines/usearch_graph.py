"""usearch: a graph over float16, int8 or one-bit vectors; the last two rescored from the file of float vectors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from usearch.index import Index

from benchmarks.peers.engine import Ask, Clock, Engine, Floats, Points, Setting, grid
from benchmarks.peers.graph import GRAPH_LINKS, GRAPH_WIDTH, WIDTHS

SAMPLE = 50_000
FILE, MEAN = "graph.usearch", "mean.npy"
EXPANSION = (16, 32, 64, 128, 256, 512)
RESCORE = {"i8": (0, 20, 50), "b1": (50, 100, 200, 400)}  # vectors read; 0: none


class UsearchGraph(Engine):
    """A graph of usearch; it has no filters in Python.

    Parameters
    ----------
    dtype : `f16`, `i8`, or `b1`: signs of centred vectors, compared by Hamming distance.
    """

    packages = ("usearch",)
    filters = False

    def __init__(self, threads: int, *, dtype: str) -> None:
        super().__init__(threads)
        self._dtype = dtype
        self.reads_source = dtype in RESCORE

    def _empty(self, d: int) -> Index:
        return Index(
            ndim=d,
            metric="hamming" if self._dtype == "b1" else "cos",
            dtype=self._dtype,
            connectivity=GRAPH_LINKS,
            expansion_add=GRAPH_WIDTH,
            enable_key_lookups=False,
        )

    def _coded(self, vectors: Floats) -> np.ndarray:
        return np.packbits(vectors > self._mean, axis=-1) if self._dtype == "b1" else vectors

    def build(self, points: Points, folder: Path, clock: Clock) -> None:
        """Add to the graph; every point can be found at once."""
        self._mean = points.sample(SAMPLE).mean(0)
        np.save(folder / MEAN, self._mean)
        index = self._empty(points.vectors.shape[1])
        for start, vectors in points.blocks():
            index.add(np.arange(start, start + len(vectors)), self._coded(vectors), threads=self.threads)
        clock.searchable()
        index.save(str(folder / FILE))

    def open(self, points: Points, folder: Path) -> None:
        """Load the graph."""
        self._points, self._mean = points, np.load(folder / MEAN)
        self._index = self._empty(points.vectors.shape[1])
        self._index.load(str(folder / FILE))

    def settings(self) -> list[Setting]:
        """Sweep ef, and how many are rescored; a search for r rows has an ef of r at least."""
        if self._dtype not in RESCORE:
            return grid(ef=WIDTHS)
        return [one for one in grid(ef=EXPANSION, rescore=RESCORE[self._dtype]) if one["ef"] >= one["rescore"]]

    def asker(self, setting: Setting, k: int, below: int | None) -> Ask:
        """See `Engine`."""
        if below is not None:
            raise ValueError("usearch has no filters in Python")
        index, points, rescore = self._index, self._points, int(setting.get("rescore", 0))
        index.expansion_search = setting["ef"]

        def ask(query: Floats) -> np.ndarray:
            found = index.search(self._coded(query), rescore or k, threads=self.threads).keys.astype(np.int64)
            return points.rescored(found, query, k) if rescore else found

        return ask
