"""Quality of a ranking against exact search and against judgements, query by query; paired intervals of differences."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarks.compression.sets import Corpus, Positions
from service.evaluation import ndcg

DEPTHS = (10, 20, 100)
RERANKS = (20, 100)
TOP = 10
MEASURES = ("r10@10", "r10@20", "r10@100", "nDCG@10 codes", "nDCG@10 rerank 20", "nDCG@10 rerank 100")

PerQuery = dict[str, list[float]]


def gains(corpus: Corpus, ranking: Positions) -> list[float]:
    """Return nDCG@10 of every query."""
    rows = ranking[:, :TOP].tolist()
    pairs = zip(rows, corpus.relevant, strict=True)
    return [round(ndcg([p for p in row if p >= 0], judged, TOP), 5) for row, judged in pairs]


def reranked(corpus: Corpus, ranking: Positions) -> Positions:
    """Return a ranking's positions ordered by their exact scores."""
    scores = np.empty(ranking.shape, dtype=np.float32)
    for i, row in enumerate(ranking):
        scores[i] = np.where(row >= 0, corpus.documents[row] @ corpus.queries[i], -np.inf)
    return np.take_along_axis(ranking, np.argsort(-scores, axis=1, kind="stable"), axis=1)


def measure(corpus: Corpus, search: Callable[[int], Positions], *, rescores: bool = False) -> PerQuery:
    """Return every measure of every query.

    Parameters
    ----------
    search : given n, returns the (nq, n) best positions by codes, best first, -1 where there is none.
    rescores : ask for each depth anew, because what comes first depends on how many were wanted.
    """
    deepest = search(max(DEPTHS))
    rankings = {depth: search(depth) if rescores else deepest[:, :depth] for depth in DEPTHS}
    out: PerQuery = {}
    for depth, ranking in rankings.items():
        held = zip(corpus.truth.tolist(), ranking.tolist(), strict=True)
        out[f"r10@{depth}"] = [len({*true} & {*row}) / TOP for true, row in held]
    out["nDCG@10 codes"] = gains(corpus, rankings[TOP])
    for depth in RERANKS:
        out[f"nDCG@10 rerank {depth}"] = gains(corpus, reranked(corpus, rankings[depth]))
    return out


def paired_interval(
    pairs: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]], *, draws: int = 4_000, seed: int = 0
) -> tuple[float, float, float]:
    """Return the mean difference a - b over sets, and its 95 % bootstrap interval over seeds and queries.

    Parameters
    ----------
    pairs : for every set, a and b of shapes (seeds of a, nq) and (seeds of b, nq) over the same queries. Queries are
        drawn once for both sides, seeds for each side by itself.
    """
    rng = np.random.default_rng(seed)
    totals = np.zeros(draws)
    mean = 0.0
    for a, b in pairs:
        mean += float(a.mean() - b.mean()) / len(pairs)
        for i in range(draws):
            queries = rng.integers(0, a.shape[1], a.shape[1])
            seeds = rng.integers(0, len(a), len(a)), rng.integers(0, len(b), len(b))
            drawn = a[seeds[0]].mean(0)[queries].mean() - b[seeds[1]].mean(0)[queries].mean()
            totals[i] += drawn / len(pairs)
    low, high = np.percentile(totals, [2.5, 97.5])
    return mean, float(low), float(high)
