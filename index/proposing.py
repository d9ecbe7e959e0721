"""What the codes propose: a query mapped into code space, candidates by plane 0, refined by further planes.

An estimate of a document's score by its first p planes is `factor_p * <queries(q), v_p> + <q, mean>` (under Euclid
minus half the squared norm), so rows coded by different binarizers, or by different numbers of planes, compare.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from index.allowed import Allowed, Places
from index.binarizer import Binarizer
from index.code_index import CodeIndex, Positions
from index.codes import values
from index.graph import GraphIndex
from index.mapped_index import row_scores
from index.parallel import ALONE, Workers
from index.plane_scores import further_scores, plane_scores
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
SCAN = 28  # codes that are scanned in blocks while one is scored by itself (docs/log.md)
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

    def estimates(self, *, biased: bool) -> Float32s:
        """Return estimates of scores, with the query's bonus if `biased`."""
        sums = self.sums
        if biased and self.query.bonus:
            sums = sums + self.query.bonus / (1 << (self.planes - 1))
        factors = self.segment.factors[:, self.planes - 1].take(self.positions)
        estimates: Float32s = factors * (sums * self.query.scale)
        estimates += self.query.shift
        if self.segment.beta is not None:
            estimates += self.segment.beta[self.positions]
        return estimates

    def rows(self) -> Rows:
        """Return the row numbers."""
        return self.segment.rows_at(self.positions)


@dataclass(frozen=True, slots=True)
class Looked:
    """What was looked at in a segment: see `Stages`."""

    scanned: int = 0
    probed: int = 0
    walked: int = 0


def scan(
    view: View,
    query: Float32s,
    mapped: Mapping[int, Mapped],
    k: int,
    widths: Widths,
    allowed: Allowed | None,
    clock: Clock,
    stages: Stages,
    workers: Workers = ALONE,
) -> list[Found]:
    """Return what each segment proposes: `widths.candidates` of every band, of the lists looked into, or of a graph.

    Graphs are walked by all planes, all else is scanned by plane 0.
    """

    def propose(segment: Segment) -> tuple[Found, Looked] | None:
        clock.check()
        places = None if allowed is None else allowed.places(segment)
        if (segment.count if places is None else places.count) == 0:
            return None
        return _candidates(segment, query, mapped[segment.binarizer], k, widths, places)

    parts = [part for part in workers.map(propose, view.segments) if part is not None]
    for found, looked in parts:
        stages.scanned += looked.scanned
        stages.probed += looked.probed
        stages.walked += looked.walked
        stages.candidates += len(found.positions)
    clock.lap("scan")
    return [found for found, _ in parts]


def _candidates(
    segment: Segment, query: Float32s, own: Mapped, k: int, widths: Widths, places: Places | None
) -> tuple[Found, Looked]:
    """Return the candidates of a segment, and what was looked at.

    Codes that a filter leaves are scored one by one, where they are so few that a scan of all around them costs more.
    """
    k1, index = widths.candidates, segment.index
    if isinstance(index, GraphIndex):
        width = len(segment) if widths.everything else k1
        positions, sums, walked = walk(segment, index, own.coded, k, width, places)
        return Found(segment, own, positions, sums, segment.bits), Looked(walked=walked)
    rows, bitmap = (segment.count, segment.alive) if places is None else (places.count, places.bitmap)
    few = None if places is None or segment.filed is None else places.few
    if segment.centroids is None:
        if few is not None and rows * SCAN < len(segment):
            return _scored(segment, own, few), Looked(rows)
        return Found(segment, own, *index.scan(own.coded, k1, bitmap), 1), Looked(rows)
    lists, held = lists_to_probe(segment, query, k, widths, places)
    if few is not None and held >= min(k, rows) and held * SCAN < index.sizes[lists].sum():
        chosen = np.zeros(len(segment.centroids), dtype=np.bool_)
        chosen[lists] = True
        return _scored(segment, own, few[chosen[index.lists_of(few)]]), Looked(held, len(lists))
    positions, sums = index.probe(own.coded, k1, bitmap, lists)
    if len(positions) < min(k, rows):
        lists, held = np.arange(len(segment.centroids), dtype=np.int64), rows
        positions, sums = index.probe(own.coded, k1, bitmap, lists)
    return Found(segment, own, positions, sums, 1), Looked(held, len(lists))


def _scored(segment: Segment, own: Mapped, positions: Positions) -> Found:
    """Score codes at some positions by all planes that the query uses, as they lie in the segment's file."""
    assert segment.filed is not None
    sums = row_scores(own.coded, segment.filed.take(positions, axis=0, mode="clip"), own.planes)
    return Found(segment, own, positions, sums, own.planes)


def best_of(found: list[Found], k1: int) -> list[Found]:
    """Keep the k1 candidates with the best estimates over all segments."""
    total = sum(len(part.positions) for part in found)
    if total <= k1:
        return found
    estimates = np.concatenate([part.estimates(biased=True) for part in found])
    flags = np.zeros(total, dtype=np.bool_)
    flags[np.argpartition(estimates, total - k1)[-k1:]] = True
    kept, start = [], 0
    for part in found:
        mine = flags[start : start + len(part.positions)]
        start += len(part.positions)
        if mine.any():
            kept.append(replace(part, positions=part.positions[mine], sums=part.sums[mine]))
    return kept


def refined(found: Sequence[Found], *, symmetric: bool) -> list[Found]:
    """Add the further planes to the sums, all segments of a binarizer at once. What came of graphs has them.

    Plane 0 counts as the scan summed it: its 8-bit rounding is a tenth of what four planes are off by. Only under
    `symmetric`, which is exact, it is read back.
    """
    result = []
    scanned: dict[int, list[tuple[Found, CodeIndex]]] = {}
    for part in found:
        index = part.segment.index
        if isinstance(index, CodeIndex) and (part.planes < part.query.planes or symmetric):
            scanned.setdefault(part.segment.binarizer, []).append((part, index))
        else:
            result.append(replace(part, sums=_exact(part.sums)) if symmetric else part)
    for parts in scanned.values():
        query = parts[0][0].query
        rest = [index.rest_at(part.positions) for part, index in parts]
        joint = rest[0] if len(rest) == 1 else np.concatenate(rest)
        sums = further_scores(query.coded, joint, parts[0][1].bits, query.planes)
        start = 0
        for part, index in parts:
            end = start + len(part.positions)
            share, start = sums[start:end], end
            if symmetric:
                share = _exact(plane_scores(query.coded, index.codes_at(part.positions)) + share)
            else:
                share += part.sums
            result.append(Found(part.segment, query, part.positions, share, query.planes))
    return result


def _exact(sums: Float32s) -> Float32s:
    """Return what sums of products of levels are but for the rounding of floats."""
    return np.asarray(np.rint(sums * FINEST) / FINEST)
