"""Compares two binarizers on vectors of one collection, with the measures that training reports.

Knows nothing of how binarizers are made, of jobs or of HTTP.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from index.binarizer import Binarizer
from index.points import Distance
from models.neighbours import Block, Rows, best_rows
from models.training_data import TRUTH
from models.training_report import DEPTH, PerQuery, codes_of, means, per_query
from models.training_report import compare as paired

Float32s = NDArray[np.float32]

TOLERANCE: Final = 0.02  # a loss beyond this counts, however few queries there are to prove it
_SEED: Final = 0


@dataclass(frozen=True, slots=True)
class Comparison:
    """What two binarizers find, at all their bits, of what exact search finds.

    Parameters
    ----------
    current, candidate : means over the queries: r10@N is the share of the exact best 10 among the best N by codes,
        ndcg10 the ranking by codes alone.
    difference, low, high : candidate minus current, of the mean of these, and its paired 95 % interval.
    worse : the whole interval lies below 0, or the difference below -0.02.
    queries, database : how many vectors were asked for, among how many others.
    """

    current: dict[str, float]
    candidate: dict[str, float]
    difference: float
    low: float
    high: float
    worse: bool
    queries: int
    database: int

    def __str__(self) -> str:
        """Say in one sentence how they compare."""
        both = ", ".join(f"{name} {self.current[name]:.4f} -> {self.candidate[name]:.4f}" for name in self.current)
        return f"{both}; difference {self.difference:+.4f} ({self.low:+.4f} to {self.high:+.4f})"


def compare(
    current: Binarizer, candidate: Binarizer, queries: Float32s, database: Float32s, distance: Distance
) -> Comparison:
    """Compare on queries (nq, d), nq >= 1, and a database (n, d), n >= 1, that does not hold them.

    Vectors are as a collection stores them: of unit length under Cosine.
    """
    truth = best_rows(queries, len(database), TRUTH, lambda rows: (database[rows], _shifts(database[rows], distance)))
    before = _measured(current, queries, database, distance, truth)
    now = _measured(candidate, queries, database, distance, truth)
    (difference, low, high), _ = paired(now, before, _SEED)
    return Comparison(
        current=means(before),
        candidate=means(now),
        difference=difference,
        low=low,
        high=high,
        worse=high < 0 or difference < -TOLERANCE,
        queries=len(queries),
        database=len(database),
    )


def _measured(binarizer: Binarizer, queries: Float32s, database: Float32s, distance: Distance, truth: Rows) -> PerQuery:
    def block(rows: slice) -> Block:
        return codes_of(*binarizer.encode(database[rows])), _shifts(database[rows], distance)

    # `<q, mean>` is the same for all rows of one query: it changes no order.
    return per_query(best_rows(binarizer.queries(queries), len(database), DEPTH, block), truth)


def _shifts(vectors: Float32s, distance: Distance) -> Float32s:
    """Return what is added to `<q, v>` for the order under a distance."""
    if distance == "Euclid":
        return np.asarray(np.einsum("ij,ij->i", vectors, vectors) / -2, np.float32)
    return np.zeros(len(vectors), np.float32)
