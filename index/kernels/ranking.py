"""What comes after candidates: estimates of their scores, the choice of what is read, scores of vectors, the best."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from index.kernels import library
from index.kernels.library import address, check
from index.points import Float32s, Rows

FILE_FIELDS = 6


class Candidates(NamedTuple):
    """What was found in one segment, and of what their scores are estimated.

    An estimate is `factor * (sum + bonus) * scale + shift + beta`.

    Attributes
    ----------
    positions : (k,), each below n. sums : (k,) float32.
    factors : (n,) in one piece. beta : (n,), None for zeros.
    offsets : (n,) the row of each position minus the first one; None where that is the position.
    """

    positions: NDArray[np.int64]
    sums: Float32s
    factors: NDArray[np.float16] | Float32s
    beta: Float32s | None
    offsets: NDArray[np.uint32] | None
    first_row: int
    bonus: float
    scale: float
    shift: float

    def arguments(self) -> tuple[int | float | None, ...]:
        """Return what the kernels take for them."""
        return (
            address(self.positions),
            address(self.sums),
            len(self.positions),
            address(self.factors),
            self.factors.itemsize,
            None if self.beta is None else address(self.beta),
            None if self.offsets is None else address(self.offsets),
            self.first_row,
            self.bonus,
            self.scale,
            self.shift,
        )


def estimates(candidates: Candidates) -> tuple[Rows, Float32s]:
    """Return rows, and estimates of their scores, (k,) float32."""
    count = len(candidates.positions)
    rows, estimated = np.empty(count, dtype=np.int64), np.empty(count, dtype=np.float32)
    library.kernels().estimates(*candidates.arguments(), address(rows), address(estimated))
    return rows, estimated


def highest(rows: Rows, scores: Float32s, count: int) -> Rows:
    """Return the rows of the highest scores, ascending; of equal scores the lower rows."""
    rows, scores = np.ascontiguousarray(rows), np.ascontiguousarray(scores, dtype=np.float32)
    chosen = np.empty(min(count, len(rows)), dtype=np.int64)
    check(library.kernels().choose(address(rows), address(scores), len(rows), len(chosen), address(chosen)))
    return chosen


def best(rows: Rows, scores: Float32s, k: int) -> tuple[Rows, Float32s]:
    """Return the k best, best first; of equal scores the lower row comes first."""
    rows, scores = np.ascontiguousarray(rows), np.ascontiguousarray(scores, dtype=np.float32)
    count = min(k, len(rows))
    best_rows, best_scores = np.empty(count, dtype=np.int64), np.empty(count, dtype=np.float32)
    status = library.kernels().best(
        address(rows), address(scores), len(rows), count, address(best_rows), address(best_scores)
    )
    check(status)
    return best_rows, best_scores


def vector_scores(files: NDArray[np.int64], rows: Rows, query: Float32s, *, distance: bool) -> tuple[Float32s, float]:
    """Score some vectors: their products with a (d,) query, or with `distance` the negative distances, (k,) float32.

    Returns the seconds that reading them took, too, in which others may have held Python's lock.

    Parameters
    ----------
    files : (f, `FILE_FIELDS`) of ascending rows: the address of the first vector, the first row, the row behind the
        last, the bytes of a value (4 or 2), the address of the file's rows, ascending int64, or 0 where none is
        missing, and how many these are.
    rows : (k,) ascending.

    Raises IndexError where no file holds a row.
    """
    rows = np.ascontiguousarray(rows)
    query = np.ascontiguousarray(query, dtype=np.float32)
    scores, seconds = np.empty(len(rows), dtype=np.float32), np.empty(1)
    status = library.kernels().scores(
        address(files),
        len(files),
        address(rows),
        len(rows),
        address(query),
        len(query),
        distance,
        address(scores),
        address(seconds),
    )
    check(status, "a row is in no file, or rows do not ascend")
    return scores, float(seconds[0])


def finish(
    candidates: Candidates, read: int, k: int, files: NDArray[np.int64], query: Float32s, *, distance: bool
) -> tuple[Rows, Float32s, float]:
    """Estimate scores, score the vectors of the best, and return the best of these: what the other steps do one by one.

    Parameters
    ----------
    read : how many vectors are read, at most as many as there are candidates.
    k : how many come back at most. Others: see `vector_scores`.

    Returns
    -------
    Rows, best first, of equal scores the lower ones, and scores; the seconds that reading took.

    Raises IndexError where no file holds a row.
    """
    query = np.ascontiguousarray(query, dtype=np.float32)
    count = min(k, read)
    rows, scores, seconds = np.empty(count, dtype=np.int64), np.empty(count, dtype=np.float32), np.empty(1)
    status = library.kernels().finish(
        *candidates.arguments(),
        address(files),
        len(files),
        read,
        address(query),
        len(query),
        distance,
        count,
        address(rows),
        address(scores),
        address(seconds),
    )
    check(status, "a row is in no file")
    return rows, scores, float(seconds[0])
