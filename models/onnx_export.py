"""Writes an encoder as one ONNX file with its tokenizer, to be run anywhere by ONNX Runtime and `tokenizers` alone.

    model.onnx          all exits of the encoder; inputs tokens, mask and layers, output vectors
    tokenizer.json      cuts texts to the window and pads batches
    bitfold_onnx.json   what the inputs mean, exits, pooling, prompts, space

What is written is read back and compared with the encoder before the folder is called whole.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from models.backend import PROMPT_NAMES, Backend
from models.bert_folder import understand
from models.encoder import Encoder
from models.errors import ModelError, UnsupportedRuntime
from models.folder import check_folder
from models.onnx_graph import LAYERS, MASK, TOKENS, VECTORS
from models.onnx_model import build, checked_exits
from models.onnx_session import OnnxSession
from models.presets import find_preset
from models.safe_files import write_safely
from models.static_model import load_tokenizer
from models.student_folder import describe_student, is_student, read_static_table, read_student, tokenizer_file
from models.student_graph import build_student_graph, most_tokens
from models.tokens import TOKENIZER

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MODEL, DESCRIPTION = "model.onnx", "bitfold_onnx.json"
FORMAT = 1
TINY = np.float32(1e-12)
PROBES = ("a city destroyed by a volcano", "", "7 % of what?", "the same words again and again " * 400)
# What the file's vectors must reach, as cosines with the encoder's.
LEAST = {"float32": 0.9999, "int8": 0.9}
MEANING = {
    TOKENS: "int32 (n, length): the token ids of tokenizer.json, each text with its prompt before it",
    MASK: "int32 (n, length): 1 for tokens, 0 for padding",
    LAYERS: "int64 scalar: one of the exits",
}


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written.

    Attributes
    ----------
    description : content of `bitfold_onnx.json`.
    size : bytes of `model.onnx`.
    least_cosine : the least between a vector of the file and the encoder's own, over a few texts and all exits.
    """

    description: dict[str, Any]
    size: int
    least_cosine: float


def export_onnx(
    encoder: Encoder, folder: Path, out: Path, *, weights: Literal["float32", "int8"] = "float32"
) -> Exported:
    """Write an encoder into a folder, at all layers that it may be cut to.

    Parameters
    ----------
    encoder : as it is served.
    folder : the files that it was loaded from.
    out : folder to write; it must be empty, not be there, or hold an earlier export, which is replaced.
    weights : "int8" is a third of the size and close to, but not exactly, the vectors of the space.

    Raises
    ------
    UnsupportedRuntime
        The model is of a kind that the graph does not know; the message says why.
    ModelError
        `out` holds other files, or what was written is not what the encoder computes.
    """
    _check_out(out)
    preset = find_preset(encoder.name)
    if preset is not None and preset.folded:
        raise UnsupportedRuntime(
            f"{encoder.name} is another encoder in a rotated basis, which is not exported",
            hint="export the encoder that it is made from",
        )
    graph, tokenizer = _student(encoder, folder, weights) if is_student(folder) else _bert(encoder, folder, weights)
    pad = tokenizer.id_to_token(0)
    tokenizer.enable_padding(pad_id=0, pad_token="" if pad is None else pad)  # noqa: S106 - no password
    least = _least_cosine(_as_trained(encoder, folder), encoder.sizes.layers, graph, tokenizer)
    if least < LEAST[weights]:
        raise ModelError(f"the file's vectors are not those of {encoder.name}: the least cosine is {least:.4f}")
    description = {
        "format": FORMAT,
        "encoder": encoder.name,
        "space": encoder.space,
        "weights": weights,
        "least_cosine": round(least, 6),
        "inputs": MEANING,
        "outputs": {VECTORS: f"float32 (n, {encoder.dimension}): not normalised"},
        "exits": list(encoder.sizes.layers),
        "pooling": encoder.model.pooling,
        "prompts": dict(encoder.model.prompts),
        "max_tokens": encoder.max_tokens,
        "sizes": asdict(encoder.sizes),
        # Prefixes of the file's vectors are short vectors only where this is null.
        "fold": encoder.fold,
    }
    (out / DESCRIPTION).unlink(missing_ok=True)
    for name, content in (
        (TOKENIZER, tokenizer.to_str().encode()),
        (MODEL, graph),
        (DESCRIPTION, (json.dumps(description, indent=2) + "\n").encode()),
    ):
        with write_safely(out / name) as file:
            file.write(content)
    return Exported(description, len(graph), least)


def _check_out(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise ModelError(f"{out} is a file", hint="name a folder")
    if out.is_dir() and any(out.iterdir()) and not (out / DESCRIPTION).is_file():
        raise ModelError(f"{out} holds other files", hint="name an empty or a new folder")


def _bert(encoder: Encoder, folder: Path, weights: Literal["float32", "int8"]) -> tuple[bytes, Tokenizer]:
    try:
        found = understand(check_folder(folder))
    except UnsupportedRuntime as error:
        raise UnsupportedRuntime(
            f"{folder} cannot be exported: {error}", hint="only BERT-like models can; torch serves all"
        ) from error
    exits = checked_exits(found, encoder.sizes.layers)
    graph = build(found, exits=exits, weights=weights, temperature=1)
    tokenizer = load_tokenizer(found.transformer / TOKENIZER, int(found.config["vocab_size"]))
    tokenizer.enable_truncation(found.window)
    return graph, tokenizer


def _student(encoder: Encoder, folder: Path, weights: Literal["float32", "int8"]) -> tuple[bytes, Tokenizer]:
    shape = describe_student(folder).shape
    tokenizer = load_tokenizer(tokenizer_file(folder), shape.vocabulary)
    graph = build_student_graph(
        read_student(folder),
        read_static_table(folder),
        last=tokenizer.encode("").ids[-1],
        exits=encoder.sizes.layers,
        weights=weights,
    )
    tokenizer.enable_truncation(most_tokens(shape))
    return graph, tokenizer


def _as_trained(encoder: Encoder, folder: Path) -> Backend:
    """Return the encoder's model; a student's layers, which are served in whole numbers, in float32."""
    if not is_student(folder) or len(encoder.model.exits) == 1:
        return encoder.model
    from models.student_onnx import StudentModel

    return StudentModel(folder)


def _least_cosine(model: Backend, exits: Sequence[int], graph: bytes, tokenizer: Tokenizer) -> float:
    """Compare the graph with a model on a few texts, one of them too long."""
    session, least = OnnxSession(graph), 1.0
    for task, layers in itertools.product(PROMPT_NAMES, exits):
        # A static exit has no vector for a text without words.
        texts = [text for text in PROBES if text or layers]
        encodings = tokenizer.encode_batch([model.prompts[task] + text for text in texts])
        tokens = np.array([encoding.ids for encoding in encodings], dtype=np.int32)
        mask = np.array([encoding.attention_mask for encoding in encodings], dtype=np.int32)
        found, expected = session.run(tokens, mask, layers), model.embed(texts, task, layers)[0]
        lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
        least = min(least, float(((found * expected).sum(axis=1) / np.maximum(lengths, TINY)).min()))
    return least
