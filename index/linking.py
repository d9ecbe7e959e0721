"""Finds the links of a graph over codes: FAISS's HNSW on its uniform 4-bit scalar quantizer.

The quantizer's grid is that of the codes, so FAISS's storage is the codes themselves. Neighbours are found by
inner products of codes: vectors are not needed. By distances they would be a little better where all norms are alike,
and useless where they differ (docs/log.md).
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterable
from typing import Any

import faiss
import numpy as np

from index.codes import Planes, unpack, values
from index.graph import LEVELS_BYTES, LINKS, GraphIndex, Links, Nibbles
from index.kernels import to_nibbles
from index.points import GRAPH_BITS

WIDTH = 160  # of the walks by which neighbours are found: with half of it a set of crowds is linked badly (docs/log.md)
# A level c stands for (2 c - 15) / 8, which is `least + (c + 0.5) / 15 * range`.
GRID = np.array([-2.0, 3.75], dtype=np.float32)


class Linker:
    """Codes that get links, one after the other. Not thread-safe."""

    def __init__(self, code_bytes: int) -> None:
        """Begin with codes of m = 8 `code_bytes` dimensions."""
        self._row_bytes = LEVELS_BYTES * code_bytes
        # FAISS's stubs know neither its constructor nor what is in it.
        make: Any = faiss.IndexHNSWSQ
        self._index: Any = make(
            8 * code_bytes, faiss.ScalarQuantizer.QT_4bit_uniform, LINKS, faiss.METRIC_INNER_PRODUCT
        )
        self._index.hnsw.efConstruction = WIDTH
        storage: Any = faiss.downcast_index(self._index.storage)
        self._storage = storage
        faiss.copy_array_to_vector(GRID, self._storage.sq.trained)
        self._storage.is_trained = self._index.is_trained = True

    def go_on_from(self, pieces: Iterable[Planes], links: Links) -> None:
        """Take over codes, piece by piece, that have links already. Raises ValueError where these do not fit."""
        hnsw = self._index.hnsw
        offsets = links.starts() * np.uint64(LINKS)
        for array, vector in (
            (links.levels, hnsw.levels),
            (offsets, hnsw.offsets),
            (links.neighbours, hnsw.neighbors),
        ):
            faiss.copy_array_to_vector(array, vector)
        hnsw.entry_point, hnsw.max_level = links.entry, links.highest
        self._storage.codes.resize(len(links.levels) * self._row_bytes)
        self._storage.ntotal = self._index.ntotal = len(links.levels)
        at = 0
        for piece in pieces:
            self._codes[at : at + len(piece)] = to_nibbles(piece)
            at += len(piece)

    def add(self, planes: Planes) -> None:
        """Link `(n, 4, m / 8)` codes with those that are there, on as many threads as FAISS uses."""
        self._index.add(values(unpack(planes), GRAPH_BITS))

    def __len__(self) -> int:
        """Return the number of codes."""
        return int(self._index.ntotal)

    @property
    def _codes(self) -> Nibbles:
        """The codes as they lie in FAISS's memory, which moves when codes are added."""
        shape = (len(self), self._row_bytes)
        if not len(self):
            return np.empty(shape, dtype=np.uint8)
        # `rev_swig_ptr` would copy all of it.
        memory = (ctypes.c_uint8 * math.prod(shape)).from_address(int(self._storage.codes.data()))
        return np.frombuffer(memoryview(memory), dtype=np.uint8).reshape(shape)

    def links(self) -> Links:
        """Copy the links."""
        hnsw = self._index.hnsw
        arrays = [faiss.vector_to_array(vector) for vector in (hnsw.levels, hnsw.neighbors)]
        return Links(arrays[0], arrays[1], int(hnsw.entry_point), int(hnsw.max_level))

    def graph(self) -> GraphIndex:
        """Copy what is there into a graph, in no more memory than it needs."""
        return GraphIndex(self._codes.copy(), self.links())
