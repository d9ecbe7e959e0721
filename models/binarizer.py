"""Training-free binarizers: centre, rotate, round to a uniform grid; how they are fitted and stored.

NumPy only: knows no torch, no packing of bits and no index. Rotations are in `models/rotation.py`, the grid in
`models/grid.py`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from models.errors import CorruptBinarizer, InvalidSize, InvalidVectors
from models.grid import GAUSSIAN_STEP, Floats, Levels, check_bits, correction_factors, levels_of, values_of
from models.rotation import BlockRotation, DenseRotation, Rotation, principal_axes, random_rotation
from models.serialization import read_arrays, write_arrays

FORMAT = "training-free"
CHUNK_ROWS = 16384


class TrainingFree:
    """A map of vectors of dimension d to codes of dimension m, m a multiple of 8; implements the index's `Binarizer`.

    `x = R (d - mean)`, each dimension in units of `scales` rounded to the nearest level of the grid. R has
    orthonormal rows. Where R has fewer rows than m, the last code dimensions are padding: 0 in `transform`,
    `queries` and levels, so they add nothing to any score.

    Parameters
    ----------
    mean : (d,) float32.
    rotation : orthonormal map of d to at most m dimensions.
    bits : planes, 1 to 8.
    scales : (outputs,) float32, above 0: one unit of the grid in each dimension. None, for one bit only, stands
        for 1 everywhere: signs have no scale.
    """

    learned = False

    def __init__(self, *, mean: Floats, rotation: Rotation, bits: int = 1, scales: Floats | None = None) -> None:
        self.mean = _frozen(mean)
        self.dimension = len(self.mean)
        self.code_dimension = -(-rotation.outputs // 8) * 8
        self.bits = bits
        self._rotation = rotation
        self._scales = None if scales is None else _frozen(scales)
        self._bytes: bytes | None = None

    @property
    def identity(self) -> str:
        """`training-free-<bits>b-<hash of the contents>`; equal bytes, equal identity."""
        return f"{FORMAT}-{self.bits}b-{hashlib.sha256(self.to_bytes()).hexdigest()[:6]}"

    def transform(self, vectors: Floats) -> Floats:
        """Return R (d - mean), (n, m) float32, for documents (n, d)."""
        return self._pad(self._rotation.apply(self._checked(vectors) - self.mean))

    def queries(self, vectors: Floats) -> Floats:
        """Return R q in units of the grid, (nq, m) float32, for queries (nq, d).

        Never centred: an estimate made with it lacks `<q, mean>`.
        """
        return self._pad(self._scaled(self._rotation.apply(self._checked(vectors))))

    def query_levels(self, vectors: Floats) -> tuple[Levels, Floats]:
        """Return queries on the grid that documents lie on, for symmetric distance (BEBR, arXiv 2302.08714).

        Returns
        -------
        levels : (nq, m) uint8.
        factors : (nq,) float32: `factor * values` is nearest to what `queries` returns.
        """
        mapped = self.queries(vectors)
        spread = np.sqrt(np.einsum("ij,ij->i", mapped, mapped, dtype=np.float64) / self._rotation.outputs)
        unit = (self._unit * np.maximum(spread, np.finfo(np.float32).tiny)).astype(np.float32)[:, None]
        levels = self._padded_levels(mapped / unit)
        values = values_of(levels, self.bits)
        values[:, self._rotation.outputs :] = 0
        products = np.einsum("ij,ij->i", mapped, values, dtype=np.float64)
        squares = np.einsum("ij,ij->i", values, values, dtype=np.float64)
        return levels, np.asarray(products / squares, dtype=np.float32)

    def encode(self, vectors: Floats) -> tuple[Levels, Floats]:
        """Return levels and correction factors of documents (n, d); beside them, memory is that of 16,384 rows.

        Returns
        -------
        levels : (n, m) uint8, 0 to 2^bits - 1, of `transform`; 0 counts as positive, padding is 0.
        factors : (n, bits) float32, see `grid.correction_factors`.
        """
        checked = self._checked(vectors)
        levels = np.zeros((len(checked), self.code_dimension), dtype=np.uint8)
        factors = np.empty((len(checked), self.bits), dtype=np.float32)
        kept = self._rotation.outputs
        for rows in _chunks(len(checked)):
            rotated = self._rotation.apply(checked[rows] - self.mean)
            levels[rows] = self._padded_levels(rotated if self._scales is None else rotated / self._scales)
            factors[rows] = correction_factors(rotated, levels[rows, :kept], self.bits, self._scales)
        return levels, factors

    def reads(self, older: object) -> bool:  # noqa: ARG002 - part of the protocol
        """Return False: rotations of different fits have nothing in common."""
        return False

    def to_bytes(self) -> bytes:
        """Serialise; `TrainingFreeFactory.load` gives back a binarizer with exactly the same results."""
        if self._bytes is None:
            kind, arrays = self._rotation.parts()
            header: dict[str, str | int] = {"binarizer": FORMAT, "rotation": kind, "outputs": self._rotation.outputs}
            if self._scales is not None:
                header["bits"] = self.bits
                arrays = {**arrays, "scales": self._scales}
            self._bytes = write_arrays(header, {"mean": self.mean, **arrays})
        return self._bytes

    @property
    def _unit(self) -> float:
        """One unit of the grid, in standard deviations of a Gaussian that it is made for."""
        return GAUSSIAN_STEP[self.bits] * 2.0 ** (self.bits - 2)

    def _padded_levels(self, values: Floats) -> Levels:
        kept = self._rotation.outputs
        levels = np.zeros((len(values), self.code_dimension), dtype=np.uint8)
        levels[:, :kept] = levels_of(values[:, :kept], self.bits)
        return levels

    def _scaled(self, rotated: Floats) -> Floats:
        return rotated if self._scales is None else rotated * self._scales

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
    rotation : "random" takes random directions, "pca" the directions of largest variance, which are then
        rotated randomly among themselves, None "pca" when dimensions are dropped, else "random": with all
        dimensions kept neither is better than the other, and no directions need to be found.
    """

    def __init__(self, *, rotation: Literal["random", "pca"] | None = None) -> None:
        if rotation not in ("random", "pca", None):
            raise ValueError(f"rotation must be 'random' or 'pca', not {rotation!r}")
        self._rotation = rotation

    def fit(self, vectors: Floats, seed: int, *, bits: int = 1, dimensions: int | None = None) -> TrainingFree:
        """Fit on (n, d) float32, n >= 1.

        The same vectors and seed give the same bytes on one machine and library version; elsewhere rounding
        may differ, which is why the rotation itself is stored and not its seed.

        Parameters
        ----------
        bits : planes, 1 to 8.
        dimensions : code dimensions before rounding up to a multiple of 8; None keeps all d.

        Raises
        ------
        InvalidVectors
            No rows, or not finite.
        InvalidSize
            Bits or dimensions that are not possible.
        """
        check_bits(bits)
        array = np.asarray(vectors)
        if array.ndim != 2 or not array.size:
            raise InvalidVectors(f"a binarizer is fitted on (n, d) vectors, not on shape {array.shape}")
        dimension = array.shape[1]
        outputs = dimension if dimensions is None else dimensions
        if not 1 <= outputs <= dimension:
            raise InvalidSize(
                f"cannot keep {outputs} dimensions of vectors of dimension {dimension}",
                hint=f"choose 1 to {dimension} code dimensions",
            )
        mean: Floats = np.asarray(np.mean(array, axis=0, dtype=np.float64), dtype=np.float32)
        if not np.isfinite(mean).all():
            raise InvalidVectors("vectors to fit on are not all finite")
        rotation = self._fitted(array, mean, outputs, np.random.default_rng(seed))
        if bits == 1:
            return TrainingFree(mean=mean, rotation=rotation)
        squares = np.zeros(outputs)
        for rows in _chunks(len(array)):
            squares += np.square(rotation.apply(array[rows].astype(np.float32) - mean), dtype=np.float64).sum(axis=0)
        spread = np.sqrt(squares / len(array))
        # A dimension without variance takes the scale of the others: whatever it shows later has a level.
        typical = float(np.sqrt(np.mean(np.square(spread)))) or 1.0
        spread = np.maximum(spread, 1e-3 * typical)
        scales = np.asarray(spread * GAUSSIAN_STEP[bits] * 2 ** (bits - 1) / 2, dtype=np.float32)
        return TrainingFree(mean=mean, rotation=rotation, bits=bits, scales=scales)

    def _fitted(self, array: NDArray[Any], mean: Floats, outputs: int, rng: np.random.Generator) -> Rotation:
        dimension = len(mean)
        kind = self._rotation or ("pca" if outputs < dimension else "random")
        if kind == "random":
            return random_rotation(dimension, outputs, rng)
        axes = principal_axes(array, mean, outputs)
        mixed = random_rotation(outputs, outputs, rng).apply(np.ascontiguousarray(axes.T)).T
        return DenseRotation(matrix=mixed)

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
            mean, scales = arrays.pop("mean"), arrays.pop("scales", None)
            rotation = kinds[header["rotation"]].from_parts(arrays, header["outputs"])
            bits = header.get("bits", 1)
            if mean.dtype != np.float32 or mean.shape != (rotation.inputs,):
                raise ValueError("the mean does not fit the rotation")
            if not isinstance(bits, int) or not 1 <= bits <= 8 or (scales is None) != (bits == 1):
                raise ValueError("bits and scales do not fit each other")
            if scales is not None and (scales.shape != (rotation.outputs,) or not (scales > 0).all()):
                raise ValueError("the scales do not fit the rotation")
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptBinarizer(f"binarizer with inconsistent parts: {error}") from error
        return TrainingFree(mean=mean, rotation=rotation, bits=bits, scales=scales)


def _chunks(n: int) -> Iterator[slice]:
    for start in range(0, n, CHUNK_ROWS):
        yield slice(start, start + CHUNK_ROWS)


def _frozen(array: Floats) -> Floats:
    copy = np.array(array, dtype=np.float32, order="C")
    copy.flags.writeable = False
    return copy
