"""Reads the weights of a BERT from safetensors, under the names of `bert.py`. Knows no other file and no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from models.bert import Floats
from models.errors import CorruptModel
from models.folder import WEIGHTS, WEIGHTS_IN_PARTS

# transformers' names of a layer's parts -> ours.
PARTS = {
    "attention.self.query": "query",
    "attention.self.key": "key",
    "attention.self.value": "value",
    "attention.output.dense": "output",
    "attention.output.LayerNorm": "attention_norm",
    "intermediate.dense": "up",
    "output.dense": "down",
    "output.LayerNorm": "output_norm",
}
PREFIX = "bert."  # models with a head of their own keep the encoder under it
Shape = tuple[int | None, ...]


def read_bert_arrays(
    folder: Path, *, vocabulary: int, positions: int, hidden: int, ffn: int, layers: int
) -> dict[str, Floats]:
    """Read all arrays that `bert.Bert` needs, as float32; the first token type is added to the positions.

    Raises
    ------
    CorruptModel
        A file is damaged, or an array is missing, of another shape than these sizes make it, or not finite.
    """
    names: dict[str, tuple[str, Shape]] = {
        "tokens": ("embeddings.word_embeddings.weight", (vocabulary, hidden)),
        "positions": ("embeddings.position_embeddings.weight", (positions, hidden)),
        "types": ("embeddings.token_type_embeddings.weight", (None, hidden)),
        "norm.weight": ("embeddings.LayerNorm.weight", (hidden,)),
        "norm.bias": ("embeddings.LayerNorm.bias", (hidden,)),
    }
    for layer in range(layers):
        for theirs, ours in PARTS.items():
            rows, columns = ffn if ours == "up" else hidden, ffn if ours == "down" else hidden
            weight: Shape = (rows,) if ours.endswith("norm") else (rows, columns)
            for end, shape in (("weight", weight), ("bias", (rows,))):
                names[f"layers.{layer}.{ours}.{end}"] = (f"encoder.layer.{layer}.{theirs}.{end}", shape)
    found = read_tensors(folder, dict(names.values()), prefix=PREFIX)
    arrays = {ours: found[theirs] for ours, (theirs, _) in names.items()}
    arrays["positions"] = arrays["positions"] + arrays.pop("types")[0]
    return arrays


def read_tensors(folder: Path, shapes: Mapping[str, Shape], *, prefix: str = "") -> dict[str, Floats]:
    """Read named tensors of a module, as float32; None in a shape is any length.

    Parameters
    ----------
    prefix : of all names, in files that have it.

    Raises
    ------
    CorruptModel
        See `read_bert_arrays`.
    """
    files = _files(folder)
    arrays: dict[str, Floats] = {}
    for name, shape in shapes.items():
        file = files.get(name) or files.get(prefix + name)
        if file is None:
            raise CorruptModel(f"{folder} has no weights named {name}", hint="restore the files")
        stored = _tensor(file, name if name in files else prefix + name)
        fits = stored.ndim == len(shape) and all(
            wanted in (None, length) for wanted, length in zip(shape, stored.shape, strict=True)
        )
        if not fits or not np.isfinite(stored).all():
            raise CorruptModel(
                f"{file}: {name} is {stored.dtype} {stored.shape}, not finite numbers {shape}",
                hint="restore the files",
            )
        arrays[name] = stored
    return arrays


def tensor_names(folder: Path) -> set[str]:
    """Return the names of all tensors of a module; raises CorruptModel."""
    return set(_files(folder))


def _files(folder: Path) -> dict[str, Path]:
    """Return which file holds which tensor."""
    index = folder / WEIGHTS_IN_PARTS
    try:
        if (folder / WEIGHTS).is_file():
            names = [folder / WEIGHTS]
        else:
            listed = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
            names = [folder / name for name in sorted(set(listed))]
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise CorruptModel(f"{index} does not name files of weights: {error!r}", hint="restore the file") from error
    return {name: file for file in names for name in _names(file)}


def _names(file: Path) -> list[str]:
    from safetensors import safe_open

    try:
        with safe_open(file, framework="numpy") as opened:
            return list(opened.keys())
    except Exception as error:  # the library raises its own
        raise CorruptModel(f"{file} is not a file of weights: {error}", hint="restore the file") from error


def _tensor(file: Path, name: str) -> Floats:
    import ml_dtypes  # noqa: F401 - makes bfloat16 known to NumPy
    from safetensors import safe_open

    try:
        with safe_open(file, framework="numpy") as opened:
            return np.asarray(opened.get_tensor(name), dtype=np.float32)
    except Exception as error:  # the library raises its own
        raise CorruptModel(f"{file}: {name} cannot be read: {error}", hint="restore the file") from error
