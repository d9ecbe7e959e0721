"""Scoring full-precision vectors: of everything, of chosen rows, of the tail.

Works on a view and rows; knows neither ids nor payloads nor SQLite. Scores: higher is better; under Euclid
the negative distance.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from index.points import Distance, Float32s, Rows, Stages
from index.ranking import Clock, Ranking, best, joined
from index.vector_file import chunk_rows
from index.view import View

EUCLID_ROWS = 256  # differences that stay in the cache


def score(query: Float32s, vectors: Float32s, distance: Distance) -> Float32s:
    """Return the full-precision scores `(n,)` of `(n, d)` vectors for a `(d,)` query."""
    if distance != "Euclid":
        return np.asarray(vectors @ query)
    squares = np.empty(len(vectors), dtype=np.float32)
    for start in range(0, len(vectors), EUCLID_ROWS):
        difference = vectors[start : start + EUCLID_ROWS] - query
        np.einsum("ij,ij->i", difference, difference, out=squares[start : start + EUCLID_ROWS])
    return -np.sqrt(squares)


def search_exact(
    view: View, query: Float32s, k: int, distance: Distance, allowed: Rows | None, deadline: float | None
) -> Ranking:
    """Score every (allowed) full-precision vector. Ties: the lower row first."""
    stages = Stages(mode="exact")
    clock = Clock(stages, deadline)
    kept: list[tuple[Rows, Float32s]] = []
    with clock.stage("exact"):
        for rows, scores in _exact_scores(view, query, distance, allowed):
            clock.check()
            stages.scanned += len(rows)
            kept.append(best(rows, scores, k))
            if len(kept) > 64:
                kept = [best(*joined(kept), k)]
        rows, scores = best(*joined(kept), k)
    stages.reranked = stages.scanned
    stages.bytes_read = stages.scanned * view.row_bytes
    return Ranking(rows=rows, scores=scores, stages=stages)


def _exact_scores(
    view: View, query: Float32s, distance: Distance, allowed: Rows | None
) -> Iterator[tuple[Rows, Float32s]]:
    """Yield rows and scores, in bounded pieces, of everything that counts and is allowed."""
    if allowed is not None:
        yield from read_scores(view, query, distance, allowed)
        return
    for segment in view.segments:
        # Scoring a few dead rows too is cheaper than copying the living ones together.
        counts = segment.alive_by_row()
        for rows, vectors in view.pieces(segment.first_row, segment.end_row):
            scores = score(query, vectors, distance)
            if counts is not None:
                keep = counts[rows - segment.first_row]
                rows, scores = rows[keep], scores[keep]
            yield rows, scores
    yield tail_scores(view, query, distance, None)


def read_scores(view: View, query: Float32s, distance: Distance, rows: Rows) -> Iterator[tuple[Rows, Float32s]]:
    """Yield ascending rows and their scores in bounded pieces."""
    size = chunk_rows(len(query))
    for start in range(0, len(rows), size):
        piece = rows[start : start + size]
        yield piece, score(query, view.read(piece), distance)


def tail_scores(view: View, query: Float32s, distance: Distance, allowed: Rows | None) -> tuple[Rows, Float32s]:
    """Return rows and scores of the (allowed) rows of the tail that count."""
    tail = view.tail
    if allowed is not None:
        rows = allowed[np.searchsorted(allowed, tail.first_row) :]
        return rows, score(query, tail.buffer[rows - tail.first_row], distance)
    scores = score(query, tail.vectors, distance)
    return tail.alive_rows(), scores if tail.alive.all() else scores[tail.alive]
