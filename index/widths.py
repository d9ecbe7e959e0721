"""How wide the stages of a search are: what was asked for, else what was measured to reach a recall, else constants."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

from index.calibration import DEEP, DEPTH, Calibration, Growth
from index.points import Distance, SearchParams

TINY = 1e-12
BEYOND = 1.5  # of ten rows that a filter leaves, some lie deeper than ten of all would on the average
DEFAULT_TARGET = 0.98  # recall@10
# k1 and k2: measured in docs/log.md for recall@10 >= .99 (text) and >= .98 (lognormal norms). Narrow vectors
# make weaker codes and cheaper reads, so the number of values that rerank reads is what is constant. With further
# planes, k1 is what one plane would have reranked, and a share of them is reranked.
CANDIDATES = 400
RERANK_VALUES = {"Cosine": 76_800, "Dot": 153_600, "Euclid": 153_600}
RERANK_LEAST, RERANK_MOST = 100, 1000
RERANK_SHARE = {1: 1.0, 2: 0.3, 3: 0.2, 4: 0.15}
# Measured on 465,369 texts (docs/log.md): .98 of the ten nearest rows are in the lists of the nearest tenth of
# centroids.
LISTS_SHARE = 0.1
# Where nothing is measured: on the same texts, lists grew so with depth, and other widths did not.
GROWTH = Growth(lists=0.25, candidates=0.0, rerank=0.0)


ALL_LISTS = 1 << 30  # as `probes`: all codes are looked at, those in graphs too


@dataclass(frozen=True, slots=True)
class Widths:
    """How wide the stages of one search are.

    Attributes
    ----------
    candidates : k1; of a graph, how wide walks are without a filter.
    rerank : k2.
    probes : lists looked into in each segment for its ten best rows; None: `share` of them, 0 to 1.
    growth : how lists grow with how deep a query looks.
    walk : how wide walks under the filter are, None where that is not measured.
    target : recall@10 that was measured for what was not asked for otherwise; None if nothing was.
    """

    candidates: int
    rerank: int
    probes: int | None
    share: float
    growth: Growth = GROWTH
    walk: int | None = None
    target: float | None = None

    @property
    def everything(self) -> bool:
        """Whether all codes are looked at, those in graphs too."""
        return self.probes is not None and self.probes >= ALL_LISTS


def default_rerank(distance: Distance, dimension: int, bits: int) -> int:
    """Return k2, how many full-precision vectors a search with some planes reads unless it says otherwise."""
    one_plane = min(max(RERANK_VALUES[distance] // dimension, RERANK_LEAST), RERANK_MOST)
    return round(one_plane * RERANK_SHARE[bits])


@lru_cache(maxsize=128)
def widths_of(
    params: SearchParams,
    k: int,
    distance: Distance,
    dimension: int,
    planes: int,
    calibration: Calibration | None,
    passing: float = 1.0,
) -> Widths:
    """Return how wide a search for the k best is.

    Large pages are reranked from more than what they show: unless it was asked for otherwise, k2 is at least 2 k and k1
    at least 2 k2. k1 is always at least k2 and k.

    Parameters
    ----------
    planes : of the codes, that the search uses; those that a calibration was measured with, or it says nothing of k1
        and k2.
    passing : the share of rows that a filter lets pass.
    """
    refining = params.symmetric or planes > 1
    share, k1, k2 = LISTS_SHARE, CANDIDATES, default_rerank(distance, dimension, planes)
    if refining:
        k1 = default_rerank(distance, dimension, 1)
    target, growth, wider = None, GROWTH, None
    if calibration is not None:
        target = params.target_recall or DEFAULT_TARGET
        settled = calibration.settled(target)
        share, growth = settled.share, settled.growth
        if planes == calibration.planes and not params.symmetric:
            # Deeper than it was measured, they are left as wide as there.
            deeper = min(1 / max(passing, TINY), DEEP / DEPTH)
            deeper *= BEYOND if passing < 1 else 1
            if calibration.shape.walked:
                k1 = settled.candidates
                if passing < 1 and k <= DEPTH and params.candidates is None:
                    wider = calibration.deeper_walks(target, passing)
            else:
                k1 = math.ceil(settled.candidates * deeper**growth.candidates)
            k2 = math.ceil(settled.rerank * deeper**growth.rerank)
    if params.rerank is not None:
        k2 = params.rerank
    elif k > DEPTH:
        k2 = max(k2, 2 * k)
    if params.candidates is not None:
        k1 = params.candidates
    elif calibration is None or k > DEPTH:
        k1 = max(k1, 2 * k2)
    k1 = max(k1, k2, k)
    return Widths(k1, k2, params.probes, share, growth, None if wider is None else math.ceil(k1 * wider), target)
