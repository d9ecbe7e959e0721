"""The frozen codes of an older binarizer, which a new one is trained to be compatible with. NumPy only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from models.errors import InvalidSize, InvalidVectors
from models.grid import Floats, Levels, values_of
from models.neighbours import Rows
from models.training_data import TrainingData, checked, scaled


class Older(Protocol):
    """A binarizer to be compatible with, of any kind."""

    @property
    def identity(self) -> str:
        """The content name."""

    @property
    def dimension(self) -> int:
        """The d of its vectors."""

    @property
    def code_dimension(self) -> int:
        """The m of its codes."""

    @property
    def bits(self) -> int:
        """The planes of its codes."""

    @property
    def mean(self) -> Floats:
        """(d,) float32."""

    def encode(self, vectors: Floats) -> tuple[Levels, Floats]:
        """Return levels (n, m) and factors (n, bits)."""

    def queries(self, vectors: Floats) -> Floats:
        """Return (nq, m) queries in code space."""


@dataclass(frozen=True)
class OlderCodes:
    """What an older binarizer makes of the rows of a training, in the units of `TrainingData`.

    Attributes
    ----------
    levels : (n, m_old) uint8; factors : (n,) float32; bits : of the levels.
    tower : (m_old, d) float32, the linear map of new vectors that is nearest to its queries of the same items.
    queries : (anchors, m_old) float32, its queries of the anchors; None where it cannot read them.
    held_out : (test queries, m_old) float32; None likewise.
    mean : (d,) float32, None where it is of another embedding model: estimates of the two then differ by what no
        code can know.
    """

    levels: Levels
    factors: Floats
    bits: int
    tower: Floats
    queries: Floats | None
    held_out: Floats | None
    mean: Floats | None

    def codes(self, rows: slice | Rows) -> Floats:
        """Return factor times value, (rows, m_old) float32."""
        return values_of(self.levels[rows], self.bits) * self.factors[rows, None]


def freeze(older: Older, vectors: NDArray[Any] | None, data: TrainingData, dimensions: int | None) -> OlderCodes:
    """Return the older codes of all documents.

    Parameters
    ----------
    vectors : (n, d_old), what the older binarizer's embedding model made of the same items; None: it is the same model.
    dimensions : m of the new codes; None for as many as the documents have.

    Raises
    ------
    InvalidSize
        m is smaller than m_old: the new code could not begin with the older one.
    InvalidVectors
        Vectors that do not pair with the documents or do not fit the older binarizer.
    """
    m = dimensions or data.documents.shape[1]
    if m < older.code_dimension:
        raise InvalidSize(
            f"{m} code dimensions cannot be compatible with the {older.code_dimension} of {older.identity}",
            hint=f"choose at least {older.code_dimension}",
        )
    documents, unit = data.documents, data.unit
    if vectors is not None:
        documents, unit = scaled(checked(vectors, "older vectors"), data.distance)
    if len(documents) != len(data.documents) or documents.shape[1] != older.dimension:
        raise InvalidVectors(
            f"older vectors have shape {documents.shape}, not ({len(data.documents)}, {older.dimension})",
            hint="give the vectors that the older binarizer's embedding model has for the same rows",
        )
    levels, factors = older.encode(documents * np.float32(unit))
    mapped = older.queries(documents * np.float32(unit)) / np.float32(unit)

    def asked(queries: Floats, own: Rows) -> Floats | None:
        if vectors is None:
            return older.queries(queries * np.float32(unit)) / np.float32(unit)
        return mapped[own] if (own >= 0).all() else None

    return OlderCodes(
        levels=levels,
        factors=factors[:, -1] / np.float32(unit),
        bits=older.bits,
        tower=np.linalg.lstsq(data.documents, mapped, rcond=None)[0].T.astype(np.float32),
        queries=asked(data.anchors.vectors, data.anchors.own),
        held_out=asked(data.test.vectors, data.test.own),
        mean=older.mean / np.float32(unit) if vectors is None else None,
    )
