"""Reads vectors and texts out of parsed JSON: a list of numbers, `{text, model}`, or `{"": [...]}`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.responses import ApiError

Float32s = NDArray[np.float32]
_NUMBERS = frozenset((int, float))


@dataclass(frozen=True, slots=True)
class TextInput:
    """A text to encode; `model` None means the collection's own encoder."""

    text: str
    model: str | None = None
    options: bool = False


def read_numbers(value: list[object], path: str, dimension: int) -> Float32s:
    """Return (d,) float32; raises ApiError for other than finite numbers or another length."""
    if len(value) != dimension:
        raise ApiError(
            400,
            "invalid_vector",
            f"{path} has {len(value)} dimensions, the collection has {dimension}",
            param=path,
            hint=f"send {dimension} numbers",
        )
    if not _NUMBERS.issuperset(map(type, value)):
        position = next(i for i, item in enumerate(value) if type(item) not in _NUMBERS)
        raise ApiError(
            400,
            "invalid_vector",
            f"{path}[{position}] is not a number",
            param=path,
            hint="send a list of numbers",
        )
    with np.errstate(over="ignore"):
        vector = np.array(value, dtype=np.float64).astype(np.float32)
    if not np.isfinite(vector).all():
        raise ApiError(
            400,
            "invalid_vector",
            f"{path} holds numbers too large for float32",
            param=path,
            hint="scale it down",
        )
    return vector


def read_text(value: dict[str, object], path: str, max_bytes: int) -> TextInput:
    """Return the text of `{text, model, options}`; raises ApiError for anything else."""
    extra = sorted(set(value) - {"text", "model", "options"})
    if extra:
        raise ApiError(400, "unknown_key", f"the key {path}.{extra[0]} is not known here", param=f"{path}.{extra[0]}")
    text, model, options = value.get("text"), value.get("model"), value.get("options")
    if not isinstance(text, str):
        raise ApiError(400, "invalid_text", f"{path}.text is not a string", param=f"{path}.text")
    if model is not None and not isinstance(model, str):
        raise ApiError(
            400,
            "invalid_request",
            f"{path}.model is not a string",
            param=f"{path}.model",
            hint="GET /encoders",
        )
    if options is not None and not isinstance(options, dict):
        raise ApiError(400, "invalid_request", f"{path}.options is not an object", param=f"{path}.options")
    check_text(text, f"{path}.text", max_bytes)
    return TextInput(text, model or None, bool(options))


def check_text(text: str, path: str, max_bytes: int) -> None:
    """Raise ApiError for an empty text (400) or one beyond the limit (413)."""
    if not text.strip():
        raise ApiError(400, "invalid_text", f"{path} is empty", param=path, hint="send some words")
    size = len(text) if text.isascii() else len(text.encode())
    if size > max_bytes:
        raise ApiError(
            413,
            "text_too_large",
            f"{path} has {size} bytes, at most {max_bytes} are allowed",
            param=path,
            hint="cut the text into passages, or raise BITFOLD_MAX_TEXT_BYTES",
        )


def read_vector(value: object, path: str, *, dimension: int, max_text_bytes: int) -> Float32s | TextInput:
    """Read a vector in any of its forms.

    Raises
    ------
    ApiError
        400 or 413, naming the path.
    """
    if isinstance(value, dict) and list(value) == [""]:
        value = value[""]
    if isinstance(value, list):
        return read_numbers(value, path, dimension)
    if isinstance(value, dict):
        if "text" in value:
            return read_text(value, path, max_text_bytes)
        raise ApiError(
            400,
            "invalid_vector",
            f'{path} has neither "text" nor the unnamed vector ""',
            param=path,
            hint='send a list of numbers, {"text": ..., "model": ...} or {"": [...]}',
        )
    raise ApiError(
        400,
        "invalid_vector",
        f"{path} is not a vector",
        param=path,
        hint='send a list of numbers, {"text": ..., "model": ...} or {"": [...]}',
    )
