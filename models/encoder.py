"""Text to unit vectors of one named space, and finding the model that does it.

Knows no torch until a model is loaded, no HTTP and no collections.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from models.errors import InvalidText, ModelMismatch, UnknownEncoder
from models.folder import (
    ModelFolder,
    check_folder,
    check_hub_id,
    check_pins,
    fingerprint,
    hub_folder,
    package_folder,
)
from models.presets import Preset, find_preset

if TYPE_CHECKING:
    from models.sentence_model import SentenceModel, Task

BATCH_SIZE = 32
LEAST_BATCH = 4


@dataclass(frozen=True, slots=True)
class Encoded:
    """Vectors of n texts.

    Attributes
    ----------
    vectors : (n, d) float32, C-contiguous, each of length 1.
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
    dimension : length d of the vectors.
    max_tokens : window in tokens, special tokens and prompt included; None if it has none.
    """

    def __init__(self, *, name: str, space: str, model: SentenceModel, threads: int = 1) -> None:
        self.name = name
        self.space = space
        self.dimension = model.dimension
        self.max_tokens = model.max_tokens
        self._model = model
        self._threads = threads
        self._workers = ThreadPoolExecutor(threads, thread_name_prefix="encode")

    def encode_documents(self, texts: Sequence[str]) -> Encoded:
        """Encode texts to be stored, with the model's document prompt; batching does not change a vector.

        Raises
        ------
        InvalidText
            A text is not valid Unicode, or has no direction; `index` says which. Nothing is returned.
        """
        return self._encode(texts, "document")

    def encode_queries(self, texts: Sequence[str]) -> Encoded:
        """Encode texts to search with, with the model's query prompt. Otherwise as `encode_documents`."""
        return self._encode(texts, "query")

    def _encode(self, texts: Sequence[str], task: Task) -> Encoded:
        _check_texts(texts)
        vectors = np.empty((len(texts), self.dimension), dtype=np.float32)
        truncated = np.zeros(len(texts), dtype=np.bool_)
        # Texts of like length share a batch, so that little is spent on padding.
        order = np.argsort([-len(text) for text in texts], kind="stable")
        # Few texts still give every thread something to do.
        size = min(BATCH_SIZE, max(LEAST_BATCH, -(-len(texts) // (2 * self._threads))))
        batches = [order[start : start + size] for start in range(0, len(texts), size)]

        def embed(rows: NDArray[np.intp]) -> None:
            vectors[rows], truncated[rows] = self._model.embed([texts[row] for row in rows], task)

        for _ in (map if len(batches) == 1 else self._workers.map)(embed, batches):
            pass
        _normalize(vectors)
        return Encoded(vectors=vectors, truncated=truncated)


def load_encoder(name: str, *, folder: Path | None = None, threads: int | None = None) -> Encoder:
    """Load a preset, a local folder or a model hub repository.

    Parameters
    ----------
    name : a preset or its alias; with `folder`, any name; else a hub repository `owner/name`. Never a path.
    folder : sentence-transformers folder. A preset's pinned files are checked wherever they come from.
    threads : batches that are computed at once, each by one torch thread; None takes the cores there are.
        One thread for each batch wastes nothing on waiting for its siblings: on two busy cores it encoded 1.2 to
        1.5 times as many documents, and single queries in less than half the time (docs/log.md).

    Raises
    ------
    UnknownEncoder
        No preset, no folder and no hub id.
    ModelNotFound, UnsafeModel, ModelMismatch, ModelError
        See `models.errors`.
    """
    if threads is not None and threads < 1:
        raise ValueError(f"threads must be at least 1, not {threads}")
    if not name:
        raise UnknownEncoder("the encoder has no name")
    preset = find_preset(name)
    checked = check_folder(_find_folder(name, folder, preset))
    if preset is not None:
        check_pins(checked.path, preset.sha256)

    import torch

    from models.sentence_model import SentenceModel

    torch.set_num_threads(1)
    threads = threads or _cores()
    model = SentenceModel(checked)
    if preset is not None:
        _check_preset(preset, model, checked)
        return Encoder(name=preset.info.name, space=preset.info.space, model=model, threads=threads)
    label = checked.path.resolve().name if folder is not None else name.rpartition("/")[2]
    space = f"{label}@{fingerprint(checked)}/{model.dimension}/{model.pooling}"
    return Encoder(name=name, space=space, model=model, threads=threads)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _find_folder(name: str, folder: Path | None, preset: Preset | None) -> Path:
    if folder is not None:
        return folder
    if preset is None:
        check_hub_id(name)
        return hub_folder(name, None, "check the name and the connection, or give a local folder")
    packaged = package_folder(preset.package) if preset.package is not None else None
    hint = "give the model as a local folder"
    if preset.extra is not None:
        hint += f", or install this project with its extra '{preset.extra}', which brings the files"
    return packaged or hub_folder(preset.info.source, preset.revision, hint)


def _check_preset(preset: Preset, model: SentenceModel, folder: ModelFolder) -> None:
    """Refuse configuration files that make another space out of the pinned weights."""
    for what, found, wanted in (
        ("dimension", model.dimension, preset.info.dimension),
        ("pooling", model.pooling, preset.pooling),
        ("prompts", any(model.prompts.values()), False),
    ):
        if found != wanted:
            raise ModelMismatch(
                f"{folder.path}: {what} is {found}, the preset {preset.info.name} has {wanted}",
                hint="restore the original configuration, or load the folder under a name that is no preset",
            )


def _check_texts(texts: Sequence[str]) -> None:
    if isinstance(texts, str):
        raise TypeError("texts must be a sequence of str, not one str")
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"text {index} is {type(text).__name__}, not str")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InvalidText(
                f"text {index} is not valid Unicode at character {error.start}",
                index=index,
                hint="send text without lone surrogates",
            ) from error


def _normalize(vectors: NDArray[np.float32]) -> None:
    """Scale the rows of (n, d) float32 to length 1, in place."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    bad = np.flatnonzero(~(np.isfinite(norms) & (norms > 0)).ravel())
    if len(bad):
        index = int(bad[0])
        raise InvalidText(f"the model finds no direction for text {index}", index=index, hint="send a text with words")
    vectors /= norms
