"""Collects the nodes and constants of an ONNX graph under names that are unique in all of its parts."""

from __future__ import annotations

from itertools import count
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

OPSET = 20
IR_VERSION = 10
RUNTIME_DOMAIN = "com.microsoft"  # operators that ONNX Runtime has beyond the standard
RUNTIME_OPS = frozenset({"Attention", "MatMulIntegerToFloat", "MultiHeadAttention"})


class Nodes:
    """A graph that grows; every method returns the name of a value.

    Parameters
    ----------
    outer : the graph that this one is a branch of; its values may be used here.
    """

    def __init__(self, outer: Self | None = None) -> None:
        self._numbers: count[int] = count() if outer is None else outer._numbers
        self._nodes: list[NodeProto] = []
        # Constants all lie in the outermost graph: branches see them, and are copied without them.
        self._constants: list[TensorProto] = [] if outer is None else outer._constants
        self._known: dict[tuple[str, bytes, tuple[int, ...]], str] = {} if outer is None else outer._known

    def constant(self, value: NDArray[Any] | np.generic) -> str:
        """Return the name of a constant tensor."""
        array = np.ascontiguousarray(value) if value.ndim else np.asarray(value)
        key = (array.dtype.str, array.tobytes(), array.shape) if array.size <= 4 else None
        if key is not None and key in self._known:
            return self._known[key]
        name = f"constant_{next(self._numbers)}"
        self._constants.append(numpy_helper.from_array(array, name))
        if key is not None:
            self._known[key] = name
        return name

    def integers(self, *values: int) -> str:
        """Return the name of a constant list of int64."""
        return self.constant(np.array(values, dtype=np.int64))

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:  # noqa: ANN401 - as ONNX has them
        """Add a node with one output; "" stands for an input that is left out."""
        return self.split(operator, *inputs, outputs=1, **attributes)[0]

    def split(self, operator: str, *inputs: str, outputs: int, **attributes: Any) -> list[str]:  # noqa: ANN401
        """Add a node with several outputs."""
        names = [f"{operator}_{next(self._numbers)}" for _ in range(outputs)]
        domain = RUNTIME_DOMAIN if operator in RUNTIME_OPS else ""
        self._nodes.append(helper.make_node(operator, inputs, names, names[0], domain=domain, **attributes))
        return names

    def branch(self, result: str) -> GraphProto:
        """Close this graph as a branch of an `If` that gives one value."""
        name = self.add("Identity", result)
        output = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        return helper.make_graph(self._nodes, f"{name}_branch", [], [output])

    def model(self, inputs: list[ValueInfoProto], result: str, output: ValueInfoProto) -> ModelProto:
        """Close this graph as a whole model whose one output is `result` under the output's name."""
        nodes = [*self._nodes, helper.make_node("Identity", [result], [output.name], output.name)]
        graph = helper.make_graph(nodes, "encoder", inputs, [output], self._constants)
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(RUNTIME_DOMAIN, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="bitfold")
