"""The forms that a vector may have in an answer: numbers, base64, sign bits. Knows no HTTP and no encoder."""

from __future__ import annotations

import base64
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Form = Literal["float", "base64", "binary", "ubinary"]


def in_form(vectors: NDArray[np.float32], form: Form) -> list[object]:
    """Return each vector in a form that orjson writes.

    Parameters
    ----------
    vectors : (n, k) float32.
    form :
        `float`: (k,) float32.
        `base64`: the bytes of k little-endian float32, as text.
        `ubinary`: (ceil(k / 8),) uint8, a bit for each dimension, 1 where it is above 0; the first dimension is the
        highest bit, and the last byte is filled with zeros.
        `binary`: the same bytes less 128, int8. Both are what sentence-transformers' `quantize_embeddings` makes.
    """
    if form == "float":
        return list(np.ascontiguousarray(vectors))
    if form == "base64":
        return [base64.b64encode(row.tobytes()).decode() for row in vectors.astype("<f4")]
    codes = np.packbits(vectors > 0, axis=1)
    return list(codes if form == "ubinary" else (codes.astype(np.int16) - 128).astype(np.int8))
