"""From rows to what callers see: the rows that a filter allows, points, hits. Reads one snapshot."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import orjson

from index.filters import Filter
from index.ids import PointId
from index.points import Float32s, Hit, Point, Rows
from index.ranking import Ranking, check_deadline
from index.record import Reader
from index.view import View

CHECK_EVERY = 1024  # rows between two looks at the clock


def matching(reader: Reader, condition: Filter, deadline: float | None) -> Rows:
    """Return the rows, ascending, of the points that fulfil a filter."""
    only = condition.only_ids()
    if only is not None:
        stored = reader.stored(list(only))
        found = [s.row for i, s in stored.items() if condition.matches(i, orjson.loads(s.payload))]
        return np.array(sorted(found), dtype=np.int64)
    if condition == Filter():
        return reader.rows()
    rows = []
    for number, (row, point_id, payload) in enumerate(reader.scan_rows(payload=condition.needs_payload)):
        if number % CHECK_EVERY == 0:
            check_deadline(deadline)
        if condition.matches(point_id, orjson.loads(payload) if condition.needs_payload else {}):
            rows.append(row)
    return np.array(rows, dtype=np.int64)


def _vectors_of(view: View, rows: Sequence[int]) -> dict[int, Float32s]:
    ordered = np.array(sorted(rows), dtype=np.int64)
    return dict(zip(ordered.tolist(), view.read(ordered), strict=True))


def points_at(
    view: View,
    reader: Reader,
    chosen: Sequence[tuple[int, PointId, bytes]],
    *,
    with_vector: bool,
    with_text: bool,
) -> list[Point]:
    """Return the points of `(row, id, payload)`, in that order."""
    rows = [row for row, _, _ in chosen]
    vectors = _vectors_of(view, rows) if with_vector else {}
    texts = reader.texts_of(rows) if with_text else {}
    return [Point(point_id, payload, texts.get(row), vectors.get(row)) for row, point_id, payload in chosen]


def hits_at(
    view: View, reader: Reader, ranking: Ranking, with_payload: bool, with_text: bool, with_vector: bool
) -> list[Hit]:
    """Return the hits of a ranking, best first."""
    rows = ranking.rows.tolist()
    points = reader.points_of(rows, payload=with_payload)
    texts = reader.texts_of(rows) if with_text else {}
    vectors = _vectors_of(view, rows) if with_vector else {}
    return [
        Hit(points[row][0], score, points[row][1], texts.get(row), vectors.get(row))
        for row, score in zip(rows, ranking.scores.tolist(), strict=True)
    ]
