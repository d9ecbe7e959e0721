"""What the codes propose: a query mapped into code space, candidates by plane 0, refined by further planes.

An estimate of a document's score by its first p planes is `factor_p * <queries(q), v_p> + <q, mean>` (under Euclid
minus half the squared norm), so rows coded by different binarizers, or by different numbers of planes, compare.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from index.allowed import Allowed, Places
from index.binarizer import Binarizer
from index.code_index import CodeIndex, Positions
from index.codes import values
from index.graph import GraphIndex
from index.kernels import Candidates, estimates, highest, plane_products
from index.parallel import ALONE, Workers
from index.points import Distance, Float32s, Rows, SearchParams, Stages
from index.probing import lists_to_probe
from index.ranking import Clock
from index.segment import Segment
from index.view import View
from index.walking import walk
from index.widths import Widths

# An estimate by plane 0 is off by 0.6 * factor * |q| (standard deviation, for signs of a rotated vector): most for
# long vectors, which under Dot are also the likeliest winners. Ranked two deviations up, lognormal norms (sigma
# 0.5, d 384, n 20,000) keep .990 of the ten best among 200 candidates instead of .926, 1.000 among 400. Each further
# plane halves the deviation.
OPTIMISM = 1.2
SCAN = 12  # codes that are scanned in blocks while one is scored by itself (docs/log.md)
FINEST = np.float32(64)  # products of values of up to four planes are whole multiples of 1 / 64


@dataclass(frozen=True, slots=True)
class Mapped:
    """A query as the codes of one binarizer are scored with.

    Parameters
    ----------
    planes : p, how many planes of those codes are used.
    coded : (m,) float32, in code space; of a symmetric query the values of its own levels.
    scale : what a symmetric query's values are multiplied with, else 1.
    shift : `<q, mean>`.
    bonus : by how much sums over plane 0 count more than they are, in the choice of candidates.
    """

    planes: int
    coded: Float32s
    scale: np.float32
    shift: np.float32
    bonus: np.float32


def map_query(view: View, query: Float32s, distance: Distance, params: SearchParams) -> dict[int, Mapped]:
    """Map a `(d,)` query for every binarizer whose codes a view holds, once for all that the newest one reads."""
    newest = max(view.binarizers, default=0)
    made: dict[int, tuple[Float32s, np.float32]] = {}
    mapped = {}
    for version in {segment.binarizer for segment in view.segments}:
        own = view.binarizers[version]
        reader = newest if version == newest or view.binarizers[newest].reads(own) else version
        if reader not in made:
            made[reader] = _coded(view.binarizers[reader], query, params)
        coded, scale = made[reader]
        coded = coded[: own.code_dimension]
        bonus = OPTIMISM * np.linalg.norm(coded) if distance == "Dot" else 0.0
        planes = min(params.bits or own.bits, own.bits)
        mapped[version] = Mapped(planes, coded, scale, np.float32(query @ own.mean), np.float32(bonus))
    return mapped


def _coded(binarizer: Binarizer, query: Float32s, params: SearchParams) -> tuple[Float32s, np.float32]:
    """Return a query in code space, and what sums with it are multiplied with."""
    if not params.symmetric:
        return binarizer.queries(query[None, :])[0], np.float32(1)
    levels, scales = binarizer.query_levels(query[None, :])
    planes = min(params.bits or binarizer.bits, binarizer.bits)
    return values(levels[0] >> np.uint8(binarizer.bits - planes), planes), scales[0]


@dataclass(frozen=True, slots=True)
class Found:
    """Positions of one segment that are still in the race, and `<query, value of their first planes>`."""

    segment: Segment
    query: Mapped
    positions: Positions
    sums: Float32s
    planes: int

    def candidates(self, *, biased: bool) -> Candidates:
        """Return what their scores are estimated of, with the query's bonus if `biased`."""
        segment, query = self.segment, self.query
        return Candidates(
            np.ascontiguousarray(self.positions),
            np.ascontiguousarray(self.sums, dtype=np.float32),
            segment.factors[:, self.planes - 1],
            segment.beta,
            segment.offsets,
            segment.first_row,
            bonus=float(query.bonus) / (1 << (self.planes - 1)) if biased else 0.0,
            scale=float(query.scale),
            shift=float(query.shift),
        )

    def estimated(self, *, biased: bool) -> tuple[Rows, Float32s]:
        """Return the row numbers and estimates of their scores, with the query's bonus if `biased`."""
        return estimates(self.candidates(biased=biased))


@dataclass(frozen=True, slots=True)
class Looked:
    """What was looked at in a segment: see `Stages`."""

    scanned: int = 0
    probed: int = 0
    walked: int = 0


def scan(
    view: View,
    queries: Sequence[Float32s],
    mapped: Sequence[Mapping[int, Mapped]],
    k: int,
    widths: Widths,
    allowed: Allowed | None,
    clock: Clock,
    stages: Sequence[Stages],
    workers: Workers = ALONE,
) -> list[list[Found]]:
    """Return what segments propose to each query.

    From each `widths.candidates` come, of every band, of the lists looked into, or of a graph. Graphs are walked by
    all planes, all else is scanned by plane 0, for all queries in one go: a code that is loaded is compared with
    several of them (docs/log.md).
    """

    def propose(segment: Segment) -> list[tuple[Found, Looked]]:
        clock.check()
        places = None if allowed is None else allowed.places(segment)
        if (segment.count if places is None else places.count) == 0:
            return []
        return _candidates(segment, queries, [own[segment.binarizer] for own in mapped], k, widths, places)

    parts = [part for part in workers.map(propose, view.segments) if part]
    proposed = []
    for number, told in enumerate(stages):
        mine = [part[number] for part in parts]
        for found, looked in mine:
            told.scanned += looked.scanned
            told.probed += looked.probed
            told.walked += looked.walked
            told.candidates += len(found.positions)
        proposed.append([found for found, _ in mine])
    clock.lap("scan")
    return proposed


def _candidates(
    segment: Segment, queries: Sequence[Float32s], own: Sequence[Mapped], k: int, widths: Widths, places: Places | None
) -> list[tuple[Found, Looked]]:
    """Return for each query the candidates of a segment, and what was looked at.

    Codes that a filter leaves are scored one by one, where they are so few that a scan of all around them costs more.
    """
    if isinstance(segment.index, GraphIndex):
        return [_walked(segment, segment.index, one, k, widths, places) for one in own]
    if segment.centroids is not None:
        return _probed(segment, segment.index, queries, own, k, widths, places)
    rows, bitmap = (segment.count, segment.alive) if places is None else (places.count, places.bitmap)
    few = None if places is None or segment.filed is None else places.few
    if few is not None and rows * SCAN < len(segment):
        return [(_scored(segment, one, few), Looked(rows)) for one in own]
    found = segment.index.scan(np.array([one.coded for one in own]), widths.candidates, bitmap)
    return [(Found(segment, one, *part, 1), Looked(rows)) for one, part in zip(own, found, strict=True)]


def _walked(
    segment: Segment, graph: GraphIndex, own: Mapped, k: int, widths: Widths, places: Places | None
) -> tuple[Found, Looked]:
    width, filtered = (len(segment), None) if widths.everything else (widths.candidates, widths.walk)
    positions, sums, walked = walk(segment, graph, own.coded, k, width, filtered, places)
    return Found(segment, own, positions, sums, segment.bits), Looked(walked=walked)


def _probed(
    segment: Segment,
    index: CodeIndex,
    queries: Sequence[Float32s],
    own: Sequence[Mapped],
    k: int,
    widths: Widths,
    places: Places | None,
) -> list[tuple[Found, Looked]]:
    """Look into some lists of a segment: those for each query."""
    rows, bitmap = (segment.count, segment.alive) if places is None else (places.count, places.bitmap)
    few = None if places is None or segment.filed is None else places.few
    everywhere = np.arange(index.bands, dtype=np.int64)
    results: dict[int, tuple[Found, Looked]] = {}
    together: list[tuple[int, NDArray[np.int64], int]] = []
    for number, query in enumerate(queries):
        lists, held = lists_to_probe(segment, query, k, widths, places)
        if few is not None and held >= min(k, rows) and held * SCAN < index.sizes[lists].sum():
            assert places is not None
            results[number] = _scored(segment, own[number], places.few_in(lists)), Looked(held, len(lists))
        else:
            together.append((number, lists, held))
    coded = np.array([own[number].coded for number, _, _ in together])
    probed = index.probe(coded, widths.candidates, bitmap, [lists for _, lists, _ in together]) if together else []
    for (number, lists, held), found in zip(together, probed, strict=True):
        if len(found[0]) < min(k, rows):
            lists, held = everywhere, rows
            [found] = index.probe(own[number].coded[None], widths.candidates, bitmap, [everywhere])
        results[number] = Found(segment, own[number], *found, 1), Looked(held, len(lists))
    return [results[number] for number in range(len(queries))]


def _scored(segment: Segment, own: Mapped, positions: Positions) -> Found:
    """Score codes at some positions by all planes that the query uses, as they lie in the segment's file."""
    assert segment.filed is not None
    sums = plane_products(segment.filed, own.planes, positions, own.coded)
    return Found(segment, own, positions, sums, own.planes)


def best_of(found: list[Found], k1: int) -> list[Found]:
    """Keep the k1 candidates with the best estimates over all segments."""
    total = sum(len(part.positions) for part in found)
    if total <= k1:
        return found
    estimated = np.concatenate([part.estimated(biased=True)[1] for part in found])
    chosen = highest(np.arange(total), estimated, k1)
    kept, start = [], 0
    for part in found:
        end = start + len(part.positions)
        mine = chosen[slice(*chosen.searchsorted([start, end]))] - start
        start = end
        if len(mine):
            kept.append(replace(part, positions=part.positions[mine], sums=part.sums[mine]))
    return kept


def refined(found: Sequence[Found], *, symmetric: bool) -> list[Found]:
    """Add the further planes to the sums. What came of graphs has them.

    Plane 0 counts as the scan summed it: its 8-bit rounding is a tenth of what four planes are off by. Only under
    `symmetric`, which is exact, it is read back.
    """
    return [_refined(part, symmetric=symmetric) for part in found]


def _refined(part: Found, *, symmetric: bool) -> Found:
    index, query, sums, planes = part.segment.index, part.query, part.sums, part.planes
    if isinstance(index, CodeIndex):
        if symmetric:
            sums = index.first_scores(query.coded, part.positions)
        if planes < query.planes or symmetric:
            sums = sums + index.further_scores(query.coded, part.positions, query.planes)
        planes = query.planes
    elif not symmetric:
        return part
    return replace(part, sums=_exact(sums) if symmetric else sums, planes=planes)


def _exact(sums: Float32s) -> Float32s:
    """Return what sums of products of levels are but for the rounding of floats."""
    return np.asarray(np.rint(sums * FINEST) / FINEST)
