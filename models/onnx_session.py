"""The only module that touches ONNX Runtime: runs a graph of `onnx_graph.py` on arrays. Knows no texts and no files."""

from __future__ import annotations

from typing import cast

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from models.errors import ModelError

SHRINK = ("memory.enable_memory_arena_shrinkage", "cpu:0")
SMALL = 256  # tokens of a batch whose memory is kept: giving it back costs a query 4 % of its time
ERRORS_ONLY = 3


class OnnxSession:
    """A loaded graph; `run` may be called by several threads at once.

    Parameters
    ----------
    graph : a model as `onnx_graph.build_graph` writes it.
    threads : threads of one run. With one, the caller's own computes, and nothing waits for another.

    Raises
    ------
    ModelError
        ONNX Runtime cannot read the graph.
    """

    def __init__(self, graph: bytes, *, threads: int = 1) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = ERRORS_ONLY
        # A waiting thread sleeps: a spinning one takes the core from other requests.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # Every batch has another shape: plans made for one shape only cost memory.
        options.enable_mem_pattern = False
        # Further fusions would bring back operators that the graph avoids.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        try:
            self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the library raises a class of its own for every status
            raise ModelError(f"ONNX Runtime cannot read the model: {error}") from error
        (output,) = self._session.get_outputs()
        self.dimension = int(output.shape[1])

    def run(self, tokens: NDArray[np.int32], mask: NDArray[np.int32], layers: int) -> NDArray[np.float32]:
        """Run one batch.

        Parameters
        ----------
        tokens : (n, length) token ids, padded with any.
        mask : (n, length), 1 for tokens that count and 0 for padding.
        layers : one of the exits that the graph was built with.

        Returns
        -------
        (n, d) float32, not normalised.

        Raises
        ------
        ModelError
            ONNX Runtime fails, as for want of memory.
        """
        options = onnxruntime.RunOptions() if tokens.size > SMALL else None
        if options is not None:
            # Memory that a long batch needed goes back after it.
            options.add_run_config_entry(*SHRINK)
        feeds = {"tokens": tokens, "mask": mask, "layers": np.array(layers, dtype=np.int64)}
        try:
            return cast(NDArray[np.float32], self._session.run(["vectors"], feeds, options)[0])
        except Exception as error:  # as above
            raise ModelError(f"ONNX Runtime fails at a batch of {tokens.shape}: {error}") from error
