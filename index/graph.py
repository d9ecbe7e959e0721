"""A graph over codes of four planes: HNSW (Malkov and Yashunin, arXiv 1603.09320) on the grid of the codes.

A node is a position, its storage the code itself, two levels a byte: nothing is kept twice, and what a walk has summed
needs no refining. Links come of `index/linking.py`. Codes are compared by direction: their lengths differ by a few
hundredths, which says nothing of what they stand for.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from index import kernels
from index.code_index import Positions
from index.codes import Planes, pack
from index.points import GRAPH_BITS, Float32s

LINKS = 16  # that a node is given on each level: 12 lose more of crowded sets than they save (docs/log.md)
DEGREE = 2 * LINKS  # that it may have: the others come of nodes that link to it
GREATEST = 15
LEVELS_BYTES = 4  # of the levels of 8 dimensions, for each byte of a plane

# Bytes of a node: its links, for most nodes on one level; where they begin, and its scale.
LINK_BYTES = 4 * DEGREE * LINKS / (LINKS - 1)
NODE_BYTES = LINK_BYTES + 4 + 2

Nibbles = NDArray[np.uint8]  # (n, m / 2): two levels a byte, the lower one first


@dataclass(frozen=True, slots=True, eq=False)
class Links:
    """What a graph is beside its codes.

    Attributes
    ----------
    levels : (n,) int32, on how many levels each node is; walks begin at node 0, which is on all.
    neighbours : int32, node by node and level by level, `DEGREE` each, -1 where there are no more.
    """

    levels: NDArray[np.int32]
    neighbours: NDArray[np.int32]

    def starts(self) -> NDArray[np.uint32]:
        """Return where the neighbours of each node begin, (n + 1,), in units of `DEGREE`.

        Raises ValueError where there are more or fewer neighbours than that, or node 0 is not on all levels.
        """
        starts = np.zeros(len(self.levels) + 1, dtype=np.uint32)
        np.cumsum(self.levels, out=starts[1:])
        if len(self.neighbours) != DEGREE * int(starts[-1]) or (self.levels > self.levels[:1]).any():
            raise ValueError(f"{len(self.neighbours)} neighbours do not fit {len(self.levels)} nodes")
        return starts


def from_nibbles(nibbles: Nibbles) -> Planes:
    """Return the planes that `kernels.to_nibbles` was given."""
    levels = np.empty((len(nibbles), 2 * nibbles.shape[1]), dtype=np.uint8)
    levels[:, 0::2] = nibbles & GREATEST
    levels[:, 1::2] = nibbles >> 4
    return pack(levels, GRAPH_BITS)


class GraphIndex:
    """Codes in a graph. Any number of threads may search."""

    def __init__(self, codes: Nibbles, links: Links) -> None:
        """Keep `(n, m / 2)` nibbles and the links among them. Raises ValueError where these are not of n nodes."""
        self.codes = codes
        self._nodes = kernels.Nodes(codes, kernels.scales_of(codes), links.neighbours, links.starts(), DEGREE)

    @classmethod
    def of(cls, pieces: Iterable[Planes], code_bytes: int, links: Links) -> GraphIndex:
        """Make a graph of `(k, 4, m / 8)` planes, piece by piece, and links; `code_bytes` is m / 8.

        Raises ValueError where the links are not of so many codes.
        """
        codes = kernels.room_for(len(links.levels), LEVELS_BYTES * code_bytes)
        at = 0
        for piece in pieces:
            if at + len(piece) <= len(codes):
                codes[at : at + len(piece)] = kernels.to_nibbles(piece)
            at += len(piece)
        if at != len(codes):
            raise ValueError(f"{at} codes do not fit links of {len(codes)}")
        return cls(codes, links)

    @property
    def code_bytes(self) -> int:
        """The bytes of a plane of a code."""
        return int(self.codes.shape[1]) // LEVELS_BYTES

    def __len__(self) -> int:
        """Return the number of positions."""
        return len(self.codes)

    @property
    def bits(self) -> int:
        """The planes of a code."""
        return GRAPH_BITS

    @property
    def bytes_per_point(self) -> float:
        """Bytes in memory of a position."""
        return sum(self.bytes_by_part().values()) / max(len(self), 1)

    def bytes_by_part(self) -> dict[str, int]:
        """Return the bytes in memory of `codes` and of `links`."""
        nodes = self._nodes
        links = nodes.neighbours.nbytes + nodes.starts.nbytes + nodes.scales.nbytes
        return {"codes": self.codes.nbytes, "links": links}

    def planes_at(self, positions: Positions) -> Planes:
        """Return `(k, 4, m / 8)`: all planes of positions."""
        return from_nibbles(self.codes.take(positions, axis=0, mode="clip"))

    def scores_at(self, query: Float32s, positions: Positions) -> Float32s:
        """Return `<query, value>` of the codes at some positions, (k,) float32."""
        return kernels.nibble_products(self.codes, positions, query)

    def walk(self, query: Float32s, width: int) -> tuple[Positions, Float32s]:
        """Return the codes nearest in direction to a query that a walk through the graph meets.

        Parameters
        ----------
        query : (m,) float32, in code space.
        width : how many the walk keeps while it looks for better ones, HNSW's ef.

        Returns
        -------
        positions : at most `width`, int64, best first, and their `<query, value>`, float32.
        """
        return kernels.walk(self._nodes, query, width)
