"""From rows to what callers see: points, hits. Reads one snapshot."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import repeat

import numpy as np

from index.ids import PointId
from index.points import Float32s, Hit, Point, Rows
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
    view: View, reader: Reader | None, ranking: Ranking, with_payload: bool, with_text: bool, with_vector: bool
) -> list[Hit]:
    """Return the hits of a ranking, best first. Of a view whose ids are in memory, bare ones take no reader."""
    rows = ranking.rows.tolist()
    points: Iterable[tuple[PointId, bytes | None]]
    ids = None if with_payload else _number_ids(view, ranking.rows)
    if ids is None:
        assert reader is not None
        found = reader.points_of(rows, payload=with_payload)
        points = map(found.__getitem__, rows)
    else:
        points = zip(ids, repeat(None))
    texts = {}
    if with_text:
        assert reader is not None
        texts = reader.texts_of(rows)
    vectors = _vectors_of(view, rows) if with_vector else {}
    return [
        Hit(point_id, score, payload, texts.get(row), vectors.get(row))
        for row, score, (point_id, payload) in zip(rows, ranking.scores.tolist(), points, strict=False)
    ]


def _number_ids(view: View, rows: Rows) -> list[int] | None:
    """Return the ids of rows, if all of them are in memory."""
    if len(view.segments) == 1 and not view.tail.count:
        found = view.segments[0].number_ids(rows, view.seq)
        return None if found is None else found.tolist()
    ids, left = np.empty(len(rows), dtype=np.uint64), len(rows)
    for segment in view.segments:
        mine = (rows >= segment.first_row) & (rows < segment.end_row)
        found = segment.number_ids(rows[mine], view.seq)
        if found is not None:
            ids[mine] = found
            left -= len(found)
    return None if left else ids.tolist()
