"""The compiled kernels: which are loaded, with what signatures, and what their answers mean."""

from __future__ import annotations

import ctypes
import functools

import faiss
import numpy as np
from faiss.loader import supported_instruction_sets
from numpy.typing import NDArray

from index.kernels.compile import library

NO_MEMORY = -1
_I, _P, _F = ctypes.c_int64, ctypes.c_void_p, ctypes.c_float
_INT = ctypes.c_int
_SIGNATURES: dict[str, tuple[type | None, list[type]]] = {
    "products": (_INT, [_P, _I, _I, _I, _I, _P, _I, _P, _P]),
    "nibbles": (None, [_P, _I, _I, _P]),
    "scan": (_INT, [_P, _P, _I, _P, _P, _P, _P, _P, _I, _I, _P, _P, _P, _P]),
    "nearest": (_INT, [_P, _I, _I, _P, _P, _I, _P]),
    "scales": (None, [_P, _I, _I, _P]),
    "walk": (_I, [_P, _P, _I, _I, _P, _P, _I, _P, _I, _P, _P]),
    "link": (_INT, [_P, _P, _I, _I, _P, _P, _I, _P, _I, _I, _I]),
    "estimates": (None, [_P, _P, _I, _P, _I, _P, _P, _I, _F, _F, _F, _P, _P]),
    "choose": (_INT, [_P, _P, _I, _I, _P]),
    "best": (_INT, [_P, _P, _I, _I, _P, _P]),
    "finish": (
        _INT,
        [_P, _P, _I, _P, _I, _P, _P, _I, _F, _F, _F, _P, _I, _I, _P, _I, _INT, _I, _P, _P, _P],
    ),
    "scores": (_INT, [_P, _I, _P, _I, _P, _I, _INT, _P, _P]),
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
    return "avx2" if {"AVX2", "FMA3", "F16C"} <= known else "any"


@functools.cache
def kernels() -> ctypes.CDLL:
    """Return the loaded kernels, each without the prefix of its name."""
    return load(best_variant())


def require() -> None:
    """Raise ImportError, which says what to do, unless the kernels are compiled."""
    kernels()


def address(array: NDArray[np.generic]) -> int:
    """Return where the memory of a C-contiguous array begins. Raises ValueError for others.

    FAISS's way takes .2 us, those of NumPy 1.6 and more, and a search asks some thirty times.
    """
    return int(faiss.swig_ptr(array))


def check(status: int, wrong: str = "") -> None:
    """Raise MemoryError or, saying what is wrong, IndexError where a kernel could not do its work."""
    if status == NO_MEMORY:
        raise MemoryError("no memory for a query")
    if status < 0:
        raise IndexError(wrong)
