"""What widths a recall takes, on one collection: measured ranks of true neighbours, and the cheapest widths for them.

Of sample queries' true ten nearest rows it is known how far down each stage they came: in which of the nearest lists
they lie, their rank among candidates by plane 0, and their rank by all planes. Widths find those that are within
all three, so their recall is a count. A filter leaves ten of the hundred nearest, say: how much farther down these come
than the ten nearest tells by how much widths must grow under it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from index.blobs import DamagedBlobs, load_blobs, save_blobs

DEPTH = 10  # of the recall that is measured
DEEP = 100  # the nearest rows, of which some are looked for too
SOME = slice(DEPTH // 2, DEEP, DEPTH)  # those
MAGIC = b"BFCALIB3"
SHARES = np.geomspace(1 / 2000, 1, 40)
MOST = 4000
RANKS = np.unique(np.geomspace(DEPTH, MOST, 28).astype(int))
# What stages cost, in microseconds of one thread (docs/log.md): only their ratios count.
LIST_COST = 0.3
BYTE_COST = 0.000085  # of a code in a list that is looked into
CANDIDATE_COST = {1: 0.1, 2: 0.15, 4: 0.3}  # by planes
STEP_COST = 0.0045  # of a dimension of codes, for each code that a walk keeps
VALUE_COST = 0.0014  # of a vector that is read
# Sample queries reach a little more than others: of what a target allows to be lost, this part is kept back.
MARGIN = 0.25
SAVED = {"shares": "<f4", "first": "<i4", "ranks": "<i4"}  # arrays, and what they are in the file


@dataclass(frozen=True, slots=True)
class Growth:
    """With what power of how deep a query looks, in ranks over `DEPTH`, widths grow to reach a target there.

    A filter that lets one row in s pass makes a query look s times as deep, among as many fewer rows.
    """

    lists: float
    candidates: float
    rerank: float


@dataclass(frozen=True, slots=True)
class Settled:
    """Widths for a target, the recall that they have on the sample, and how they grow under filters."""

    share: float
    candidates: int
    rerank: int
    recall: float
    growth: Growth


@dataclass(frozen=True, eq=False)
class Whereabouts:
    """Where neighbours were found.

    Attributes
    ----------
    shares : (n,) float32, the least share of the nearest lists that holds a neighbour; 0 where there are no lists.
    first, ranks : (n,) int32, its rank among what a scan proposes and by all planes, from 0; far beyond all widths
        where it was not found. In a graph, one less than the width of the narrowest walk that meets it.
    """

    shares: NDArray[np.float32]
    first: NDArray[np.int32]
    ranks: NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Shape:
    """What a calibration holds for: it is made again when one of these is another, or the points are many more.

    Attributes
    ----------
    points : coded rows.
    planes, code_bytes, dimension : of plane 0 and vectors.
    binarizer : version.
    lists : inverted lists of all segments.
    walked : points in graphs.
    """

    points: int
    planes: int
    code_bytes: int
    dimension: int
    binarizer: int
    lists: int
    walked: int

    @property
    def layouts(self) -> tuple[bool, bool]:
        """Whether codes are in inverted lists, and whether in a graph: see `View.layouts`."""
        return bool(self.lists), bool(self.walked)


@dataclass(frozen=True, eq=False)
class Calibration:
    """Where the true neighbours of sample queries were found.

    Attributes
    ----------
    shape : of the collection as it was measured.
    near : the n neighbours, ten a query.
    deep : of the hundred nearest of each those at `SOME`, query by query.
    groups : (n,) uint8, of `near`: 0 for stored points as queries, 1 for queries that were asked. A target holds for
        both.
    """

    shape: Shape
    near: Whereabouts
    deep: Whereabouts
    groups: NDArray[np.uint8]

    @property
    def planes(self) -> int:
        """The planes that it was measured with."""
        return self.shape.planes

    @property
    def knows_asked(self) -> bool:
        """Whether queries that somebody asked were among those it was measured with."""
        return bool(self.groups.any())

    def settled(self, target: float) -> Settled:
        """Return the cheapest widths that reach a target recall, the widest there are where none does."""
        target = round(target, 4)
        known = self._known.get(target)
        if known is None:
            self._known[target] = known = self._cheapest(_with_margin(target))
        return known

    def deeper_walks(self, target: float, passing: float) -> float:
        """Return how many times as wide a walk must be to find as much of the ten best rows that a filter leaves.

        These lie among so many more nearest rows as it lets fewer pass. What is measured ends at the hundred nearest;
        beyond, walks widen as ranks do.
        """
        deep = self.deep.first
        depths = np.arange(DEEP)[SOME]
        depth = DEPTH / max(passing, 1 / max(self.shape.points, 1))
        inside = depths < depth
        if len(deep) % len(depths) or not inside.any():
            return 1.0
        wanted = _with_margin(target)
        far, near = (
            float(np.clip(np.quantile(first, wanted), DEPTH, MOST))
            for first in (deep.reshape(-1, len(depths))[:, inside], self.near.first)
        )
        return max(far / near, 1.0) * max(depth / DEEP, 1.0)

    @cached_property
    def _known(self) -> dict[float, Settled]:
        return {}

    def _cheapest(self, wanted: float) -> Settled:
        recalls, costs = self._grid
        wanted = min(wanted, float(recalls[-1, -1, -1]))
        at = np.unravel_index(np.where(recalls >= wanted, costs, np.inf).argmin(), costs.shape)
        share, candidates, rerank = (int(place) for place in at)
        return Settled(
            float(SHARES[share]), int(RANKS[candidates]), int(RANKS[rerank]), float(recalls[at]), self._growth(wanted)
        )

    def _growth(self, wanted: float) -> Growth:
        """Return how much farther down as large a part of the hundred nearest comes than of the ten nearest."""
        near, deep = self.near, self.deep

        def farther(shallow: NDArray[Any], other: NDArray[Any], least: float, most: float) -> float:
            of = [float(np.clip(np.quantile(values, wanted), least, most)) for values in (shallow, other)]
            return float(np.log(of[1] / of[0]) / np.log(DEEP / DEPTH))

        # Of ranks so many fewer count as the filter leaves out.
        ranks = (farther(near.first, deep.first, DEPTH, MOST), farther(near.ranks, deep.ranks, DEPTH, MOST))
        lists = farther(near.shares, deep.shares, float(SHARES[0]), 1.0)
        return Growth(max(lists, 0.0), *(max(power - 1, 0.0) for power in ranks))

    @cached_property
    def _grid(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return recall@10, of the group of queries that has the lower one, and cost of all widths of the grid."""
        size = (len(SHARES), len(RANKS), len(RANKS))
        places = np.stack(
            [
                np.searchsorted(SHARES, self.near.shares),  # the first share that is as large
                np.searchsorted(RANKS, self.near.first, side="right"),  # the first width that is larger
                np.searchsorted(RANKS, self.near.ranks, side="right"),
            ]
        )
        recalls = np.ones(size)
        for group in np.unique(self.groups):
            mine = places[:, self.groups == group]
            inside = mine[:, (mine < np.array(size)[:, None]).all(axis=0)]
            found = np.bincount(np.ravel_multi_index(tuple(inside), size), minlength=int(np.prod(size))).reshape(size)
            for axis in range(3):
                found = found.cumsum(axis=axis)
            recalls = np.minimum(recalls, found / mine.shape[1])
        shape = self.shape
        scanned = SHARES * ((shape.points - shape.walked) * shape.code_bytes * BYTE_COST + shape.lists * LIST_COST)
        refined = RANKS * CANDIDATE_COST[shape.planes]
        if shape.walked:
            refined = refined + RANKS * 8 * shape.code_bytes * STEP_COST
        read = RANKS * shape.dimension * VALUE_COST
        costs = scanned[:, None, None] + refined[:, None] + read
        costs[:, RANKS[:, None] < RANKS] = np.inf  # what is read is among the candidates
        if not shape.lists:
            costs[:-1] = np.inf  # all is looked at
        return recalls, costs

    def save(self, path: Path) -> None:
        """Write it as a derived file, about its shape. Raises DiskFull."""
        blobs: dict[str, NDArray[Any]] = {"groups": self.groups.astype("u1", copy=False)}
        for depth in ("near", "deep"):
            for name, dtype in SAVED.items():
                blobs[f"{depth}_{name}"] = getattr(getattr(self, depth), name).astype(dtype, copy=False)
        save_blobs(path, MAGIC, asdict(self.shape), blobs, synced=False)


def _with_margin(target: float) -> float:
    return target + MARGIN * (1 - target)


def load_calibration(path: Path) -> Calibration | None:
    """Read a calibration; None unless there is one as it was written."""
    try:
        about, blobs = load_blobs(path, MAGIC)
        near, deep = (
            Whereabouts(**{name: np.frombuffer(blobs[f"{depth}_{name}"], dtype) for name, dtype in SAVED.items()})
            for depth in ("near", "deep")
        )
        return Calibration(Shape(**about), near, deep, np.frombuffer(blobs["groups"], "u1"))
    except (DamagedBlobs, ValueError, KeyError, TypeError):
        return None
