"""The small network of a student's exit 0: from the direction of a sum of tokens to what a sum cannot say. NumPy."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from models.student_folder import describe_student, read_arrays

TINY = np.float32(1e-12)
ZERO = np.float32(0)
Floats = NDArray[np.float32]


class StaticMix:
    """`u + down(relu(up(u)))` of `u = s / |s|`, see `student_weights.py`.

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
        lengths = np.sqrt(np.vecdot(sums, sums))[:, None]
        nothing = not lengths.all()
        directions = sums / (np.maximum(lengths, TINY) if nothing else lengths)
        hidden = directions @ self._up
        hidden += self._up_bias
        mixed = np.maximum(hidden, ZERO, out=hidden) @ self._down
        mixed += self._down_bias
        mixed += directions
        return np.where(lengths > 0, mixed, ZERO) if nothing else mixed
