"""The only owner of code layout: levels to packed planes and back, and the slow scores behind the fast ones.

A level c of 0 to 2^bits - 1 stands for a value on the uniform mid-rise grid of BEBR's recurrent codes (arXiv
2302.08714). Plane t, most significant first, is bit `bits - 1 - t` of c; its bits stand for +1 (1) and -1 (0). The
first p planes have the value `v_p = sum over t < p of 2^-t * (+1 or -1)`, which is `(2 c_p - K) / 2^(p - 1)` with
`c_p = c >> (bits - p)` and `K = 2^p - 1`. A plane of m bits is packed least significant bit first: bit j of a
document is bit `j % 8` of byte `j // 8`. m is a multiple of 8.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from index.points import Float32s

Levels = NDArray[np.uint8]
Codes = NDArray[np.uint8]  # (n, m / 8): one plane
Planes = NDArray[np.uint8]  # (n, bits, m / 8)


def pack(levels: Levels, bits: int) -> Planes:
    """Pack `(n, m)` levels in 0..2^bits - 1 into `(n, bits, m / 8)` planes."""
    planes = np.empty((len(levels), bits, levels.shape[1] // 8), dtype=np.uint8)
    for t in range(bits):
        planes[:, t] = np.packbits(levels & (1 << (bits - 1 - t)), axis=1, bitorder="little")
    return planes


def unpack(planes: Planes) -> Levels:
    """Return the `(n, m)` levels of `(n, bits, m / 8)` planes; of the first p planes, the levels `c >> (bits - p)`."""
    n, bits, width = planes.shape
    levels = np.zeros((n, width * 8), dtype=np.uint8)
    for t in range(bits):
        levels <<= 1
        levels |= np.unpackbits(planes[:, t], axis=1, bitorder="little")
    return levels


def values(levels: Levels, bits: int) -> Float32s:
    """Return the values, float32 of the same shape, of levels in 0..2^bits - 1."""
    grid = (2 * np.arange(1 << bits, dtype=np.float32) - ((1 << bits) - 1)) / (1 << (bits - 1))
    chosen: Float32s = grid[levels].astype(np.float32, copy=False)
    return chosen


def prefix_values(planes: Planes, p: int) -> Float32s:
    """Return the `(n, m)` values of the first p planes."""
    return values(unpack(planes[:, :p]), p)


def integer_products(query_levels: Levels, levels: Levels, bits: int) -> NDArray[np.int64]:
    """Return `(nq, n)` int64 inner products of values, times `4^(bits - 1)`, in integers alone.

    `<b_q, b_d> = 4^-u * (4 sum(c_q c_d) - 2 K (sum c_q + sum c_d) + m K^2)` with `u = bits - 1`: what symmetric scores
    (BEBR's SDC) are exact to.
    """
    queries, documents = query_levels.astype(np.int64), levels.astype(np.int64)
    most = (1 << bits) - 1
    sums = queries.sum(axis=1)[:, None] + documents.sum(axis=1)
    products: NDArray[np.int64] = 4 * (queries @ documents.T) - 2 * most * sums + levels.shape[1] * most * most
    return products


def pack_bits(flags: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Pack flags of positions into a bitmap, least significant bit first."""
    return np.packbits(flags, bitorder="little")


def unpack_bits(bitmap: NDArray[np.uint8], count: int) -> NDArray[np.bool_]:
    """Return the first `count` flags of a bitmap."""
    return np.unpackbits(bitmap, count=count, bitorder="little").view(np.bool_)


def set_bits(bitmap: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return the positions whose flags are set, ascending."""
    return np.flatnonzero(np.unpackbits(bitmap, bitorder="little"))


def in_bitmap(bitmap: NDArray[np.uint8], positions: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return the flags of some positions."""
    return (bitmap.take(positions >> 3) >> (positions & 7).astype(np.uint8) & 1).view(np.bool_)
