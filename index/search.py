"""The funnel: scan codes, refine with correction factors, rerank with full-precision vectors.

Works on a view and rows; knows neither ids nor payloads nor SQLite. Scores: higher is better; under Euclid
the negative distance.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from index.codes import pack_bits
from index.errors import DeadlineExceeded
from index.points import Distance, Float32s, Rows, Stages
from index.segment import Segment
from index.vector_file import chunk_rows
from index.view import View

# Up to this many allowed rows, reading their vectors costs less than a scan and loses nothing.
READ_ALLOWED = 1000
# k1 and k2: measured in docs/log.md for recall@10 >= .99 (text) and >= .98 (lognormal norms). Narrow vectors
# make weaker codes and cheaper reads, so the number of values that rerank reads is what is constant.
CANDIDATES = 400
RERANK_VALUES = {"Cosine": 76_800, "Dot": 153_600, "Euclid": 153_600}
RERANK_LEAST, RERANK_MOST = 100, 1000
EUCLID_ROWS = 256  # differences that stay in the cache
# An estimate is off by 0.6 * factor * |q| (standard deviation, for signs of a rotated vector): most for long
# vectors, which under Dot are also the likeliest winners. Ranked two deviations up, lognormal norms (sigma
# 0.5, d 384, n 20,000) keep .990 of the ten best among 200 candidates instead of .926, 1.000 among 400.
OPTIMISM = 1.2


def default_rerank(distance: Distance, dimension: int) -> int:
    """Return k2, how many full-precision vectors a search reads unless it says otherwise."""
    return min(max(RERANK_VALUES[distance] // dimension, RERANK_LEAST), RERANK_MOST)


@dataclass(frozen=True, slots=True)
class Ranking:
    """Rows and scores of one query's best points, best first."""

    rows: Rows
    scores: Float32s
    stages: Stages


class Clock:
    """Takes the time of stages and watches the deadline."""

    def __init__(self, stages: Stages, deadline: float | None) -> None:
        self._stages = stages
        self._deadline = deadline

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time spent inside to a stage."""
        start = time.perf_counter()
        yield
        spent = (time.perf_counter() - start) * 1e3
        self._stages.milliseconds[name] = round(self._stages.milliseconds.get(name, 0.0) + spent, 4)

    def check(self) -> None:
        """Raise DeadlineExceeded when the time is up."""
        check_deadline(self._deadline)


def check_deadline(deadline: float | None) -> None:
    """Raise DeadlineExceeded when `time.monotonic()` is past the deadline."""
    if deadline is not None and time.monotonic() > deadline:
        raise DeadlineExceeded("the search took longer than it may", hint="narrow it, or raise the search timeout")


def score(query: Float32s, vectors: Float32s, distance: Distance) -> Float32s:
    """Return the full-precision scores `(n,)` of `(n, d)` vectors for a `(d,)` query."""
    if distance != "Euclid":
        return np.asarray(vectors @ query)
    squares = np.empty(len(vectors), dtype=np.float32)
    for start in range(0, len(vectors), EUCLID_ROWS):
        difference = vectors[start : start + EUCLID_ROWS] - query
        np.einsum("ij,ij->i", difference, difference, out=squares[start : start + EUCLID_ROWS])
    return -np.sqrt(squares)


def best(rows: Rows, scores: Float32s, k: int) -> tuple[Rows, Float32s]:
    """Return the k best, best first; of equal scores the lower row comes first."""
    if len(rows) > k:
        # What ties with the k-th score stays in, so that the tie rule decides and not the partition.
        worst = np.partition(scores, len(scores) - k)[len(scores) - k]
        keep = scores >= worst
        rows, scores = rows[keep], scores[keep]
    order = np.lexsort((rows, -scores))[:k]
    return rows[order], scores[order]


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
                kept = [best(*_joined(kept), k)]
        rows, scores = best(*_joined(kept), k)
    stages.reranked = stages.scanned
    stages.bytes_read = stages.scanned * view.row_bytes
    return Ranking(rows=rows, scores=scores, stages=stages)


def _exact_scores(
    view: View, query: Float32s, distance: Distance, allowed: Rows | None
) -> Iterator[tuple[Rows, Float32s]]:
    """Yield rows and scores, in bounded pieces, of everything that counts and is allowed."""
    if allowed is not None:
        yield from _read_scores(view, query, distance, allowed)
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
    yield _tail_scores(view, query, distance, None)


def _read_scores(view: View, query: Float32s, distance: Distance, rows: Rows) -> Iterator[tuple[Rows, Float32s]]:
    """Yield ascending rows and their scores in bounded pieces."""
    size = chunk_rows(len(query))
    for start in range(0, len(rows), size):
        piece = rows[start : start + size]
        yield piece, score(query, view.read(piece), distance)


def _tail_scores(view: View, query: Float32s, distance: Distance, allowed: Rows | None) -> tuple[Rows, Float32s]:
    tail = view.tail
    if allowed is not None:
        rows = allowed[np.searchsorted(allowed, tail.first_row) :]
        return rows, score(query, tail.buffer[rows - tail.first_row], distance)
    scores = score(query, tail.vectors, distance)
    return tail.alive_rows(), scores if tail.alive.all() else scores[tail.alive]


def _joined(parts: list[tuple[Rows, Float32s]]) -> tuple[Rows, Float32s]:
    if not parts:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32)
    return np.concatenate([rows for rows, _ in parts]), np.concatenate([scores for _, scores in parts])


def search_codes(
    view: View,
    query: Float32s,
    k: int,
    distance: Distance,
    allowed: Rows | None,
    candidates: int | None,
    rerank: int | None,
    deadline: float | None,
) -> Ranking:
    """Find candidates among the codes and rank the best of them with full-precision vectors.

    Rows of the tail have no codes: they are scored exactly and join at the end. Never fewer than k results
    when k (allowed) rows exist: inverted lists are scanned whole, and k1 and k2 are at least k. By default k2 is
    at least 2 k and k1 at least 2 k2, so that large pages are reranked from more than what they show.
    """
    if allowed is not None and len(allowed) <= max(READ_ALLOWED, k):
        return search_exact(view, query, k, distance, allowed, deadline)
    k2 = max(rerank or max(default_rerank(distance, len(query)), 2 * k), k)
    k1 = max(candidates or max(CANDIDATES, 2 * k2), k2)
    stages = Stages(mode="codes", bits=1)
    clock = Clock(stages, deadline)
    bonus = OPTIMISM * float(np.linalg.norm(query)) if distance == "Dot" else 0.0
    mapped: dict[int, tuple[Float32s, float]] = {}
    estimated: list[tuple[Rows, Float32s]] = []
    for segment in view.segments:
        clock.check()
        if segment.binarizer not in mapped:
            with clock.stage("rotate"):
                binarizer = view.binarizers[segment.binarizer]
                mapped[segment.binarizer] = (
                    binarizer.queries(query[None, :])[0],
                    float(query @ binarizer.mean),
                )
        coded, shift = mapped[segment.binarizer]
        with clock.stage("scan"):
            bitmap, count = _allowed_positions(segment, allowed)
            if count == 0:
                continue
            positions, sums = segment.index.scan(coded, k1, bitmap)
        stages.scanned += count
        stages.candidates += len(positions)
        with clock.stage("refine"):
            estimate: Float32s = segment.factors[positions] * np.add(sums, bonus) + shift
            if segment.beta is not None:
                estimate += segment.beta[positions]
            estimated.append((segment.rows_at(positions), estimate))
    with clock.stage("refine"):
        chosen, _ = best(*_joined(estimated), k2)
        chosen = np.sort(chosen)
    with clock.stage("rerank"):
        reranked = []
        for piece in _read_scores(view, query, distance, chosen):
            clock.check()
            reranked.append(piece)
    with clock.stage("tail"):
        tail = _tail_scores(view, query, distance, allowed)
        found, scores = best(*_joined([*reranked, tail]), k)
    stages.scanned += len(tail[0])
    stages.reranked = len(chosen)
    stages.bytes_read = len(chosen) * view.row_bytes
    return Ranking(rows=found, scores=scores, stages=stages)


def _allowed_positions(segment: Segment, allowed: Rows | None) -> tuple[NDArray[np.uint8] | None, int]:
    """Return the bitmap of positions to scan (None: all) and how many there are."""
    if allowed is None:
        return segment.alive, segment.count
    flags = segment.flags_of(allowed)
    return pack_bits(flags), int(flags.sum())
