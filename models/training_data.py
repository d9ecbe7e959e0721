"""What a binarizer is trained and judged on: checks, the split, neighbours mined from the vectors themselves.

NumPy only. Rows are positions in the vectors that were given.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from models.errors import ConstantVectors, InvalidSize, InvalidVectors, TooFewVectors
from models.grid import Floats
from models.neighbours import Block, Rows, best_rows
from models.safe_files import write_safely

LEAST_VECTORS: Final = 256
MOST_HELD_OUT: Final = 1000  # each of validation and test
TRUTH: Final = 10

Distance = Literal["Cosine", "Dot", "Euclid"]


@dataclass(frozen=True)
class Asked:
    """Queries, with what is known of their answers.

    Attributes
    ----------
    vectors : (nq, d) float32.
    own : (nq,) int64, the row that a query is, -1 if it is none.
    rows : (nq, k) int64, the best rows by exact score, best first, without `own`.
    """

    vectors: Floats
    own: Rows
    rows: Rows


@dataclass(frozen=True)
class TrainingData:
    """Vectors and queries, split.

    Attributes
    ----------
    documents : (n, d) float32, of length 1 under Cosine, of mean square length 1 otherwise.
    distance : how they are compared.
    unit : what they were divided by where that is one number, else 1.
    shifts : (n,) float32 to add to `<q, d>`: `-|d|^2 / 2` under Euclid, else 0.
    training : rows that codes are trained on.
    anchors : queries to train with; their `rows` are among `training`.
    validation, test : held-out queries; their `rows` are among all documents.
    """

    documents: Floats
    distance: Distance
    unit: float
    shifts: Floats
    training: Rows
    anchors: Asked
    validation: Asked
    test: Asked

    def block(self, rows: slice | Rows) -> Block:
        """Return documents and shifts."""
        return self.documents[rows], self.shifts[rows]


def checked(vectors: NDArray[Any], what: str) -> Floats:
    """Return (n, d) float32; raises InvalidVectors for another shape or values that are not finite."""
    array = np.ascontiguousarray(vectors, dtype=np.float32)
    if array.ndim != 2 or not array.shape[1]:
        raise InvalidVectors(f"{what} have shape {array.shape}, not (n, d)")
    finite = np.isfinite(array).all(axis=1)
    if not finite.all():
        raise InvalidVectors(f"{what}: row {int(np.argmin(finite))} is not finite")
    return array


def prepare(
    vectors: NDArray[Any],
    queries: NDArray[Any] | None,
    *,
    dimensions: int | None,
    distance: Distance,
    neighbours: int,
    most_anchors: int,
    seed: int,
    cache: Path,
    on_progress: Callable[[float], None],
    cancelled: Callable[[], bool],
) -> TrainingData:
    """Check and split vectors, and find the neighbours of the anchors and the answers of the held-out queries.

    Without queries, a tenth of the vectors (at most 1,000) is held out to choose the epoch with and as many to judge
    the result; the others are queries for each other and never learn from what is held out. With queries it is they
    that are split, and all vectors are trained on.

    Parameters
    ----------
    dimensions : m, None for d.
    cache : file for the neighbours of the anchors, the costly part; it is read if it is there.

    Raises
    ------
    TooFewVectors, ConstantVectors, InvalidVectors, InvalidSize, TrainingCancelled
    """
    documents = _documents(vectors, dimensions)
    documents, unit = scaled(documents, distance)
    shifts = np.zeros(len(documents), dtype=np.float32)
    if distance == "Euclid":
        shifts = np.asarray(np.einsum("ij,ij->i", documents, documents) / -2, dtype=np.float32)
    if queries is None:
        asked, own = documents, np.arange(len(documents), dtype=np.int64)
    else:
        asked = _queries(queries, documents.shape[1])
        asked = scaled(asked, distance)[0] if distance == "Cosine" else asked / np.float32(unit)
        own = np.full(len(asked), -1, dtype=np.int64)
    order = np.random.default_rng((seed, 0)).permutation(len(asked))
    held = min(MOST_HELD_OUT, len(asked) // 10)
    training = np.sort(order[2 * held :]) if queries is None else np.arange(len(documents))
    anchors = np.sort(order[2 * held :][:most_anchors])

    def block(rows: slice) -> Block:
        return documents[rows], shifts[rows]

    def training_block(rows: slice) -> Block:
        return documents[training[rows]], shifts[training[rows]]

    def held_out(part: Rows) -> Asked:
        found = best_rows(asked[part], len(documents), TRUTH, block, own=own[part], cancelled=cancelled)
        return Asked(asked[part], own[part], found)

    if cache.exists():
        near = np.load(cache)
    else:
        found = best_rows(
            asked[anchors],
            len(training),
            neighbours,
            training_block,
            own=np.where(own[anchors] < 0, -1, np.searchsorted(training, own[anchors])),
            on_progress=on_progress,
            cancelled=cancelled,
        )
        near = np.where(found < 0, -1, training[found])
        with write_safely(cache) as file:
            np.save(file, near)
    return TrainingData(
        documents=documents,
        distance=distance,
        unit=unit,
        shifts=shifts,
        training=training,
        anchors=Asked(asked[anchors], own[anchors], near),
        validation=held_out(order[:held]),
        test=held_out(order[held : 2 * held]),
    )


def _documents(vectors: NDArray[Any], dimensions: int | None) -> Floats:
    documents = checked(vectors, "vectors to train on")
    if len(documents) < LEAST_VECTORS:
        raise TooFewVectors(
            f"{len(documents)} vectors are too few to train a binarizer", hint=f"give at least {LEAST_VECTORS}"
        )
    if (documents == documents[0]).all():
        raise ConstantVectors("all vectors to train on are the same", hint="codes cannot tell them apart")
    if dimensions is not None and dimensions > documents.shape[1]:
        raise InvalidSize(
            f"{dimensions} code dimensions of vectors with {documents.shape[1]}",
            hint=f"choose at most {documents.shape[1]}; for more bytes take more bits",
        )
    return documents


def _queries(queries: NDArray[Any], dimension: int) -> Floats:
    asked = checked(queries, "queries to train with")
    if asked.shape[1] != dimension:
        raise InvalidVectors(f"queries have {asked.shape[1]} dimensions, the vectors {dimension}")
    if len(asked) < LEAST_VECTORS:
        raise TooFewVectors(
            f"{len(asked)} queries are too few to train with", hint=f"give at least {LEAST_VECTORS}, or none"
        )
    return asked


def scaled(vectors: Floats, distance: Distance) -> tuple[Floats, float]:
    """Return vectors of length 1 under Cosine, of mean square length 1 otherwise, and what they were divided by."""
    if distance == "Cosine":
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        return np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0), 1.0
    unit = float(np.sqrt(np.mean(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))))
    return vectors / np.float32(unit), unit
