"""Vectors to train on, from a file or from a collection of a running server: an even random sample of them.

Knows nothing of training or of terminals.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from service.client import Client
from service.documents import Document, DocumentError, Fields, first_dimension, read_documents
from service.ndjson import LineSpec, parse_block

Float32s = NDArray[np.float32]

_ROWS: Final = 1000  # read or asked for at once


def read_vectors(path: Path, fields: Fields, *, sample: int, seed: int) -> Float32s:
    """Return at most `sample` vectors (n, d) float32 of a file, in its order.

    Parameters
    ----------
    path : `.npy` with one vector a row, or documents with vectors in any format that `read_documents` reads.
    fields : which field of a document holds what.

    Raises
    ------
    DocumentError : no such file, unknown format, damaged content, texts in place of vectors.
    """
    if path.suffix == ".npy":
        return _read_array(path, sample, seed)
    dimension = first_dimension(path, fields)
    if dimension is None:
        raise DocumentError(f"{path}: the documents have texts, not vectors: load them into a collection (`bitfold "
                            "index`) and train with --collection")  # fmt: skip
    chosen = _Sample(sample, seed)
    with closing(read_documents(path, fields)) as documents:
        while block := list(itertools.islice(documents, _ROWS)):
            chosen.add(_parsed(path, block, dimension))
    return chosen.vectors(dimension)


def fetch_vectors(
    client: Client, collection: str, *, sample: int, seed: int, on_progress: Callable[[int, int], None]
) -> Float32s:
    """Return at most `sample` vectors (n, d) float32 of a collection, in the order of its ids.

    Parameters
    ----------
    on_progress : called with how many were fetched, of how many.

    Raises
    ------
    ClientError : the server refused something, or does not answer.
    """
    ids = list(client.scroll_ids(collection))
    if len(ids) > sample:
        ids = [ids[i] for i in _chosen(len(ids), sample, seed)]
    parts: list[Float32s] = []
    on_progress(0, len(ids))
    for start in range(0, len(ids), _ROWS):
        rows = client.vectors(collection, ids[start : start + _ROWS])
        if rows:
            parts.append(np.array(rows, np.float32))
        on_progress(min(start + _ROWS, len(ids)), len(ids))
    return np.concatenate(parts) if parts else np.empty((0, 0), np.float32)


def _chosen(n: int, sample: int, seed: int) -> list[int]:
    return sorted(np.random.default_rng(seed).choice(n, sample, replace=False).tolist())


def _read_array(path: Path, sample: int, seed: int) -> Float32s:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise DocumentError(f"{path}: there is no such file") from None
    except (OSError, ValueError, EOFError) as error:
        raise DocumentError(f"{path}: not an array that can be read: {error}") from None
    if not isinstance(array, np.ndarray) or array.ndim != 2 or array.dtype.kind != "f":
        shape = f"{array.dtype} of shape {array.shape}" if isinstance(array, np.ndarray) else "several arrays"
        raise DocumentError(f"{path}: holds {shape}, not floats of shape (n, d)")
    rows = array if len(array) <= sample else array[_chosen(len(array), sample, seed)]
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused as such
        return np.ascontiguousarray(rows, np.float32)


def _parsed(path: Path, documents: list[Document], dimension: int) -> Float32s:
    lines = [document.line for document in documents]
    longest = max(map(len, lines))
    spec = LineSpec("vector", dimension, "Dot", max_line_bytes=longest, max_text_bytes=longest)
    block = parse_block(b"\n".join(lines), 1, spec)
    if block.errors:
        wrong = block.errors[0]
        raise DocumentError(f"{path}:{documents[wrong.line - 1].number}: {wrong.message}")
    return block.vectors if block.vectors is not None else np.empty((0, dimension), np.float32)


class _Sample:
    """The rows with the smallest of random keys: an even sample of a stream whose length is not known."""

    def __init__(self, size: int, seed: int) -> None:
        self._size = size
        self._random = np.random.default_rng(seed)
        self._keys: list[NDArray[np.float64]] = []
        self._rows: list[Float32s] = []
        self._held = 0

    def add(self, rows: Float32s) -> None:
        self._keys.append(self._random.random(len(rows)))
        self._rows.append(rows)
        self._held += len(rows)
        if self._held > 2 * self._size + _ROWS:
            self._reduce()

    def vectors(self, dimension: int) -> Float32s:
        if not self._held:
            return np.empty((0, dimension), np.float32)
        self._reduce()
        return self._rows[0]

    def _reduce(self) -> None:
        keys, rows = np.concatenate(self._keys), np.concatenate(self._rows)
        if len(keys) > self._size:
            kept = np.sort(np.argpartition(keys, self._size)[: self._size])
            keys, rows = keys[kept], rows[kept]
        self._keys, self._rows, self._held = [keys], [rows], len(keys)
