"""How well codes find what exact search finds, query by query; two codes compared; the report of a training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from models.binarizer import TrainingFreeFactory
from models.grid import Floats, Levels, values_of
from models.neighbours import Block, Rows, best_rows
from models.recurrent import Recurrent
from models.training_data import TRUTH, Asked, TrainingData
from models.training_older import OlderCodes

DEPTH: Final = 100
MEASURES: Final = ("r10@10", "r10@20", "r10@100", "ndcg10")
DRAWS: Final = 2000

Coded = Callable[[slice], Floats]
PerQuery = dict[str, NDArray[np.float64]]


@dataclass(frozen=True)
class TrainingReport:
    """What came out of a training.

    Attributes
    ----------
    learned, training_free : mean of every measure over the held-out test queries, both at the same bytes. r10@N is the
        share of the exact best 10 among the code's best N, ndcg10 its ranking by exact rank (first 10, last 1).
    difference : learned minus training-free of `quality`, the mean of the four measures, with its 95 % bootstrap
        interval over queries: mean, low, high.
    verdict : "better" if the whole interval is above 0 and no measure's interval is below 0, else "not better".
    backward : under compatible training, the measures of new queries over the older codes, and of the older
        binarizer's own queries over them (`older`); None otherwise.
    vectors, queries : how many were trained on, and how many judge.
    epoch : the one that was kept; 0 is the start.
    history : validation quality after every epoch, the start first; under compatible training the mean of those of the
        new queries over new and over older codes.
    """

    learned: dict[str, float]
    training_free: dict[str, float]
    difference: tuple[float, float, float]
    verdict: Literal["better", "not better"]
    bits: int
    code_dimension: int
    seed: int
    vectors: int
    queries: int
    backward: dict[str, float] | None = None
    older: dict[str, float] | None = None
    epoch: int = 0
    history: list[float] = field(default_factory=list)
    seconds: float = 0.0
    options: dict[str, object] = field(default_factory=dict)


def report_on(
    binarizer: Recurrent, coded: Coded, data: TrainingData, older: OlderCodes | None, *, seed: int
) -> TrainingReport:
    """Judge a binarizer on the held-out test queries.

    Parameters
    ----------
    binarizer : for vectors in the units of `data`.
    coded : its codes of the documents.
    """
    test = data.test
    baseline = TrainingFreeFactory().fit(
        data.documents[data.training], seed, bits=binarizer.bits, dimensions=binarizer.dimensions
    )
    mapped = binarizer.queries(test.vectors)
    learned = measure(mapped[:, : binarizer.dimensions], coded, data, test)
    free = measure(
        baseline.queries(test.vectors), lambda rows: codes_of(*baseline.encode(data.documents[rows])), data, test
    )
    difference, verdict = compare(learned, free, seed)
    backward = own = None
    if older is not None:
        m = older.levels.shape[1]
        backward = means(measure(mapped[:, :m], older.codes, data, test))
        own = None if older.held_out is None else means(measure(older.held_out, older.codes, data, test))
    return TrainingReport(
        learned=means(learned),
        training_free=means(free),
        difference=difference,
        verdict=verdict,
        bits=binarizer.bits,
        code_dimension=binarizer.code_dimension,
        seed=seed,
        vectors=len(data.training),
        queries=len(test.own),
        backward=backward,
        older=own,
    )


def codes_of(levels: Levels, factors: Floats) -> Floats:
    """Return factor times value, (n, m) float32, of levels (n, m) and factors (n, bits)."""
    return values_of(levels, factors.shape[1]) * factors[:, -1:]


def measure(queries: Floats, coded: Coded, data: TrainingData, asked: Asked) -> PerQuery:
    """Return every measure of every query, of a ranking of all documents by their codes.

    Parameters
    ----------
    queries : (nq, m) float32, the asked ones in code space.
    coded : given a slice of rows, returns their codes, factor times value, (b, m) float32.
    """

    def block(rows: slice) -> Block:
        return coded(rows), data.shifts[rows]

    found = best_rows(np.ascontiguousarray(queries), len(data.documents), DEPTH, block, own=asked.own)
    return per_query(found, asked.rows)


def per_query(found: Rows, truth: Rows) -> PerQuery:
    """Return the measures of rankings (nq, >= 1) against the exact best (nq, 10); -1 counts for nothing."""
    places = np.arange(1, truth.shape[1] + 1)
    gains = truth.shape[1] + 1.0 - places
    hits = (found[:, :, None] == truth[:, None, :]) & (truth >= 0)[:, None, :]
    out = {f"r10@{n}": hits[:, :n].any(axis=1).mean(axis=1) for n in (10, 20, DEPTH)}
    reached = (hits[:, :TRUTH] * gains).sum(axis=2) / np.log2(np.arange(2, hits[:, :TRUTH].shape[1] + 2))
    out["ndcg10"] = reached.sum(axis=1) / (gains / np.log2(places + 1)).sum()
    return out


def quality(measured: PerQuery) -> NDArray[np.float64]:
    """Return one number a query: the mean of the measures."""
    return np.asarray(np.mean([measured[name] for name in MEASURES], axis=0))


def means(measured: PerQuery) -> dict[str, float]:
    """Return the mean of every measure, rounded to 5 places."""
    return {name: round(float(measured[name].mean()), 5) for name in MEASURES}


def compare(a: PerQuery, b: PerQuery, seed: int) -> tuple[tuple[float, float, float], Literal["better", "not better"]]:
    """Return mean and 95 % interval of the difference in quality a - b, and whether a is better.

    The interval is a paired bootstrap over queries. Better is what is better as a whole and worse in no measure.
    """
    picks = np.random.default_rng(seed).integers(0, len(a[MEASURES[0]]), (DRAWS, len(a[MEASURES[0]])))

    def interval(differences: NDArray[np.float64]) -> tuple[float, float, float]:
        low, high = np.percentile(differences[picks].mean(axis=1), [2.5, 97.5])
        return round(float(differences.mean()), 5), round(float(low), 5), round(float(high), 5)

    whole = interval(quality(a) - quality(b))
    worse = any(interval(a[name] - b[name])[2] < 0 for name in MEASURES)
    return whole, "better" if whole[1] > 0 and not worse else "not better"
