"""What every contestant does: build an index in a folder, open it again, answer one query at a time."""

from __future__ import annotations

import itertools
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.memory import settle

Floats = NDArray[np.float32]
Setting = dict[str, int | float | bool]
Ask = Callable[[Floats], Sequence[int] | NDArray[np.int64]]  # (d,) -> ids, best first

BLOCK = 20_000  # points that are read and given to an engine at once
SECONDS = 10.0  # between lines of progress


@dataclass(frozen=True, slots=True)
class Points:
    """The points of a data set.

    Attributes
    ----------
    path : .npy file of the vectors.
    vectors : (n, d) float32 of unit length, mapped from that file; a point's id is its row.
    buckets : (n,) int64, evenly 0 to 9,999: filters let through those below a number.
    """

    path: Path
    vectors: Floats
    buckets: NDArray[np.int64]

    def __len__(self) -> int:
        """Return n."""
        return len(self.vectors)

    def blocks(self, rows: int = BLOCK) -> Iterator[tuple[int, Floats]]:
        """Go through all vectors as (first id, (m, d) float32 in memory); print how far it is and how fast."""
        began = said = time.perf_counter()
        for start in range(0, len(self), rows):
            yield start, np.array(self.vectors[start : start + rows])
            now, done = time.perf_counter(), min(start + rows, len(self))
            if now - said > SECONDS or (done == len(self) and now - began > SECONDS):
                print(f"    {done:,} of {len(self):,} points, {done / (now - began):,.0f}/s", flush=True)
                said = now

    def sample(self, rows: int) -> Floats:
        """Return at most so many random vectors, always the same."""
        chosen = np.random.default_rng(0).permutation(len(self))[:rows]
        return np.array(self.vectors[np.sort(chosen)])

    def rescored(self, ids: NDArray[np.int64], query: Floats, k: int) -> NDArray[np.int64]:
        """Return the k best of some ids by full-precision products, read from the file; ids below 0 are none."""
        rows = np.sort(ids[ids >= 0])
        return rows[np.argsort(-(self.vectors[rows] @ query))[:k]]


class Clock:
    """Seconds of a build, from its making on."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self.first: float | None = None
        self.last: float | None = None

    def searchable(self) -> None:
        """Note that all points can be found now, however slowly."""
        self.first = self.seconds()

    def optimized(self, ago: float) -> None:
        """Note that it has been as fast as it gets for so many seconds; if not called, that is when `build` returns."""
        self.last = self.seconds() - ago

    def seconds(self) -> float:
        """Return seconds since the beginning."""
        return time.perf_counter() - self._began


class Engine(ABC):
    """One contestant. It is built in one process, and opened and asked in another.

    Attributes
    ----------
    packages : names of the distributions whose versions are recorded.
    filters : whether it can search among the points that a filter lets through.
    reads_source : whether it reads full-precision vectors from the data set's file and so needs that on disk.
    float_paths : parts of paths of its own files that hold full-precision vectors and nothing else.
    threads : how many it may use.
    """

    packages: ClassVar[tuple[str, ...]] = ()
    filters: ClassVar[bool] = True
    reads_source: ClassVar[bool] = False
    float_paths: ClassVar[tuple[str, ...]] = ()

    def __init__(self, threads: int) -> None:
        self.threads = threads

    @abstractmethod
    def build(self, points: Points, folder: Path, clock: Clock) -> None:
        """Make the index in an empty folder, as fast to search as it gets; call `clock.searchable` on the way."""

    @abstractmethod
    def open(self, points: Points, folder: Path) -> None:
        """Take up what `build` left."""

    @abstractmethod
    def settings(self) -> list[Setting]:
        """Return what is swept, once it is open."""

    @abstractmethod
    def asker(self, setting: Setting, k: int, below: int | None) -> Ask:
        """Return a function that finds the k best of all points, or of those whose bucket is below a number.

        It is used until the next one is made.
        """

    def filtered_settings(self) -> list[Setting]:
        """Return what is swept under filters."""
        return self.settings()

    def start(self, folder: Path) -> None:  # noqa: B027 - most run in this process
        """Start the process whose memory counts, if it is another one, over an empty folder; `build` comes after it."""

    def stop(self) -> None:  # noqa: B027
        """End that process, if there is one."""

    def processes(self) -> list[int]:
        """Return the ids of the processes whose memory counts: an engine behind HTTP has others than this one."""
        return [os.getpid()]

    def settle(self) -> None:
        """Have free memory given back, so that what a build or an import left is not counted."""
        settle()

    def close(self) -> None:  # noqa: B027 - most have nothing to close
        """Give back what `open` took."""


def grid(**axes: Sequence[int | float | bool]) -> list[Setting]:
    """Return every combination of values, by name."""
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def label(setting: Setting) -> str:
    """Write a setting as tables show it."""
    return ", ".join(f"{name} {value:g}" for name, value in setting.items())
