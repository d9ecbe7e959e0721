"""What every runtime of an encoder offers: texts of one batch in, raw vectors of one exit out. Knows no library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from models.errors import ModelError

Task = Literal["query", "document"]
Runtime = Literal["torch", "onnx", "numpy"]

# Which of a model's own prompts each kind of text takes; the first that has a text wins.
PROMPT_NAMES: dict[Task, tuple[str, ...]] = {
    "query": ("query",),
    "document": ("document", "passage", "corpus"),
}


class Backend(Protocol):
    """A loaded model. `embed` may be called by several threads at once.

    Attributes
    ----------
    dimension : length d of its vectors, the same for every exit.
    max_tokens : window in tokens, special tokens and prompt included; None if it has none.
    pooling : pooling mode, several joined by "+"; "bag" for static embeddings.
    prompts : text put before every query and every document, "" for none.
    runtime : what computes: "torch", "onnx" (ONNX Runtime) or "numpy".
    exits : numbers of layers after which a vector can be taken, ascending; the last is the whole model.
        0 is a static table alone.
    """

    @property
    def dimension(self) -> int: ...  # noqa: D102
    @property
    def max_tokens(self) -> int | None: ...  # noqa: D102
    @property
    def pooling(self) -> str: ...  # noqa: D102
    @property
    def prompts(self) -> Mapping[Task, str]: ...  # noqa: D102
    @property
    def runtime(self) -> Runtime: ...  # noqa: D102
    @property
    def exits(self) -> tuple[int, ...]: ...  # noqa: D102

    def embed(self, texts: Sequence[str], task: Task, layers: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Run the model on one batch.

        Parameters
        ----------
        texts : n >= 1 texts of valid Unicode; the prompt of `task` is put before each.
        task : which side the texts are on.
        layers : one of `exits`.

        Returns
        -------
        vectors : (n, d) float32, not normalised unless the model itself does it.
        truncated : (n,) bool, True where tokens were cut off.
        """
        ...

    def count_tokens(self, texts: Sequence[str], task: Task, layers: int) -> list[int]:
        """Return how many tokens of each text `embed` reads, special tokens and the prompt included."""
        ...


def probed_dimension(model: Backend) -> int:
    """Return the length of a model's vectors, of queries and documents alike, from a text of each.

    Raises
    ------
    ModelError
        Vectors are not finite, or queries and documents differ in dimension.
    """
    found = set()
    for task in PROMPT_NAMES:
        vectors, _ = model.embed(["probe"], task, model.exits[-1])
        if not np.isfinite(vectors).all():
            raise ModelError("its vectors are not finite: the weights are damaged")
        found.add(vectors.shape[1])
    if len(found) != 1:
        raise ModelError(f"queries and documents have different dimensions: {sorted(found)}")
    return int(found.pop())
