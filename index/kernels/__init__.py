"""Products of one query with many codes, and walks through a graph of codes, in C (kernels.c).

What FAISS has for these is made for codes in its own order, or takes floats apart for every product: 300 ns a code of
four bits on a walk, a third of that here (docs/log.md). All arrays are C-contiguous; what is not float32 or int64 where
it must be is converted. Any number of threads may call; Python runs on meanwhile. Queries are compared to 1 in 57,600
of their greatest component.
"""

from __future__ import annotations

import ctypes
import functools

import numpy as np
from faiss.loader import supported_instruction_sets
from numpy.typing import NDArray

from index.kernels.compile import library
from index.points import Float32s

Positions = NDArray[np.int64]
Bytes = NDArray[np.uint8]

NO_MEMORY = -1
NIBBLES = 0  # in place of a number of planes
_I, _P = ctypes.c_int64, ctypes.c_void_p
_SIGNATURES: dict[str, tuple[type, list[type]]] = {
    "products": (ctypes.c_int, [_P, _I, _I, _I, _I, _P, _I, _P, _P]),
    "walk": (_I, [_P, _I, _I, _P, _P, _I, _I, _I, _P, _I, _P, _P]),
}


@functools.cache
def load(variant: str) -> ctypes.CDLL:
    """Load a compiled variant. Raises ImportError saying what to do where it was not compiled."""
    path = library(variant)
    try:
        loaded = ctypes.CDLL(str(path))
        for name, (result, arguments) in _SIGNATURES.items():
            function = loaded[f"bitfold_{name}"]
            function.restype, function.argtypes = result, arguments
            setattr(loaded, name, function)
    except (OSError, AttributeError) as error:
        hint = "install Bitfold again (pip install -e .), or run python -m index.kernels.compile"
        raise ImportError(f"{path.name} is not compiled, or not for this machine ({error}): {hint}") from error
    return loaded


def best_variant() -> str:
    """Return the fastest variant that this machine can run."""
    known = supported_instruction_sets()  # type: ignore[no-untyped-call]
    return "avx2" if {"AVX2", "FMA3"} <= known else "any"


@functools.cache
def _kernels() -> ctypes.CDLL:
    return load(best_variant())


def require() -> None:
    """Raise ImportError, which says what to do, unless the kernels are compiled."""
    _kernels()


def _at(array: NDArray[np.generic]) -> int:
    return int(array.__array_interface__["data"][0])


def _refuse_gaps(codes: Bytes, joined: bool) -> None:
    if not joined and codes.size:
        raise ValueError(f"codes of shape {codes.shape} lie {codes.strides} bytes apart: a row must be in one piece")


def _check(status: int, rows: int) -> None:
    if status == NO_MEMORY:
        raise MemoryError("no memory for a query")
    if status < 0:
        raise IndexError(f"a position is not within 0 to {rows - 1}")


def _products(codes: Bytes, planes: int, length: int, positions: Positions, query: Float32s) -> Float32s:
    if query.shape != (length,):
        raise ValueError(f"a query of shape {query.shape} does not fit rows of {length} dimensions")
    positions = np.ascontiguousarray(positions, dtype=np.int64)
    query = np.ascontiguousarray(query, dtype=np.float32)
    rows, count = len(codes), len(positions)
    products = np.empty(count, dtype=np.float32)
    shape = (rows, codes.strides[0], planes, codes.shape[-1])
    _check(_kernels().products(_at(codes), *shape, _at(positions), count, _at(query), _at(products)), rows)
    return products


def nibble_products(codes: Bytes, positions: Positions, query: Float32s) -> Float32s:
    """Return (k,) float32 products of a (2 w,) query with the values of some of (n, w) rows of nibbles.

    The lower one of two nibbles in a byte comes first.

    Raises IndexError where a position is none of a row.
    """
    width = codes.shape[1]
    _refuse_gaps(codes, codes.strides == (width, 1))
    return _products(codes, NIBBLES, 2 * width, positions, query)


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


def walk(
    codes: Bytes,
    neighbours: NDArray[np.int32],
    starts: NDArray[np.uint32],
    links: int,
    entry: int,
    highest: int,
    query: Float32s,
    width: int,
) -> tuple[Positions, Float32s]:
    """Walk through an HNSW graph over (n, w) rows of nibbles; n is at least 1.

    Parameters
    ----------
    neighbours : node by node and level by level, 2 `links` on the lowest and `links` on each higher one, -1 behind the
        last.
    starts : (n + 1,) where the neighbours of each node begin, in units of `links`.
    entry, highest : where the walk begins: a node and its highest level.
    query : (2 w,) float32.
    width : how many nodes the walk keeps while it looks for better ones, at least 1.

    Returns
    -------
    The positions, int64, of the at most `width` nearest nodes it met, best first, and their products, float32.
    """
    rows, code_bytes = codes.shape
    query = np.ascontiguousarray(query, dtype=np.float32)
    positions, products = np.empty(width, dtype=np.int64), np.empty(width, dtype=np.float32)
    kept = _kernels().walk(
        _at(codes),
        rows,
        code_bytes,
        _at(neighbours),
        _at(starts),
        links,
        entry,
        highest,
        _at(query),
        width,
        _at(positions),
        _at(products),
    )
    _check(kept, rows)
    return positions[:kept], products[:kept]
