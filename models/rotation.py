"""Maps with orthonormal rows: dense ones, and cheap ones for wide vectors. Knows nothing of codes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, Self

import numpy as np
from numpy.typing import NDArray

DENSE_LIMIT = 1024
BLOCK = 256
ROUNDS = 2
CHUNK_ROWS = 16384

Floats = NDArray[np.float32]
Arrays = Mapping[str, NDArray[Any]]


class Rotation(Protocol):
    """An orthonormal map of `inputs` to `outputs` <= `inputs` dimensions."""

    inputs: int
    outputs: int

    def apply(self, vectors: Floats) -> Floats:
        """Map rows: (n, inputs) float32 to (n, outputs) float32."""
        ...

    def parts(self) -> tuple[str, dict[str, NDArray[Any]]]:
        """Return the kind of rotation and the arrays that make it."""
        ...

    @classmethod
    def from_parts(cls, arrays: Arrays, outputs: int) -> Self:
        """Rebuild from `parts`; ValueError or KeyError if they do not fit."""
        ...


class DenseRotation:
    """One matrix.

    Parameters
    ----------
    matrix : (outputs, inputs) float32 with orthonormal rows.
    """

    KIND: ClassVar[str] = "dense"

    def __init__(self, *, matrix: Floats) -> None:
        self._matrix = np.ascontiguousarray(matrix, dtype=np.float32)
        self.outputs, self.inputs = self._matrix.shape

    def apply(self, vectors: Floats) -> Floats:
        """Map rows: (n, inputs) float32 to (n, outputs) float32."""
        return vectors @ self._matrix.T

    def parts(self) -> tuple[str, dict[str, NDArray[Any]]]:
        """Return the kind of rotation and the arrays that make it."""
        return self.KIND, {"matrix": self._matrix}

    @classmethod
    def from_parts(cls, arrays: Arrays, outputs: int) -> Self:
        """Rebuild from `parts`; ValueError or KeyError if they do not fit."""
        matrix = arrays["matrix"]
        if matrix.dtype != np.float32 or matrix.ndim != 2 or matrix.shape[0] != outputs:
            raise ValueError("the matrix is not that of a rotation")
        if not 1 <= outputs <= matrix.shape[1]:
            raise ValueError("the matrix has more rows than columns, or none")
        return cls(matrix=matrix)


class BlockRotation:
    """Rounds of a permutation followed by small random rotations of neighbouring dimensions.

    Costs `2 * inputs * 256` multiplications a vector instead of `inputs^2`. Two rounds with a random
    permutation between them let nearly every output depend on every input.

    Parameters
    ----------
    orders : (rounds, inputs) int32, one permutation a round.
    blocks : per round and block the rows of a (w, w) float32 orthogonal matrix, all flattened into one array;
        widths are those of `block_widths(inputs)`.
    outputs : how many of the rotated dimensions to keep, from the first.
    """

    KIND: ClassVar[str] = "blocks"

    def __init__(self, *, orders: NDArray[np.int32], blocks: Floats, outputs: int) -> None:
        self.inputs = orders.shape[1]
        self.outputs = outputs
        self._orders = orders
        self._blocks = blocks

    def apply(self, vectors: Floats) -> Floats:
        """Map rows: (n, inputs) float32 to (n, outputs) float32."""
        result = np.empty((len(vectors), self.outputs), dtype=np.float32)
        for start in range(0, len(vectors), CHUNK_ROWS):
            rows = slice(start, start + CHUNK_ROWS)
            result[rows] = self._rounds(vectors[rows])[:, : self.outputs]
        return result

    def _rounds(self, vectors: Floats) -> Floats:
        current = vectors
        offset = 0
        for order in self._orders:
            mixed = current[:, order]
            current = np.empty_like(mixed)
            column = 0
            for width in block_widths(self.inputs):
                block = self._blocks[offset : offset + width * width].reshape(width, width)
                columns = slice(column, column + width)
                current[:, columns] = mixed[:, columns] @ block.T
                offset += width * width
                column += width
        return current

    def parts(self) -> tuple[str, dict[str, NDArray[Any]]]:
        """Return the kind of rotation and the arrays that make it."""
        return self.KIND, {"orders": self._orders, "blocks": self._blocks}

    @classmethod
    def from_parts(cls, arrays: Arrays, outputs: int) -> Self:
        """Rebuild from `parts`; ValueError or KeyError if they do not fit."""
        orders, blocks = arrays["orders"], arrays["blocks"]
        if orders.dtype != np.int32 or orders.ndim != 2 or blocks.dtype != np.float32:
            raise ValueError("the arrays are not those of a block rotation")
        inputs = orders.shape[1]
        size = len(orders) * sum(width * width for width in block_widths(inputs))
        if blocks.shape != (size,) or not isinstance(outputs, int) or not 1 <= outputs <= inputs:
            raise ValueError("the blocks do not fit the permutations")
        if not (np.sort(orders, axis=1) == np.arange(inputs)).all():
            raise ValueError("an order is not a permutation")
        return cls(orders=orders, blocks=blocks, outputs=outputs)


def block_widths(dimension: int) -> list[int]:
    """Widths of the fewest blocks of at most 256 that cover the dimensions, nearly even, wider ones first."""
    count = -(-dimension // BLOCK)
    short, wider = divmod(dimension, count)
    return [short + 1] * wider + [short] * (count - wider)


def random_rotation(dimension: int, outputs: int, rng: np.random.Generator) -> Rotation:
    """Draw an orthonormal map of `dimension` to `outputs` dimensions; in blocks above 1024 dimensions."""
    if dimension <= DENSE_LIMIT:
        return DenseRotation(matrix=_random_orthogonal(dimension, rng)[:outputs])
    orders = []
    blocks: list[Floats] = []
    for _ in range(ROUNDS):
        orders.append(rng.permutation(dimension).astype(np.int32))
        blocks.extend(_random_orthogonal(width, rng).ravel() for width in block_widths(dimension))
    return BlockRotation(orders=np.stack(orders), blocks=np.concatenate(blocks), outputs=outputs)


def principal_axes(vectors: NDArray[Any], mean: Floats, count: int) -> Floats:
    """Return the `count` directions of largest variance.

    Parameters
    ----------
    vectors : (n, d) floats; n may be smaller than `count`: directions without variance complete the basis.
    mean : (d,) float32, the mean of the vectors.

    Returns
    -------
    (count, d) float32 with orthonormal rows, largest variance first, the largest entry of each positive.
    """
    dimension = vectors.shape[1]
    scatter = np.zeros((dimension, dimension))
    for start in range(0, len(vectors), CHUNK_ROWS):
        centred = vectors[start : start + CHUNK_ROWS].astype(np.float64) - mean
        scatter += centred.T @ centred
    _, axes = np.linalg.eigh(scatter)
    chosen = axes.T[::-1][:count]
    largest = np.take_along_axis(chosen, np.abs(chosen).argmax(axis=1, keepdims=True), axis=1)
    return np.asarray(chosen * np.sign(largest), dtype=np.float32)


def _random_orthogonal(dimension: int, rng: np.random.Generator) -> Floats:
    """Uniform (Haar) orthogonal matrix: QR of a Gaussian, signs fixed by R's diagonal (Mezzadri 2007)."""
    q, r = np.linalg.qr(rng.standard_normal((dimension, dimension)))
    return np.asarray(q * np.where(np.diagonal(r) < 0, -1.0, 1.0), dtype=np.float32)
