"""Scoring full-precision vectors: of everything, of chosen rows, of the tail.

Works on a view and rows; knows neither ids nor payloads nor SQLite. Scores: higher is better; under Euclid
the negative distance.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from index.allowed import Allowed
from index.kernels import best
from index.points import Distance, Float32s, Rows, Stages
from index.ranking import Clock, Ranking, joined
from index.vector_file import chunk_rows
from index.view import View

TINY = np.float32(1e-12)
EUCLID_ROWS = 256  # differences that stay in the cache


@dataclass(frozen=True, slots=True, eq=False)
class Scorer:
    """What full-precision vectors are compared with.

    Parameters
    ----------
    query : (d,) float32.
    within : (s, d) float32, orthonormal rows that span a part of the space: under Cosine, documents are compared by
        their direction in it, as the query, which must lie in it, is. None compares whole vectors.
    """

    query: Float32s
    distance: Distance
    within: Float32s | None = None

    def scores(self, vectors: Float32s) -> Float32s:
        """Return the scores `(n,)` of `(n, d)` vectors; 0 for one that has no direction within."""
        if self.distance == "Euclid":
            return self._negative_distances(vectors)
        products = np.asarray(vectors @ self.query)
        if self.within is not None and self.distance == "Cosine":
            parts = vectors @ self.within.T
            products /= np.maximum(np.sqrt(np.vecdot(parts, parts)), TINY)
        return products

    def _negative_distances(self, vectors: Float32s) -> Float32s:
        squares = np.empty(len(vectors), dtype=np.float32)
        for start in range(0, len(vectors), EUCLID_ROWS):
            difference = vectors[start : start + EUCLID_ROWS] - self.query
            np.einsum("ij,ij->i", difference, difference, out=squares[start : start + EUCLID_ROWS])
        return -np.sqrt(squares)


def search_exact(view: View, scorer: Scorer, k: int, allowed: Allowed | None, deadline: float | None) -> Ranking:
    """Score every (allowed) full-precision vector. Ties: the lower row first."""
    stages = Stages(mode="exact", plan="read all" if allowed is None else "read allowed")
    clock = Clock([stages], deadline)
    kept: list[tuple[Rows, Float32s]] = []
    for rows, scores in _exact_scores(view, scorer, allowed):
        clock.check()
        stages.scanned += len(rows)
        kept.append(best(rows, scores, k))
        if len(kept) > 64:
            kept = [best(*joined(kept), k)]
    rows, scores = best(*joined(kept), k)
    clock.lap("exact")
    stages.reranked = stages.scanned
    stages.bytes_read = stages.scanned * view.row_bytes
    return Ranking(rows=rows, scores=scores, stages=stages)


def _exact_scores(view: View, scorer: Scorer, allowed: Allowed | None) -> Iterator[tuple[Rows, Float32s]]:
    """Yield rows and scores, in bounded pieces, of everything that counts and is allowed."""
    if allowed is not None:
        yield from read_scores(view, scorer, allowed.rows)
        return
    for segment in view.segments:
        # Scoring a few dead rows too is cheaper than copying the living ones together.
        counts = segment.alive_by_row()
        for rows, vectors in view.pieces(segment.first_row, segment.end_row):
            scores = scorer.scores(vectors)
            if counts is not None:
                keep = counts[rows - segment.first_row]
                rows, scores = rows[keep], scores[keep]
            yield rows, scores
    yield tail_scores(view, scorer, None)


def read_scores(view: View, scorer: Scorer, rows: Rows) -> Iterator[tuple[Rows, Float32s]]:
    """Yield ascending rows and their scores in bounded pieces."""
    size = chunk_rows(len(scorer.query))
    for start in range(0, len(rows), size):
        piece = rows[start : start + size]
        if scorer.within is None:
            yield piece, view.scores(piece, scorer.query, distance=scorer.distance == "Euclid")
        else:
            scores = np.empty(len(piece), dtype=np.float32)
            for part, vectors in view.parts(piece):
                scores[part] = scorer.scores(vectors)
            yield piece, scores


def tail_scores(view: View, scorer: Scorer, allowed: Allowed | None) -> tuple[Rows, Float32s]:
    """Return rows and scores of the (allowed) rows of the tail that count."""
    tail = view.tail
    if allowed is not None:
        rows = allowed.rows_from(tail.first_row)
        return rows, scorer.scores(tail.buffer[rows - tail.first_row])
    scores = scorer.scores(tail.vectors)
    return tail.alive_rows(), scores if tail.alive.all() else scores[tail.alive]
