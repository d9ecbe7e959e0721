"""Walks through a graph of codes, and how one is linked."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from index.kernels import library
from index.kernels.codes import Bytes, Positions, outside
from index.kernels.library import address, check
from index.points import Float32s

LINE = 64  # bytes: a row of 192 lies in three of them, or in four


@dataclass(frozen=True, eq=False)
class Nodes:
    """An HNSW graph over codes, as arrays. Node 0 is on all levels.

    Attributes
    ----------
    codes : (n, w) uint8, rows of nibbles; n is at least 1.
    scales : (n,) uint16, what products with codes are multiplied with to compare directions: see `scales_of`.
    neighbours : int32, node by node and level by level, the lowest first, `degree` each, -1 behind the last.
    starts : (n + 1,) uint32, where the neighbours of each node begin, in units of `degree`.
    degree : the links that a node has at most, on a level.
    """

    codes: Bytes
    scales: NDArray[np.uint16]
    neighbours: NDArray[np.int32]
    starts: NDArray[np.uint32]
    degree: int

    @cached_property
    def arguments(self) -> tuple[int, ...]:
        """What the kernels take for it."""
        rows, width = self.codes.shape
        arrays = (self.neighbours, self.starts)
        return (address(self.codes), address(self.scales), rows, width, *map(address, arrays), self.degree)


def room_for(n: int, width: int) -> Bytes:
    """Return room for (n, w) rows of nibbles, uint8, that begins with a line of the processor's caches."""
    room = np.empty(n * width + LINE, dtype=np.uint8)
    start = -address(room) % LINE
    return room[start : start + n * width].reshape(n, width)


def scales_of(codes: Bytes) -> NDArray[np.uint16]:
    """Return one by the length of each of (n, w) rows of nibbles; 65,535 for the shortest one there can be."""
    scales = np.empty(len(codes), dtype=np.uint16)
    library.kernels().scales(address(codes), *codes.shape, address(scales))
    return scales


def walk(nodes: Nodes, query: Float32s, width: int) -> tuple[Positions, Float32s]:
    """Walk through a graph.

    Parameters
    ----------
    query : (2 w,) float32.
    width : how many nodes the walk keeps while it looks for better ones, at least 1.

    Returns
    -------
    The positions, int64, of the at most `width` nodes nearest to the query in direction that it met, best first, and
    their products with the query, float32.
    """
    query = np.ascontiguousarray(query, dtype=np.float32)
    positions, products = np.empty(width, dtype=np.int64), np.empty(width, dtype=np.float32)
    kept = library.kernels().walk(*nodes.arguments, address(query), width, address(positions), address(products))
    check(kept, outside(len(nodes.codes)))
    return positions[:kept], products[:kept]


def link(nodes: Nodes, locks: Bytes, first: int, last: int, width: int) -> None:
    """Link the nodes from `first` to before `last` with those that were linked before; node 0 counts as linked.

    Threads may link different nodes of a graph at once, and others walk through it.

    Parameters
    ----------
    locks : (n,) uint8, zeros.
    width : how many nodes the walks keep that look for neighbours.
    """
    check(library.kernels().link(*nodes.arguments, address(locks), first, last, width))
