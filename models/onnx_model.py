"""A sentence-transformers folder served by ONNX Runtime on a CPU: no torch, no transformers.

The graph is built in memory when a model is loaded: that takes less time than reading one from disk and checking that
it still belongs to the folder (docs/log.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from models.backend import PROMPT_NAMES, Runtime, Task, probed_dimension
from models.bert import Weights
from models.bert_folder import BertFolder, understand
from models.errors import ModelError, UnsupportedRuntime, UnsupportedSize
from models.folder import ModelFolder
from models.onnx_session import OnnxSession
from models.tokens import TOKENIZER, Tokens


class OnnxModel:
    """A loaded model, a `models.backend.Backend`. Calls may come from several threads at once and run in parallel.

    Attributes
    ----------
    dimension : length d of its vectors.
    max_tokens : window in tokens, special tokens and prompt included.
    pooling : "mean" or "cls".
    prompts : text put before every query and every document.
    runtime : "onnx".
    exits : layers after which it can end, ascending; the last is the whole model.
    """

    runtime: Runtime = "onnx"

    def __init__(
        self, *, tokens: Tokens, sessions: Mapping[Task, OnnxSession], pooling: str, exits: tuple[int, ...]
    ) -> None:
        """Put together what is loaded.

        Parameters
        ----------
        sessions : the graph that reads texts of each kind; both may be one.

        Raises
        ------
        ModelError
            Vectors are not finite, or queries and documents differ in dimension.
        """
        self._tokens = tokens
        self._sessions = sessions
        self.max_tokens: int | None = tokens.window
        self.prompts = tokens.prompts
        self.pooling = pooling
        self.exits = exits
        self.dimension = probed_dimension(self)

    def embed(self, texts: Sequence[str], task: Task, layers: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Run the model on one batch.

        Parameters
        ----------
        texts : n >= 1 texts; the prompt of `task` is put before each.
        task : which side the texts are on.
        layers : one of `exits`.

        Returns
        -------
        vectors : (n, d) float32, not normalised.
        truncated : (n,) bool, True where tokens were cut off.
        """
        if layers not in self.exits:
            raise UnsupportedSize(f"the model cannot end after {layers} layers", hint=f"use one of {self.exits}")
        batch = self._tokens.batch(texts, task)
        return self._sessions[task].run(batch.ids, batch.mask, layers), batch.truncated

    def count_tokens(self, texts: Sequence[str], task: Task, layers: int) -> list[int]:  # noqa: ARG002
        """Return how many tokens of each text `embed` reads, special tokens and the prompt included."""
        return self._tokens.counts(texts, task)


def can_export(folder: ModelFolder) -> str | None:
    """Say why a folder cannot be served by ONNX Runtime; None if it can.

    Raises
    ------
    CorruptModel
        A configuration file cannot be read.
    """
    try:
        understand(folder)
    except UnsupportedRuntime as error:
        return str(error)
    return None


def load_onnx(
    folder: ModelFolder,
    *,
    exits: Sequence[int] | None = None,
    weights: Weights = "float32",
    query_weights: Weights | None = None,
    temperature: float = 1.0,
    threads: int = 1,
) -> OnnxModel:
    """Load a BERT-like folder.

    Parameters
    ----------
    exits : numbers of layers that requests may name, the whole model added; None takes every one.
    weights : see `onnx_graph.build_graph`.
    query_weights : weights of a second graph that reads queries; None reads them with the first.
    temperature : of attention, see `onnx_graph.build_graph`.
    threads : threads of one batch; 1 if several batches are computed at once.

    Raises
    ------
    UnsupportedRuntime
        The model is of another kind; `can_export` says so beforehand.
    UnsupportedSize
        An exit that it does not have.
    ModelNotFound, CorruptModel, ModelError
        A file is missing or damaged.
    """
    found = understand(folder)
    ends = checked_exits(found, exits)
    graphs: dict[Weights, OnnxSession] = {}
    sessions: dict[Task, OnnxSession] = {}
    for task in PROMPT_NAMES:
        kind = query_weights if task == "query" and query_weights is not None else weights
        if kind not in graphs:
            graph = build(found, exits=ends, weights=kind, temperature=temperature)
            graphs[kind] = OnnxSession(graph, threads=threads)
        sessions[task] = graphs[kind]
    tokens = Tokens(
        found.transformer / TOKENIZER,
        window=found.window,
        vocabulary=int(found.config["vocab_size"]),
        prompts={task: folder.prompt(names) for task, names in PROMPT_NAMES.items()},
    )
    try:
        return OnnxModel(tokens=tokens, sessions=sessions, pooling=found.pooling, exits=ends)
    except ModelError as error:
        raise type(error)(f"{folder.path}: {error}", hint=error.hint) from error


def checked_exits(found: BertFolder, exits: Sequence[int] | None) -> tuple[int, ...]:
    """Return exits in order, the whole model among them; raises UnsupportedSize."""
    if exits is None:
        return tuple(range(1, found.layers + 1))
    if any(not 1 <= layers <= found.layers for layers in exits):
        raise UnsupportedSize(
            f"the model has {found.layers} layers, it cannot end after {', '.join(map(str, exits))}",
            hint=f"use 1 to {found.layers}",
        )
    return tuple(sorted({*exits, found.layers}))


def build(found: BertFolder, *, exits: tuple[int, ...], weights: Weights, temperature: float) -> bytes:
    """Build the graph of a folder; raises CorruptModel."""
    from models.onnx_graph import build_graph

    bert, dense = found.read()
    return build_graph(bert, dict.fromkeys(exits, dense), weights=weights, temperature=temperature)
