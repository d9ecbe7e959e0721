"""Texts to unit vectors of one named space, at any size that the model has. Knows no library and no files."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.backend import Backend, Runtime, Task
from models.errors import InvalidText, InvalidVectors, UnsupportedSize
from models.fold import Fold
from models.sizes import Sizes

BATCH_SIZE = 32
LEAST_BATCH = 4
STATIC_BATCH = 512  # a table alone pays by the call, not by the padding


@dataclass(frozen=True, slots=True)
class Encoded:
    """Vectors of n texts.

    Attributes
    ----------
    vectors : (n, k) float32, C-contiguous, each of length 1.
    truncated : (n,) bool, True where the text is longer than the model's window: the vector lacks its end.
    """

    vectors: NDArray[np.float32]
    truncated: NDArray[np.bool_]


class Encoder:
    """A loaded model that maps texts into one space.

    Calls may come from several threads at once: tokenizing takes turns, the model itself runs in parallel.

    Attributes
    ----------
    name : the name it was asked for by (a preset's own name, not its alias).
    space : identity of the vector space; vectors compare only if their spaces are equal.
    dimension : length d of whole vectors.
    max_tokens : window in tokens, special tokens and prompt included; None if it has none.
    runtime : what computes: "torch", "onnx" or "numpy".
    sizes : what it may be cut to.
    fold : identity of the rotation whose prefixes are its short vectors; None if those are prefixes of its own.
    """

    def __init__(
        self,
        *,
        name: str,
        space: str,
        model: Backend,
        sizes: Sizes,
        fold: Fold | None = None,
        threads: int = 1,
        allow_untrained: bool = False,
    ) -> None:
        """Wrap a loaded model.

        Parameters
        ----------
        threads : batches that are computed at once.
        allow_untrained : take sizes that the model was not trained for, if it has them.
        """
        self.name = name
        self.space = space
        self.dimension = model.dimension
        self.max_tokens = model.max_tokens
        self.runtime: Runtime = model.runtime
        self.sizes = sizes
        self.fold = None if fold is None else fold.identity
        self._model = model
        self._fold = fold
        self._allow_untrained = allow_untrained
        self._threads = threads
        self._workers = ThreadPoolExecutor(threads, thread_name_prefix="encode")

    @property
    def model(self) -> Backend:
        """What computes: raw vectors of one batch."""
        return self._model

    def encode_documents(
        self, texts: Sequence[str], *, layers: int | None = None, dimensions: int | None = None
    ) -> Encoded:
        """Encode texts to be stored, with the model's document prompt; batching does not change a vector.

        Parameters
        ----------
        layers : transformer layers to run, 0 for a static table alone; None runs all.
        dimensions : length k of the vectors: cut, then normalised. None keeps all d, in the model's own basis;
            fewer are of the fold's basis where the model has one.

        Raises
        ------
        InvalidText
            A text is not valid Unicode, or has no direction; `index` says which. Nothing is returned.
        UnsupportedSize
            The model was not trained for this size.
        """
        return self._encode(texts, "document", layers, dimensions)

    def encode_queries(
        self, texts: Sequence[str], *, layers: int | None = None, dimensions: int | None = None
    ) -> Encoded:
        """Encode texts to search with, with the model's query prompt. Otherwise as `encode_documents`."""
        return self._encode(texts, "query", layers, dimensions)

    def count_tokens(self, texts: Sequence[str], task: Task, *, layers: int | None = None) -> list[int]:
        """Return how many tokens of each text the model reads, special tokens and the prompt of `task` included.

        At most `max_tokens` each. Raises InvalidText and UnsupportedSize as the encode methods do.
        """
        _check_texts(texts)
        return self._model.count_tokens(texts, task, self.resolve(layers, None)[0])

    def resolve(self, layers: int | None, dimensions: int | None) -> tuple[int, int]:
        """Return the (layers, dimensions) that these arguments mean; raises UnsupportedSize."""
        if layers is None and dimensions is None:
            return self.sizes.full
        size = self.sizes.resolve(layers, dimensions, untrained=self._allow_untrained)
        if size[0] not in self._model.exits:
            ends = ", ".join(map(str, self._model.exits))
            raise UnsupportedSize(
                f"{self.name} cannot end after {size[0]} layers: it ends after {ends}",
                hint="use one of these numbers of layers",
            )
        return size

    def axes(self, dimensions: int) -> NDArray[np.float32]:
        """Return what the dimensions of short vectors stand for in the model's own basis.

        Parameters
        ----------
        dimensions : k, 1 <= k < d.

        Returns
        -------
        (k, d) float32, orthonormal rows. A short vector times them is a whole one, whose product with another whole
        vector is that of the short one with that vector's prefix.

        Raises
        ------
        InvalidVectors
            k is out of range; whole vectors are in the model's own basis as they are.
        """
        if not 1 <= dimensions < self.dimension:
            raise InvalidVectors(
                f"short vectors of {self.name} have 1 to {self.dimension - 1} dimensions, not {dimensions}"
            )
        if self._fold is not None:
            return self._fold.axes[:dimensions]
        return np.eye(dimensions, self.dimension, dtype=np.float32)

    def _encode(self, texts: Sequence[str], task: Task, layers: int | None, dimensions: int | None) -> Encoded:
        layers, dimensions = self.resolve(layers, dimensions)
        _check_texts(texts)
        if len(texts) == 1:
            # A lone query, mostly: nothing to sort, nothing to share out.
            vectors, truncated = self._model.embed(texts, task, layers)
        else:
            vectors, truncated = self._in_batches(texts, task, layers)
        if dimensions < self.dimension:
            vectors = vectors[:, :dimensions] if self._fold is None else self._fold.project(vectors, dimensions)
        return Encoded(_normalised(vectors), truncated)

    def _in_batches(
        self, texts: Sequence[str], task: Task, layers: int
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        vectors = np.empty((len(texts), self.dimension), dtype=np.float32)
        truncated = np.zeros(len(texts), dtype=np.bool_)
        # Texts of like length share a batch, so that little is spent on padding.
        order = np.argsort([-len(text) for text in texts], kind="stable")
        # Few texts still give every thread something to do.
        size = min(BATCH_SIZE, max(LEAST_BATCH, -(-len(texts) // (2 * self._threads))))
        if layers == 0:
            size = STATIC_BATCH
        batches = [order[start : start + size] for start in range(0, len(texts), size)]

        def embed(rows: NDArray[np.intp]) -> None:
            vectors[rows], truncated[rows] = self._model.embed([texts[row] for row in rows], task, layers)

        for _ in (map if len(batches) == 1 else self._workers.map)(embed, batches):
            pass
        return vectors, truncated


def _check_texts(texts: Sequence[str]) -> None:
    if isinstance(texts, str):
        raise TypeError("texts must be a sequence of str, not one str")
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"text {index} is {type(text).__name__}, not str")
        if text.isascii():
            continue
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InvalidText(
                f"text {index} is not valid Unicode at character {error.start}",
                index=index,
                hint="send text without lone surrogates",
            ) from error


def _normalised(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return (n, k) float32 rows scaled to length 1, C-contiguous."""
    norms: NDArray[np.float32] = np.sqrt(np.vecdot(vectors, vectors))[:, None]
    # A lone query is a row of a few hundred numbers: whether all is well is asked in two calls.
    if not (norms.size == 0 or (norms.min() > 0 and norms.max() < np.inf)):
        index = int(np.flatnonzero(~((norms > 0) & (norms < np.inf)))[0])
        raise InvalidText(f"the model finds no direction for text {index}", index=index, hint="send a text with words")
    return np.divide(vectors, norms, order="C")
