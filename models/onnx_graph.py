"""Builds the ONNX graph of a BERT-like encoder by hand, with all its exits. Knows no files and runs nothing.

ONNX Runtime computes a whole graph even if one output is asked for, so an exit is not an output of its own: the input
`layers` says after how many layers to stop, and layers beyond that lie in branches that are not taken.

Which operators are used, and why (measured with AVX2, docs/log.md): the fused attention of ONNX Runtime; `Gemm`, which
adds the bias; the standard `LayerNormalization`, because the one that is fused with the skip connection is several
times slower; for int8 whole numbers with a scale a row, see `_int8`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper

from models.bert import Bert, Dense, Floats, Weights
from models.onnx_nodes import Nodes

TOKENS, MASK, LAYERS, VECTORS = "tokens", "mask", "layers", "vectors"
# The products of two neighbours are added in 16 bits by processors without VNNI: 2 * 255 * 63 still fits. With 127
# all-MiniLM-L6-v2 was a little closer to float32, small random models far from it (docs/log.md).
MOST = 63
GELU_FLOOR = 0.17  # GELU is never below -0.17
TINY = np.float32(1e-30)


def build_graph(
    bert: Bert,
    exits: Mapping[int, Sequence[Dense]],
    *,
    weights: Weights = "float32",
    temperature: float = 1.0,
) -> bytes:
    """Build the model as ONNX Runtime reads it.

    Inputs are `tokens` and `mask`, both (n, length) int32, and `layers`, an int64 scalar, one of `exits` (any other
    number stands for the next exit); the output is `vectors`, (n, d) float32, not normalised.

    Parameters
    ----------
    bert : the encoder.
    exits : number of layers, 0 to `bert.layers` -> the dense layers behind its pooling. All end in the same dimension.
    weights : "float32"; "int8" stores the token table and all linear layers but the attention's in 8 bits, and
        computes the latter with them; "int8-all" does so for the attention's too, and is further from float32.
    temperature : attention is `softmax(q k / (temperature * sqrt(width)))`; below 1 it is sharper
        (TempScale, arXiv 2410.24200).

    Raises
    ------
    ValueError
        No exit, one that the model does not have, or a temperature that is not above 0.
    """
    if not exits or min(exits) < 0 or max(exits) > bert.layers:
        raise ValueError(f"exits must be among 0 to {bert.layers}, not {sorted(exits)}")
    if not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(f"temperature must be above 0, not {temperature}")
    nodes = Nodes()
    vectors = BertNodes(bert, weights=weights, temperature=temperature).vectors(nodes, exits)
    wide = next(iter(exits.values()))
    return serialised(nodes, vectors, dimension=len(wide[-1].weight) if wide else bert.hidden)


def serialised(nodes: Nodes, vectors: str, *, dimension: int) -> bytes:
    """Close a graph that has the inputs and the output of `build_graph`."""
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT32, ["n", "length"]) for name in (TOKENS, MASK)]
    inputs.append(helper.make_tensor_value_info(LAYERS, TensorProto.INT64, []))
    output = helper.make_tensor_value_info(VECTORS, TensorProto.FLOAT, ["n", dimension])
    return bytes(nodes.model(inputs, vectors, output).SerializeToString())


class BertNodes:
    """Adds an encoder to a graph; `nodes` is whichever part of the graph grows.

    Parameters
    ----------
    bert, weights, temperature : as `build_graph`.
    tokens, mask : names of the two inputs, (n, length) int32.
    """

    def __init__(
        self, bert: Bert, *, weights: Weights, temperature: float = 1.0, tokens: str = TOKENS, mask: str = MASK
    ) -> None:
        self._bert = bert
        self._tokens, self._mask = tokens, mask
        self._arrays = bert.arrays
        self._int8 = weights != "float32"
        self._int8_attention = weights == "int8-all"
        self._scale = 1 / (temperature * math.sqrt(bert.hidden / bert.heads))

    def vectors(self, nodes: Nodes, exits: Mapping[int, Sequence[Dense]]) -> str:
        """Add everything from tokens to vectors, (n, d), of the exit that the graph's input `layers` asks for."""
        shape = nodes.add("Shape", self._tokens)
        # States are (n * length, hidden), so that every linear layer is one product of two matrices.
        self._flat = nodes.integers(-1, self._bert.hidden)
        self._cube = nodes.add("Concat", shape, nodes.integers(self._bert.hidden), axis=0)
        self._wide_cube = nodes.add("Concat", shape, nodes.integers(3 * self._bert.hidden), axis=0)
        states = self._embedding(nodes, shape)
        ends = sorted(exits.items())
        done = 0
        for number, (end, _) in enumerate(ends):
            if number == 0:
                states = self._layers(nodes, states, done, end)
            else:
                inner, other = Nodes(nodes), Nodes(nodes)
                more = inner.branch(self._layers(inner, states, done, end))
                beyond = nodes.add("Greater", LAYERS, nodes.constant(np.int64(done)))
                states = nodes.add("If", beyond, then_branch=more, else_branch=other.branch(states))
            done = end
        return self._heads(nodes, self._pooled(nodes, states), ends)

    def _embedding(self, nodes: Nodes, shape: str) -> str:
        table = self._arrays["tokens"]
        if self._int8:
            levels, scales = _rows(table, most=127)
            rows = nodes.add("Cast", nodes.add("Gather", nodes.constant(levels), self._tokens), to=TensorProto.FLOAT)
            rows = nodes.add("Mul", rows, nodes.add("Gather", nodes.constant(scales[:, None]), self._tokens))
        else:
            rows = nodes.add("Gather", nodes.constant(table), self._tokens)
        length = nodes.add("Gather", shape, nodes.integers(1))
        zero = nodes.integers(0)
        places = nodes.add("Slice", nodes.constant(self._arrays["positions"]), zero, length, zero)
        summed = nodes.add("Reshape", nodes.add("Add", rows, places), self._flat)
        return self._norm(nodes, summed, "norm")

    def _layers(self, nodes: Nodes, states: str, start: int, end: int) -> str:
        for layer in range(start, end):
            states = self._layer(nodes, states, f"layers.{layer}.")
        return states

    def _layer(self, nodes: Nodes, states: str, prefix: str) -> str:
        attended = self._attention(nodes, states, prefix)
        mixed = self._linear(nodes, attended, f"{prefix}output", int8=self._int8)
        states = self._norm(nodes, nodes.add("Add", mixed, states), f"{prefix}attention_norm")
        raised = nodes.add("Gelu", self._linear(nodes, states, f"{prefix}up", int8=self._int8))
        lowered = self._linear(nodes, raised, f"{prefix}down", int8=self._int8, floor=GELU_FLOOR)
        return self._norm(nodes, nodes.add("Add", lowered, states), f"{prefix}output_norm")

    def _attention(self, nodes: Nodes, states: str, prefix: str) -> str:
        parts = [f"{prefix}{name}" for name in ("query", "key", "value")]
        weight = np.concatenate([self._arrays[f"{part}.weight"] for part in parts])
        bias = np.concatenate([self._arrays[f"{part}.bias"] for part in parts])
        attributes = {"num_heads": self._bert.heads, "scale": self._scale}
        if self._int8_attention:
            wide = nodes.add("Reshape", _int8(nodes, states, weight, bias), self._wide_cube)
            sizes = nodes.integers(*[self._bert.hidden] * 3)
            query, key, value = nodes.split("Split", wide, sizes, outputs=3, axis=2)
            attended = nodes.add("MultiHeadAttention", query, key, value, "", self._mask, **attributes)
        else:
            cube = nodes.add("Reshape", states, self._cube)
            attended = nodes.add(
                "Attention", cube, nodes.constant(weight.T), nodes.constant(bias), self._mask, **attributes
            )
        return nodes.add("Reshape", attended, self._flat)

    def _linear(self, nodes: Nodes, states: str, name: str, *, int8: bool, floor: float | None = None) -> str:
        weight, bias = self._arrays[f"{name}.weight"], self._arrays[f"{name}.bias"]
        if int8:
            return _int8(nodes, states, weight, bias, floor=floor)
        return nodes.add("Gemm", states, nodes.constant(weight), nodes.constant(bias), transB=1)

    def _norm(self, nodes: Nodes, states: str, name: str) -> str:
        scale, shift = (nodes.constant(self._arrays[f"{name}.{part}"]) for part in ("weight", "bias"))
        return nodes.add("LayerNormalization", states, scale, shift, axis=-1, epsilon=self._bert.epsilon)

    def _pooled(self, nodes: Nodes, states: str) -> str:
        cube = nodes.add("Reshape", states, self._cube)
        if self._bert.pooling == "cls":
            return nodes.add("Gather", cube, nodes.constant(np.int64(0)), axis=1)
        one = nodes.integers(1)
        shares = nodes.add("Cast", self._mask, to=TensorProto.FLOAT)
        sums = nodes.add("Squeeze", nodes.add("MatMul", nodes.add("Unsqueeze", shares, one), cube), one)
        return nodes.add("Div", sums, nodes.add("ReduceSum", shares, one))

    def _heads(self, nodes: Nodes, pooled: str, exits: list[tuple[int, Sequence[Dense]]]) -> str:
        """Apply the dense layers of the exit that is asked for."""
        (layers, own), rest = exits[0], exits[1:]
        if all(other is own for _, other in rest):
            return self._dense(nodes, pooled, own)
        later, here = Nodes(nodes), Nodes(nodes)
        beyond = nodes.add("Greater", LAYERS, nodes.constant(np.int64(layers)))
        return nodes.add(
            "If",
            beyond,
            then_branch=later.branch(self._heads(later, pooled, rest)),
            else_branch=here.branch(self._dense(here, pooled, own)),
        )

    def _dense(self, nodes: Nodes, pooled: str, dense: Sequence[Dense]) -> str:
        for layer in dense:
            pooled = nodes.add("Gemm", pooled, nodes.constant(layer.weight), nodes.constant(layer.bias), transB=1)
            if layer.activation == "tanh":
                pooled = nodes.add("Tanh", pooled)
        return pooled


def _int8(nodes: Nodes, states: str, weight: Floats, bias: Floats, *, floor: float | None = None) -> str:
    """Multiply in whole numbers: weights with one scale an output, states with one scale a row, found as they come.

    A scale of its own for every row keeps an outlier in one token from blurring all others, and makes a text's vector
    independent of the batch. Only standard operators do it: beside the product they cost next to nothing.

    Parameters
    ----------
    states : (rows, in).
    weight, bias : (out, in) and (out,).
    floor : states are never below minus this: then all 256 steps serve what is above, and the shift goes into the bias.
    """
    levels, scales = _rows(weight, most=MOST)
    if floor is None:
        zero, steps = np.uint8(128), 127
        reach = nodes.add("ReduceMax", nodes.add("Abs", states), nodes.integers(1))
    else:
        zero, steps = np.uint8(0), 255
        states = nodes.add("Add", states, nodes.constant(np.float32(floor)))
        reach = nodes.add("ReduceMax", states, nodes.integers(1))
        bias = (bias - floor * (levels.sum(axis=1) * scales)).astype(np.float32)
    reach = nodes.add("Max", reach, nodes.constant(TINY))  # a row of zeros
    one, origin = nodes.constant(np.float32(1)), nodes.constant(zero)
    # What is done to a row's scale is cheap, what is done to every state is not: one product before, one behind.
    stretch = nodes.add("Div", nodes.constant(np.float32(steps)), reach)
    whole = nodes.add("QuantizeLinear", nodes.add("Mul", states, stretch), one, origin)
    origins = nodes.constant(np.zeros(len(levels), dtype=np.int8))
    matrix, factors = nodes.constant(levels.T), nodes.constant(scales / np.float32(steps))
    product = nodes.add("MatMulIntegerToFloat", whole, matrix, one, factors, origin, origins)
    return nodes.add("Add", nodes.add("Mul", product, reach), nodes.constant(bias))


def _rows(matrix: Floats, *, most: int) -> tuple[NDArray[np.int8], Floats]:
    """Quantise each row of (n, k) to whole numbers within +-`most`: (n, k) int8 and (n,) float32 scales."""
    scales = np.maximum(np.abs(matrix).max(axis=1), TINY * most) / np.float32(most)
    return np.rint(matrix / scales[:, None]).astype(np.int8), scales.astype(np.float32)
