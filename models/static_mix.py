"""The small network of a student's exit 0: from the direction of a sum of tokens to what a sum cannot say. NumPy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from models.student_folder import describe_student, read_arrays

TINY = np.float32(1e-12)
# Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26: erf to 1.5e-7.
ERF_P = np.float32(0.3275911)
ERF_A = tuple(map(np.float32, (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)))
HALF = np.float32(math.sqrt(0.5))
ONE = np.float32(1)
Floats = NDArray[np.float32]


class StaticMix:
    """`u + down(gelu(up(u)))` of `u = s / |s|`, see `student_weights.py`.

    Parameters
    ----------
    arrays : the `static.up` and `static.down` weights and biases.
    """

    def __init__(self, arrays: Mapping[str, Floats]) -> None:
        self._up = np.ascontiguousarray(arrays["static.up.weight"].T)
        self._down = np.ascontiguousarray(arrays["static.down.weight"].T)
        self._up_bias, self._down_bias = arrays["static.up.bias"], arrays["static.down.bias"]

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """Load that of a student folder, None if it has none; raises as `student_folder.read_student`."""
        if not describe_student(folder).shape.mix:
            return None
        names = [f"static.{part}.{end}" for part in ("up", "down") for end in ("weight", "bias")]
        return cls(read_arrays(folder, names))

    def __call__(self, sums: Floats) -> Floats:
        """Map (n, d) float32 sums to (n, d) float32; a sum of nothing stays without a direction."""
        lengths = np.sqrt(np.einsum("ij,ij->i", sums, sums))[:, None]
        directions = sums / np.maximum(lengths, TINY)
        mixed = directions + gelu(directions @ self._up + self._up_bias) @ self._down + self._down_bias
        return mixed if lengths.all() else np.where(lengths > 0, mixed, np.float32(0))


def gelu(values: Floats) -> Floats:
    """Return x times the share of a standard normal distribution that is below x, float32, to 1e-6.

    In place wherever it can be: a query is a row of a few hundred numbers, and every array costs more than its sums.
    """
    scaled = np.abs(values)
    scaled *= HALF
    t = scaled * ERF_P
    t += ONE
    np.reciprocal(t, out=t)
    tail = t * ERF_A[4]
    for factor in ERF_A[3::-1]:
        tail += factor
        tail *= t
    scaled *= scaled
    np.negative(scaled, out=scaled)
    tail *= np.exp(scaled, out=scaled)
    # Of the distribution, doubled, what lies between zero and x.
    share = tail
    np.subtract(ONE, tail, out=share)
    np.copysign(share, values, out=share)
    share += ONE
    share *= values
    share *= np.float32(0.5)
    return share
