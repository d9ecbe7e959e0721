"""Codes that a linear decoder reads best: fitting the decoder, and choosing levels for it.

A document x is reconstructed as `decoder @ values`, the values of all its levels together. Rounding each dimension by
itself is the best choice only where the decoder's columns are orthogonal. `polish` therefore goes on like the
recurrent binarizer (BEBR, arXiv 2302.08714, section 3): reconstruct from the whole code so far, take what is left of
the vector, correct a dimension by it, and so on through all dimensions, several times. It is coordinate descent on
`|x - decoder @ values|^2`, as additive quantisers use it (Martinez et al., LSQ++, ECCV 2018), on a uniform grid.

NumPy only. Values are in units of `models/grid.py`.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from models.grid import Floats, Levels, levels_of, values_of

ROWS: Final = 2048  # documents polished together: their values and residuals stay in the cache
BLOCK: Final = 32  # dimensions corrected one by one before the correction reaches the others as one product
RIDGE: Final = 1e-3
MOST_STRETCH: Final = 4.0


def fit_decoder(vectors: Floats, values: Floats) -> Floats:
    """Return the (d, m) float32 decoder with the least squared error over centred vectors (n, d) and values (n, m)."""
    gram = values.T @ values
    gram += np.float32(RIDGE * len(values)) * np.eye(len(gram), dtype=np.float32)
    solved = np.linalg.solve(gram.astype(np.float64), (values.T @ vectors).astype(np.float64))
    return np.ascontiguousarray(solved.T, dtype=np.float32)


def relative_error(vectors: Floats, values: Floats, decoder: Floats) -> float:
    """Return the squared error of the reconstruction over the squared length of the vectors."""
    rest = vectors - values @ decoder.T
    return float(np.einsum("ij,ij->", rest, rest) / np.einsum("ij,ij->", vectors, vectors))


def polish(vectors: Floats, levels: Levels, decoder: Floats, bits: int, sweeps: int) -> Levels:
    """Return levels (n, m) whose reconstruction is nearer to centred vectors (n, d), never further.

    Each sweep visits every dimension once and costs about m^2 multiplications a document.
    """
    gram: Floats = decoder.T @ decoder
    # A column of zeros moves nothing: its level stays.
    size = np.maximum(np.diagonal(gram), np.float32(1e-12))
    scaled: Floats = np.ascontiguousarray(gram / size[:, None], dtype=np.float32)
    polished = np.empty_like(levels)
    for start in range(0, len(levels), ROWS):
        rows = slice(start, start + ROWS)
        values = np.ascontiguousarray(values_of(levels[rows], bits).T)
        projected: Floats = np.ascontiguousarray(((vectors[rows] @ decoder) / size).T, dtype=np.float32)
        residual = projected - scaled @ values
        for _ in range(sweeps):
            if not _sweep(values, residual, scaled, bits):
                break
        polished[rows] = levels_of(np.ascontiguousarray(values.T), bits)
    return polished


def _sweep(values: Floats, residual: Floats, gram: Floats, bits: int) -> bool:
    """Correct every dimension once, in place; return whether anything changed.

    values, residual : (m, n). `residual[j] + values[j]` is the best real value of dimension j, all others as they are.
    gram : (m, m), rows divided by the diagonal.
    """
    changed = False
    for first in range(0, len(values), BLOCK):
        block = slice(first, min(first + BLOCK, len(values)))
        moved = np.zeros((block.stop - block.start, values.shape[1]), dtype=np.float32)
        for k, j in enumerate(range(block.start, block.stop)):
            best = residual[j] + values[j]
            if k:
                best -= gram[j, first:j] @ moved[:k]
            _round(best, bits)
            np.subtract(best, values[j], out=moved[k])
            values[j] = best
        if moved.any():
            changed = True
            residual -= gram[:, block] @ moved
    return changed


def _round(values: Floats, bits: int) -> None:
    """Move values to the nearest points of the grid, in place: `values_of(levels_of(values))` without copies."""
    if bits == 1:
        np.copysign(np.float32(1), values, out=values)
        return
    half = np.float32(2 ** (bits - 1) / 2)
    np.multiply(values, half, out=values)
    np.floor(values, out=values)
    np.clip(values, -np.float32(2 ** (bits - 1)), np.float32(2 ** (bits - 1) - 1), out=values)
    np.add(values, np.float32(0.5), out=values)
    np.divide(values, half, out=values)


def query_matrix(decoder: Floats, vectors: Floats, values: Floats, evenness: float) -> Floats:
    """Return the (m, d) map of queries into code space for a decoder that was fitted to centred vectors.

    The decoder's transpose ranks as the reconstruction does. The best reconstruction shrinks directions of little
    variance, though, and near neighbours differ in just those: each principal direction is stretched by the power
    `evenness` of (its variance / the variance of its reconstruction). 0 changes nothing, 0.5 makes the two equal, 1
    makes the reconstruction unbiased along each.
    """
    covariance = vectors.T.astype(np.float64) @ vectors / len(vectors)
    variances, axes = np.linalg.eigh(covariance)
    # Variance of the reconstruction along each axis.
    along = axes.T @ decoder
    kept = np.einsum("ij,jk,ik->i", along, values.T.astype(np.float64) @ values / len(values), along)
    floor = 1e-6 * variances.max()
    stretch = (np.maximum(variances, floor) / np.maximum(kept, floor)) ** evenness
    return np.asarray(((axes * np.minimum(stretch, MOST_STRETCH)) @ along).T, dtype=np.float32)
