"""Builds the ONNX graph of a whole student, its static exit too, for runtimes that have nothing else. Runs nothing.

Bitfold itself serves the static part by NumPy, which is faster (`static_model.py`). Here everything follows from one
row of tokens a text, special ones included: those count for nothing in the static part, since their rows are zero.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import TensorProto

from models.bert import Bert, Dense, Weights
from models.onnx_graph import LAYERS, MASK, TOKENS, BertNodes, serialised
from models.onnx_nodes import Nodes
from models.quantised_rows import QuantisedRows
from models.student_weights import StudentShape, StudentWeights

TINY = np.float32(1e-12)


def layers_of(student: StudentWeights) -> tuple[Bert, dict[int, tuple[Dense]]]:
    """Return the layers of a student, and exit -> the map behind its pooling; the share of exit 0 is not in it."""
    shape, arrays = student.shape, student.arrays
    ends = {k: (Dense(arrays[f"exits.{k}.weight"], arrays[f"exits.{k}.bias"]),) for k in shape.exits[1:]}
    return Bert(shape.layers, shape.heads, shape.epsilon, "mean", arrays), ends


def most_tokens(shape: StudentShape) -> int:
    """Return how many tokens of a text count for any exit, special ones included."""
    return max(shape.window, shape.static_window + 2)


def build_student_graph(
    student: StudentWeights, table: QuantisedRows, *, last: int, exits: Sequence[int], weights: Weights = "float32"
) -> bytes:
    """Build a model with the inputs and the output of `onnx_graph.build_graph`.

    `tokens` are those of whole texts with a special one on either side, cut to `most_tokens`.

    Parameters
    ----------
    student : its weights.
    table : the table of its exit 0.
    last : token that its layers read behind a text.
    exits : those that `layers` may name.
    weights : see `onnx_graph.build_graph`; the static table has 8 bits in any case.
    """
    nodes = Nodes()
    static = _static(nodes, student, table)
    later = sorted({*exits} - {0})
    if not later:
        vectors = static
    elif 0 not in exits:
        vectors = _contextual(nodes, student, static, last, later, weights)
    else:
        inner, other = Nodes(nodes), Nodes(nodes)
        vectors = nodes.add(
            "If",
            nodes.add("Greater", LAYERS, nodes.constant(np.int64(0))),
            then_branch=inner.branch(_contextual(inner, student, static, last, later, weights)),
            else_branch=other.branch(static),
        )
    return serialised(nodes, vectors, dimension=student.shape.dimension)


def _static(nodes: Nodes, student: StudentWeights, table: QuantisedRows) -> str:
    """Add up the rows of a text's tokens, and mix them where the student does."""
    tokens, mask = _first(nodes, student.shape.static_window + 1)  # the first token is a special one
    one = nodes.integers(1)
    rows = nodes.add("Cast", nodes.add("Gather", nodes.constant(table.levels), tokens), to=TensorProto.FLOAT)
    scales = nodes.add("Gather", nodes.constant(table.scales), tokens)
    shares = nodes.add("Mul", scales, nodes.add("Cast", mask, to=TensorProto.FLOAT))
    sums = nodes.add("Squeeze", nodes.add("MatMul", nodes.add("Unsqueeze", shares, one), rows), one)
    if not student.shape.mix:
        return sums
    length = nodes.add("ReduceL2", sums, one)
    direction = nodes.add("Div", sums, nodes.add("Max", length, nodes.constant(TINY)))
    raised = nodes.add("Relu", _linear(nodes, direction, student, "static.up"))
    mixed = nodes.add("Add", direction, _linear(nodes, raised, student, "static.down"))
    # A sum of nothing has no direction, and gets none.
    there = nodes.add("Greater", length, nodes.constant(np.float32(0)))
    return nodes.add("Mul", mixed, nodes.add("Cast", there, to=TensorProto.FLOAT))


def _contextual(
    nodes: Nodes, student: StudentWeights, static: str, last: int, exits: list[int], weights: Weights
) -> str:
    """Add the layers, and the share of exit 0 in each of theirs."""
    window = student.shape.window
    tokens, mask = _first(nodes, window)
    # A text beyond the window ends in the special token all the same.
    ends = np.arange(window) == window - 1
    zero, length = nodes.integers(0), nodes.add("Gather", nodes.add("Shape", tokens), nodes.integers(1))
    at_end = nodes.add("Slice", nodes.constant(ends), zero, length, zero)
    full = nodes.add("And", at_end, nodes.add("Cast", mask, to=TensorProto.BOOL))
    tokens = nodes.add("Where", full, nodes.constant(np.int32(last)), tokens)
    bert, heads = layers_of(student)
    chosen = BertNodes(bert, weights=weights, tokens=tokens, mask=mask)
    vectors = chosen.vectors(nodes, {k: heads[k] for k in exits})
    gates = np.array([student.arrays[f"exits.{k}.gate"] for k in exits], dtype=np.float32)
    norm = nodes.add("Max", nodes.add("ReduceL2", static, nodes.integers(1)), nodes.constant(TINY))
    share = nodes.add("Mul", _of_exit(nodes, gates, exits), nodes.add("Div", static, norm))
    return nodes.add("Add", vectors, share)


def _of_exit(nodes: Nodes, values: np.ndarray[tuple[int], np.dtype[np.float32]], exits: list[int]) -> str:
    """Pick the value of the exit that is asked for, as `BertNodes` does: any other number is the next exit."""
    if len(exits) == 1:
        return nodes.constant(values)
    passed = nodes.add("Greater", LAYERS, nodes.integers(*exits[:-1]))
    number = nodes.add("ReduceSum", nodes.add("Cast", passed, to=TensorProto.INT64), nodes.integers(0))
    return nodes.add("Gather", nodes.constant(values), number)


def _first(nodes: Nodes, count: int) -> tuple[str, str]:
    """Return tokens and mask without what lies beyond the first `count` of each row."""
    start, end, axis = nodes.integers(0), nodes.integers(count), nodes.integers(1)
    return nodes.add("Slice", TOKENS, start, end, axis), nodes.add("Slice", MASK, start, end, axis)


def _linear(nodes: Nodes, states: str, student: StudentWeights, name: str) -> str:
    weight, bias = student.arrays[f"{name}.weight"], student.arrays[f"{name}.bias"]
    return nodes.add("Gemm", states, nodes.constant(weight), nodes.constant(bias), transB=1)
