"""What a student's arrays mean, one text at a time in NumPy and float64: slow, plain, for comparison."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.student_weights import STATIC_TABLE, StudentWeights

Doubles = NDArray[np.float64]
TINY = 1e-12


def reference_vectors(
    weights: StudentWeights, token_ids: Sequence[Sequence[int]], layers: int, *, around: tuple[int, int]
) -> Doubles:
    """Return the vectors of texts at one exit.

    Parameters
    ----------
    token_ids : per text its tokens, all of them, without special ones.
    layers : one of the exits.
    around : the special tokens that layers read before and behind a text.

    Returns
    -------
    (n, d) float64, not normalised.
    """
    return np.stack([_vector(weights, list(ids), layers, around) for ids in token_ids])


def _vector(weights: StudentWeights, text: list[int], layers: int, around: tuple[int, int]) -> Doubles:
    arrays = {name: array.astype(np.float64) for name, array in weights.arrays.items()}
    shape = weights.shape
    static = _static(arrays, text[: shape.static_window])
    if layers == 0:
        return static
    ids = [around[0], *text[: shape.window - 2], around[1]]
    states = arrays["tokens"][ids] + arrays["positions"][: len(ids)]
    states = _norm(states, arrays, "norm", shape.epsilon)
    for layer in range(layers):
        part = {
            name.removeprefix(f"layers.{layer}."): array
            for name, array in arrays.items()
            if name.startswith(f"layers.{layer}.")
        }
        attended = _linear(_attention(states, part, shape.heads), part, "output")
        states = _norm(states + attended, part, "attention_norm", shape.epsilon)
        raised = _gelu(_linear(states, part, "up"))
        states = _norm(states + _linear(raised, part, "down"), part, "output_norm", shape.epsilon)
    share = arrays[f"exits.{layers}.gate"] * static / max(float(np.linalg.norm(static)), TINY)
    pooled = arrays[f"exits.{layers}.weight"] @ states.mean(axis=0)
    return np.asarray(pooled + arrays[f"exits.{layers}.bias"] + share)


def _static(arrays: dict[str, Any], ids: list[int]) -> Doubles:
    summed = arrays[STATIC_TABLE][ids].sum(axis=0)
    length = float(np.linalg.norm(summed))
    if "static.up.weight" not in arrays or length == 0:  # a text without any token has no direction
        return np.asarray(summed)
    direction = summed[None, :] / length
    raised = np.maximum(_linear(direction, arrays, "static.up"), 0)
    return np.asarray((direction + _linear(raised, arrays, "static.down"))[0])


def _attention(states: Doubles, part: dict[str, Any], heads: int) -> Doubles:
    query, key, value = (_linear(states, part, name) for name in ("query", "key", "value"))
    width = states.shape[1] // heads
    mixed = []
    for head in range(heads):
        own = slice(head * width, (head + 1) * width)
        scores = query[:, own] @ key[:, own].T / math.sqrt(width)
        shares = np.exp(scores - scores.max(axis=1, keepdims=True))
        mixed.append(shares / shares.sum(axis=1, keepdims=True) @ value[:, own])
    return np.concatenate(mixed, axis=1)


def _linear(states: Doubles, part: dict[str, Any], name: str) -> Doubles:
    return np.asarray(states @ part[f"{name}.weight"].T + part[f"{name}.bias"])


def _norm(states: Doubles, part: dict[str, Any], name: str, epsilon: float) -> Doubles:
    centred = states - states.mean(axis=1, keepdims=True)
    spread = np.sqrt(np.square(centred).mean(axis=1, keepdims=True) + epsilon)
    return np.asarray(centred / spread * part[f"{name}.weight"] + part[f"{name}.bias"])


def _gelu(values: Doubles) -> Doubles:
    erf = np.asarray(np.frompyfunc(math.erf, 1, 1)(values / math.sqrt(2)), dtype=np.float64)
    return np.asarray(values * (1 + erf) / 2)
