"""Matrices whose rows are small whole numbers times one scale a row: 8 bits, or 4 bits packed two to a byte.

Row r stands for `levels[r] * scales[r]`. With 8 bits, levels are -127 to 127. With 4 bits they are the 16 odd numbers
-15 to 15, a uniform grid without a zero; on disk byte j holds `(level + 15) / 2` of dimension j in its low half and
that of dimension j + d/2 in its high half. A row of zeros has the scale 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

Bits = Literal[4, 8]
# Shares of a row's largest entry that 4 bits may reach to: cutting the rare large entries makes the steps finer.
REACHES = np.linspace(0.5, 1.0, 11)
CHUNK_ROWS = 4096


@dataclass(frozen=True, slots=True, eq=False)
class QuantisedRows:
    """A quantised (n, d) matrix.

    Attributes
    ----------
    levels : (n, d) int8.
    scales : (n,) float32, not negative.
    bits : 8, or 4 with an even d.
    """

    levels: NDArray[np.int8]
    scales: NDArray[np.float32]
    bits: Bits

    @classmethod
    def quantise(cls, matrix: NDArray[np.float32], bits: Bits) -> Self:
        """Quantise (n, d) finite floats; each row's scale is the best of a few for its squared error.

        Raises
        ------
        ValueError
            Not a finite matrix, or 4 bits of an odd d.
        """
        if matrix.ndim != 2 or not np.isfinite(matrix).all():
            raise ValueError("only a finite matrix can be quantised")
        if bits not in (4, 8) or (bits == 4 and matrix.shape[1] % 2):
            raise ValueError(f"{bits} bits of {matrix.shape[1]} dimensions: take 8 bits, or 4 of an even number")
        levels = np.empty(matrix.shape, dtype=np.int8)
        scales = np.empty(len(matrix), dtype=np.float32)
        for start in range(0, len(matrix), CHUNK_ROWS):
            rows = slice(start, start + CHUNK_ROWS)
            levels[rows], scales[rows] = _quantise(matrix[rows].astype(np.float32), bits)
        return cls(levels, scales, bits)

    def values(self) -> NDArray[np.float32]:
        """Return the (n, d) float32 that it stands for."""
        return self.levels.astype(np.float32) * self.scales[:, None]

    def packed(self) -> NDArray[Any]:
        """Return the levels as they are stored: (n, d) int8, or (n, d / 2) uint8 with 4 bits."""
        if self.bits == 8:
            return self.levels
        half = self.levels.shape[1] // 2
        halves = ((self.levels + 15) // 2).astype(np.uint8)
        return halves[:, :half] | (halves[:, half:] << 4)

    @classmethod
    def from_packed(cls, packed: NDArray[Any], scales: NDArray[np.float32]) -> Self:
        """Read `packed`; the dtype tells the bits.

        Raises
        ------
        ValueError
            Not a pair of arrays as they are stored.
        """
        if packed.ndim != 2 or scales.shape != packed.shape[:1] or scales.dtype != np.float32:
            raise ValueError("levels and scales do not fit")
        if not (np.isfinite(scales).all() and (scales >= 0).all()):
            raise ValueError("a scale is negative or not finite")
        if packed.dtype == np.int8:
            return cls(packed, scales, 8)
        if packed.dtype != np.uint8:
            raise ValueError(f"levels of {packed.dtype}")
        halves = np.concatenate([packed & 15, packed >> 4], axis=1)
        return cls((2 * halves.astype(np.int8) - 15), scales, 4)


def _quantise(matrix: NDArray[np.float32], bits: Bits) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    top = np.abs(matrix).max(axis=1, initial=0)
    if bits == 8:
        scales = (top / 127).astype(np.float32)
        return _levels(matrix, scales, bits), scales
    best = np.full(len(matrix), np.inf, dtype=np.float32)
    scales = np.zeros(len(matrix), dtype=np.float32)
    for reach in REACHES:
        tried = (top * (reach / 15)).astype(np.float32)
        error = np.square(_levels(matrix, tried, bits) * tried[:, None] - matrix).sum(axis=1)
        scales = np.where(error < best, tried, scales)
        best = np.minimum(error, best)
    return _levels(matrix, scales, bits), scales


def _levels(matrix: NDArray[np.float32], scales: NDArray[np.float32], bits: Bits) -> NDArray[np.int8]:
    shares = matrix / np.where(scales > 0, scales, 1)[:, None]
    if bits == 8:
        return np.clip(np.rint(shares), -127, 127).astype(np.int8)
    return (2 * np.clip(np.floor(shares / 2), -8, 7) + 1).astype(np.int8)
