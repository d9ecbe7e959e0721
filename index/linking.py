"""Finds the links of a graph over codes, from the codes alone: vectors are not needed."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from index import kernels
from index.codes import Planes
from index.graph import DEGREE, LEVELS_BYTES, LINKS, GraphIndex, Links
from index.parallel import threads

WIDTH = 200  # of the walks by which neighbours are found (docs/log.md)
ALONE = 1000  # nodes that are linked one after the other: with fewer, threads would miss each other's
SEED = 0


class Linker:
    """Codes that get links. Not thread-safe; the work itself is done on several threads."""

    def __init__(self, n: int, code_bytes: int) -> None:
        """Begin with none of n codes of m = 8 `code_bytes` dimensions; all the memory that it takes is taken here."""
        self._levels = _levels(n)
        self._neighbours = np.full(DEGREE * int(self._levels.sum()), -1, dtype=np.int32)
        self._starts = Links(self._levels, self._neighbours).starts()
        self._codes = kernels.room_for(n, LEVELS_BYTES * code_bytes)
        self._scales = np.empty(n, dtype=np.uint16)
        self._locks = np.zeros(n, dtype=np.uint8)
        self._count = 0

    def go_on_from(self, pieces: Iterable[Planes], links: Links) -> None:
        """Take over codes, piece by piece, that have links already: the first ones.

        Raises ValueError where these are not of so many codes.
        """
        if not np.array_equal(links.levels, self._levels[: len(links.levels)]):
            raise ValueError(f"links of {len(links.levels)} nodes on other levels do not fit {len(self._levels)} codes")
        self._neighbours[: len(links.neighbours)] = links.neighbours
        for piece in pieces:
            self._take(piece)

    def add(self, planes: Planes) -> None:
        """Link the next `(k, 4, m / 8)` codes with those that are there."""
        start = self._count
        self._take(planes)
        nodes = kernels.Nodes(self._codes, self._scales, self._neighbours, self._starts, DEGREE)
        alone = min(max(ALONE, start), self._count)
        kernels.link(nodes, self._locks, start, alone, WIDTH)
        bounds = np.linspace(alone, self._count, threads() + 1, dtype=np.int64).tolist()

        def link(first: int, last: int) -> None:
            kernels.link(nodes, self._locks, first, last, WIDTH)

        with ThreadPoolExecutor(threads()) as pool:
            list(pool.map(link, bounds[:-1], bounds[1:]))

    def _take(self, planes: Planes) -> None:
        end = self._count + len(planes)
        self._codes[self._count : end] = kernels.to_nibbles(planes)
        self._scales[self._count : end] = kernels.scales_of(self._codes[self._count : end])
        self._count = end

    def __len__(self) -> int:
        """Return the number of codes that are linked."""
        return self._count

    def links(self) -> Links:
        """Return the links among the codes that are there; those of all share memory with this."""
        levels = self._levels[: len(self)]
        return Links(levels, self._neighbours[: DEGREE * int(levels.sum())])

    def graph(self) -> GraphIndex:
        """Return the graph of all codes. It shares memory with this."""
        return GraphIndex(self._codes, self.links())


def _levels(n: int) -> NDArray[np.int32]:
    """Draw on how many levels nodes are: one in `LINKS` of those on a level is on the next; the first is on all."""
    levels = np.random.default_rng(SEED).geometric(1 - 1 / LINKS, n).astype(np.int32)
    if n:
        highest = levels.argmax()
        levels[0], levels[highest] = levels[highest], levels[0]
    return levels
