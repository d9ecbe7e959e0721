"""The uniform mid-rise grid that codes live on: levels, their values, values of their prefixes, correction factors.

A level is an integer 0 .. 2^bits - 1; with K = 2^bits - 1 its value is (2 level - K) / 2^(bits - 1), the grid of a
recurrent binary code (BEBR, arXiv 2302.08714: b_0 + r_0 / 2 + r_1 / 4 + ..., all parts +-1). The first p bit planes
of a level, most significant first, are level >> (bits - p), a level of p bits on the coarser grid.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.errors import InvalidSize

Floats = NDArray[np.float32]
Levels = NDArray[np.uint8]

MAX_BITS: Final = 8
# Distance between neighbouring levels, in standard deviations, of the uniform quantiser with the least squared
# error for a Gaussian (Max, 1960; computed by numerical integration).
GAUSSIAN_STEP: Final = {1: 1.5958, 2: 0.9957, 3: 0.5860, 4: 0.3352, 5: 0.1881, 6: 0.1041, 7: 0.0569, 8: 0.0308}


def check_bits(bits: int) -> int:
    """Return bits; raises InvalidSize outside 1..8."""
    if not 1 <= bits <= MAX_BITS:
        raise InvalidSize(f"{bits} bits a dimension are not possible", hint=f"choose 1 to {MAX_BITS}")
    return bits


def levels_of(values: Floats, bits: int) -> Levels:
    """Return the nearest levels of values in units of the grid; what lies beyond the ends takes the end.

    A value on the border between two levels takes the upper one, so 0 counts as positive at any number of bits.
    """
    levels = np.floor(values * np.float32(2 ** (bits - 1) / 2) + np.float32(2 ** (bits - 1)))
    found: Levels = np.clip(levels, 0, 2**bits - 1).astype(np.uint8)
    return found


def values_of(levels: Levels, bits: int) -> Floats:
    """Return the float32 values of levels."""
    scale = np.float32(2.0 ** -(bits - 1))
    return (levels * np.float32(2) - np.float32(2**bits - 1)) * scale


def prefix_of(levels: Levels, bits: int, planes: int) -> Levels:
    """Return the levels that the first `planes` bit planes make."""
    return levels >> np.uint8(bits - planes)


def correction_factors(transformed: Floats, levels: Levels, bits: int, scales: Floats | None = None) -> Floats:
    """Return the factor per document and prefix that makes the estimate of an inner product unbiased along x.

    `<q, x>` is estimated as `factor_p * <scales * q, v_p>`, v_p the values of the first p planes; for q along x it
    is exact: factor_p = |x|^2 / <x, scales * v_p>. With one bit and no scales that is `|x|_2^2 / |x|_1`.

    Parameters
    ----------
    transformed : (n, m) float32, documents in code space.
    levels : (n, m) uint8, their levels.
    scales : (m,) float32, the size of one unit of the grid in each dimension; None means 1.

    Returns
    -------
    (n, bits) float32, column p - 1 for the first p planes; 0 for x = 0.
    """
    squares = np.einsum("ij,ij->i", transformed, transformed, dtype=np.float64)
    scaled = transformed if scales is None else transformed * scales
    factors = np.zeros((len(levels), bits), dtype=np.float32)
    for planes in range(1, bits + 1):
        values = values_of(prefix_of(levels, bits, planes), planes)
        products = np.einsum("ij,ij->i", scaled, values, dtype=np.float64)
        np.divide(squares, products, out=factors[:, planes - 1], where=products > 0, casting="unsafe")
    return factors
