"""Float products with levels of four bits: FAISS's uniform 4-bit scalar quantizer, on bare codes.

The scanner of its inverted lists takes codes wherever they lie, so no index is made of what is scored once. It needs a
quarter of a nanosecond a level under AVX-512 where the number of levels is a multiple of 16.
"""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from index.points import Float32s

LEAST_ROOM = 512


class _Scanner:
    """A scanner of FAISS with room for the scores of one call; making these things costs more than using them."""

    def __init__(self, index: faiss.IndexIVFScalarQuantizer) -> None:
        # Python cannot free a scanner, nor own it (that breaks SWIG's types): it must be kept and used again.
        self._scanner: Any = index.get_InvertedListScanner(False, None, None)
        self._scanner.set_list(0, 0.0)
        self._room = 0

    def _make_room(self, room: int) -> None:
        self._room = room
        self._ids = np.arange(room, dtype=np.int64)
        self._found = faiss.RangeSearchResult(1)
        self._found.buffer_size = room
        self._part = faiss.RangeSearchPartialResult(self._found)  # type: ignore[attr-defined]
        self._part.append_buffer()
        self._result = self._part.new_result(0)

    def products(self, query: Float32s, nibbles: NDArray[np.uint8]) -> Float32s:
        count = len(nibbles)
        if count > self._room:
            self._make_room(max(2 * count, LEAST_ROOM))
        products = np.empty(count, dtype=np.float32)
        ids = faiss.swig_ptr(self._ids)
        self._part.wp = 0  # the buffer is empty again
        self._scanner.set_query(faiss.swig_ptr(query))
        # A range without bounds: every product comes back, in order, and no heap is kept.
        self._scanner.scan_codes_range(count, faiss.swig_ptr(nibbles), ids, -np.inf, self._result)
        self._part.copy_range(0, count, ids, faiss.swig_ptr(products))
        return products


class LevelScan:
    """Multiplies queries with codes of a number of levels. Any number of threads may call it."""

    def __init__(self, levels: int) -> None:
        self._quantizer = faiss.IndexFlatIP(levels)
        self._index = faiss.IndexIVFScalarQuantizer(
            self._quantizer, levels, 1, faiss.ScalarQuantizer.QT_4bit_uniform, faiss.METRIC_INNER_PRODUCT, False
        )
        # A level c decodes to `least + (c + 0.5) / 15 * range`: to c itself.
        faiss.copy_array_to_vector(np.array([-0.5, 15], dtype=np.float32), self._index.sq.trained)
        self._index.is_trained = True
        self._idle: list[_Scanner] = []

    def __call__(self, query: Float32s, nibbles: NDArray[np.uint8]) -> Float32s:
        """Return `(n,)` float32 products of an `(l,)` query with n codes of l nibbles, the lower one first."""
        try:
            scanner = self._idle.pop()
        except IndexError:
            scanner = _Scanner(self._index)
        products = scanner.products(query, nibbles)
        self._idle.append(scanner)
        return products
