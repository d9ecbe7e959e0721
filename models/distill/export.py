"""A trained student as the arrays that `models.student_folder` writes. Knows both sides, trains nothing."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from models.distill.network import EPSILON, UNIT, ContextExits, StaticExit
from models.distill.options import StudentOptions
from models.student_weights import STATIC_TABLE, StudentShape, StudentWeights

Floats = NDArray[np.float32]


def student_weights(
    static: StaticExit, context: ContextExits | None, options: StudentOptions, *, special: list[int]
) -> StudentWeights:
    """Return a student's arrays.

    Parameters
    ----------
    special : tokens that a tokenizer puts around a text: they count for nothing in exit 0.
    """
    table = _array(static.folded())
    table[special] = 0
    arrays: dict[str, Floats] = {STATIC_TABLE: table}
    if static.mix is not None:
        up, _, down = static.mix
        assert isinstance(up, nn.Linear)
        assert isinstance(down, nn.Linear)
        # The network reads the direction times UNIT.
        arrays |= {"static.up.weight": UNIT * _array(up.weight), "static.up.bias": _array(up.bias)}
        arrays |= {"static.down.weight": _array(down.weight), "static.down.bias": _array(down.bias)}
    vocabulary, dimension = table.shape
    if context is None:
        shape = StudentShape(vocabulary, dimension, (0,), 0, options.static_window, mix=options.mix)
        return StudentWeights(shape, arrays)
    arrays |= _context_arrays(context)
    shape = StudentShape(
        vocabulary=vocabulary,
        dimension=dimension,
        exits=(0, *options.exits),
        window=options.window,
        static_window=options.static_window,
        mix=options.mix,
        hidden=context.words.weight.shape[1],
        heads=context.blocks()[0].heads,
        ffn=options.ffn,
        positions=len(context.positions),
        epsilon=EPSILON,
    )
    return StudentWeights(shape, arrays)


def _context_arrays(context: ContextExits) -> dict[str, Floats]:
    arrays = {"tokens": _array(context.words.weight), "positions": _array(context.positions)}
    arrays |= _pair("norm", context.norm.weight, context.norm.bias)
    for number, layer in enumerate(context.blocks()):
        start = f"layers.{number}."
        weights, biases = layer.qkv.weight.chunk(3), layer.qkv.bias.chunk(3)
        for name, weight, bias in zip(("query", "key", "value"), weights, biases, strict=True):
            arrays |= _pair(start + name, weight, bias)
        for name, part in (
            ("output", layer.out),
            ("up", layer.up),
            ("down", layer.down),
            ("attention_norm", layer.norm_1),
            ("output_norm", layer.norm_2),
        ):
            arrays |= _pair(start + name, part.weight, part.bias)
    for k, one in context.ends().items():
        arrays |= _pair(f"exits.{k}", one.weight, one.bias)
        arrays[f"exits.{k}.gate"] = _array(context.gates[str(k)])
    return arrays


def _pair(name: str, weight: Tensor, bias: Tensor) -> dict[str, Floats]:
    return {f"{name}.weight": _array(weight), f"{name}.bias": _array(bias)}


def _array(tensor: Tensor) -> Floats:
    return np.array(tensor.detach().numpy(), dtype=np.float32, order="C")
