"""The encoder that is trained: a sentence-transformers folder in, vectors after any of its layers out, and back again.

Importing it imports torch and sentence-transformers. Knows no losses and no data.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Normalize, Transformer
from sentence_transformers.util import batch_to_device
from torch import Tensor, nn

from models import sentence_layers
from models.backend import PROMPT_NAMES, Task
from models.errors import InvalidTraining, ModelError
from models.folder import ModelFolder
from models.matryoshka.options import Device, Precision
from models.sentence_model import quiet

Vectors = dict[int, Tensor]


class SizedEncoder:
    """A model of one BERT-like transformer, which can end after each of its layers.

    Attributes
    ----------
    device : where the model is.
    precision : what matrices are multiplied in.
    layers : how many there are.
    dimension : d of its vectors.
    unit_length : whether the model scales its vectors to length 1.
    model : the library's own, the weights that are trained.
    """

    def __init__(self, folder: ModelFolder, device: torch.device, precision: torch.dtype) -> None:
        self._prompts: Mapping[Task, str] = {task: folder.prompt(names) for task, names in PROMPT_NAMES.items()}
        self.device, self.precision = device, precision
        try:
            with quiet():
                self.model = SentenceTransformer(
                    str(folder.path),
                    trust_remote_code=False,
                    local_files_only=True,
                    device="cpu",
                    model_kwargs={"use_safetensors": True, "dtype": torch.float32},
                )
        except Exception as error:  # the libraries raise whatever they meet in the files
            raise ModelError(f"{folder.path} cannot be loaded: {type(error).__name__}: {error}") from error
        exits = sentence_layers.exits(self.model)
        first, *rest = self.model
        if not isinstance(first, Transformer) or len(exits) < 2:
            raise InvalidTraining(
                f"{folder.path} is not one BERT-like transformer with two layers or more, so it has no sizes to train",
                hint=f"take a model of one of these types: {', '.join(sorted(sentence_layers.LIKE_BERT))}",
            )
        self.layers = exits[-1]
        self.unit_length = any(isinstance(module, Normalize) for module in rest)
        self._first = first
        # What is cut is scaled to length 1 after the cut; doing it before as well would change nothing but rounding.
        self._rest = [module for module in rest if not isinstance(module, Normalize)]
        self.model.to(device).eval()
        with torch.no_grad():
            self.dimension = self._vectors(["probe"], "document", [self.layers], 8)[self.layers].shape[1]

    @property
    def transformer(self) -> nn.Module:
        """The transformer under the pooling, a model of the transformers library."""
        model: nn.Module = self._first.model
        return model

    @property
    def tokenizer(self) -> Any:  # noqa: ANN401  (a class of a library without types)
        """The tokenizer, of the transformers library."""
        return self.model.tokenizer

    @property
    def table(self) -> Tensor:
        """The (vocabulary, h) vectors of the tokens."""
        found: Any = self.transformer
        weight: Tensor = found.get_input_embeddings().weight
        return weight

    def autocast(self) -> AbstractContextManager[None]:
        """Compute in the lower precision where one was chosen."""
        context: AbstractContextManager[None] = torch.autocast(
            self.device.type, dtype=self.precision, enabled=self.precision != torch.float32
        )
        return context

    def pieces(self, texts: Sequence[str], size: int) -> list[list[int]]:
        """Return numbers of texts, those of like length together, so that little is spent on padding."""
        order = np.argsort([-len(text) for text in texts], kind="stable").tolist()
        return [order[start : start + size] for start in range(0, len(texts), size)]

    def vectors(self, texts: Sequence[str], task: Task, exits: Iterable[int], *, tokens: int) -> Vectors:
        """Return vectors after several layers, number of layers -> (n, d) float32, not of length 1.

        Parameters
        ----------
        texts : n texts, one piece; the model's prompt of `task` is put before each.
        exits : numbers of layers, 1 or more.
        tokens : longer texts are cut there, or at the model's own window.
        """
        with self.autocast():
            return self._vectors(texts, task, exits, tokens)

    def pooled(self, features: Mapping[str, Any], states: Tensor) -> Tensor:
        """Return the (n, d) float32 vectors of token states (n, t, h) behind a layer."""
        output = {**features, "token_embeddings": states}
        for module in self._rest:
            output = module(output)
        vectors: Tensor = output["sentence_embedding"]
        return vectors.float()

    def states(self, features: Mapping[str, Any]) -> tuple[Tensor, ...]:
        """Return token states (n, t, h) before the first layer and after each."""
        names = ("input_ids", "attention_mask", "token_type_ids")
        inputs = {name: features[name] for name in names if name in features}
        states: tuple[Tensor, ...] = self.transformer(**inputs, output_hidden_states=True).hidden_states
        return states

    def embedded(self, tokens: Tensor) -> Tensor:
        """Return what goes into the first layer, (n, t, h), for (n, t) token numbers."""
        found: Any = self.transformer
        states: Tensor = found.embeddings(input_ids=tokens)
        return states

    def to_device(self, features: dict[str, Any]) -> dict[str, Any]:
        """Move tensors to where the model is."""
        moved: dict[str, Any] = batch_to_device(features, self.device)
        return moved

    def window(self, tokens: int) -> int:
        """Return at how many tokens texts are cut if `tokens` are asked for."""
        limit = self.model.max_seq_length
        return tokens if limit is None else int(min(tokens, limit))

    def save(self, folder: Path) -> None:
        """Write a sentence-transformers folder with safetensors weights."""
        with quiet():
            self.model.save_pretrained(str(folder), create_model_card=False)

    def _vectors(self, texts: Sequence[str], task: Task, exits: Iterable[int], tokens: int) -> Vectors:
        most = {"text": {"max_length": self.window(tokens)}}
        features = self.model.preprocess(
            list(texts), prompt=self._prompts[task] or None, task=task, processing_kwargs=most
        )
        features = self.to_device(features)
        states = self.states(features)
        return {layers: self.pooled(features, states[layers]) for layers in sorted(set(exits))}


def choose_device(wanted: Device) -> torch.device:
    """Return the device to train on; raises InvalidTraining where CUDA is wanted and missing."""
    found = torch.cuda.is_available()
    if wanted == "cuda" and not found:
        raise InvalidTraining("there is no CUDA device, or this torch cannot use it", hint="train with --device cpu")
    return torch.device("cuda" if found and wanted != "cpu" else "cpu")


def choose_precision(wanted: Precision, device: torch.device) -> torch.dtype:
    """Return what matrices are multiplied in: bfloat16 on accelerators that have it, else float32."""
    if wanted == "auto":
        wanted = "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "float32"
    return torch.bfloat16 if wanted == "bf16" else torch.float32
