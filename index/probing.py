"""Which inverted lists of a segment a query looks into."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from index.allowed import Places
from index.calibration import DEPTH
from index.code_index import CodeIndex
from index.lists import ListNumbers
from index.points import Float32s
from index.segment import Segment
from index.widths import Widths

# A vector lies in the list of the nearest centroid, whose product with it need not be the largest: of 50 lists, the
# first five missed a random vector's own once in some hundred.
LEAST_LISTS = 16


def lists_to_probe(
    segment: Segment, query: Float32s, k: int, widths: Widths, allowed: Places | None
) -> tuple[ListNumbers, int]:
    """Return the lists for the k best rows of a segment that has lists, the nearest first, and what rows they hold.

    How many lists grows with how deep the query looks: how many rows, allowed or not, are nearer than its k-th best.
    Under a filter that is read off the lists: the rows in the nearest ones until k of them are allowed. So a
    filter that goes with the query costs nothing, and one that is indifferent to it some more lists. One that opposes
    it has its rows farther away: lists are looked into until they hold as large a part of the allowed rows.

    Parameters
    ----------
    query : (d,) float32.
    widths : how many lists for the ten best rows without a filter.
    allowed : what a filter allows, None for all; lists without any are left out.

    Returns
    -------
    lists : their numbers, and how many (allowed) rows are in them.
    """
    assert segment.centroids is not None
    assert isinstance(segment.index, CodeIndex)
    centroids, sizes, power = segment.centroids, segment.index.sizes, widths.growth.lists
    plain = widths.probes or max(LEAST_LISTS, math.ceil(widths.share * len(centroids)))
    if allowed is None:
        lists = centroids.nearest(query, _deeper(plain, k, power))
        return lists, int(sizes[lists].sum())
    counts = allowed.lists
    # Putting all lists in order takes longer than looking into many of them: as many as it will be, usually.
    likely = _deeper(plain, k * len(segment) / max(allowed.count, 1), power)
    for considered in (likely + likely // 4, len(centroids)):
        order = centroids.nearest(query, considered)
        reached = np.cumsum(counts[order])
        near = min(_deeper(plain, _depth(reached, sizes[order], k), power), len(centroids))
        enough = near / len(centroids) * allowed.count
        if near <= len(order) and reached[-1] >= enough:
            break
    chosen = order[: max(near, int(np.searchsorted(reached, enough)) + 1)]
    chosen = chosen[counts[chosen] > 0]
    return chosen, int(counts[chosen].sum())


def _deeper(lists: int, depth: float, power: float) -> int:
    """Return how many lists are looked into for rows at some depth, where so many do for the ten best."""
    return math.ceil(lists * math.pow(max(depth, DEPTH) / DEPTH, power))


def _depth(reached: NDArray[np.int64], rows: NDArray[np.int64], k: int) -> float:
    """Return how many rows come before the k-th allowed one, of lists in order; all if there are fewer.

    Parameters
    ----------
    reached, rows : (lists,) how many allowed rows are in the lists so far, how many rows in each.
    """
    at = int(np.searchsorted(reached, k))
    if at == len(reached):
        return float(rows.sum())
    before = int(reached[at - 1]) if at else 0
    within = (k - before) / (int(reached[at]) - before)
    return float(rows[:at].sum() + within * rows[at])
