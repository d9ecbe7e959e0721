"""Training-free binarizers: centre, rotate, keep signs; how they are fitted and stored.

NumPy only: knows no torch, no packing of bits and no index. Rotations are in `models/rotation.py`.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from models.errors import CorruptBinarizer, InvalidVectors
from models.rotation import BlockRotation, DenseRotation, Rotation, principal_axes, random_rotation
from models.serialization import read_arrays, write_arrays

FORMAT = "training-free"
CHUNK_ROWS = 16384

Floats = NDArray[np.float32]


class TrainingFree:
    """A map of vectors of dimension d to codes of dimension m, m a multiple of 8.

    `x = R (d - mean)`, one level a dimension: 1 where x >= 0. R has orthonormal rows. Where R has fewer rows
    than m, the last code dimensions are padding: 0 in `transform`, `queries` and levels, so they add
    nothing to any score.

    Parameters
    ----------
    mean : (d,) float32.
    rotation : orthonormal map of d to at most m dimensions.
    """

    def __init__(self, *, mean: Floats, rotation: Rotation) -> None:
        self.mean = _frozen(mean)
        self.dimension = len(self.mean)
        self.code_dimension = -(-rotation.outputs // 8) * 8
        self._rotation = rotation

    def transform(self, vectors: Floats) -> Floats:
        """Return R (d - mean), (n, m) float32, for documents (n, d)."""
        return self._pad(self._rotation.apply(self._checked(vectors) - self.mean))

    def queries(self, vectors: Floats) -> Floats:
        """Return R q, (nq, m) float32, for queries (nq, d).

        Never centred: an estimate made with it lacks `<q, mean>`.
        """
        return self._pad(self._rotation.apply(self._checked(vectors)))

    def encode(self, vectors: Floats) -> tuple[NDArray[np.uint8], Floats]:
        """Return levels and correction factors of documents (n, d); beside them, memory is that of 16,384 rows.

        Returns
        -------
        levels : (n, m) uint8 in {0, 1}, the signs of `transform`; 0 counts as positive, padding is 0.
        factors : (n,) float32, see `correction_factors`.
        """
        checked = self._checked(vectors)
        levels = np.zeros((len(checked), self.code_dimension), dtype=np.uint8)
        factors = np.empty(len(checked), dtype=np.float32)
        kept = self._rotation.outputs
        for start in range(0, len(checked), CHUNK_ROWS):
            rows = slice(start, start + CHUNK_ROWS)
            transformed = self.transform(checked[rows])
            np.greater_equal(transformed[:, :kept], 0, out=levels[rows, :kept], casting="unsafe")
            factors[rows] = correction_factors(transformed)
        return levels, factors

    def to_bytes(self) -> bytes:
        """Serialise; `TrainingFreeFactory.load` gives back a binarizer with exactly the same results."""
        kind, arrays = self._rotation.parts()
        outputs = self._rotation.outputs
        header: dict[str, str | int] = {"binarizer": FORMAT, "rotation": kind, "outputs": outputs}
        return write_arrays(header, {"mean": self.mean, **arrays})

    def _checked(self, vectors: Floats) -> Floats:
        array = np.ascontiguousarray(vectors, dtype=np.float32)
        if array.ndim != 2 or array.shape[1] != self.dimension:
            raise InvalidVectors(f"vectors have shape {array.shape}, not (n, {self.dimension})")
        return array

    def _pad(self, rotated: Floats) -> Floats:
        missing = self.code_dimension - rotated.shape[1]
        return np.ascontiguousarray(np.pad(rotated, ((0, 0), (0, missing))) if missing else rotated)


class TrainingFreeFactory:
    """Fits and loads `TrainingFree` binarizers.

    Parameters
    ----------
    dimensions : code dimensions before rounding up to a multiple of 8; None keeps all d.
    rotation : "random" takes random directions, "pca" the directions of largest variance, which are then
        rotated randomly among themselves. With all dimensions kept, neither is better than the other.
    """

    def __init__(self, *, dimensions: int | None = None, rotation: Literal["random", "pca"] = "random") -> None:
        if dimensions is not None and dimensions < 1:
            raise ValueError(f"dimensions must be at least 1, not {dimensions}")
        if rotation not in ("random", "pca"):
            raise ValueError(f"rotation must be 'random' or 'pca', not {rotation!r}")
        self._dimensions = dimensions
        self._pca = rotation == "pca"

    def fit(self, vectors: Floats, seed: int) -> TrainingFree:
        """Fit on (n, d) float32, n >= 1.

        The same vectors and seed give the same bytes on one machine and library version; elsewhere rounding
        may differ, which is why the rotation itself is stored and not its seed.

        Raises
        ------
        InvalidVectors
            No rows, not finite, or fewer dimensions than are to be kept.
        """
        array = np.asarray(vectors)
        if array.ndim != 2 or not array.size:
            raise InvalidVectors(f"a binarizer is fitted on (n, d) vectors, not on shape {array.shape}")
        dimension = array.shape[1]
        outputs = dimension if self._dimensions is None else self._dimensions
        if outputs > dimension:
            raise InvalidVectors(f"cannot keep {outputs} dimensions of vectors of dimension {dimension}")
        mean: Floats = np.asarray(np.mean(array, axis=0, dtype=np.float64), dtype=np.float32)
        if not np.isfinite(mean).all():
            raise InvalidVectors("vectors to fit on are not all finite")
        rng = np.random.default_rng(seed)
        if not self._pca:
            return TrainingFree(mean=mean, rotation=random_rotation(dimension, outputs, rng))
        axes = principal_axes(array, mean, outputs)
        mixed = random_rotation(outputs, outputs, rng).apply(np.ascontiguousarray(axes.T)).T
        return TrainingFree(mean=mean, rotation=DenseRotation(matrix=mixed))

    def load(self, data: bytes) -> TrainingFree:
        """Read what `to_bytes` wrote, whatever this factory's own settings are.

        Raises
        ------
        CorruptBinarizer
            Damaged, cut, of another kind or of a newer format.
        """
        header, arrays = read_arrays(data)
        if header.get("binarizer") != FORMAT:
            raise CorruptBinarizer(f"binarizer of kind {header.get('binarizer')!r}, expected {FORMAT!r}")
        try:
            kinds: dict[object, type[Rotation]] = {"dense": DenseRotation, "blocks": BlockRotation}
            mean = arrays.pop("mean")
            rotation = kinds[header["rotation"]].from_parts(arrays, header["outputs"])
            if mean.dtype != np.float32 or mean.shape != (rotation.inputs,):
                raise ValueError("the mean does not fit the rotation")
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptBinarizer(f"binarizer with inconsistent parts: {error}") from error
        return TrainingFree(mean=mean, rotation=rotation)


def correction_factors(transformed: Floats) -> Floats:
    """Return the factor per document that makes the estimate of an inner product unbiased along x.

    `<Rq, x>` is estimated as `factor * <Rq, sign(x)>`. For q along x it is exact.

    Parameters
    ----------
    transformed : (n, m) float32, what `TrainingFree.transform` returns.

    Returns
    -------
    (n,) float32, `|x|_2^2 / |x|_1`, 0 for x = 0.
    """
    squares = np.einsum("ij,ij->i", transformed, transformed, dtype=np.float64)
    sums = np.abs(transformed).sum(axis=1, dtype=np.float64)
    factors = np.divide(squares, sums, out=np.zeros_like(squares), where=sums > 0)
    return np.asarray(factors, dtype=np.float32)


def _frozen(array: Floats) -> Floats:
    copy = np.array(array, dtype=np.float32, order="C")
    copy.flags.writeable = False
    return copy
