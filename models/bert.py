"""A BERT-like encoder as plain arrays, whatever files they came from. Knows no files and no runtime."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Pooling = Literal["mean", "cls"]
Activation = Literal["identity", "tanh"]
Weights = Literal["float32", "int8", "int8-all"]
Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Dense:
    """A layer behind the pooling: `activation(weight @ pooled + bias)`.

    Attributes
    ----------
    weight : (out, in) float32.
    bias : (out,) float32.
    activation : what its result goes through.
    """

    weight: Floats
    bias: Floats
    activation: Activation = "identity"


@dataclass(frozen=True, slots=True, eq=False)
class Bert:
    """An encoder of BERT's kind: post-norm, GELU by the error function, positions learned.

    Attributes
    ----------
    layers, heads : transformer layers, attention heads.
    epsilon : of layer normalisation.
    pooling : how the states of a text's tokens become one vector.
    arrays : name -> float32 array. `tokens` (vocabulary, hidden) and `positions` (longest input, hidden) are added up
        and normalised by `norm.weight` and `norm.bias`; a token-type embedding belongs into the positions. Layer `l`
        has `layers.l.NAME.weight` (out, in) and `.bias` (out,) for the linear `query`, `key`, `value`, `output`,
        `up`, `down`, and for the normalisations `attention_norm` and `output_norm` (hidden,). Others are not read.
    """

    layers: int
    heads: int
    epsilon: float
    pooling: Pooling
    arrays: Mapping[str, Floats]

    @property
    def hidden(self) -> int:
        """Width of the states."""
        return int(self.arrays["tokens"].shape[1])
