"""A graph over codes of four planes: HNSW (Malkov and Yashunin, arXiv 1603.09320) in FAISS, on the grid of the codes.

A level is a value of FAISS's uniform 4-bit scalar quantizer, so the graph's storage is the codes themselves, two
levels a byte: nothing is kept twice, and what a walk through the graph has summed needs no refining. Neighbours are
found by inner products of codes, so vectors are not needed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from index.code_index import PIECE, Positions, borrowed
from index.codes import Planes, pack, unpack, values
from index.level_scan import LevelScan
from index.points import GRAPH_BITS, Float32s

LINKS = 12  # a node has on each level, twice as many on the lowest: 16 are no better for their memory (docs/log.md)
WIDTH = 80  # of the walks by which neighbours are found
# A level c stands for (2 c - 15) / 8, which is `least + (c + 0.5) / 15 * range`.
GRID = np.array([-2.0, 3.75], dtype=np.float32)
GREATEST = 15
UNIT = 8
LEVELS_BYTES = 4  # of the levels of 8 dimensions, for each byte of a plane

# Bytes of a node: its links and slots for what they are in, for most nodes on one level.
LINK_BYTES = 4 * (2 * LINKS + LINKS / (LINKS - 1))
NODE_BYTES = LINK_BYTES + 4 + 8

Nibbles = NDArray[np.uint8]  # (n, m / 2): two levels a byte, the lower one first


@dataclass(frozen=True, slots=True, eq=False)
class Links:
    """What a graph is beside its codes.

    Attributes
    ----------
    levels : (n,) int32, on how many levels each node is.
    neighbours : int32, FAISS's lists of neighbours, node by node and level by level, -1 where there is none.
    entry, highest : where walks begin: a node and its level; -1 without nodes.
    """

    levels: NDArray[np.int32]
    neighbours: NDArray[np.int32]
    entry: int
    highest: int


def to_nibbles(planes: Planes) -> Nibbles:
    """Return `(n, m / 2)` bytes of two levels each, of `(n, 4, m / 8)` planes."""
    levels = unpack(planes)
    nibbles: Nibbles = levels[:, 1::2] << np.uint8(4)
    nibbles |= levels[:, 0::2]
    return nibbles


def from_nibbles(nibbles: Nibbles) -> Planes:
    """Return the planes that `to_nibbles` was given."""
    levels = np.empty((len(nibbles), 2 * nibbles.shape[1]), dtype=np.uint8)
    levels[:, 0::2] = nibbles & GREATEST
    levels[:, 1::2] = nibbles >> 4
    return pack(levels, GRAPH_BITS)


class GraphIndex:
    """Codes in a graph. Any number of threads may search, none while nodes are added."""

    def __init__(self, code_bytes: int) -> None:
        """Begin a graph over codes of m = 8 `code_bytes` dimensions."""
        self.code_bytes = code_bytes
        m = 8 * code_bytes
        # FAISS's stubs know neither its constructor nor what is in it.
        make: Any = faiss.IndexHNSWSQ
        self._index: Any = make(m, faiss.ScalarQuantizer.QT_4bit_uniform, LINKS, faiss.METRIC_INNER_PRODUCT)
        self._index.hnsw.efConstruction = WIDTH
        storage: Any = faiss.downcast_index(self._index.storage)
        self._storage = storage
        faiss.copy_array_to_vector(GRID, self._storage.sq.trained)
        self._storage.is_trained = self._index.is_trained = True
        self._scan = LevelScan(m)

    @classmethod
    def of(cls, pieces: Iterable[Nibbles], code_bytes: int, links: Links) -> GraphIndex:
        """Make a graph of its codes, piece by piece, and links, in no more memory than they need.

        Raises ValueError where the links are not of so many codes.
        """
        graph = cls(code_bytes)
        n = len(links.levels)
        hnsw, storage = graph._index.hnsw, graph._storage
        slots = faiss.vector_to_array(hnsw.cum_nneighbor_per_level)
        offsets = np.zeros(n + 1, dtype=np.uint64)
        np.cumsum(slots[links.levels], out=offsets[1:])
        if len(links.neighbours) != offsets[-1]:
            raise ValueError(f"{len(links.neighbours)} neighbours do not fit {n} nodes")
        faiss.copy_array_to_vector(links.levels, hnsw.levels)
        faiss.copy_array_to_vector(offsets, hnsw.offsets)
        faiss.copy_array_to_vector(links.neighbours, hnsw.neighbors)
        hnsw.entry_point, hnsw.max_level = links.entry, links.highest
        storage.codes.resize(n * LEVELS_BYTES * code_bytes)
        storage.ntotal = graph._index.ntotal = n
        at = 0
        for piece in pieces:
            graph.codes[at : at + len(piece)] = piece
            at += len(piece)
        if at != n:
            raise ValueError(f"{at} codes do not fit links of {n}")
        return graph

    def add(self, planes: Planes) -> None:
        """Add `(n, 4, m / 8)` codes behind those that are there, on as many threads as FAISS uses."""
        self._index.add(values(unpack(planes), GRAPH_BITS))

    def __len__(self) -> int:
        """Return the number of positions."""
        return int(self._index.ntotal)

    @property
    def bits(self) -> int:
        """The planes of a code."""
        return GRAPH_BITS

    @property
    def codes(self) -> Nibbles:
        """The codes as they lie in memory; not to outlive the graph."""
        width = LEVELS_BYTES * self.code_bytes
        return borrowed(self._storage.codes.data(), np.uint8, len(self) * width).reshape(-1, width)

    def compact(self) -> GraphIndex:
        """Return the same graph in no more memory than it needs: what grows has room to grow."""
        pieces = (self.codes[start : start + PIECE] for start in range(0, len(self), PIECE))
        return GraphIndex.of(pieces, self.code_bytes, self.links())

    def links(self) -> Links:
        """Copy the links."""
        hnsw = self._index.hnsw
        arrays = [faiss.vector_to_array(vector) for vector in (hnsw.levels, hnsw.neighbors)]
        return Links(arrays[0], arrays[1], int(hnsw.entry_point), int(hnsw.max_level))

    @property
    def bytes_per_point(self) -> float:
        """Bytes in memory of a position."""
        return sum(self.bytes_by_part().values()) / max(len(self), 1)

    def bytes_by_part(self) -> dict[str, int]:
        """Return the bytes in memory of `codes` and of `links`."""
        hnsw = self._index.hnsw
        links = 4 * hnsw.levels.size() + 8 * hnsw.offsets.size() + 4 * hnsw.neighbors.size()
        return {"codes": self.codes.nbytes, "links": links}

    def planes_at(self, positions: Positions) -> Planes:
        """Return `(k, 4, m / 8)`: all planes of positions."""
        return from_nibbles(self.codes.take(positions, axis=0, mode="clip"))

    def scores_at(self, query: Float32s, positions: Positions) -> Float32s:
        """Return `<query, value>` of the codes at some positions, (k,) float32."""
        nibbles = self.codes.take(positions, axis=0, mode="clip")
        scores = self._scan(query, nibbles)
        scores *= np.float32(2 / UNIT)
        scores -= np.float32(GREATEST / UNIT) * query.sum()
        return scores

    def walk(self, query: Float32s, width: int) -> tuple[Positions, Float32s]:
        """Return the codes nearest to a query that a walk through the graph meets.

        Parameters
        ----------
        query : (m,) float32, in code space.
        width : how many the walk keeps while it looks for better ones, HNSW's ef.

        Returns
        -------
        positions : at most `width`, int64, and scores : `<query, value>`, float32, best first.
        """
        params = faiss.SearchParametersHNSW()  # type: ignore[attr-defined]
        params.efSearch = width
        query = np.ascontiguousarray(query)
        scores, positions = np.empty(width, dtype=np.float32), np.empty(width, dtype=np.int64)
        # The call itself: FAISS's Python wrapper of it costs more than it does.
        self._index.search_c(1, faiss.swig_ptr(query), width, faiss.swig_ptr(scores), faiss.swig_ptr(positions), params)
        if positions[-1] < 0:
            present = positions >= 0
            return positions[present], scores[present]
        return positions, scores
