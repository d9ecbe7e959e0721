"""Numbers in order, with the rows that hold them: what ranges are read from."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Self, TypeVar

import numpy as np
import orjson
from numpy.typing import NDArray
from pyroaring import BitMap

from index.fields.bitmaps import bitmap_of, rows_of
from index.matching import Bounds

LEAST, MOST = -(2**63), 2**63 - 1  # of 64 bits
PAIR = 128  # bytes of a number and a row as objects
UNSORTED = 64  # numbers that wait in no order when a range is asked for, at most
YOUNG = 16_384  # numbers that are sorted beside all others, so that few new ones do not move many old ones, at least
SHARE = 16  # or this part of the others

Number = int | float
Dtype = TypeVar("Dtype", np.int64, np.float64)


@dataclass(frozen=True, slots=True)
class _Sorted(Generic[Dtype]):
    """Values in order, (n,), and the row of each, (n,) uint32."""

    values: NDArray[Dtype]
    rows: NDArray[np.uint32]

    def __len__(self) -> int:
        return len(self.rows)

    def merged(self, other: _Sorted[Dtype]) -> _Sorted[Dtype]:
        values, rows = np.concatenate([self.values, other.values]), np.concatenate([self.rows, other.rows])
        order = np.argsort(values, kind="stable")
        return _Sorted(values[order], rows[order])

    def without(self, rows: NDArray[np.uint32]) -> _Sorted[Dtype]:
        keep = ~np.isin(self.rows, rows)
        return _Sorted(self.values[keep], self.rows[keep])


class _Run(Generic[Dtype]):
    """Numbers of one type: most in order, newer ones in an order of their own."""

    def __init__(self, dtype: type[Dtype], ends: Callable[[NDArray[Dtype], Bounds], tuple[int, int]]) -> None:
        self._dtype: type[Dtype] = dtype
        self._ends: Callable[[NDArray[Dtype], Bounds], tuple[int, int]] = ends
        self.old: _Sorted[Dtype] = _Sorted(np.empty(0, dtype), np.empty(0, np.uint32))
        self._young: _Sorted[Dtype] = self.old

    def __len__(self) -> int:
        return len(self.old) + len(self._young)

    def add(self, pairs: Sequence[tuple[Number, int]]) -> None:
        if pairs:
            values, rows = (np.array(side) for side in zip(*pairs, strict=True))
            self.take(_Sorted(values.astype(self._dtype), rows.astype(np.uint32)))

    def take(self, new: _Sorted[Dtype]) -> None:
        self._young = self._young.merged(new)
        if len(self._young) > max(YOUNG, len(self.old) // SHARE):
            self.settle()

    def absorb(self, other: _Run[Dtype]) -> None:
        other.settle()
        self.take(other.old)

    def settle(self) -> None:
        """Put all into one order."""
        self.old, self._young = self.old.merged(self._young), self._young.without(self._young.rows)

    def rows(self, bounds: Bounds) -> BitMap:
        found = BitMap()
        for part in (self.old, self._young):
            if len(part):
                low, high = self._ends(part.values, bounds)
                found |= bitmap_of(part.rows[low:high])
        return found

    def memory_bytes(self) -> int:
        return sum(part.values.nbytes + part.rows.nbytes for part in (self.old, self._young))

    def discard(self, rows: NDArray[np.uint32]) -> None:
        self.old, self._young = self.old.without(rows), self._young.without(rows)


class Column:
    """All numbers of a field.

    Integers and floats are kept apart, so that both compare exactly, as Python compares them. New ones wait in no
    order until they are many or a range is asked for; integers beyond 64 bits (times after 2262) always do.
    """

    def __init__(self) -> None:
        self._ints, self._floats = _Run(np.int64, _int_ends), _Run(np.float64, _float_ends)
        self._recent: list[tuple[Number, int]] = []
        self._wide: list[tuple[Number, int]] = []

    def __len__(self) -> int:
        """Return how many numbers there are, counted once for each row."""
        return len(self._ints) + len(self._floats) + len(self._recent) + len(self._wide)

    def add(self, row: int, number: Number) -> None:
        """Note a number of a row; NaN, which no range holds, is passed over."""
        if type(number) is int and not LEAST <= number <= MOST:
            self._wide.append((number, row))
        elif number == number:
            self._recent.append((number, row))
            if len(self._recent) >= YOUNG:
                self._sort()

    def rows(self, bounds: Bounds) -> BitMap:
        """Return the rows that hold a number within bounds. Costs what is found."""
        if len(self._recent) > UNSORTED:
            self._sort()
        found = self._ints.rows(bounds) | self._floats.rows(bounds)
        for number, row in (*self._recent, *self._wide):
            if bounds.hold(number):
                found.add(row)
        return found

    def memory_bytes(self) -> int:
        """Return about how many bytes this takes in memory."""
        return self._ints.memory_bytes() + self._floats.memory_bytes() + PAIR * (len(self._recent) + len(self._wide))

    def to_blobs(self) -> dict[str, bytes]:
        """Return what `from_blobs` reads."""
        self._sort()
        blobs = {"wide": orjson.dumps([[str(number), row] for number, row in self._wide])}
        for name, run, dtype in (("int", self._ints, "<i8"), ("float", self._floats, "<f8")):
            run.settle()
            blobs[f"{name}s"] = run.old.values.astype(dtype).tobytes()
            blobs[f"{name} rows"] = run.old.rows.astype("<u4").tobytes()
        return blobs

    @classmethod
    def from_blobs(cls, blobs: Mapping[str, bytes]) -> Self:
        """Read `to_blobs`."""
        made = cls()
        made._ints.old = _Sorted(np.frombuffer(blobs["ints"], "<i8"), np.frombuffer(blobs["int rows"], "<u4"))
        made._floats.old = _Sorted(np.frombuffer(blobs["floats"], "<f8"), np.frombuffer(blobs["float rows"], "<u4"))
        made._wide = [(int(number), row) for number, row in orjson.loads(blobs["wide"])]
        return made

    def discard(self, rows: BitMap) -> None:
        """Forget rows. Looks at every number."""
        gone = rows_of(rows).astype(np.uint32)
        self._ints.discard(gone)
        self._floats.discard(gone)
        self._recent = [(number, row) for number, row in self._recent if row not in rows]
        self._wide = [(number, row) for number, row in self._wide if row not in rows]

    def absorb(self, other: Column) -> None:
        """Take over all that another has; it must not be used afterwards."""
        other._sort()
        self._ints.absorb(other._ints)
        self._floats.absorb(other._floats)
        self._wide += other._wide

    def _sort(self) -> None:
        self._ints.add([pair for pair in self._recent if type(pair[0]) is int])
        self._floats.add([pair for pair in self._recent if type(pair[0]) is not int])
        self._recent = []


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
    """Return the least integer that is not below a bound, and of infinite ones no further out than is of use."""
    if type(bound) is int:
        return bound
    return (MOST + 1 if bound > 0 else LEAST) if math.isinf(bound) else math.ceil(bound)


def _down(bound: Number) -> int:
    if type(bound) is int:
        return bound
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
