"""An immutable index of codes: plane 0 in FAISS, scanned with a float query, and the further planes beside it.

FAISS's 4-bit product quantizer with its centroids overwritten by the 16 corners of {-1, +1}^4 scores a float
query against sign codes exactly (but for the 8-bit rounding of its tables), at about twice the speed of
Hamming distance. It lies in inverted lists because only those take a selector (faiss 1.15.1 refuses one on
the flat type). An index is never changed: FAISS's fast-scan `remove_ids` followed by `add` corrupts vectors.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import SupportsInt, TypeVar

import faiss
import numpy as np
from numpy.typing import NDArray

from index.codes import Codes, Planes, unpack_bits
from index.kernels import plane_products
from index.points import Float32s
from index.ranking import joined

BLOCK = 32  # documents a block of the fast-scan layout
DIMENSIONS_A_NIBBLE = 4
FAISS_ID = 8  # bytes
PIECE = 1 << 16  # positions whose codes are laid out again at a time
# Within a block FAISS interleaves documents so that one byte shuffle serves two of them.
INTERLEAVED = np.array([0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15])
PLACE = np.argsort(INTERLEAVED)  # where each document of half a block lies
# Of FAISS's ways to scan, the one that collects candidates in a reservoir: some hundred of them are wanted, and
# a heap, which it would take for fewer queries, costs a third more.
RESERVOIR = 13
CORNERS = np.array([[1.0 if corner >> bit & 1 else -1.0 for bit in range(4)] for corner in range(16)], dtype=np.float32)

NO_LIST = -1

Positions = NDArray[np.int64]
Scored = tuple[Positions, Float32s]  # of the same length
Value = TypeVar("Value", bound=np.generic)


def set_threads(count: int) -> None:
    """Set how many threads FAISS uses for calls from the current thread (OpenMP keeps it per thread)."""
    faiss.omp_set_num_threads(count)


def to_blocks(codes: Codes) -> NDArray[np.uint8]:
    """Lay `(n, m / 8)` codes out in FAISS's fast-scan blocks of 32 documents.

    Equal to what `IndexIVFPQFastScan.add` produces from the decoded vectors (a test holds it to that), a
    hundred times as fast because nothing is decoded and no nearest centroid is looked for.
    """
    n, code_size = codes.shape
    blocks = -(-n // BLOCK)
    padded = np.zeros((blocks * BLOCK, code_size), dtype=np.uint8)
    padded[:n] = codes
    columns = padded.reshape(blocks, BLOCK, code_size).transpose(0, 2, 1)
    first, second = columns[:, :, INTERLEAVED], columns[:, :, INTERLEAVED + 16]
    out = np.empty((blocks, code_size, BLOCK), dtype=np.uint8)
    out[:, :, :16] = (first & 15) | (second << 4)
    out[:, :, 16:] = (first >> 4) | (second & 0xF0)
    return out.reshape(-1)


def from_blocks(blocks: NDArray[np.uint8], code_bytes: int, offsets: Positions) -> Codes:
    """Return the `(k, m / 8)` codes that `to_blocks` laid out at some offsets of its input."""
    block, slot = np.divmod(offsets, BLOCK)
    first = block * (code_bytes * BLOCK) + PLACE[slot % 16]
    at = first[:, None] + np.arange(code_bytes) * BLOCK
    shift = (slot // 16 * 4).astype(np.uint8)[:, None]  # of two documents that share a byte, the second lies higher
    codes: Codes = (blocks.take(at) >> shift) & 15
    codes |= ((blocks.take(at + 16) >> shift) & 15) << 4
    return codes


def borrowed(pointer: SupportsInt, dtype: type[Value], count: int) -> NDArray[Value]:
    """Return FAISS's memory as an array; `rev_swig_ptr` would copy all of it. Not to outlive the index."""
    if not count:
        return np.empty(0, dtype=dtype)
    memory = (ctypes.c_uint8 * (count * np.dtype(dtype).itemsize)).from_address(int(pointer))
    return np.frombuffer(memoryview(memory), dtype=dtype)


class CodeIndex:
    """Codes whose plane 0 is in inverted lists: scanned list by list (`scan`), or some together (`probe`)."""

    def __init__(self, codes: Codes, bands: Sequence[Positions], rest: Planes | None = None) -> None:
        """Build from `(n, m / 8)` codes of plane 0; `bands` cut the positions 0..n-1 into lists, each ascending.

        `rest` are `(n, bits - 1, m / 8)` further planes, None if there are none.
        """
        self.code_bytes = codes.shape[1]
        self.rest = np.empty((len(codes), 0, self.code_bytes), dtype=np.uint8) if rest is None else rest
        dimensions = codes.shape[1] * 8
        # Never asked for the nearest list, but FAISS wants it to have a vector for each.
        self._quantizer = faiss.IndexFlatIP(dimensions)
        self._quantizer.ntotal = len(bands)
        nibbles = dimensions // DIMENSIONS_A_NIBBLE
        self._index = faiss.IndexIVFPQFastScan(
            self._quantizer, dimensions, len(bands), nibbles, 4, faiss.METRIC_INNER_PRODUCT
        )
        self._index.own_fields = False
        self._index.by_residual = False
        faiss.copy_array_to_vector(np.tile(CORNERS, (nibbles, 1, 1)).ravel(), self._index.pq.centroids)
        self._index.is_trained = True
        self._index.implem = RESERVOIR
        lists = faiss.downcast_InvertedLists(self._index.invlists)  # type: ignore[arg-type]
        for number, positions in enumerate(bands):
            blocks = to_blocks(codes[positions])
            ids = np.ascontiguousarray(positions, dtype=np.int64)
            lists.add_entries(number, len(ids), faiss.swig_ptr(ids), faiss.swig_ptr(blocks))
        self._invlists = lists
        self._index.ntotal = len(codes)
        self._cut(len(codes), bands)

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
        return float(self.code_bytes * self.bits + FAISS_ID)

    def bytes_by_part(self) -> dict[str, int]:
        """Return the bytes in memory of `codes`, and of FAISS's `ids` with the lists that they are in."""
        blocks = int((-(-self.sizes // BLOCK)).sum())
        ids = FAISS_ID * int(self.sizes.sum()) + self._band_of.nbytes
        return {"codes": blocks * BLOCK * self.code_bytes + self.rest.nbytes, "ids": ids}

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
        """Return (k,) float32 `<query, +-1 plane 0>` of some positions, which a scan rounds to 8 bits."""
        codes = self.codes_at(positions)
        return plane_products(codes[:, None], 1, np.arange(len(codes)), query)

    def planes_at(self, positions: Positions) -> Planes:
        """Return `(k, bits, m / 8)`: all planes of positions; plane 0 is read back from the blocks."""
        # `take` of whole rows that checks nothing is several times as fast as indexing.
        further = self.rest.take(positions, axis=0, mode="clip")
        return np.concatenate([self.codes_at(positions)[:, None], further], axis=1)

    def codes_at(self, positions: Positions) -> Codes:
        """Read `(k, m / 8)` codes of plane 0 back from the blocks."""
        if self.bands == 1:
            return from_blocks(self._blocks(0), self.code_bytes, positions)
        codes = np.empty((len(positions), self.code_bytes), dtype=np.uint8)
        if not len(positions):
            return codes
        bands = self.lists_of(positions)
        order = np.argsort(bands, kind="stable")
        numbers, starts = np.unique(bands[order], return_index=True)
        for band, mine in zip(numbers.tolist(), np.split(order, starts[1:]), strict=True):
            offsets = np.searchsorted(self._ids(band), positions[mine])
            codes[mine] = from_blocks(self._blocks(band), self.code_bytes, offsets)
        return codes

    def _ids(self, band: int) -> Positions:
        return borrowed(self._invlists.get_ids(band), np.int64, self._invlists.list_size(band))

    def _blocks(self, band: int) -> NDArray[np.uint8]:
        blocks = -(-self._invlists.list_size(band) // BLOCK)
        return borrowed(self._invlists.get_codes(band), np.uint8, blocks * BLOCK * self.code_bytes)

    def scan(self, queries: Float32s, candidates: int, allowed: NDArray[np.uint8] | None) -> list[Scored]:
        """Return positions and scores of the best `candidates` documents of every list, each for itself.

        Parameters
        ----------
        queries : (nq, m) float32, in code space. Several share a scan, which costs each of them less.
        candidates : k1 a list; fewer come back where a list holds fewer (allowed) documents.
        allowed : bitmap over positions (least significant bit first), None allows all.

        Returns
        -------
        For each query positions : (c,) int64, and scores : (c,) float32 `<query, +-1 code>`, higher is better,
        unordered.
        """
        lists = np.arange(self.bands, dtype=np.int64)
        if self.bands == 1:
            return self._search(queries, candidates, allowed, lists[None].repeat(len(queries), axis=0))
        found = self._search(
            queries.repeat(self.bands, axis=0), candidates, allowed, np.tile(lists, len(queries))[:, None]
        )
        starts = range(0, len(found), self.bands)
        return [joined(found[start : start + self.bands]) for start in starts]

    def probe(
        self, queries: Float32s, candidates: int, allowed: NDArray[np.uint8] | None, lists: Sequence[NDArray[np.int64]]
    ) -> list[Scored]:
        """Return what `scan` does, but of all the given lists of a query together."""
        groups = np.full((len(lists), max(map(len, lists), default=0)), NO_LIST)
        for group, chosen in zip(groups, lists, strict=True):
            group[: len(chosen)] = chosen
        return self._search(queries, candidates, allowed, groups)

    def _search(
        self, queries: Float32s, candidates: int, allowed: NDArray[np.uint8] | None, groups: NDArray[np.int64]
    ) -> list[Scored]:
        """Return the best for each of (g, m) queries of its one of (g, lists) groups of lists."""
        params = faiss.SearchParametersIVF()
        params.nprobe = groups.shape[1]
        if allowed is not None:
            # Both must outlive the call: FAISS keeps bare pointers.
            selector = faiss.IDSelectorBitmap(len(allowed), faiss.swig_ptr(allowed))
            params.sel = selector
        queries = np.ascontiguousarray(queries)
        unused = np.zeros(groups.shape, dtype=np.float32)
        k = min(candidates, self._index.ntotal)
        found = np.empty((len(groups), k), dtype=np.float32)
        positions = np.empty((len(groups), k), dtype=np.int64)
        # FAISS's Python wrapper of this call refuses parameters; the call itself takes them.
        self._index.search_preassigned_c(  # type: ignore[attr-defined]
            len(groups),
            faiss.swig_ptr(queries),
            k,
            faiss.swig_ptr(groups),
            faiss.swig_ptr(unused),
            faiss.swig_ptr(found),
            faiss.swig_ptr(positions),
            False,
            params,
        )
        short = np.flatnonzero(positions[:, -1] < 0).tolist()
        results = list(zip(positions, found, strict=True))
        flags = None if allowed is None or not short else unpack_bits(allowed, self._index.ntotal)
        for group in short:
            present = positions[group] >= 0
            mine = positions[group, present]
            rest = self._left_out(groups[group], mine, k, flags)
            lowest = np.full(len(rest), -np.abs(queries[group]).sum(), dtype=np.float32)
            results[group] = np.concatenate([mine, rest]), np.concatenate([found[group, present], lowest])
        return results

    def _left_out(
        self, lists: NDArray[np.int64], found: Positions, k: int, allowed: NDArray[np.bool_] | None
    ) -> Positions:
        """Return up to k minus found positions of some lists that FAISS did not return though they are allowed.

        Its fast scan starts from the lowest score that its tables can express and takes what is better, so
        documents at that lowest score, `-|query|_1`, never come back however many are wanted.
        """
        ids = np.concatenate([self._ids(band) for band in lists[lists != NO_LIST].tolist()])
        if allowed is not None:
            ids = ids[allowed[ids]]
        if len(ids) == len(found):
            return np.empty(0, dtype=np.int64)
        return np.setdiff1d(ids, found, assume_unique=True)[: k - len(found)]
