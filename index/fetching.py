"""From rows to what callers see: points, hits. Reads one snapshot."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from index.ids import PointId
from index.points import Float32s, Hit, Point
from index.ranking import Ranking
from index.record import Reader
from index.view import View


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
