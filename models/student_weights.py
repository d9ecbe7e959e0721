"""A student as plain arrays: their names, shapes and what they mean. Knows no files and no runtime.

Exit 0 is static: `s`, the sum over a text's tokens of `static.table[token]`; rows of special tokens are zero. Where it
has a mix, that is `u + static.down(relu(static.up(u)))` with `u = s / |s|`: what a sum cannot say. Exit k > 0 is a BERT
of k layers over embeddings of its own (post-norm, GELU), all tokens pooled by their mean, and a share of the direction
of exit 0: `exits.k.weight @ mean(states) + exits.k.bias + exits.k.gate * v_0 / |v_0|`. All are in the teacher's own
basis and not yet normalised. `student_reference.py` computes it in NumPy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

STATIC_TABLE = "static.table"
Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class StudentShape:
    """The sizes of a student's parts.

    Attributes
    ----------
    vocabulary : tokens, the rows of both tables.
    dimension : length d of its vectors, the teacher's.
    exits : numbers of layers that it can end after, ascending; 0, the static table, is always the first.
    window : tokens that layers read, the two special ones included.
    static_window : tokens that exit 0 reads, without special ones, for itself and for the share of it in other exits.
    mix : width of the small network of exit 0; 0 for none.
    hidden, heads, ffn, positions : width of states, attention heads, width of the feed-forward part, longest
        input of the layers; 0 in a student that is only static.
    epsilon : of layer normalisation.
    """

    vocabulary: int
    dimension: int
    exits: tuple[int, ...]
    window: int
    static_window: int
    mix: int = 0
    hidden: int = 0
    heads: int = 0
    ffn: int = 0
    positions: int = 0
    epsilon: float = 1e-12

    def __post_init__(self) -> None:
        """Check that the numbers fit each other; ValueError if not."""
        if not self.exits or self.exits[0] != 0 or list(self.exits) != sorted(set(self.exits)):
            raise ValueError(f"exits must ascend from 0, not {list(self.exits)}")
        if min(self.vocabulary, self.dimension, self.static_window) < 1:
            raise ValueError("vocabulary, dimension and static_window must be at least 1")
        if self.layers:
            if min(self.hidden, self.heads, self.ffn) < 1 or self.hidden % self.heads:
                raise ValueError("hidden must be a multiple of heads, and ffn at least 1")
            if not 3 <= self.window <= self.positions:
                raise ValueError(f"window must be within 3 and {self.positions} positions, not {self.window}")

    @property
    def layers(self) -> int:
        """Transformer layers in all."""
        return self.exits[-1]

    def arrays(self) -> dict[str, tuple[int, ...]]:
        """Return the name and shape of every array of the weights."""
        shapes: dict[str, tuple[int, ...]] = {STATIC_TABLE: (self.vocabulary, self.dimension)}
        if self.mix:
            shapes |= {"static.up.weight": (self.mix, self.dimension), "static.up.bias": (self.mix,)}
            shapes |= {"static.down.weight": (self.dimension, self.mix), "static.down.bias": (self.dimension,)}
        if not self.layers:
            return shapes
        wide, ffn = self.hidden, self.ffn
        shapes |= {"tokens": (self.vocabulary, wide), "positions": (self.positions, wide)}
        parts: dict[str, tuple[int, ...]] = {}
        for name in ("query", "key", "value", "output"):
            parts |= {f"{name}.weight": (wide, wide), f"{name}.bias": (wide,)}
        parts |= {"up.weight": (ffn, wide), "up.bias": (ffn,), "down.weight": (wide, ffn), "down.bias": (wide,)}
        norms = {f"{name}.{end}": (wide,) for name in ("attention_norm", "output_norm") for end in ("weight", "bias")}
        shapes |= {"norm.weight": (wide,), "norm.bias": (wide,)}
        for layer in range(self.layers):
            shapes |= {f"layers.{layer}.{name}": shape for name, shape in (parts | norms).items()}
        for exit_ in self.exits[1:]:
            shapes[f"exits.{exit_}.weight"] = (self.dimension, wide)
            shapes[f"exits.{exit_}.bias"] = (self.dimension,)
            shapes[f"exits.{exit_}.gate"] = ()
        return shapes


@dataclass(frozen=True, slots=True, eq=False)
class StudentWeights:
    """A student as plain arrays.

    Attributes
    ----------
    shape : its sizes.
    arrays : name -> float32 array, named and shaped as `shape.arrays()` says. Rows of a `weight` are outputs.
        `tokens` and `positions` are added up and normalised by `norm`; a token-type embedding belongs into the
        positions. `norm`s are weight and bias of layer normalisation.

    Raises
    ------
    ValueError
        An array is missing, too many, of another shape or not finite.
    """

    shape: StudentShape
    arrays: Mapping[str, Floats]

    def __post_init__(self) -> None:
        """Check names, shapes and values."""
        wanted = self.shape.arrays()
        if wrong := set(wanted) ^ set(self.arrays):
            raise ValueError(f"arrays that are missing or too many: {', '.join(sorted(wrong)[:5])}")
        for name, array in self.arrays.items():
            if array.shape != wanted[name] or array.dtype != np.float32:
                raise ValueError(f"{name} is {array.dtype} {array.shape}, not float32 {wanted[name]}")
            if not np.isfinite(array).all():
                raise ValueError(f"{name} is not finite")
