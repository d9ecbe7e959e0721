"""A model whose vectors are read in the basis of a fold: what a separately named, folded encoder computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from models.backend import Backend, Runtime, Task
from models.fold import Fold


class FoldedModel:
    """A `models.backend.Backend` that rotates the vectors of another one; all else is that one's."""

    def __init__(self, model: Backend, fold: Fold) -> None:
        self._model = model
        self._fold = fold
        self.dimension: int = model.dimension
        self.max_tokens: int | None = model.max_tokens
        self.pooling: str = model.pooling
        self.prompts: Mapping[Task, str] = model.prompts
        self.runtime: Runtime = model.runtime
        self.exits: tuple[int, ...] = model.exits

    def embed(self, texts: Sequence[str], task: Task, layers: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Run the model on one batch and rotate: (n, d) float32, and what was truncated, (n,) bool."""
        vectors, truncated = self._model.embed(texts, task, layers)
        return self._fold.rotate(vectors), truncated

    def count_tokens(self, texts: Sequence[str], task: Task, layers: int) -> list[int]:
        """Return how many tokens of each text the model reads."""
        return self._model.count_tokens(texts, task, layers)
