"""What the codes propose: a query mapped into code space, candidates by plane 0, refined by further planes.

An estimate of a document's score by its first p planes is `factor_p * <queries(q), v_p> + <q, mean>` (under Euclid
minus half the squared norm), so rows coded by different binarizers, or by different numbers of planes, compare.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from index.allowed import Allowed
from index.binarizer import Binarizer
from index.code_index import Positions
from index.codes import values
from index.plane_scores import further_scores, plane_scores
from index.points import Distance, Float32s, Rows, SearchParams, Stages
from index.probing import lists_to_probe
from index.ranking import Clock
from index.segment import Segment
from index.view import View
from index.widths import Widths

# An estimate by plane 0 is off by 0.6 * factor * |q| (standard deviation, for signs of a rotated vector): most for
# long vectors, which under Dot are also the likeliest winners. Ranked two deviations up, lognormal norms (sigma
# 0.5, d 384, n 20,000) keep .990 of the ten best among 200 candidates instead of .926, 1.000 among 400. Each further
# plane halves the deviation.
OPTIMISM = 1.2
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

    def estimates(self, p: int, *, biased: bool) -> Float32s:
        """Return estimates of scores from sums over the first p planes, with the query's bonus if `biased`."""
        sums = self.sums + self.query.bonus / (1 << (p - 1)) if biased and self.query.bonus else self.sums
        factors = self.segment.factors[:, p - 1].take(self.positions)
        estimates: Float32s = factors * (sums * self.query.scale)
        estimates += self.query.shift
        if self.segment.beta is not None:
            estimates += self.segment.beta[self.positions]
        return estimates

    def rows(self) -> Rows:
        """Return the row numbers."""
        return self.segment.rows_at(self.positions)


def scan(
    view: View,
    query: Float32s,
    mapped: Mapping[int, Mapped],
    k: int,
    widths: Widths,
    allowed: Allowed | None,
    clock: Clock,
    stages: Stages,
) -> list[Found]:
    """Return what plane 0 proposes in each segment: `widths.candidates` of every band, or of the lists looked into."""
    found = []
    k1 = widths.candidates
    for segment in view.segments:
        clock.check()
        places = None if allowed is None else allowed.places(segment)
        rows = segment.count if places is None else places.count
        if rows == 0:
            continue
        bitmap = segment.alive if places is None else places.bitmap
        own = mapped[segment.binarizer]
        if segment.centroids is None:
            positions, sums = segment.index.scan(own.coded, k1, bitmap)
            stages.scanned += rows
        else:
            lists, held = lists_to_probe(segment, query, k, widths, places)
            positions, sums = segment.index.probe(own.coded, k1, bitmap, lists)
            if len(positions) < min(k, rows):
                lists, held = np.arange(len(segment.centroids), dtype=np.int64), rows
                positions, sums = segment.index.probe(own.coded, k1, bitmap, lists)
            stages.probed += len(lists)
            stages.scanned += held
        stages.candidates += len(positions)
        found.append(Found(segment, own, positions, sums))
    clock.lap("scan")
    return found


def best_of(found: list[Found], k1: int) -> list[Found]:
    """Keep the k1 candidates with the best estimates by plane 0 over all segments."""
    total = sum(len(part.positions) for part in found)
    if total <= k1:
        return found
    estimates = np.concatenate([part.estimates(1, biased=True) for part in found])
    flags = np.zeros(total, dtype=np.bool_)
    flags[np.argpartition(estimates, total - k1)[-k1:]] = True
    kept, start = [], 0
    for part in found:
        mine = flags[start : start + len(part.positions)]
        start += len(part.positions)
        if mine.any():
            kept.append(Found(part.segment, part.query, part.positions[mine], part.sums[mine]))
    return kept


def refined(found: Sequence[Found], *, symmetric: bool) -> list[Found]:
    """Add the further planes to the sums, all segments of a binarizer at once.

    Plane 0 counts as the scan summed it: its 8-bit rounding is a tenth of what four planes are off by. Only under
    `symmetric`, which is exact, it is read back.
    """
    result = []
    for version in {part.segment.binarizer for part in found}:
        parts = [part for part in found if part.segment.binarizer == version]
        query = parts[0].query
        rest = [part.segment.rest_at(part.positions) for part in parts]
        joint = rest[0] if len(rest) == 1 else np.concatenate(rest)
        sums = further_scores(query.coded, joint, parts[0].segment.bits, query.planes)
        start = 0
        for part in parts:
            end = start + len(part.positions)
            share, start = sums[start:end], end
            if symmetric:
                first = plane_scores(query.coded, part.segment.index.codes_at(part.positions))
                share = np.rint((first + share) * FINEST) / FINEST
            else:
                share += part.sums
            result.append(Found(part.segment, query, part.positions, share))
    return result
