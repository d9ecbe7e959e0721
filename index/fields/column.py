"""Numbers in order, with the rows that hold them: what ranges are read from."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, Self, TypeVar

import numpy as np
import orjson
from numpy.typing import NDArray
from pyroaring import BitMap

from index.fields.bitmaps import bitmap_of, rows_of
from index.matching import Bounds

LEAST, MOST = -(2**63), 2**63 - 1  # of 64 bits
RECENT = 4096  # numbers that wait unsorted, at least
SHARE = 16  # or this part of those in order

Number = int | float
Dtype = TypeVar("Dtype", np.int64, np.float64)


@dataclass(slots=True)
class _Sorted(Generic[Dtype]):
    """Values in order, (n,), and the row of each, (n,) uint32."""

    values: NDArray[Dtype]
    rows: NDArray[np.uint32]

    def merged(self, values: list[Number], rows: list[int]) -> _Sorted[Dtype]:
        both = np.concatenate([self.values, np.array(values, dtype=self.values.dtype)])
        all_rows = np.concatenate([self.rows, np.array(rows, dtype=np.uint32)])
        order = np.argsort(both, kind="stable")
        return _Sorted(both[order], all_rows[order])

    def without(self, rows: BitMap) -> _Sorted[Dtype]:
        gone = rows_of(rows)
        keep = ~np.isin(self.rows, gone.astype(np.uint32))
        return _Sorted(self.values[keep], self.rows[keep])


class Column:
    """All numbers of a field.

    Integers and floats are kept apart, so that both compare exactly, as Python compares them. New ones wait
    unsorted until there are many; integers beyond 64 bits (times after 2262) always do.
    """

    def __init__(self) -> None:
        self._ints = _Sorted(np.empty(0, np.int64), np.empty(0, np.uint32))
        self._floats = _Sorted(np.empty(0, np.float64), np.empty(0, np.uint32))
        self._recent: list[tuple[Number, int]] = []
        self._wide: list[tuple[Number, int]] = []

    def __len__(self) -> int:
        """Return how many numbers there are, counted once for each row."""
        return len(self._ints.rows) + len(self._floats.rows) + len(self._recent) + len(self._wide)

    def add(self, row: int, number: Number) -> None:
        """Note a number of a row; NaN, which no range holds, is passed over."""
        if type(number) is int and not LEAST <= number <= MOST:
            self._wide.append((number, row))
        elif number == number:
            self._recent.append((number, row))
            if len(self._recent) >= max(RECENT, len(self) // SHARE):
                self.sort()

    def rows(self, bounds: Bounds) -> BitMap:
        """Return the rows that hold a number within bounds. Costs what is found, and what waits unsorted."""
        found = bitmap_of(self._ints.rows[_between(self._ints.values, bounds, _int_ends)])
        found |= bitmap_of(self._floats.rows[_between(self._floats.values, bounds, _float_ends)])
        for number, row in (*self._recent, *self._wide):
            if bounds.hold(number):
                found.add(row)
        return found

    def to_blobs(self) -> dict[str, bytes]:
        """Return what `from_blobs` reads."""
        self.sort()
        return {
            "ints": self._ints.values.astype("<i8").tobytes(),
            "int rows": self._ints.rows.astype("<u4").tobytes(),
            "floats": self._floats.values.astype("<f8").tobytes(),
            "float rows": self._floats.rows.astype("<u4").tobytes(),
            "wide": orjson.dumps([[str(number), row] for number, row in self._wide]),
        }

    @classmethod
    def from_blobs(cls, blobs: Mapping[str, bytes]) -> Self:
        """Read `to_blobs`."""
        made = cls()
        made._ints = _Sorted(np.frombuffer(blobs["ints"], "<i8"), np.frombuffer(blobs["int rows"], "<u4"))
        made._floats = _Sorted(np.frombuffer(blobs["floats"], "<f8"), np.frombuffer(blobs["float rows"], "<u4"))
        made._wide = [(int(number), row) for number, row in orjson.loads(blobs["wide"])]
        return made

    def discard(self, rows: BitMap) -> None:
        """Forget rows. Looks at every number."""
        self._ints, self._floats = self._ints.without(rows), self._floats.without(rows)
        self._recent = [(number, row) for number, row in self._recent if row not in rows]
        self._wide = [(number, row) for number, row in self._wide if row not in rows]

    def absorb(self, other: Column) -> None:
        """Take over all that another has."""
        self._recent += other._recent
        self._wide += other._wide
        for kind in (other._ints, other._floats):
            self._recent += zip(kind.values.tolist(), kind.rows.tolist(), strict=True)
        self.sort()

    def sort(self) -> None:
        """Put what waits in order."""
        ints = [pair for pair in self._recent if type(pair[0]) is int]
        floats = [pair for pair in self._recent if type(pair[0]) is not int]
        if ints:
            self._ints = self._ints.merged([number for number, _ in ints], [row for _, row in ints])
        if floats:
            self._floats = self._floats.merged([number for number, _ in floats], [row for _, row in floats])
        self._recent = []


def _between(
    values: NDArray[Dtype], bounds: Bounds, ends: Callable[[NDArray[Dtype], Bounds], tuple[int, int]]
) -> slice:
    low, high = ends(values, bounds) if len(values) else (0, 0)
    return slice(low, max(low, high))


def _int_ends(values: NDArray[np.int64], bounds: Bounds) -> tuple[int, int]:
    low, high = LEAST, MOST
    if bounds.gte is not None:
        low = max(low, _up(bounds.gte))
    if bounds.gt is not None:
        low = max(low, _down(bounds.gt) + 1)
    if bounds.lte is not None:
        high = min(high, _down(bounds.lte))
    if bounds.lt is not None:
        high = min(high, _up(bounds.lt) - 1)
    if low > high:
        return 0, 0
    return int(np.searchsorted(values, np.int64(low), "left")), int(np.searchsorted(values, np.int64(high), "right"))


def _up(bound: Number) -> int:
    """Return the least integer that is not below a bound, and no further out than is of use."""
    return (MOST + 1 if bound > 0 else LEAST) if math.isinf(bound) else math.ceil(bound)


def _down(bound: Number) -> int:
    return (MOST if bound > 0 else LEAST - 1) if math.isinf(bound) else math.floor(bound)


def _float_ends(values: NDArray[np.float64], bounds: Bounds) -> tuple[int, int]:
    """Find both ends by the nearest float of each bound; where that is not the bound, it says which side is meant."""
    low, high = 0, len(values)
    if bounds.gte is not None:
        near = _float(bounds.gte)
        low = max(low, int(np.searchsorted(values, near, "left" if near >= bounds.gte else "right")))
    if bounds.gt is not None:
        near = _float(bounds.gt)
        low = max(low, int(np.searchsorted(values, near, "left" if near > bounds.gt else "right")))
    if bounds.lte is not None:
        near = _float(bounds.lte)
        high = min(high, int(np.searchsorted(values, near, "right" if near <= bounds.lte else "left")))
    if bounds.lt is not None:
        near = _float(bounds.lt)
        high = min(high, int(np.searchsorted(values, near, "right" if near < bounds.lt else "left")))
    return low, high


def _float(bound: Number) -> float:
    try:
        return float(bound)
    except OverflowError:
        return math.inf if bound > 0 else -math.inf
