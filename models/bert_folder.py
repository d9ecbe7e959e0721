"""Reads a BERT-like sentence-transformers folder into plain arrays: no torch, no transformers.

What it does not understand to the letter it refuses, with the reason: such a model is for torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Any

import numpy as np

from models.bert import Activation, Bert, Dense, Pooling
from models.bert_weights import read_bert_arrays, read_tensors, tensor_names
from models.errors import CorruptModel, UnsupportedRuntime
from models.folder import ModelFolder
from models.tokens import other_reading, window_of

TRANSFORMER_CONFIG = "sentence_bert_config.json"
# Settings of the transformer module that are understood; any other must have no value.
KNOWN_SETTINGS = frozenset({"max_seq_length", "do_lower_case"})
# Settings that are understood with this value.
DEFAULTS: Mapping[str, object] = {
    "transformer_task": "feature-extraction",
    "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
    "module_output_name": "token_embeddings",
}
ACTIVATIONS: Mapping[str, Activation] = {
    "torch.nn.modules.activation.Tanh": "tanh",
    "torch.nn.modules.linear.Identity": "identity",
}
POOLINGS: Mapping[str, Pooling] = {"cls": "cls", "mean": "mean"}
OLD_POOLING = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
# One file of ONNX holds at most 2 GiB.
MOST_BYTES = 2_000_000_000


@dataclass(frozen=True, slots=True)
class BertFolder:
    """What the configuration of a folder says, read and understood.

    Attributes
    ----------
    transformer : folder of the transformer module.
    dense : folders of the dense modules, with what their result goes through.
    config : content of the transformer's `config.json`.
    pooling : how the states of a text's tokens become one vector.
    window : tokens that are read, special ones included.
    """

    transformer: Path
    dense: tuple[tuple[Path, Activation], ...]
    config: Mapping[str, Any]
    pooling: Pooling
    window: int

    @property
    def layers(self) -> int:
        """Transformer layers in all."""
        return int(self.config["num_hidden_layers"])

    def read(self) -> tuple[Bert, tuple[Dense, ...]]:
        """Read the weights, as float32.

        Raises
        ------
        CorruptModel
            A file is damaged, or its arrays do not fit the configuration.
        """
        bert = Bert(
            layers=self.layers,
            heads=int(self.config["num_attention_heads"]),
            epsilon=float(self.config["layer_norm_eps"]),
            pooling=self.pooling,
            arrays=read_bert_arrays(
                self.transformer,
                vocabulary=int(self.config["vocab_size"]),
                positions=int(self.config["max_position_embeddings"]),
                hidden=int(self.config["hidden_size"]),
                ffn=int(self.config["intermediate_size"]),
                layers=self.layers,
            ),
        )
        dense, width = [], bert.hidden
        for path, activation in self.dense:
            layer = _read_dense(path, width, activation)
            dense.append(layer)
            width = len(layer.weight)
        return bert, tuple(dense)


def understand(folder: ModelFolder) -> BertFolder:
    """Read the configuration of a folder.

    Raises
    ------
    UnsupportedRuntime
        The model is of another kind, or has a setting that is not understood.
    CorruptModel
        A configuration file cannot be read.
    """
    kinds = _modules(folder.path)
    transformer, dense = _check_modules(folder.path, kinds)
    config = _read(transformer / "config.json")
    _check_config(transformer, config)
    pooling = _pooling(folder, _read(folder.path / kinds[1][1] / "config.json"))
    settings = _read(transformer / TRANSFORMER_CONFIG) if (transformer / TRANSFORMER_CONFIG).is_file() else {}
    _check_settings(transformer, settings)
    reason = other_reading(transformer, lower=bool(settings.get("do_lower_case")))
    if reason is not None:
        raise UnsupportedRuntime(reason)
    positions = int(config["max_position_embeddings"])
    window = window_of(transformer, stated=settings.get("max_seq_length"), positions=positions)
    if window > positions:
        raise UnsupportedRuntime(f"its window is {window} tokens, it has positions for {positions}")
    return BertFolder(transformer, tuple(_dense(path) for path in dense), config, pooling, window)


def _modules(path: Path) -> list[tuple[str, str]]:
    """Return kind and folder of every module; `check_folder` has been there before."""
    entries = json.loads((path / "modules.json").read_text(encoding="utf-8"))
    return [(entry["type"].rpartition(".")[2], entry["path"]) for entry in entries]


def _check_modules(path: Path, modules: list[tuple[str, str]]) -> tuple[Path, list[Path]]:
    kinds = [kind for kind, _ in modules]
    middle = kinds[2:-1] if kinds[-1] == "Normalize" else kinds[2:]
    if kinds[:2] != ["Transformer", "Pooling"] or set(middle) - {"Dense"}:
        raise UnsupportedRuntime(f"its modules are {', '.join(kinds)}")
    return path / modules[0][1], [path / folder for kind, folder in modules[2:] if kind == "Dense"]


def _check_config(transformer: Path, config: Mapping[str, Any]) -> None:
    if (transformer / "adapter_config.json").is_file():
        raise UnsupportedRuntime("it has an adapter")
    for name, wanted, otherwise in (
        ("model_type", "bert", None),
        ("hidden_act", "gelu", "gelu"),
        ("position_embedding_type", "absolute", "absolute"),
        ("is_decoder", False, False),
        ("add_cross_attention", False, False),
    ):
        if config.get(name, otherwise) != wanted:
            raise UnsupportedRuntime(f"its {name} is {config.get(name)}")
    numbers = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    for name in (*numbers, "vocab_size", "max_position_embeddings", "layer_norm_eps"):
        kind: type | UnionType = int if name != "layer_norm_eps" else int | float
        if isinstance(config.get(name), bool) or not isinstance(config.get(name), kind) or config[name] <= 0:
            raise CorruptModel(f"{transformer / 'config.json'} has no {name}", hint="restore the file")
    hidden, heads, ffn = config["hidden_size"], config["num_attention_heads"], config["intermediate_size"]
    if hidden % heads:
        raise CorruptModel(
            f"{transformer / 'config.json'}: {heads} heads do not share {hidden} dimensions", hint="restore the file"
        )
    layers = config["num_hidden_layers"] * hidden * (4 * hidden + 2 * ffn)
    if 4 * (layers + (config["vocab_size"] + config["max_position_embeddings"]) * hidden) > MOST_BYTES:
        raise UnsupportedRuntime("it is larger than a file of ONNX can be")


def _check_settings(transformer: Path, settings: Mapping[str, Any]) -> None:
    if not settings and (other := next(transformer.glob("sentence_*_config.json"), None)) is not None:
        raise UnsupportedRuntime(f"its settings are in {other.name}")
    for name, value in settings.items():
        if name in KNOWN_SETTINGS or value is None or value == {} or value == DEFAULTS.get(name, ()):
            continue
        raise UnsupportedRuntime(f"{TRANSFORMER_CONFIG} sets {name}")
    window = settings.get("max_seq_length")
    if window is not None and (isinstance(window, bool) or not isinstance(window, int) or window < 1):
        raise CorruptModel(f"{transformer / TRANSFORMER_CONFIG}: max_seq_length is {window!r}", hint="restore the file")


def _pooling(folder: ModelFolder, config: Mapping[str, Any]) -> Pooling:
    modes = config.get("pooling_mode")
    if modes is None:
        modes = [mode for key, mode in OLD_POOLING.items() if config.get(key)] or ["mean"]
    found = [modes] if isinstance(modes, str) else list(modes)
    if len(found) != 1 or found[0] not in POOLINGS:
        raise UnsupportedRuntime(f"its pooling is {'+'.join(map(str, found))}")
    if not config.get("include_prompt", True) and any(folder.prompts.values()):
        raise UnsupportedRuntime("its pooling leaves the prompt out")
    return POOLINGS[found[0]]


def _dense(path: Path) -> tuple[Path, Activation]:
    config = _read(path / "config.json")
    name = config.get("activation_function", "torch.nn.modules.activation.Tanh")
    if name not in ACTIVATIONS:
        raise UnsupportedRuntime(f"{path.name} ends in {name}")
    if config.get("use_residual"):
        raise UnsupportedRuntime(f"{path.name} adds what it was given")
    for key in ("module_input_name", "module_output_name"):
        if config.get(key) not in (None, "sentence_embedding"):
            raise UnsupportedRuntime(f"{path.name} is no layer behind the pooling")
    return path, ACTIVATIONS[name]


def _read_dense(path: Path, width: int, activation: Activation) -> Dense:
    weight = read_tensors(path, {"linear.weight": (None, width)})["linear.weight"]
    bias = np.zeros(len(weight), dtype=np.float32)
    if "linear.bias" in tensor_names(path):
        bias = read_tensors(path, {"linear.bias": (len(weight),)})["linear.bias"]
    return Dense(weight, bias, activation)


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CorruptModel(f"{path} cannot be read as JSON: {error}", hint="restore the file") from error
    if not isinstance(value, dict):
        raise CorruptModel(f"{path} is not a JSON object", hint="restore the file")
    return value
