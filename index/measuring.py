"""Measures where the true neighbours of sample queries are found, piece by piece: what a calibration is made of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from index.calibration import DEEP, DEPTH, RANKS, SOME, Calibration, Shape, Whereabouts
from index.code_index import CodeIndex
from index.exact import Scorer, read_scores
from index.graph import GraphIndex
from index.kernels import best
from index.points import Distance, Float32s, Rows, SearchParams, Stages
from index.proposing import Found, best_of, map_query, refined, scan
from index.ranking import Clock, joined
from index.view import View
from index.walking import walk
from index.widths import ALL_LISTS, Widths

WIDE = 4000  # candidates that are refined
READ = 4000  # of these, vectors that are read: true neighbours are the best of them
NEVER = np.iinfo(np.int32).max
A_PIECE = 8  # queries
PARAMS = SearchParams(exact=False)
EVERYTHING = Widths(WIDE, READ, probes=ALL_LISTS, share=1.0)


class Measuring:
    """A calibration, while it is measured.

    Parameters
    ----------
    queries : (nq, d) float32.
    own : (nq,) rows that are the queries themselves and do not count as found, -1 without.
    asked : how many of them, the last ones, somebody asked.
    """

    def __init__(self, shape: Shape, distance: Distance, queries: Float32s, own: Rows, asked: int) -> None:
        self.shape = shape
        self._distance = distance
        self._queries = queries
        self._own = own
        self._first_asked = len(queries) - asked
        self._next = 0
        self._near: list[Whereabouts] = []
        self._deep: list[Whereabouts] = []
        self._groups: list[NDArray[np.uint8]] = []

    def step(self, view: View) -> Calibration | None:
        """Measure with some more queries; return the calibration when that were all."""
        for at in range(self._next, min(self._next + A_PIECE, len(self._queries))):
            near, deep = found_at(view, Scorer(self._queries[at], self._distance), int(self._own[at]))
            self._near.append(near)
            self._deep.append(deep)
            self._groups.append(np.full(len(near.ranks), at >= self._first_asked, dtype=np.uint8))
        self._next += A_PIECE
        if self._next < len(self._queries):
            return None
        return Calibration(self.shape, _joined(self._near), _joined(self._deep), np.concatenate(self._groups))


def _joined(parts: Sequence[Whereabouts]) -> Whereabouts:
    return Whereabouts(
        np.concatenate([part.shares for part in parts]),
        np.concatenate([part.first for part in parts]),
        np.concatenate([part.ranks for part in parts]),
    )


def found_at(view: View, scorer: Scorer, own: int) -> tuple[Whereabouts, Whereabouts]:
    """Return where a query's true ten nearest coded rows are found, and some of its hundred nearest."""
    stages = [Stages()]
    clock = Clock(stages, None)
    mapped = map_query(view, scorer.query, scorer.distance, PARAMS)
    [scanned_rows] = scan(view, [scorer.query], [mapped], DEPTH, EVERYTHING, None, clock, stages)
    first = best_of(scanned_rows, WIDE)
    planes = max((part.query.planes for part in first), default=1)
    last = refined(first, symmetric=False) if planes > 1 else first
    by_last = _ranked(last, own)
    nearest, _ = best(*joined(list(read_scores(view, scorer, np.sort(by_last[:READ])))), DEEP)
    rows = np.concatenate([nearest[:DEPTH], nearest[SOME]])
    scanned = _scanned(first, rows)
    if planes > 1:  # what is refined is chosen from all segments
        scanned = np.maximum(scanned, _ranks(_ranked(first, own), rows))
    shares, ranks = _shares(view, scorer.query, rows), _ranks(by_last, rows)
    near = min(DEPTH, len(nearest))
    return (
        Whereabouts(shares[:near], scanned[:near], ranks[:near]),
        Whereabouts(shares[near:], scanned[near:], ranks[near:]),
    )


def _scanned(found: Sequence[Found], rows: Rows) -> NDArray[np.int32]:
    """Return the rank that the scan of its segment, or of its band of like norms, gives each row.

    Of rows in a graph, one less than the width of the narrowest walk that meets them.
    """
    ranks = np.full(len(rows), NEVER, dtype=np.int32)
    for part in found:
        index = part.segment.index
        if isinstance(index, GraphIndex):
            ranks = np.minimum(ranks, _walked(part, index, rows))
            continue
        bands = np.zeros(len(part.sums)) if part.segment.bands == 1 else index.lists_of(part.positions)
        order = np.lexsort((-part.sums, bands))
        starts = np.searchsorted(bands[order], bands[order])
        ordered = part.segment.rows_at(part.positions[order])
        place = dict(zip(ordered.tolist(), (np.arange(len(order)) - starts).tolist(), strict=True))
        for at, row in enumerate(rows.tolist()):
            ranks[at] = min(int(ranks[at]), place.get(row, NEVER))
    return ranks


def _walked(found: Found, graph: GraphIndex, rows: Rows) -> NDArray[np.int32]:
    ranks = np.full(len(rows), NEVER, dtype=np.int32)
    missing = np.flatnonzero(found.segment.holds(rows))
    for width in RANKS.tolist():
        if not len(missing):
            break
        positions, _, _ = walk(found.segment, graph, found.query.coded, DEPTH, width, None, None)
        met = np.isin(rows[missing], found.segment.rows_at(positions))
        ranks[missing[met]] = width - 1
        missing = missing[~met]
    return ranks


def _ranked(found: Sequence[Found], own: int) -> Rows:
    """Return the rows of candidates, the best estimates first."""
    rows, estimates = joined([part.estimated(biased=True) for part in found])
    ranked = rows[np.argsort(-estimates, kind="stable")]
    return np.asarray(ranked[ranked != own])


def _ranks(ranked: Rows, rows: Rows) -> NDArray[np.int32]:
    places = {row: rank for rank, row in enumerate(ranked.tolist())}
    return np.array([places.get(row, NEVER) for row in rows.tolist()], dtype=np.int32)


def _shares(view: View, query: Float32s, rows: Rows) -> NDArray[np.float32]:
    """Return the least share of the nearest lists of its segment that holds each row."""
    shares = np.zeros(len(rows), dtype=np.float32)
    for segment in view.segments:
        mine = segment.holds(rows) if segment.centroids is not None else np.zeros(len(rows), dtype=np.bool_)
        if segment.centroids is None or not isinstance(segment.index, CodeIndex) or not mine.any():
            continue
        order = segment.centroids.nearest(query, len(segment.centroids))
        place = np.empty(len(order), dtype=np.int64)
        place[order] = np.arange(len(order))
        lists = segment.index.lists_of(segment.positions_of(np.sort(rows[mine])))
        ascending = np.argsort(np.argsort(rows[mine]))
        shares[mine] = (place[lists][ascending] + 1) / len(order)
    return shares
