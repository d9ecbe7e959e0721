"""Folded spaces: a rotation after which the prefixes of a model's vectors are its best linear ones. Knows no model.

A model without Matryoshka training spreads what it knows evenly over its dimensions, so a prefix of its vectors
loses what the rest held. Principal axes put as much as possible into the first ones, and an orthogonal rotation
changes no product at full length.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from models.errors import CorruptModel, InvalidVectors, ModelNotFound
from models.grouping import around_group_means
from models.rotation import principal_axes
from models.safe_files import write_safely

FOLD_FILE = "bitfold_fold.safetensors"
MOST_HEADER = 65536
TOLERANCE = 1e-4  # of the products of axes; those of a float32 rotation are off by 1e-6

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Fold:
    """An orthogonal rotation of a space.

    Attributes
    ----------
    axes : (d, d) float32, C-contiguous, orthonormal rows: the first k span what a prefix of k dimensions keeps.
    identity : `pca-` and 8 hex digits of the axes' SHA-256; prefixes compare only under one identity.

    Raises
    ------
    InvalidVectors
        Not a square of orthonormal rows.
    """

    axes: Floats
    identity: str = field(init=False)

    def __post_init__(self) -> None:
        """Check the axes and name them."""
        axes = np.ascontiguousarray(self.axes, dtype="<f4")
        if axes.ndim != 2 or axes.shape[0] != axes.shape[1] or not len(axes):
            raise InvalidVectors(f"a fold is a square of axes, not an array of shape {self.axes.shape}")
        wide = axes.astype(np.float64)
        if not np.allclose(wide @ wide.T, np.eye(len(axes)), atol=TOLERANCE):
            raise InvalidVectors("the axes of a fold must be orthonormal")
        object.__setattr__(self, "axes", axes)
        object.__setattr__(self, "identity", f"pca-{hashlib.sha256(axes.tobytes()).hexdigest()[:8]}")

    @classmethod
    def fit(cls, vectors: Floats, *, groups: int = 1, seed: int = 0) -> Self:
        """Fit to the vectors of many texts: principal axes, the largest variance first.

        Parameters
        ----------
        vectors : (n, d) float32, n >= d; those of other texts than any that the fold is judged on.
        groups : with more than one, variance is that within so many groups of similar texts, not of all of them. A
            collection is mostly about one thing: the axes that tell its texts apart are not those that tell its
            subject from other ones.
        seed : of the grouping.

        Raises
        ------
        InvalidVectors
            Fewer vectors than dimensions, or values that are not finite.
        """
        if vectors.ndim != 2 or len(vectors) < vectors.shape[1]:
            raise InvalidVectors(
                f"a fold of (n, d) vectors needs n >= d, not {vectors.shape}", hint="give vectors of more texts"
            )
        if not np.isfinite(vectors).all():
            raise InvalidVectors("the vectors are not finite")
        mean = vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
        if groups > 1:
            vectors, mean = around_group_means(vectors, groups, seed), np.zeros_like(mean)
        return cls(axes=principal_axes(vectors, mean, vectors.shape[1]))

    @property
    def dimension(self) -> int:
        """Length d of the vectors."""
        return len(self.axes)

    def rotate(self, vectors: Floats) -> Floats:
        """Map (n, d) float32 into the folded basis; products stay what they are."""
        return vectors @ self.axes.T

    def project(self, vectors: Floats, k: int) -> Floats:
        """Map (n, d) float32 to the first k dimensions of the folded basis, (n, k) float32, not normalised."""
        return vectors @ self.axes[:k].T

    def cut(self, vectors: Floats, k: int) -> Floats:
        """Return the (n, k) float32 unit vectors of `project`.

        Raises
        ------
        InvalidVectors
            k is not within 1 to d, or nothing of a vector is left.
        """
        self._check(k)
        short = self.project(vectors, k)
        norms = np.linalg.norm(short, axis=1, keepdims=True)
        if not (norms > 0).all():
            raise InvalidVectors("a vector has no direction in its prefix")
        return np.asarray(short / norms, dtype=np.float32)

    def widen(self, short: Floats) -> Floats:
        """Map (n, k) float32 of the folded basis back: (n, d) float32 whose other d - k folded dimensions are zero.

        Its product with a native vector is the product of `short` with that vector's prefix.
        """
        self._check(short.shape[1])
        return short @ self.axes[: short.shape[1]]

    def to_bytes(self) -> bytes:
        """Return a safetensors file: the tensor `axes`, and the identity as metadata. Equal folds give equal bytes."""
        from safetensors.numpy import save

        return save({"axes": self.axes}, metadata={"identity": self.identity})

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read `to_bytes`; raises CorruptModel."""
        from safetensors.numpy import load

        try:
            axes = load(data)["axes"]
            if axes.dtype != np.float32:
                raise ValueError(f"axes of {axes.dtype}")
            fold = cls(axes=axes)
            if f'"identity":"{fold.identity}"'.encode() not in data[:MOST_HEADER]:
                raise ValueError(f"it does not state that it is {fold.identity}")
            return fold
        except Exception as error:  # the library raises its own
            raise CorruptModel(f"these bytes are not a fold: {error}") from error

    def save(self, path: Path) -> None:
        """Write `to_bytes` durably."""
        with write_safely(path) as file:
            file.write(self.to_bytes())

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file; raises ModelNotFound or CorruptModel, which name it."""
        try:
            data = path.read_bytes()
        except OSError as error:
            raise ModelNotFound(f"no fold at {path}: {error.strerror}", hint="restore the file") from error
        try:
            return cls.from_bytes(data)
        except CorruptModel as error:
            raise CorruptModel(f"{path}: {error}", hint="restore the file") from error

    def _check(self, k: int) -> None:
        if not 1 <= k <= self.dimension:
            raise InvalidVectors(f"a prefix has 1 to {self.dimension} dimensions, not {k}")


def read_identity(path: Path) -> str:
    """Return the identity that a fold's file states, without its axes; raises ModelNotFound or CorruptModel."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            stated = json.loads(file.read(min(length, MOST_HEADER)))["__metadata__"]["identity"]
    except OSError as error:
        raise ModelNotFound(f"no fold at {path}: {error.strerror}", hint="restore the file") from error
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptModel(f"{path} states no identity of a fold", hint="restore the file") from error
    return str(stated)
