"""A student with transformer layers, served by ONNX Runtime; its static part stays in NumPy. Knows no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.backend import Runtime, Task
from models.bert import Weights
from models.errors import CorruptModel
from models.onnx_graph import build_graph
from models.onnx_session import OnnxSession
from models.static_model import NO_PROMPTS, StaticModel
from models.student_folder import describe_student, read_student, tokenizer_file
from models.student_graph import layers_of

TINY = np.float32(1e-12)


class StudentModel:
    """All exits of a student, a `models.backend.Backend`. Calls may come from several threads at once.

    Attributes
    ----------
    dimension : length d of its vectors.
    max_tokens : tokens that the layers read, the two special ones included.
    pooling : "mean".
    prompts : none.
    runtime : "onnx"; exit 0 is computed by NumPy alone.
    exits : 0 and the numbers of layers that it can end after.

    Parameters
    ----------
    folder : of a student with layers.
    weights : how the layers are computed, see `onnx_graph.build_graph`.
    threads : threads of one batch; 1 if several batches are computed at once.

    Raises
    ------
    ModelNotFound, CorruptModel
        A file is missing or damaged.
    """

    pooling = "mean"
    prompts = NO_PROMPTS
    runtime: Runtime = "onnx"

    def __init__(self, folder: Path, *, weights: Weights = "float32", threads: int = 1) -> None:
        shape = describe_student(folder).shape
        student = read_student(folder)
        self._static = StaticModel(folder)
        self.dimension = shape.dimension
        self.max_tokens: int = shape.window
        self.exits = shape.exits
        around = self._static.tokenizer.encode("").ids
        if len(around) != 2:
            raise CorruptModel(
                f"{tokenizer_file(folder)} puts {len(around)} tokens around a text, a student expects two",
                hint="restore the file",
            )
        self._first, self._last = around
        bert, ends = layers_of(student)
        self._gates = {layers: np.float32(student.arrays[f"exits.{layers}.gate"]) for layers in shape.exits[1:]}
        self._session = OnnxSession(build_graph(bert, ends, weights=weights), threads=threads)

    def embed(self, texts: Sequence[str], task: Task, layers: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Run one exit on one batch: (n, d) float32, not normalised, and what was truncated, (n,) bool."""
        if layers == 0:
            return self._static.embed(texts, task, 0)
        tokens, truncated = self._static.tokens(texts)
        most = self.max_tokens - 2
        lengths = [min(len(ids), most) + 2 for ids in tokens]
        ids, mask = (np.zeros((len(texts), max(lengths)), dtype=np.int32) for _ in range(2))
        for row, (own, length) in enumerate(zip(tokens, lengths, strict=True)):
            ids[row, :length] = [self._first, *own[:most], self._last]
            mask[row, :length] = 1
            if len(own) > most:
                truncated[row] = True
        vectors = self._session.run(ids, mask, layers)
        static = self._static.vectors(tokens)
        lengths = np.maximum(np.sqrt(np.einsum("ij,ij->i", static, static)), TINY)
        vectors += static * (self._gates[layers] / lengths)[:, None]
        return vectors, truncated

    def count_tokens(self, texts: Sequence[str], task: Task, layers: int) -> list[int]:
        """Return how many tokens of each text that exit reads, special tokens included."""
        if layers == 0:
            return self._static.count_tokens(texts, task, 0)
        return [min(len(ids) + 2, self.max_tokens) for ids in self._static.tokens(texts)[0]]
