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

Coded = Callable[[slice | Rows], Floats]
Interval = tuple[float, float, float]
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
    unseen : the same difference among the held-out documents alone, which no code was fitted to: what a collection much
        larger than these vectors will see. None where queries of their own were held out instead.
    verdict : "better" if the whole interval of `difference` is above 0, that of no measure is below 0, and that of
        `unseen` is not below 0 either; else "not better".
    backward : under compatible training, the measures of new queries over the older codes, and of the older
        binarizer's own queries over them (`older`); None otherwise.
    vectors, queries : how many were trained on, and how many judge.
    epoch : the one that was kept; 0 is the start.
    history : validation quality after every epoch, the start first; under compatible training the mean of those of the
        new queries over new and over older codes.
    """

    learned: dict[str, float]
    training_free: dict[str, float]
    difference: Interval
    unseen: Interval | None
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

    def free_codes(rows: slice | Rows) -> Floats:
        return codes_of(*baseline.encode(data.documents[rows]))

    mapped, free_mapped = binarizer.queries(test.vectors), baseline.queries(test.vectors)
    kept = mapped[:, : binarizer.dimensions]
    learned, free = measure(kept, coded, data, test), measure(free_mapped, free_codes, data, test)
    difference, verdict = compare(learned, free, seed)
    unseen = None
    rows = np.setdiff1d(np.arange(len(data.documents)), data.training)
    if len(rows):
        pairs = measure_among(rows, kept, coded, data, test), measure_among(rows, free_mapped, free_codes, data, test)
        unseen = interval(quality(pairs[0]) - quality(pairs[1]), seed)
        verdict = verdict if unseen[2] >= 0 else "not better"
    backward = own = None
    if older is not None:
        m = older.levels.shape[1]
        backward = means(measure(mapped[:, :m], older.codes, data, test))
        own = None if older.held_out is None else means(measure(older.held_out, older.codes, data, test))
    return TrainingReport(
        learned=means(learned),
        training_free=means(free),
        difference=difference,
        unseen=unseen,
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
    coded : given rows, returns their codes, factor times value, (b, m) float32.
    """

    def block(rows: slice) -> Block:
        return coded(rows), data.shifts[rows]

    found = best_rows(np.ascontiguousarray(queries), len(data.documents), DEPTH, block, own=asked.own)
    return per_query(found, asked.rows)


def measure_among(rows: Rows, queries: Floats, coded: Coded, data: TrainingData, asked: Asked) -> PerQuery:
    """Return what `measure` would if the documents at ascending rows, the queries' own among them, were all."""
    own = np.searchsorted(rows, asked.own)

    def exact(part: slice) -> Block:
        return data.block(rows[part])

    def block(part: slice) -> Block:
        return coded(rows[part]), data.shifts[rows[part]]

    truth = best_rows(asked.vectors, len(rows), TRUTH, exact, own=own)
    return per_query(best_rows(np.ascontiguousarray(queries), len(rows), DEPTH, block, own=own), truth)


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


def interval(differences: NDArray[np.float64], seed: int) -> Interval:
    """Return the mean of differences, one a query, and its 95 % bootstrap interval over queries: mean, low, high."""
    picks = np.random.default_rng(seed).integers(0, len(differences), (DRAWS, len(differences)))
    low, high = np.percentile(differences[picks].mean(axis=1), [2.5, 97.5])
    return round(float(differences.mean()), 5), round(float(low), 5), round(float(high), 5)


def compare(a: PerQuery, b: PerQuery, seed: int) -> tuple[Interval, Literal["better", "not better"]]:
    """Return the difference in quality a - b with its interval, and whether a is better.

    Better is what is better as a whole and worse in no measure.
    """
    whole = interval(quality(a) - quality(b), seed)
    worse = any(interval(a[name] - b[name], seed)[2] < 0 for name in MEASURES)
    return whole, "better" if whole[1] > 0 and not worse else "not better"
