"""Roaring bitmaps of rows (arXiv 1603.06549) from and to NumPy."""

from __future__ import annotations

from array import array
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from pyroaring import BitMap

from index.points import Rows

OBJECT, CONTAINER = 128, 32  # bytes of a bitmap and of each of its containers, beside what they hold
MOST_ROWS = 2**32  # of a collection, dead ones included: what a bitmap can hold


def bitmap_of(rows: NDArray[np.integer]) -> BitMap:
    """Return the bitmap of (n,) rows, each below `MOST_ROWS`; they may repeat."""
    # From an array of the standard library a bitmap is filled at once, from one of NumPy number by number; in order it
    # is ten times as fast (100,000 rows: 0.7 ms and 0.5 ms for the sort, against 7.2 ms).
    numbers = array("I")
    numbers.frombytes(np.sort(rows.astype(np.uint32, copy=False)).tobytes())
    return BitMap(numbers)


def rows_of(bitmap: BitMap) -> Rows:
    """Return the (n,) rows, ascending."""
    return np.frombuffer(bitmap.to_array(), dtype=np.uint32).astype(np.int64)


def bytes_of(bitmap: BitMap) -> int:
    """Return about how many bytes a bitmap takes in memory."""
    told = bitmap.get_statistics()
    held = told["n_bytes_array_containers"] + told["n_bytes_run_containers"] + told["n_bytes_bitset_containers"]
    return OBJECT + CONTAINER * told["n_containers"] + held


def union(bitmaps: Iterable[BitMap]) -> BitMap:
    """Return what is in any of them; nothing for none."""
    found = list(bitmaps)
    if len(found) < 2:
        return BitMap(found[0]) if found else BitMap()
    return BitMap.union(*found)
