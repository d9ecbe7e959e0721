"""FAISS's inverted lists of RaBitQ codes with fast-scan, rescored from the file of float vectors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import faiss
import numpy as np

from benchmarks.peers.engine import Ask, Floats, Points, Setting, grid
from benchmarks.peers.engines.faiss_file import FaissFile, selector

ROWS_A_LIST = 64  # that k-means sees
LISTS = (0.005, 0.01, 0.02, 0.04, 0.06, 0.1, 0.16, 0.25)  # shares of all lists
FILTERED_LISTS = (0.02, 0.06, 0.16, 0.4)  # the same under a filter, which leaves fewer points in each
RESCORE = {1: (50, 100, 200), 4: (0, 20, 50)}  # vectors read, by bits; 0: none


class FaissLists(FaissFile):
    """Randomly rotated vectors in four times the root of n lists, as FAISS's guide has it, with so many bits."""

    file = "lists.faiss"
    reads_source = True

    def __init__(self, threads: int, *, bits: int) -> None:
        super().__init__(threads)
        self._bits = bits

    def trained(self, points: Points) -> faiss.Index:
        """Return empty lists around centroids of a sample."""
        d, lists = points.vectors.shape[1], round(4 * math.sqrt(len(points)))
        form = f"RR{d},IVF{lists},RaBitQfs{self._bits if self._bits > 1 else ''}"
        index = faiss.index_factory(d, form, faiss.METRIC_INNER_PRODUCT)
        faiss.extract_index_ivf(index).cp.min_points_per_centroid = 1
        index.train(points.sample(ROWS_A_LIST * lists))
        return index

    def open(self, points: Points, folder: Path) -> None:
        """Read the lists, and how many there are."""
        super().open(points, folder)
        self._lists = faiss.extract_index_ivf(self._index).nlist

    def settings(self) -> list[Setting]:
        """Sweep how many lists are looked into, and how many vectors are read."""
        return self._swept(LISTS, RESCORE[self._bits])

    def filtered_settings(self) -> list[Setting]:
        """Look into more lists."""
        return self._swept(FILTERED_LISTS, RESCORE[self._bits][1:2])

    def _swept(self, shares: Sequence[float], rescore: Sequence[int]) -> list[Setting]:
        return grid(nprobe=[max(1, round(share * self._lists)) for share in shares], rescore=rescore)

    def asker(self, setting: Setting, k: int, below: int | None) -> Ask:
        """See `Engine`."""
        index, points, rescore = self._index, self._points, int(setting["rescore"])

        def params(sel: faiss.IDSelector | None) -> faiss.SearchParameters:
            inner = faiss.IVFRaBitQSearchParameters(nprobe=setting["nprobe"], sel=sel)
            return faiss.SearchParametersPreTransform(index_params=inner)

        plain = params(None)

        def ask(query: Floats) -> np.ndarray:
            chosen = plain if below is None else params(selector(points.buckets, below))
            found = index.search(query[None], rescore or k, params=chosen)[1][0]
            return points.rescored(found, query, k) if rescore else found

        return ask
