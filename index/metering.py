"""Measures the recall of a collection: of live searches beside other work, and of as many as are asked for now."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np

from index.collection import Collection
from index.errors import DeadlineExceeded, VectorsDropped
from index.exact import Scorer
from index.filters import Filter
from index.meter import Asked, Measured, RecallReport, measure, report_of
from index.points import SearchParams
from index.ranking import check_deadline

SEED = 0


def meter_piece(collection: Collection) -> bool:
    """Measure the next live query that waits, if it is time; say whether there was one."""
    if not collection.config.store_vectors:
        return False
    asked = collection.meter.due()
    if asked is None:
        return False
    started = time.perf_counter()
    found = _measured(collection, asked, None)
    if found is not None:
        collection.meter.note(found, time.perf_counter() - started)
    return True


def measure_now(
    collection: Collection,
    queries: int,
    k: int,
    *,
    filter: Filter | None = None,
    params: SearchParams | None = None,
    deadline: float | None = None,
) -> RecallReport:
    """Measure with the queries asked last, and stored points where these are too few.

    What is measured before the deadline counts. Raises VectorsDropped where there are no vectors to compare with,
    DeadlineExceeded when not even one query was measured.
    """
    if not collection.config.store_vectors:
        raise VectorsDropped(
            "the collection keeps codes only: there are no vectors to compare with",
            hint="see codes_only in GET /collections/{collection} for what was measured before they went",
        )
    found: list[Measured] = []
    try:
        for asked in _asked(collection, queries, k, filter, params or SearchParams(exact=False)):
            check_deadline(deadline)
            one = _measured(collection, asked, deadline)
            found += [one] if one is not None else []
    except DeadlineExceeded:
        if not found:
            raise
    return report_of(found)


def _asked(
    collection: Collection, queries: int, k: int, filter: Filter | None, params: SearchParams
) -> Iterator[Asked]:
    last = list(collection.asked)[-queries:]
    for query in last:
        yield Asked(query, k, params, filter)
    if len(last) < queries and collection.view.points:
        _, vectors = collection.sample(queries - len(last), SEED)
        rng = np.random.default_rng(SEED)
        for vector in rng.permutation(vectors):
            yield Asked(vector, k, params, filter)


def _measured(collection: Collection, asked: Asked, deadline: float | None) -> Measured | None:
    with collection.snapshot() as (view, reader):
        chosen = collection.selected(view, reader, asked.filter, deadline)
        allowed = None if chosen is None else chosen.allowed
        scorer = Scorer(asked.query, collection.config.distance, asked.within)
        return measure(view, asked, scorer, allowed, collection.calibration, deadline)
