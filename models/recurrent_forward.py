"""The forward pass of recurrent binary codes in NumPy: MLP blocks, the recurrence, its inputs.

Knows no torch: what was trained with it serves without it. `models/recurrent_network.py` is the trained side.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from models.grid import Floats, Levels, values_of

# The share of an input's unit length that the direction of a vector takes; see `unit_inputs`.
INPUT_SCALE: Final = np.float32(0.25)


@dataclass(frozen=True)
class Affine:
    """One linear layer.

    Parameters
    ----------
    weight : (outputs, inputs) float32.
    bias : (outputs,) float32.
    """

    weight: Floats
    bias: Floats

    def __call__(self, rows: Floats) -> Floats:
        """Map (n, inputs) to (n, outputs) float32."""
        mapped: Floats = rows @ self.weight.T
        mapped += self.bias
        return mapped


@dataclass(frozen=True)
class Block:
    """An MLP block in eval form, with batch normalisation folded into its layers.

    `straight(x) + out(relu(... relu(hidden_1(x))))`. The straight path makes it the linear map that training starts
    from as long as `out` is zero, and adds nothing to what an MLP is: 2 * outputs more hidden units that carry
    `relu(straight(x))` and `relu(-straight(x))` to the output are the same function.

    Parameters
    ----------
    straight : inputs to outputs.
    layers : hidden layers, then `out`; empty for a linear block.
    """

    straight: Affine
    layers: tuple[Affine, ...] = ()

    def __call__(self, rows: Floats) -> Floats:
        """Map (n, inputs) to (n, outputs) float32."""
        mapped = self.straight(rows)
        if self.layers:
            hidden = rows
            for layer in self.layers[:-1]:
                hidden = np.maximum(layer(hidden), 0)
            mapped += self.layers[-1](hidden)
        return mapped

    def in_units(self, unit: float) -> Block:
        """Return the block that maps `unit * x` to `unit * self(x)`."""
        scale = np.float32(unit)
        straight = Affine(self.straight.weight, self.straight.bias * scale)
        if not self.layers:
            return Block(straight)
        first, *between, last = self.layers
        first, last = Affine(first.weight / scale, first.bias), Affine(last.weight * scale, last.bias * scale)
        return Block(straight, (first, *between, last))


@dataclass(frozen=True)
class Forward:
    """The recurrent binarization of BEBR (arXiv 2302.08714).

        b_0 = sign(W(f));  fhat_i = B_i(b_i) / |B_i(b_i)|;  b_{i+1} = b_i + 2^-(i+1) sign(R_i(f - fhat_i))

    with sign(0) = +1. The residual is always that of f against the reconstruction of everything so far. b_u lies
    on the grid of `models/grid.py`, the sign of b_0 its most significant bit.

    Parameters
    ----------
    first : W, from the inputs to m dimensions.
    reconstruct : B_0 .. B_{u-1}, from m dimensions back to the inputs; u = bits - 1.
    refine : R_0 .. R_{u-1}, from the inputs to m dimensions.
    """

    first: Block
    reconstruct: tuple[Block, ...] = ()
    refine: tuple[Block, ...] = ()

    @property
    def bits(self) -> int:
        """Planes of a code, u + 1."""
        return len(self.refine) + 1

    def levels(self, inputs: Floats) -> Levels:
        """Return (n, m) uint8 levels of (n, inputs) float32 rows of length 1."""
        levels: Levels = (self.first(inputs) >= 0).astype(np.uint8)
        for i, (reconstruct, refine) in enumerate(zip(self.reconstruct, self.refine, strict=True)):
            rebuilt = reconstruct(values_of(levels, i + 1))
            rebuilt /= np.linalg.norm(rebuilt, axis=1, keepdims=True)
            levels = 2 * levels + (refine(inputs - rebuilt) >= 0)
        return levels


def unit_inputs(centred: Floats) -> Floats:
    """Return what the recurrent binarization reads: (n, d + 1) float32 rows of length 1.

    It wants unit vectors, and its reconstructions are unit vectors too. So a row is the direction of `d - mean`,
    scaled by 1/4, and one more coordinate that completes the length to 1. What a reconstruction has in that
    coordinate is its own to choose, so its part in the directions can be up to four times as long as a document's:
    the first planes of a fine grid overshoot on purpose. Directions alone count, so collections under any
    distance are coded alike; what `d - mean` = 0 is coded as does not matter, its factors are 0.
    """
    lengths = np.linalg.norm(centred, axis=1, keepdims=True)
    inputs = np.empty((len(centred), centred.shape[1] + 1), dtype=np.float32)
    np.divide(centred, np.maximum(lengths, np.finfo(np.float32).tiny), out=inputs[:, :-1])
    inputs[:, :-1] *= INPUT_SCALE
    inputs[:, -1] = np.sqrt(1 - INPUT_SCALE**2)
    return inputs
