"""Scans of codes, and products of one query with some of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from index.kernels import library
from index.kernels.library import address, check
from index.points import Float32s

Positions = NDArray[np.int64]
Bytes = NDArray[np.uint8]

BLOCK = 32  # codes that a scan looks at together
NIBBLES = 0  # in place of a number of planes


def _refuse_gaps(codes: Bytes, joined: bool) -> None:
    if not joined and codes.size:
        raise ValueError(f"codes of shape {codes.shape} lie {codes.strides} bytes apart: a row must be in one piece")


def outside(rows: int) -> str:
    """Say what is wrong with a position that none of so many rows has."""
    return f"a position is not within 0 to {rows - 1}"


def _products(codes: Bytes, planes: int, length: int, positions: Positions, query: Float32s) -> Float32s:
    if query.shape != (length,):
        raise ValueError(f"a query of shape {query.shape} does not fit rows of {length} dimensions")
    positions = np.ascontiguousarray(positions, dtype=np.int64)
    query = np.ascontiguousarray(query, dtype=np.float32)
    rows, count = len(codes), len(positions)
    products = np.empty(count, dtype=np.float32)
    shape = (rows, codes.strides[0], planes, codes.shape[-1])
    # Rows may lie apart.
    status = library.kernels().products(
        codes.ctypes.data, *shape, address(positions), count, address(query), address(products)
    )
    check(status, outside(rows))
    return products


def nibble_products(codes: Bytes, positions: Positions, query: Float32s) -> Float32s:
    """Return (k,) float32 products of a (2 w,) query with the values of some of (n, w) rows of nibbles.

    The lower one of two nibbles in a byte comes first.

    Raises IndexError where a position is none of a row.
    """
    width = codes.shape[1]
    _refuse_gaps(codes, codes.strides == (width, 1))
    return _products(codes, NIBBLES, 2 * width, positions, query)


def to_nibbles(planes: Bytes) -> Bytes:
    """Return `(n, 4 w)` bytes of two levels each, the lower one first, of `(n, 4, w)` planes."""
    n, _, code_bytes = planes.shape
    planes = np.ascontiguousarray(planes)
    nibbles = np.empty((n, 4 * code_bytes), dtype=np.uint8)
    library.kernels().nibbles(address(planes), n, code_bytes, address(nibbles))
    return nibbles


def plane_products(codes: Bytes, planes: int, positions: Positions, query: Float32s) -> Float32s:
    """Return (k,) float32 products of an (8 w,) query with the values of the first planes of some rows.

    Parameters
    ----------
    codes : (n, bits, w) uint8, bits at least `planes`; rows may lie further apart.
    planes : 1 to 4.

    Raises IndexError where a position is none of a row.
    """
    width = codes.shape[2]
    _refuse_gaps(codes, codes.strides[2] == 1 and (planes == 1 or codes.strides[1] == width))
    return _products(codes, planes, 8 * width, positions, query)


def scan(
    blocks: Bytes,
    places: NDArray[np.uint32] | None,
    starts: NDArray[np.int64],
    sizes: NDArray[np.int64],
    queries: Float32s,
    lists: Sequence[NDArray[np.int64]],
    k: int,
    allowed: Bytes | None,
) -> list[tuple[Positions, Float32s]]:
    """Find for each query the k best codes in some inverted lists; those that several look into are shared.

    Four components of a query are rounded to 253 steps in all: products are off by 1 in 100 of its norm or so.

    Parameters
    ----------
    blocks : (b, w, `BLOCK`) uint8, list after list: of a block's codes the first bytes, then the second ones, ...
    places : (`BLOCK` b,) the position that the code in each slot has; None where these are the same.
    starts, sizes : the slot where each list begins, which is the first of a block, and how many codes are in it.
    queries : (nq, 8 w) float32, in code space; nq is at least 1.
    lists : the lists that each query looks into, best first.
    k : at least 1; fewer come back where there are fewer.
    allowed : bitmap over positions, least significant bit first; None allows all.

    Returns
    -------
    For each query positions : (c,) int64, and products : (c,) float32 `<query, +-1 code>`, in no order.
    """
    count = len(queries)
    queries = np.ascontiguousarray(queries, dtype=np.float32)
    chosen = np.ascontiguousarray(lists[0] if count == 1 else np.concatenate(lists), dtype=np.int64)
    ends = np.cumsum([len(own) for own in lists])
    positions, products = np.empty((count, k), dtype=np.int64), np.empty((count, k), dtype=np.float32)
    counts = np.empty(count, dtype=np.int64)
    status = library.kernels().scan(
        address(blocks),
        None if places is None else address(places),
        blocks.shape[1],
        address(starts),
        address(sizes),
        address(chosen),
        address(ends),
        address(queries),
        count,
        k,
        None if allowed is None else address(allowed),
        address(positions),
        address(products),
        address(counts),
    )
    check(status)
    return [
        (mine[:found], sums[:found]) for mine, sums, found in zip(positions, products, counts.tolist(), strict=True)
    ]


def nearest(rows: NDArray[np.int8], steps: Float32s, query: Float32s, count: int) -> Positions:
    """Return which `count` of (n, d) rows have the largest products with a (d,) float32 query, best first, int64.

    rows : in whole numbers from -127 to 127, each dimension in its own of the (d,) float32 `steps`; the query is
        rounded to as many.
    """
    query = np.ascontiguousarray(query, dtype=np.float32)
    found = np.empty(min(count, len(rows)), dtype=np.int64)
    status = library.kernels().nearest(
        address(rows), *rows.shape, address(steps), address(query), len(found), address(found)
    )
    check(status)
    return found
