"""What a student begins with: parts of its teacher. Knows model folders of BERT, and torch.

Exit 0 begins with the teacher's vectors of single tokens; layers begin as copies of some of the teacher's, with the
strongest units of their feed-forward parts where those are made narrower.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from models.distill.network import ContextExits, Layer, StaticExit
from models.distill.options import StudentOptions
from models.distill.tokens import Tokens
from models.errors import InvalidSize, ModelError

COMMON = 1e-3  # a token that makes up this share of all counts half as much as a rare one (Arora et al. 2017, SIF)
SAMPLE = 2048  # texts on which the strength of units is measured
Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class TeacherParts:
    """A teacher's BERT.

    Attributes
    ----------
    config : of `config.json`.
    weights : of `model.safetensors`, names as BertModel has them.
    """

    config: dict[str, Any]
    weights: dict[str, Tensor]

    @classmethod
    def read(cls, folder: Path) -> TeacherParts:
        """Read a sentence-transformers folder; raises ModelError if its transformer is no BERT."""
        from safetensors.torch import load_file

        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if config.get("model_type") != "bert" or config.get("hidden_act") != "gelu":
            raise ModelError(
                f"{folder} is no BERT with GELU (it is {config.get('model_type')!r}): its layers cannot be taken over",
                hint="train a static student of it, with no layers",
            )
        return cls(config, load_file(folder / "model.safetensors"))

    def layer(self, number: int) -> Callable[[str], Tensor]:
        """Return a look-up of a layer's weights; raises InvalidSize where there is no such layer."""
        if not 0 <= number < int(self.config["num_hidden_layers"]):
            raise InvalidSize(
                f"the teacher has no layer {number}", hint=f"use 0 to {self.config['num_hidden_layers'] - 1}"
            )
        return lambda name: self.weights[f"encoder.layer.{number}.{name}"]


def static_start(token_vectors: Floats, tokens: Tokens, options: StudentOptions) -> StaticExit:
    """Return exit 0 before training.

    Parameters
    ----------
    token_vectors : (vocabulary, d), the teacher's vector of each token's text.
    tokens : of the training texts, for how common each token is.
    """
    counts = np.bincount(tokens.flat, minlength=len(token_vectors)) + 1.0
    weights = COMMON / (COMMON + counts / counts.sum())
    table = torch.from_numpy(token_vectors)
    return StaticExit(table, torch.from_numpy(weights.astype(np.float32)), options.mix)


def context_start(teacher: TeacherParts, tokens: Tokens, dimension: int, options: StudentOptions) -> ContextExits:
    """Return the layers before training; raises InvalidSize for layers or widths that the teacher does not have."""
    config, weights = teacher.config, teacher.weights
    if options.ffn > config["intermediate_size"]:
        raise InvalidSize(f"ffn {options.ffn} is wider than the teacher's {config['intermediate_size']}")
    if options.window > config["max_position_embeddings"]:
        raise InvalidSize(f"window {options.window} is longer than the teacher's {config['max_position_embeddings']}")
    positions = weights["embeddings.position_embeddings.weight"][: options.window]
    network = ContextExits(
        weights["embeddings.word_embeddings.weight"],
        positions + weights["embeddings.token_type_embeddings.weight"][0],
        dimension=dimension,
        heads=config["num_attention_heads"],
        ffn=config["intermediate_size"],
        layers=len(options.layers),
        exits=options.exits,
    )
    network.norm.load_state_dict(_pair(weights, "embeddings.LayerNorm"))
    for layer, number in zip(network.blocks(), options.layers, strict=True):
        _copy(layer, teacher.layer(number))
    # What a layer says is of use from the first step; a map that begins at nothing leaves layers without a gradient.
    for one in network.ends().values():
        torch.nn.init.eye_(one.weight)
        torch.nn.init.zeros_(one.bias)
    if options.ffn < config["intermediate_size"]:
        rows = np.random.default_rng((options.seed, 9)).permutation(len(tokens))[:SAMPLE]
        _narrow(network, torch.from_numpy(tokens.padded(np.sort(rows), options.window)), options.ffn)
    return network


def _copy(layer: Layer, get: Callable[[str], Tensor]) -> None:
    names = [f"attention.self.{part}" for part in ("query", "key", "value")]
    with torch.no_grad():
        layer.qkv.weight.copy_(torch.cat([get(f"{name}.weight") for name in names]))
        layer.qkv.bias.copy_(torch.cat([get(f"{name}.bias") for name in names]))
        for own, name in (
            (layer.out, "attention.output.dense"),
            (layer.norm_1, "attention.output.LayerNorm"),
            (layer.up, "intermediate.dense"),
            (layer.down, "output.dense"),
            (layer.norm_2, "output.LayerNorm"),
        ):
            own.weight.copy_(get(f"{name}.weight"))
            own.bias.copy_(get(f"{name}.bias"))


@torch.no_grad()
def _narrow(network: ContextExits, ids: Tensor, ffn: int) -> None:
    """Keep the units of each feed-forward part that add most: mean size of activation times length of its column."""
    there = ids != 0
    x = network.embedded(ids)
    for layer in network.blocks():
        after = layer.attend(x, there[:, None, None, :])
        active = F.gelu(layer.up(after))[there].abs().mean(0)
        x = layer(x, there[:, None, None, :])
        kept = torch.sort(torch.topk(active * layer.down.weight.norm(dim=0), ffn).indices).values
        for name, weight, bias in (
            ("up", layer.up.weight[kept], layer.up.bias[kept]),
            ("down", layer.down.weight[:, kept], layer.down.bias),
        ):
            narrow = torch.nn.Linear(weight.shape[1], weight.shape[0])
            narrow.weight.copy_(weight)
            narrow.bias.copy_(bias)
            setattr(layer, name, narrow)


def _pair(weights: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {end: weights[f"{name}.{end}"] for end in ("weight", "bias")}


def token_texts(tokenizer: Any, vocabulary: int) -> Sequence[str]:  # noqa: ANN401 - tokenizers.Tokenizer
    """Return the text of each token as a teacher can read it: without the mark of a word's continuation."""
    return [(tokenizer.id_to_token(i) or "").removeprefix("##") or "[UNK]" for i in range(vocabulary)]
