"""What was measured, gathered: means over sets, and what is kept of the teacher's with its interval. No files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.compression.results import Row
from benchmarks.encoders.contestants import FULL, PEER, STATIC, TEACHER, Exit
from benchmarks.encoders.quality import SETS
from benchmarks.encoders.speed import DOCUMENTS, QUERY

NDCG, RECALL = "ndcg", "recall"
Size = tuple[str, int, int]  # name, layers, dimensions
DRAWS = 2000


@dataclass(frozen=True, slots=True)
class Measured:
    """Rows of one version of the student.

    Attributes
    ----------
    quality : (set, documents, *size) -> measure -> values by query.
    speed : (what, threads, *size) -> values by round.
    footprint : name -> bytes on disk and in memory.
    machine : where it was timed; None if it was not.
    """

    quality: dict[tuple[str, str, str, int, int], dict[str, NDArray[np.float64]]]
    speed: dict[tuple[str, int, str, int, int], list[float]]
    footprint: dict[str, tuple[int, int]]
    machine: str | None

    @classmethod
    def gather(cls, version: str, quality: Iterable[Row], speed: Iterable[Row], footprint: Iterable[Row]) -> Measured:
        """Take the rows of a version."""
        own = [[row for row in rows if row["version"] == version] for rows in (quality, speed, footprint)]
        return cls(
            {
                (row["set"], row["documents"], row["queries"], row["layers"], row["dimensions"]): {
                    name: np.array(row[name]) for name in (NDCG, RECALL)
                }
                for row in own[0]
            },
            {
                (row["what"], row["threads"], row["name"], row["layers"], row["dimensions"]): row["rounds"]
                for row in own[1]
            },
            {row["name"]: (row["disk"], row["memory"]) for row in own[2]},
            next((row["machine"] for row in own[1]), None),
        )

    def sets(self) -> list[str]:
        """Return the names of all sets, the three first."""
        found = dict.fromkeys(key[0] for key in self.quality)
        return [*(name for name in SETS if name in found), *(name for name in found if name not in SETS)]

    def sizes(self, documents: str) -> list[Size]:
        """Return who asked these documents, as they were measured."""
        return list(dict.fromkeys(key[2:] for key in self.quality if key[1] == documents))

    def value(self, set_name: str, documents: str, size: Size, measure: str = NDCG) -> float | None:
        """Return a set's mean, None where it was not measured."""
        row = self.quality.get((set_name, documents, *size))
        return None if row is None else float(row[measure].mean())

    def mean(self, documents: str, size: Size, measure: str = NDCG) -> float | None:
        """Return the mean over the three sets; None unless all were measured."""
        values = [self.value(name, documents, size, measure) for name in SETS]
        return None if None in values else float(np.mean(np.array(values, np.float64)))

    def kept(self, documents: str, size: Size) -> tuple[float, float, float] | None:
        """Return the share of the teacher's nDCG@10 (its documents, its whole queries), means over the three sets.

        And its 95 % bootstrap interval over queries, drawn once for both sides.
        """
        rows = [
            (self.quality.get((name, documents, *size)), self.quality.get((name, TEACHER, TEACHER, 6, FULL)))
            for name in SETS
        ]
        pairs = [(row[NDCG], base[NDCG]) for row, base in rows if row is not None and base is not None]
        if len(pairs) < len(SETS):
            return None
        rng, sums = np.random.default_rng(0), np.zeros((2, DRAWS))
        for own, base in pairs:
            drawn = rng.integers(0, len(own), (DRAWS, len(own)))
            sums += np.stack([own[drawn].mean(1), base[drawn].mean(1)])
        low, high = np.percentile(sums[0] / sums[1], [2.5, 97.5])
        share = sum(own.mean() for own, _ in pairs) / sum(base.mean() for _, base in pairs)
        return float(share), float(low), float(high)

    def milliseconds(self, size: Size, threads: int = 1) -> float | None:
        """Return the median time of a query."""
        return self._median(QUERY, threads, size)

    def rate(self, one: Exit, threads: int = 1) -> float | None:
        """Return documents a second."""
        return self._median(DOCUMENTS, threads, (one.name, one.layers, FULL))

    def rounds(self, what: str, threads: int, size: Size) -> Sequence[float]:
        """Return all rounds of a measurement."""
        return self.speed.get((what, threads, *size), [])

    def _median(self, what: str, threads: int, size: Size) -> float | None:
        values = self.rounds(what, threads, size)
        return float(np.median(values)) if len(values) else None


PEER_EXIT = Exit(PEER, 6)
TEACHER_EXIT = Exit(TEACHER, 6)
STATIC_EXIT = Exit(STATIC, 0)


def full(one: Exit) -> Size:
    """Return an exit's whole size."""
    return one.name, one.layers, FULL
