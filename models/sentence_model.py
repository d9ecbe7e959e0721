"""The only module that touches torch and sentence-transformers: a checked folder in, raw vectors out.

Importing it imports both libraries (seconds), so it is imported when a model is loaded. Knows no presets, no
batching and no hub: it reads one local folder and never the network.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from sentence_transformers.util import batch_to_device
from transformers.utils import logging as transformers_logging

from models import sentence_layers
from models.backend import PROMPT_NAMES, Runtime, Task, probed_dimension
from models.errors import ModelError
from models.folder import ModelFolder

LEAST_TOKEN = 64  # characters that a token may have, at least
COUNTED_TOGETHER = 256  # texts that are tokenised at once when tokens are counted
NO_LIMIT = 10**9  # libraries write "no limit" as inf or as 1e30


class SentenceModel:
    """A loaded sentence-transformers model.

    Attributes
    ----------
    dimension : length d of its vectors.
    max_tokens : window in tokens, special tokens and prompt included; None if it has none.
    pooling : pooling mode, several joined by "+"; "bag" for static embeddings.
    prompts : text put before every query and every document.
    runtime : "torch".
    exits : layers after which it can end.

    Parameters
    ----------
    temperature : of attention, as in `sentence_layers.scale_attention`; 1 is the model as it was trained.
    """

    runtime: Runtime = "torch"

    def __init__(self, folder: ModelFolder, *, temperature: float = 1.0) -> None:
        self.prompts: Mapping[Task, str] = {task: folder.prompt(names) for task, names in PROMPT_NAMES.items()}
        # A fast tokenizer changes its own state when padding or truncation settings change.
        self._lock = threading.Lock()
        try:
            with quiet():
                self._model = SentenceTransformer(
                    str(folder.path),
                    trust_remote_code=False,
                    local_files_only=True,
                    model_kwargs={"use_safetensors": True, "dtype": torch.float32},
                ).eval()
            limit = self._model.max_seq_length
            self.max_tokens = None if limit is None or limit > NO_LIMIT else int(limit)
            self._max_characters = self._most_characters()
            self.pooling = _pooling(self._model)
            if temperature != 1:
                sentence_layers.scale_attention(self._model, temperature)
            self.exits = sentence_layers.exits(self._model)
            self._ending_after = {self.exits[-1]: self._model}
            self.dimension = probed_dimension(self)
        except ModelError as error:
            raise type(error)(f"{folder.path}: {error}", hint=error.hint) from error
        except Exception as error:  # the libraries raise whatever they meet in the files
            raise ModelError(f"{folder.path} cannot be loaded: {type(error).__name__}: {error}") from error

    def embed(self, texts: Sequence[str], task: Task, layers: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Run the model on one batch.

        Parameters
        ----------
        texts : n >= 1 texts; the prompt of `task` is put before each.
        task : which side the texts are on.
        layers : one of `exits`.

        Returns
        -------
        vectors : (n, d) float32, not normalised unless the model does it.
        truncated : (n,) bool, True where tokens were cut off.
        """
        model = self._ending(layers)
        most = self._max_characters
        with torch.inference_mode():
            features = self._features(texts, task)
            truncated = self._truncated(features, len(texts))
            if most is not None:
                truncated |= np.fromiter((not _blank(text, most) for text in texts), np.bool_, len(texts))
            output = model(batch_to_device(features, model.device), task=task)["sentence_embedding"]
            vectors = output[:, : model.truncate_dim].to(device="cpu", dtype=torch.float32)
        return vectors.numpy(), truncated

    def count_tokens(self, texts: Sequence[str], task: Task, layers: int) -> list[int]:  # noqa: ARG002
        """Return how many tokens of each text `embed` reads, special tokens and the prompt included."""
        counts: list[int] = []
        for start in range(0, len(texts), COUNTED_TOGETHER):
            features = self._features(texts[start : start + COUNTED_TOGETHER], task)
            counts += _lengths(features)
        return counts

    def _features(self, texts: Sequence[str], task: Task) -> dict[str, Any]:
        read = [text[: self._max_characters] for text in texts]
        with self._lock:
            return self._model.preprocess(read, prompt=self.prompts[task] or None, task=task)

    def _ending(self, layers: int) -> SentenceTransformer:
        model = self._ending_after.get(layers)
        if model is None:
            # Two threads may make one each: they share their weights, and either will do.
            model = self._ending_after[layers] = sentence_layers.first_layers(self._model, layers)
        return model

    def _most_characters(self) -> int | None:
        """Return how much of a text is tokenised: what a window of the vocabulary's longest tokens holds.

        More is never used but where many characters make no token (long blanks, endless words), and tokenising
        a text of a million characters would hold up every other one. Such a text counts as truncated.
        """
        if self.max_tokens is None:
            return None
        vocabulary: dict[str, int] = getattr(self._model.tokenizer, "get_vocab", dict)()
        return self.max_tokens * max(LEAST_TOKEN, max(map(len, vocabulary), default=0))

    def _truncated(self, features: object, n: int) -> NDArray[np.bool_]:
        """Tell cut texts by the overflow that the fast tokenizer keeps: no second pass over the text."""
        if self.max_tokens is None:
            return np.zeros(n, dtype=np.bool_)
        encodings = getattr(features, "encodings", None)
        if encodings is None:
            raise ModelError(
                "its tokenizer does not tell which texts it cuts",
                hint="use a text model with a fast tokenizer (tokenizer.json) and no chat template",
            )
        return np.fromiter((bool(encoding.overflowing) for encoding in encodings), dtype=np.bool_, count=n)


def _lengths(features: Mapping[str, Any]) -> list[int]:
    """Return the number of tokens of each text of a batch, padding left out."""
    if "attention_mask" in features:
        return [int(count) for count in features["attention_mask"].sum(dim=1)]
    if "offsets" in features:  # a bag of tokens has no padding
        starts = [*features["offsets"].tolist(), len(features["input_ids"])]
        return [after - start for start, after in pairwise(starts)]
    raise ModelError("its tokenizer does not tell how many tokens a text has", hint="use a text model")


def _blank(text: str, start: int) -> bool:
    """Say whether nothing but white space is in a text from `start` on."""
    return len(text) <= start or not text[start:].strip()


def _pooling(model: SentenceTransformer) -> str:
    for module in model.modules():
        mode = getattr(module, "pooling_mode", None)
        if mode is not None:
            return mode if isinstance(mode, str) else "+".join(mode)
    return "bag"


@contextmanager
def quiet() -> Iterator[None]:
    """Keep loading bars and notes off the terminal; put everything back afterwards."""
    names = ("sentence_transformers", "transformers")
    levels = [(logging.getLogger(name), logging.getLogger(name).level) for name in names]
    bars = transformers_logging.is_progress_bar_enabled()
    try:
        transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        for logger, _ in levels:
            logger.setLevel(logging.ERROR)
        yield
    finally:
        for logger, level in levels:
            logger.setLevel(level)
        if bars:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]
