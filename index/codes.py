"""The only owner of code layout: levels to packed bytes and back, and the slow scores behind the fast ones.

A code is one bit plane of m bits, packed least significant bit first: bit j of a document is bit `j % 8` of
byte `j // 8`. Level 1 stands for +1, level 0 for -1. m is a multiple of 8.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from index.points import Float32s

Codes = NDArray[np.uint8]


def pack(levels: NDArray[np.uint8]) -> Codes:
    """Pack `(n, m)` levels in {0, 1} into `(n, m / 8)` bytes."""
    return np.packbits(levels, axis=1, bitorder="little")


def unpack(codes: Codes) -> NDArray[np.uint8]:
    """Return the `(n, m)` levels of packed codes."""
    return np.unpackbits(codes, axis=1, bitorder="little")


def signs(codes: Codes) -> Float32s:
    """Return the `(n, m)` float32 values +1 and -1 that codes stand for."""
    return (unpack(codes).astype(np.float32) * 2) - 1


def scores(queries: Float32s, codes: Codes) -> Float32s:
    """Return `(nq, n)` inner products of float queries with codes' values: what the fast scan computes."""
    return queries @ signs(codes).T


def pack_bits(flags: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Pack flags of positions into a bitmap as FAISS reads it (least significant bit first)."""
    return np.packbits(flags, bitorder="little")


def unpack_bits(bitmap: NDArray[np.uint8], count: int) -> NDArray[np.bool_]:
    """Return the first `count` flags of a bitmap."""
    return np.unpackbits(bitmap, count=count, bitorder="little").view(np.bool_)
