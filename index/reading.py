"""The reading side of a collection: points, pages, counts, samples, searches. Each reads one commit's picture.

Any number of threads may read, while others write.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from index.allowed import Allowed
from index.calibration import Calibration
from index.errors import DiskFull, InvalidInput, ReadOnlyCollection, VectorsDropped
from index.exact import Scorer, search_exact
from index.fetching import hits_at, points_at
from index.fields.indexes import PayloadIndexes
from index.filters import Filter
from index.funnel import search_codes
from index.ids import PointId
from index.meter import Asked, RecallMeter
from index.options import StoreOptions
from index.parallel import Workers
from index.points import (
    CollectionConfig,
    Float32s,
    Point,
    Rows,
    SearchParams,
    SearchResult,
    Stored,
    prepare_vectors,
)
from index.ranking import Clock, Ranking
from index.record import Reader, Record
from index.selecting import page_of, select
from index.selections import Kept, Selections
from index.view import View

SNAPSHOT_SECONDS = 10.0
TOGETHER = 32  # queries that share scans; more of them gain little (docs/log.md)
MOST_CANDIDATES = 1 << 20  # that are held at once
EVERYTHING = Filter()


class Reading(ABC):
    """What `Collection` is to those who read; it keeps what they need."""

    folder: Path
    config: CollectionConfig
    options: StoreOptions
    record: Record
    fields: PayloadIndexes
    selections: Selections
    calibration: Calibration | None
    meter: RecallMeter
    asked: deque[Float32s]  # queries of late, (d,) float32
    last_search: float  # `time.monotonic()`
    workers: Workers
    _view: View

    @abstractmethod
    def seal(self) -> None:
        """Give codes to all rows that have none yet."""

    @property
    def view(self) -> View:
        """The picture of the last commit."""
        return self._view

    @property
    def bits(self) -> int:
        """The planes of new codes."""
        newest = self._view.newest
        return newest.bits if newest else self.config.bits

    @contextmanager
    def snapshot(self) -> Iterator[tuple[View, Reader]]:
        """Take a view and a reader of the record that belong together."""
        end = time.monotonic() + SNAPSHOT_SECONDS
        while time.monotonic() < end:
            with self.record.snapshot() as reader:
                view = self._view
                if reader.seq() == view.seq:
                    yield view, reader
                    return
            # Between a COMMIT and its view lie microseconds: begin again.
            time.sleep(0.0001)
        raise RuntimeError(f"{self.folder}: the record and the view have come apart; restart the service")

    @contextmanager
    def _picture(
        self, filter: Filter | None, deadline: float | None, *, recorded: bool
    ) -> Iterator[tuple[View, Reader | None, Kept | None]]:
        """Take a view, a reader of the record that belongs to it, and what a filter selects.

        Where nothing is asked of the record there is no reader: payloads and texts (`recorded`), ids that are no
        numbers, and what filters select that nobody asked for of late.
        """
        view = self._view
        if view.numbered and not recorded:
            narrowing = _narrowing(filter)
            known = None if narrowing is None else self.selections.get(narrowing, view.seq)
            if known is not None or narrowing is None:
                self.record.refuse_closed()
                yield view, None, known
                return
        with self.snapshot() as (view, reader):
            yield view, reader, self.selected(view, reader, filter, deadline)

    def stored(self, ids: Sequence[PointId]) -> dict[PointId, Stored]:
        """Return hash and payload of those ids that exist."""
        with self.record.snapshot() as reader:
            return reader.stored(ids)

    def points(self, ids: Sequence[PointId], *, with_vector: bool = False, with_text: bool = False) -> list[Point]:
        """Return those points that exist, in the order of `ids`."""
        with self.snapshot() as (view, reader):
            found = reader.stored(ids)
            chosen = [(point_id, found[point_id]) for point_id in dict.fromkeys(ids) if point_id in found]
            rows = [(stored.row, point_id, stored.payload) for point_id, stored in chosen]
            return points_at(view, reader, rows, with_vector=with_vector, with_text=with_text)

    def scroll(
        self,
        *,
        after: PointId | None = None,
        limit: int,
        filter: Filter | None = None,
        with_vector: bool = False,
        with_text: bool = False,
        deadline: float | None = None,
    ) -> tuple[list[Point], PointId | None]:
        """Return up to `limit` points in the order of ids, from `after` (inclusive) on, and the next id."""
        with self.snapshot() as (view, reader):
            chosen, following = page_of(reader, filter, after, limit, deadline, indexes=self.fields, view=view)
            points = points_at(view, reader, chosen, with_vector=with_vector, with_text=with_text)
        return points, following

    def sample(self, n: int, seed: int) -> tuple[Rows, Float32s]:
        """Draw up to n points evenly; return their rows, ascending, and `(n, d)` float32 vectors as stored.

        Points whose vectors are dropped are passed over; raises VectorsDropped when there are no others.
        """
        view = self._view
        rows = view.alive_rows()
        stored = view.readable(rows)
        if len(rows) and not stored.any():
            raise VectorsDropped(
                f"the collection keeps codes only: the full-precision vectors of all {len(rows)} points are gone",
                hint="use vectors from where they came from",
            )
        rows = rows[stored]
        if len(rows) > n:
            rows = np.sort(np.random.default_rng(seed).choice(rows, n, replace=False))
        return rows, view.read(rows)

    def count(self, filter: Filter | None = None, deadline: float | None = None) -> int:
        """Return the number of points, of those that fulfil a filter if one is given."""
        with self.snapshot() as (view, reader):
            chosen = self.selected(view, reader, filter, deadline)
            return reader.count() if chosen is None else len(chosen.allowed)

    def selected(self, view: View, reader: Reader, filter: Filter | None, deadline: float | None) -> Kept | None:
        """Return what a filter selects, of a snapshot; None where it selects everything because it asks for nothing."""
        narrowing = _narrowing(filter)
        if narrowing is None:
            return None
        known = self.selections.get(narrowing, view.seq)
        if known is not None:
            return known
        found = select(reader, narrowing, deadline, indexes=self.fields, view=view)
        return self.selections.keep(narrowing, view.seq, found)

    def search(
        self,
        queries: Float32s,
        k: int,
        *,
        filter: Filter | None = None,
        params: SearchParams | None = None,
        with_payload: bool = True,
        with_text: bool = False,
        with_vector: bool = False,
        within: Float32s | None = None,
        deadline: float | None = None,
    ) -> list[SearchResult]:
        """Find the k best points for each query.

        Parameters
        ----------
        queries : (nq, d) float32; normalised here under Cosine.
        k : how many, at least 1. Never fewer come back while so many (matching) points exist.
        within : (s, d) float32, orthonormal rows: the queries lie in the part of the space that these span, and under
            Cosine documents are compared by their direction in it. Costs s products more a vector that is read.
        deadline : `time.monotonic()` after which DeadlineExceeded is raised.

        Returns
        -------
        One result a query; scores: higher is better, under Euclid the negative distance.
        """
        self.last_search = time.monotonic()
        params = params or SearchParams()
        prepared = prepare_vectors(queries, self.config)
        if params.bits is not None and params.bits > self.bits:
            raise InvalidInput(
                f"bits {params.bits} were asked for, this collection stores {self.bits}",
                param="params.bits",
                hint=f"use 1 to {self.bits}",
            )
        if params.exact is False and not self._view.segments:
            # Without room to write the tail stays as it is and is scored exactly.
            with suppress(DiskFull, ReadOnlyCollection):
                self.seal()
        started = time.perf_counter()
        with self._picture(filter, deadline, recorded=with_payload or with_text) as (view, reader, chosen):
            filtering = (time.perf_counter() - started) * 1e3
            allowed = None if chosen is None else chosen.allowed

            def rank(part: Float32s) -> list[Ranking]:
                scorers = [Scorer(query, self.config.distance, within) for query in part]
                return self._rank(view, scorers, k, allowed, params, deadline)

            together = max(1, min(TOGETHER, MOST_CANDIDATES // max(k, params.candidates or 0)))
            size = min(math.ceil(len(prepared) / self.workers.threads), together)
            parts = [prepared[start : start + size] for start in range(0, len(prepared), size)] if size else []
            rankings = [ranking for part in self.workers.map(rank, parts) for ranking in part]
            results = []
            for query, ranking in zip(prepared, rankings, strict=True):
                if ranking.stages.mode == "codes":
                    self.asked.append(query)
                    if self.meter.draws():
                        self.meter.offer(Asked(query, k, params, filter, within))
                if chosen is not None:
                    ranking.stages.filtered_to, ranking.stages.payloads_read = len(chosen.allowed), chosen.read
                    ranking.stages.milliseconds["filter"] = filtering
                clock = Clock([ranking.stages], deadline)
                hits = hits_at(view, reader, ranking, with_payload, with_text, with_vector)
                clock.lap("fetch")
                results.append(SearchResult(hits=hits, stages=ranking.stages))
            return results

    def _rank(
        self,
        view: View,
        scorers: Sequence[Scorer],
        k: int,
        allowed: Allowed | None,
        params: SearchParams,
        deadline: float | None,
    ) -> list[Ranking]:
        exact = params.exact
        if exact is None:
            exact = view.points <= self.options.exact_below and not view.named
        if exact:
            if view.named:
                view.require_vectors(view.alive_rows(), param="params.exact", hint="leave exact out")
            return [search_exact(view, scorer, k, allowed, deadline) for scorer in scorers]
        return search_codes(view, scorers, k, allowed, params, deadline, self.calibration, self.workers)


def _narrowing(filter: Filter | None) -> Filter | None:
    """Return a filter, None if it asks for nothing."""
    return None if filter == EVERYTHING else filter
