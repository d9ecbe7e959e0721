"""The collections that are searched: evaluation sets alone, and with distractors added; their exact answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.embeddings import cached, retrieval_set

Floats = NDArray[np.float32]
Positions = NDArray[np.int64]

SETS = ("scifact", "cosqa", "covidqa", "limit-50k")
DOCUMENTS = {"limit-50k": 16_384}  # of this set the judged documents and the first others: encoding all takes an hour
DISTRACTORS = "distill-open"
TRUTH = 10
BLOCK_ROWS = 16_384
QUERIES_WITH_DISTRACTORS = 500  # at most: a search among 200,000 costs forty times one in a set alone


@dataclass(frozen=True, slots=True)
class Corpus:
    """Documents and judged queries, with the exact answers.

    Attributes
    ----------
    name : the set's, with "+distill" where distractors follow its documents.
    documents : (n, d) float32 unit vectors.
    queries : (nq, d) float32 unit vectors.
    relevant : for each query, document positions to grades.
    truth : (nq, 10) int64, positions of the exact best, best first.
    """

    name: str
    documents: Floats
    queries: Floats
    relevant: list[dict[int, int]]
    truth: Positions


def nearest(queries: Floats, n: int, k: int, documents: Callable[[slice], Floats]) -> Positions:
    """Return the positions of the k largest inner products, (nq, k), best first.

    Parameters
    ----------
    documents : gives rows of the n documents, float32, block by block: they may be decoded as they are asked for.
    """
    scores, positions = np.empty((len(queries), 0), dtype=np.float32), np.empty((len(queries), 0), dtype=np.int64)
    for start in range(0, n, BLOCK_ROWS):
        block = queries @ documents(slice(start, min(start + BLOCK_ROWS, n))).T
        best = np.argpartition(block, -min(k, block.shape[1]), axis=1)[:, -k:]
        positions = np.concatenate([positions, best + start], axis=1)
        scores = np.concatenate([scores, np.take_along_axis(block, best, axis=1)], axis=1)
        best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        positions, scores = np.take_along_axis(positions, best, axis=1), np.take_along_axis(scores, best, axis=1)
    return positions


def exact(queries: Floats, documents: Floats, k: int) -> Positions:
    """Return the positions of the k nearest documents, (nq, k), best first."""
    return nearest(queries, len(documents), k, lambda rows: documents[rows])


def distractors(cache: Path, rows: int) -> Floats:
    """Return the first rows of the cached distractors, a random sample of their file."""
    return cached(cache / DISTRACTORS, rows)


def corpora(names: list[str], data: Path, cache: Path, distractor_rows: int) -> Iterator[Corpus]:
    """Yield each named collection ("scifact+distill": with distractors); what is not encoded yet is skipped."""
    for name in names:
        base, _, added = name.partition("+")
        try:
            found = retrieval_set(data / base, cache, documents=DOCUMENTS.get(base), only_cached=True)
            documents, asked = found.documents, len(found.queries)
            if added:
                documents = np.concatenate([documents, distractors(cache, distractor_rows)])
                asked = min(asked, QUERIES_WITH_DISTRACTORS)
        except FileNotFoundError as error:
            print(f"{name}: skipped, {error}", flush=True)
            continue
        chosen = np.sort(np.random.default_rng(0).permutation(len(found.queries))[:asked])
        queries = np.ascontiguousarray(found.queries[chosen])
        relevant = [found.relevant[i] for i in chosen]
        yield Corpus(name, documents, queries, relevant, exact(queries, documents, TRUTH))
