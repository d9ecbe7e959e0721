"""The recall meter: some live queries are run again exactly, and what was not found is put down to what lost it."""

from __future__ import annotations

import random
import time
from collections import deque
from dataclasses import dataclass, replace

import numpy as np

from index.allowed import Allowed
from index.calibration import Calibration
from index.exact import Scorer, search_exact
from index.filters import Filter
from index.funnel import search_codes
from index.points import Float32s, SearchParams
from index.ranking import Ranking
from index.view import View
from index.widths import ALL_LISTS

WAITING = 64  # live queries that wait to be run again; more are passed over
KEPT = 1000  # measured queries that a report is of, the newest
REST = 50  # times as long as a measurement took, the meter rests: it costs at most a fiftieth of one core
TINY = 1e-6


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """A query as it was asked: `query` is (d,) float32, `within` as in `Scorer`."""

    query: Float32s
    k: int
    params: SearchParams
    filter: Filter | None = None
    within: Float32s | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """What one query found of its true k best, and what lost the rest; all are shares of k.

    Attributes
    ----------
    recall : found.
    codes, probing : lost by codes (with all lists looked into, still missing), and by the lists not looked into.
    filters : how much less was found than without the filter; None without one.
    """

    k: int
    recall: float
    codes: float
    probing: float
    filters: float | None


@dataclass(frozen=True, slots=True)
class RecallReport:
    """Means over measured queries; None where there were none.

    Attributes
    ----------
    queries, filtered : how many, and how many of them had a filter.
    recall, filtered_recall : of all, and of those that had a filter.
    lost_by_codes, lost_by_probing, lost_by_filters : see `Measured`.
    """

    queries: int
    filtered: int
    recall: float | None
    filtered_recall: float | None
    lost_by_codes: float | None
    lost_by_probing: float | None
    lost_by_filters: float | None


class RecallMeter:
    """Remembers some live queries and what was measured of them. Any number of threads may call it."""

    def __init__(self, share: float) -> None:
        """Take a share, 0 to 1, of live queries."""
        self._share = share
        self._waiting: deque[Asked] = deque(maxlen=WAITING)
        self._measured: deque[Measured] = deque(maxlen=KEPT)
        self._rests_until = 0.0

    def draws(self) -> bool:
        """Say by chance whether a live query is one of those to measure."""
        return bool(self._share) and random.random() < self._share

    def offer(self, asked: Asked) -> None:
        """Remember a live query that was drawn."""
        self._waiting.append(asked)

    def due(self) -> Asked | None:
        """Return the next query to measure, if it is time for one."""
        if not self._waiting or time.monotonic() < self._rests_until:
            return None
        return self._waiting.popleft()

    def note(self, measured: Measured, seconds: float) -> None:
        """Keep what was measured in so many seconds."""
        self._measured.append(measured)
        self._rests_until = time.monotonic() + REST * seconds

    def report(self) -> RecallReport:
        """Return the means of what was measured last."""
        return report_of(list(self._measured))


def report_of(measured: list[Measured]) -> RecallReport:
    """Return the means over some queries."""

    def mean(values: list[float]) -> float | None:
        return round(float(np.mean(values)), 4) if values else None

    filtered = [one for one in measured if one.filters is not None]
    return RecallReport(
        queries=len(measured),
        filtered=len(filtered),
        recall=mean([one.recall for one in measured]),
        filtered_recall=mean([one.recall for one in filtered]),
        lost_by_codes=mean([one.codes for one in measured]),
        lost_by_probing=mean([one.probing for one in measured]),
        lost_by_filters=mean([one.filters for one in filtered if one.filters is not None]),
    )


def measure(
    view: View,
    asked: Asked,
    scorer: Scorer,
    allowed: Allowed | None,
    calibration: Calibration | None,
    deadline: float | None,
) -> Measured | None:
    """Run a query again exactly, and by codes; None when nothing can be found.

    Parameters
    ----------
    allowed : what its filter selects, None without one.

    Raises
    ------
    DeadlineExceeded
        It takes too long.
    """
    exact = search_exact(view, scorer, asked.k, allowed, deadline)
    if not len(exact.rows):
        return None
    everywhere = replace(asked.params, probes=ALL_LISTS)
    found, whole = (
        _share(search_codes(view, [scorer], asked.k, allowed, params, deadline, calibration)[0], exact)
        for params in (asked.params, everywhere)
    )
    lost_by_filter = None
    if allowed is not None:
        free = measure(view, asked, scorer, None, calibration, deadline)
        lost_by_filter = free.recall - found if free is not None else 0.0
    return Measured(asked.k, found, 1 - whole, whole - found, lost_by_filter)


def _share(found: Ranking, exact: Ranking) -> float:
    """Return the share of the exact best that was found; a row that ties with the last of them counts."""
    among = np.isin(found.rows, exact.rows)
    ties = found.scores >= exact.scores[-1] - TINY
    return min(1.0, float((among | ties).sum()) / len(exact.rows))
