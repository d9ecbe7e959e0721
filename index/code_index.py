"""An immutable index of codes: plane 0 in blocks, scanned with a float query, and the further planes beside it.

Blocks make up inverted lists: bands of like norm, of which a query looks at all, or the lists of near centroids, of
which it looks at some. A list begins with a block of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from index import kernels
from index.codes import Codes, Planes
from index.kernels import BLOCK, plane_products
from index.points import Float32s
from index.ranking import joined

PLACE_BYTES = 4  # of a position in lists
PIECE = 1 << 16  # positions whose codes are laid out again at a time

Positions = NDArray[np.int64]
Scored = tuple[Positions, Float32s]  # of the same length


def to_blocks(codes: Codes) -> NDArray[np.uint8]:
    """Lay `(n, w)` codes out in `(b, w, BLOCK)` blocks: of each 32 codes the first bytes, then the second ones."""
    n, code_bytes = codes.shape
    blocks = -(-n // BLOCK)
    padded = np.zeros((blocks * BLOCK, code_bytes), dtype=np.uint8)
    padded[:n] = codes
    return np.ascontiguousarray(padded.reshape(blocks, BLOCK, code_bytes).transpose(0, 2, 1))


class CodeIndex:
    """Codes whose plane 0 is in inverted lists: scanned list by list (`scan`), or some together (`probe`)."""

    def __init__(self, codes: Codes, bands: Sequence[Positions], rest: Planes | None = None) -> None:
        """Build from `(n, m / 8)` codes of plane 0; `bands` cut the positions 0..n-1 into lists, each ascending.

        `rest` are `(n, bits - 1, m / 8)` further planes, None if there are none.
        """
        self.code_bytes = codes.shape[1]
        self.rest = np.empty((len(codes), 0, self.code_bytes), dtype=np.uint8) if rest is None else rest
        self._cut(len(codes), bands)
        blocks = -(-self.sizes // BLOCK)
        self._starts = np.cumsum(blocks) * BLOCK - blocks * BLOCK  # the slot where each list begins
        self._blocks = np.empty((int(blocks.sum()), self.code_bytes, BLOCK), dtype=np.uint8)
        # With one list positions are slots.
        self._places = np.zeros(len(self._blocks) * BLOCK, dtype=np.uint32) if len(bands) > 1 else None
        for positions, start, count in zip(bands, self._starts.tolist(), blocks.tolist(), strict=True):
            self._blocks[start // BLOCK :][:count] = to_blocks(codes[positions])
            if self._places is not None:
                self._places[start:][: len(positions)] = positions

    def _cut(self, count: int, bands: Sequence[Positions]) -> None:
        """Note which of so many positions are in which list."""
        self.sizes = np.array([len(positions) for positions in bands], dtype=np.int64)
        self._band_of = np.zeros(0, dtype=np.uint8)
        if len(bands) > 1:
            self._band_of = np.empty(count, dtype=np.min_scalar_type(len(bands) - 1))
            for number, positions in enumerate(bands):
                self._band_of[positions] = number

    def in_lists(self, lists: Sequence[Positions]) -> CodeIndex:
        """Return the same codes in other lists; further planes are shared."""
        codes = np.empty((len(self), self.code_bytes), dtype=np.uint8)
        for start in range(0, len(self), PIECE):
            positions = np.arange(start, min(start + PIECE, len(self)), dtype=np.int64)
            codes[positions] = self.codes_at(positions)
        return CodeIndex(codes, lists, self.rest)

    def __len__(self) -> int:
        """Return the number of positions."""
        return len(self.rest)

    @property
    def bits(self) -> int:
        """The planes of a code."""
        return 1 + int(self.rest.shape[1])

    @property
    def bands(self) -> int:
        """The number of inverted lists."""
        return len(self.sizes)

    @property
    def bytes_per_point(self) -> float:
        """Bytes in memory of a position, of full blocks."""
        places = 0 if self._places is None else PLACE_BYTES
        return float(self.code_bytes * self.bits + places)

    def bytes_by_part(self) -> dict[str, int]:
        """Return the bytes in memory of `codes`, and of the `ids` of positions in lists and of the list of each."""
        places = 0 if self._places is None else self._places.nbytes
        return {"codes": self._blocks.nbytes + self.rest.nbytes, "ids": places + self._band_of.nbytes}

    def lists_of(self, positions: Positions) -> NDArray[np.unsignedinteger]:
        """Return the list that each of some positions is in."""
        if self.bands == 1:
            return np.zeros(len(positions), dtype=np.uint8)
        return self._band_of.take(positions)

    def counts(self, positions: Positions) -> NDArray[np.int64]:
        """Return how many of some positions are in each list."""
        return np.bincount(self.lists_of(positions), minlength=self.bands)

    def further_scores(self, query: Float32s, positions: Positions, p: int) -> Float32s:
        """Return (k,) float32 sums over planes t = 1 to p - 1 of `2^-t <query, +-1 plane t>`, of some positions."""
        if p == 1:
            return np.zeros(len(positions), dtype=np.float32)
        return np.float32(0.5) * plane_products(self.rest, p - 1, positions, query)

    def first_scores(self, query: Float32s, positions: Positions) -> Float32s:
        """Return (k,) float32 `<query, +-1 plane 0>` of some positions, which a scan rounds."""
        codes = self.codes_at(positions)
        return plane_products(codes[:, None], 1, np.arange(len(codes)), query)

    def planes_at(self, positions: Positions) -> Planes:
        """Return `(k, bits, m / 8)`: all planes of positions; plane 0 is read back from the blocks."""
        # `take` of whole rows that checks nothing is several times as fast as indexing.
        further = self.rest.take(positions, axis=0, mode="clip")
        return np.concatenate([self.codes_at(positions)[:, None], further], axis=1)

    def codes_at(self, positions: Positions) -> Codes:
        """Read `(k, m / 8)` codes of plane 0 back from the blocks."""
        block, slot = np.divmod(self._slots_of(positions), BLOCK)
        codes: Codes = self._blocks[block, :, slot]
        return codes

    def _slots_of(self, positions: Positions) -> Positions:
        """Return where the codes of some positions lie."""
        if self._places is None:
            return positions
        slots = np.empty(len(positions), dtype=np.int64)
        bands = self.lists_of(positions)
        order = np.argsort(bands, kind="stable")
        numbers, starts = np.unique(bands[order], return_index=True)
        for band, mine in zip(numbers.tolist(), np.split(order, starts[1:]), strict=False):
            slots[mine] = self._starts[band] + np.searchsorted(self._ids(band), positions[mine])
        return slots

    def _ids(self, band: int) -> NDArray[np.integer]:
        """Return the positions in a list, of which there are several, ascending."""
        assert self._places is not None
        return self._places[self._starts[band] :][: self.sizes[band]]

    def scan(self, queries: Float32s, candidates: int, allowed: NDArray[np.uint8] | None) -> list[Scored]:
        """Return positions and scores of the best `candidates` documents of every list, each for itself.

        Parameters
        ----------
        queries : (nq, m) float32, in code space. Several share a scan, which costs each of them less.
        candidates : k1 a list, at least 1; fewer come back where a list holds fewer (allowed) documents.
        allowed : bitmap over positions (least significant bit first), None allows all.

        Returns
        -------
        For each query positions : (c,) int64, and scores : (c,) float32 `<query, +-1 code>`, higher is better,
        unordered.
        """
        lists = np.arange(self.bands, dtype=np.int64)[:, None]
        found = self._search(queries.repeat(self.bands, axis=0), candidates, allowed, [*lists] * len(queries))
        starts = range(0, len(found), self.bands)
        return [joined(found[start : start + self.bands]) for start in starts]

    def probe(
        self, queries: Float32s, candidates: int, allowed: NDArray[np.uint8] | None, lists: Sequence[NDArray[np.int64]]
    ) -> list[Scored]:
        """Return what `scan` does, but of all the given lists of a query together."""
        return self._search(queries, candidates, allowed, lists)

    def _search(
        self, queries: Float32s, candidates: int, allowed: NDArray[np.uint8] | None, lists: Sequence[NDArray[np.int64]]
    ) -> list[Scored]:
        """Return the best for each of (g, m) queries of its own of g groups of lists."""
        k = max(1, min(candidates, len(self)))
        return kernels.scan(self._blocks, self._places, self._starts, self.sizes, queries, lists, k, allowed)
