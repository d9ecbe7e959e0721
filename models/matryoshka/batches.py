"""What one step trains on: some pairs, and which of their documents answer which query. Knows no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.matryoshka.pairs import Pairs, Rows


@dataclass(frozen=True)
class Batch:
    """Queries and the documents that they are scored against.

    Attributes
    ----------
    queries : n texts; documents : N texts, each once.
    positive : (n,) int64, the column of each query's own positive.
    allowed : (n, N) bool, false where a document is another positive of the query.
    """

    queries: list[str]
    documents: list[str]
    positive: Rows
    allowed: NDArray[np.bool_]


def make_batch(pairs: Pairs, rows: Rows, *, negatives: int, seed: Sequence[int]) -> Batch:
    """Return the batch of some pairs.

    Parameters
    ----------
    rows : (n,) numbers of pairs.
    negatives : most hard negatives of a pair; they are drawn by `seed` where there are more.
    """
    rng = np.random.default_rng(list(seed))
    positives = pairs.positives[rows]
    chosen = [positives]
    for row in rows.tolist():
        hard = pairs.negatives[row]
        chosen.append(hard if len(hard) <= negatives else rng.choice(hard, negatives, replace=False))
    documents = np.unique(np.concatenate(chosen))
    positive = np.searchsorted(documents, positives)
    queries = pairs.queries[rows]
    allowed = np.array([~np.isin(documents, pairs.answers[query]) for query in queries.tolist()])
    allowed[np.arange(len(rows)), positive] = True
    return Batch(
        [pairs.texts[i] for i in queries.tolist()], [pairs.texts[i] for i in documents.tolist()], positive, allowed
    )
