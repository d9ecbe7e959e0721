"""Looks for candidates in a graph: by a walk, or, where a filter leaves few codes, by scoring all of these."""

from __future__ import annotations

import math

import numpy as np

from index.allowed import Places
from index.code_index import Positions
from index.codes import in_bitmap, set_bits
from index.graph import GraphIndex
from index.points import Float32s
from index.segment import Segment

# What a walk keeps costs as much, each, as scoring so many codes (docs/log.md).
STEP = 25
BEHIND = 2  # codes that a walk keeps for each that is in front of a row which it must not miss
DEEPER = 4  # times, where a walk met too few allowed codes
NEAR = 1.5  # a walk this much too narrow is not done again


def walk(
    segment: Segment,
    graph: GraphIndex,
    query: Float32s,
    k: int,
    width: int,
    filtered: int | None,
    allowed: Places | None,
) -> tuple[Positions, Float32s, int]:
    """Return candidates for the k best codes that count and are allowed.

    A walk keeps the codes nearest to the query, allowed or not. So under a filter it looks as much farther as there
    are codes in between; where there turn out to be more, because the filter opposes the query, farther again; and
    where that would cost more than scoring all allowed codes, these are scored.

    Parameters
    ----------
    query : (m,) float32, in code space.
    width : of a walk for the k best codes without a filter.
    filtered : of one under the filter, None where that is not measured.
    allowed : what a filter allows, None for all.

    Returns
    -------
    positions : int64, and scores : `<query, value>`, float32, and how many codes were looked at, walks counted in
        what they keep.
    """
    count, bitmap = (segment.count, segment.alive) if allowed is None else (allowed.count, allowed.bitmap)
    k = min(k, count)
    guessed = math.ceil(width + BEHIND * k * (len(segment) / count - 1))
    deep = min(guessed if filtered is None or allowed is None else filtered, len(segment))
    while deep * STEP < count:
        positions, scores = graph.walk(query, deep)
        if bitmap is None:
            return positions, scores, deep
        inside = np.flatnonzero(in_bitmap(bitmap, positions))
        if len(inside) < k:
            deep *= DEEPER
            continue
        needed = width + BEHIND * (int(inside[k - 1]) + 1 - k)
        if needed <= NEAR * deep:
            return positions[inside], scores[inside], deep
        deep = needed
    if allowed is not None:
        positions = allowed.positions
    else:
        positions = np.arange(len(segment)) if bitmap is None else set_bits(bitmap)
    return positions, graph.scores_at(query, positions), count
