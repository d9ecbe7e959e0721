"""The funnel over codes: scan plane 0, refine with further planes, rerank with full-precision vectors.

Works on a view and rows; knows neither ids nor payloads nor SQLite. Scores: higher is better; under Euclid the negative
distance.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from index.allowed import Allowed
from index.calibration import Calibration
from index.exact import Scorer, read_scores, search_exact, tail_scores
from index.kernels import best, highest
from index.parallel import ALONE, Workers
from index.points import Distance, Float32s, Rows, SearchParams, Stages
from index.proposing import Found, best_of, map_query, refined, scan
from index.ranking import Clock, Ranking, joined
from index.view import View
from index.widths import Widths, widths_of

# Up to this many allowed rows, reading their vectors costs less than a scan and loses nothing.
READ_ALLOWED = 1000


def search_codes(
    view: View,
    scorers: Sequence[Scorer],
    k: int,
    allowed: Allowed | None,
    params: SearchParams,
    deadline: float | None,
    calibration: Calibration | None = None,
    workers: Workers = ALONE,
) -> list[Ranking]:
    """Find candidates among the codes, for all queries together, and rank the best with full-precision vectors.

    Rows of the tail have no codes: they are scored exactly and join at the end. Never fewer than k results
    when k (allowed) rows exist: k1 is at least k, and where lists that are looked into hold fewer, all are. How wide
    the stages are: `index/widths.py`. Where k2 is less than k, rows beyond it keep their estimates as scores; so do
    rows whose vectors are dropped. Estimates are of products of whole vectors: `Scorer.within` counts in what is
    read. Segments are looked through side by side, as `workers` allow. Scorers must have the same distance.
    """
    readable = max(READ_ALLOWED, k) if params.rerank is None else params.rerank
    if allowed is not None and len(allowed) <= readable and view.readable(allowed.rows).all():
        return [search_exact(view, scorer, k, allowed, deadline) for scorer in scorers]
    stages = [Stages(mode="codes", symmetric=params.symmetric) for _ in scorers]
    clock = Clock(stages, deadline)
    distance, dimension = scorers[0].distance, len(scorers[0].query)
    mapped = [map_query(view, scorer.query, distance, params) for scorer in scorers]
    clock.lap("rotate")
    planes = [own.planes for own in mapped[0].values()]
    if calibration is not None and calibration.shape.layouts != view.layouts:
        calibration = None  # of how many lists to look into, one from before there were any says nothing
    passing = 1.0 if allowed is None else len(allowed) / max(view.points, 1)
    widths = widths_of(params, k, distance, dimension, min(planes, default=1), calibration, passing)
    for told in stages:
        told.bits, told.target_recall = max(planes, default=0), widths.target
    queries = [scorer.query for scorer in scorers]
    found = scan(view, queries, mapped, k, widths, allowed, clock, stages, workers)
    return [
        _ranked(view, scorer, k, widths, allowed, one, told, deadline)
        for scorer, one, told in zip(scorers, found, stages, strict=True)
    ]


def _ranked(
    view: View,
    scorer: Scorer,
    k: int,
    widths: Widths,
    allowed: Allowed | None,
    found: list[Found],
    stages: Stages,
    deadline: float | None,
) -> Ranking:
    """Refine what was found for one query, read the best of it, and add what has no codes."""
    clock = Clock([stages], deadline)
    k2 = widths.rerank
    if stages.symmetric or stages.bits > 1:
        found = best_of(found, widths.candidates)
        stages.refined = sum(len(part.positions) for part in found)
        found = refined(found, symmetric=stages.symmetric)
    shown = k2 < k or bool(view.named)  # some estimates are: they must not be biased
    stages.plan = "walk" if stages.walked else "probe" if stages.probed else "scan"
    if len(found) == 1 and not shown and not view.tail.count and scorer.within is None:
        # Nothing joins from elsewhere: one call does what the steps below do one by one.
        read = min(k2, len(found[0].positions))
        euclid = scorer.distance == "Euclid"
        done = view.finish(found[0].candidates(biased=True), read, k, scorer.query, distance=euclid)
        if done is not None:
            rows, scores, reading = done
            clock.lap("refine", of_which=("rerank", reading))
            stages.reranked, stages.bytes_read = read, read * view.row_bytes
            return Ranking(rows=rows, scores=scores, stages=stages)
    estimated = joined([part.estimated(biased=not shown) for part in found])
    if shown:
        chosen, rows, estimates = _read_and_shown(view, *best(*estimated, max(k2, k)), k2)
        scored = [(rows, _as_scores(estimates, scorer.query, scorer.distance))]
    else:
        chosen, scored = highest(*estimated, k2), []
    clock.lap("refine")
    for piece in read_scores(view, scorer, chosen):
        clock.check()
        scored.append(piece)
    clock.lap("rerank")
    if view.tail.count:
        scored.append(tail_scores(view, scorer, allowed))
        stages.scanned += len(scored[-1][0])
    rows, scores = best(*joined(scored), k)
    clock.lap("tail")
    stages.reranked = len(chosen)
    stages.bytes_read = len(chosen) * view.row_bytes
    return Ranking(rows=rows, scores=scores, stages=stages)


def _read_and_shown(view: View, rows: Rows, estimates: Float32s, k2: int) -> tuple[Rows, Rows, Float32s]:
    """Return which of some rows, best first, are read, ascending, and the others with their estimates."""
    read = view.readable(rows)
    read[k2:] = False
    return np.sort(rows[read]), rows[~read], estimates[~read]


def _as_scores(estimates: Float32s, query: Float32s, distance: Distance) -> Float32s:
    """Return the scores that estimates stand for."""
    if distance != "Euclid":
        return estimates
    squares = np.float32(query @ query) - 2 * estimates
    return np.asarray(-np.sqrt(np.maximum(squares, 0)))
