"""Results put together: over seeds, over sets, by bytes. Plain tables of numbers; knows no Markdown and no plots."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from benchmarks.compression.quality import FLOAT
from benchmarks.compression.results import Results

Array = NDArray[np.float64]
BARRED = ("scifact", "cosqa", "covidqa")
GROUPS = ((16, 16.0), (32, 32.0), (48, 56.0), (96, 116.0), (192, 212.0))  # the budget, and the natives counted to it


@dataclass(slots=True)
class Measured:
    """One method on one collection.

    Attributes
    ----------
    bytes : a vector, every per-row byte counted.
    queries : measure -> (seeds, nq) values.
    """

    method: str
    family: str
    bytes: float
    queries: dict[str, Array] = field(default_factory=dict)

    def mean(self, measure: str) -> float:
        """Return the mean over seeds and queries."""
        return float(self.queries[measure].mean())

    def spread(self, measure: str) -> float:
        """Return the standard deviation over seeds, 0 for one seed."""
        means = self.queries[measure].mean(axis=1)
        return float(means.std(ddof=1)) if len(means) > 1 else 0.0


def gather(results: Results) -> dict[str, dict[str, Measured]]:
    """Return collection -> method -> measurements, seeds stacked in order."""
    rows = sorted(results, key=lambda row: (row["corpus"], row["method"], row["seed"]))
    out: dict[str, dict[str, Measured]] = {}
    for row in rows:
        methods = out.setdefault(row["corpus"], {})
        found = methods.setdefault(row["method"], Measured(row["method"], row["family"], row["bytes"]))
        for measure, values in row["queries"].items():
            added = np.array([values])
            found.queries[measure] = np.concatenate([found.queries.get(measure, added[:0]), added])
    return out


def over_sets(all_: dict[str, dict[str, Measured]], names: Iterable[str], method: str, measure: str) -> float | None:
    """Return a method's mean over collections, None where one of them lacks it."""
    found = [all_.get(name, {}).get(method) for name in names]
    return None if not all(found) else float(np.mean([one.mean(measure) for one in found if one]))


def methods(all_: dict[str, dict[str, Measured]]) -> list[Measured]:
    """Return one entry a method, by bytes and name, float last."""
    by_name = {name: found for corpus in all_.values() for name, found in corpus.items()}
    return sorted(by_name.values(), key=lambda one: (one.method == FLOAT, one.bytes, one.method))


def group(size: float) -> int | None:
    """Return the budget that a size belongs to, None where it is beyond all."""
    return next((budget for budget, most in GROUPS if size <= most), None)
