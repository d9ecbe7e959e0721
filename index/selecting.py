"""The rows that a filter selects: by payload indexes where they help, by reading payloads where they do not."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import NamedTuple

import numpy as np
import orjson
from pyroaring import BitMap

from index.fields.bitmaps import bitmap_of
from index.fields.indexes import PayloadIndexes
from index.filters import Filter
from index.ids import PointId, order_key
from index.points import Rows
from index.ranking import check_deadline
from index.record import Reader
from index.view import View

CHECK_EVERY = 1024  # rows between two looks at the clock
PIECE = 512  # payloads that are looked up at a time
SORTED_ROWS = 20_000  # that are sorted by their ids; of more, points are looked through in the order of ids


Row = tuple[int, PointId, bytes]  # its number, id and payload


class Selection(NamedTuple):
    """Rows, ascending, and how many payloads were read to find them."""

    rows: Rows
    read: int


def select(
    reader: Reader, tree: Filter, deadline: float | None, *, indexes: PayloadIndexes | None, view: View
) -> Selection:
    """Return the rows of the points that fulfil a filter.

    Parameters
    ----------
    reader, view : of one commit, which `indexes` have followed; None where they have not.

    Raises
    ------
    DeadlineExceeded
        It takes too long.
    """
    only = tree.only_ids()
    if only is not None:
        stored = reader.stored(list(only))
        chosen = [s.row for i, s in stored.items() if tree.matches(i, orjson.loads(s.payload))]
        return Selection(np.array(sorted(chosen), dtype=np.int64), len(stored))
    if tree == Filter():
        return Selection(reader.rows(), 0)

    found = None if indexes is None else by_indexes(reader, tree, deadline, indexes=indexes, view=view)
    return _scanned(reader, tree, deadline) if found is None else found


def by_indexes(
    reader: Reader, tree: Filter, deadline: float | None, *, indexes: PayloadIndexes, view: View
) -> Selection | None:
    """Do what `select` does where payload indexes leave open at most half of the points, else return None."""

    def rows_of_ids(ids: Iterable[PointId]) -> BitMap:
        return BitMap(stored.row for stored in reader.stored(list(ids)).values())

    check = partial(check_deadline, deadline)
    seq, end_row = view.seq, view.tail.end_row
    found = indexes.candidates(tree, seq=seq, end_row=end_row, rows_of_ids=rows_of_ids, check=check)
    if found is None:
        return None
    if not len(found.maybe):
        return Selection(found.sure, 0)
    if 2 * len(found.maybe) > reader.count():
        return None
    chosen = found.sure.tolist()
    for start in range(0, len(found.maybe), PIECE):
        check()
        stored_at = reader.points_of(found.maybe[start : start + PIECE].tolist(), payload=True)
        chosen += [row for row, (i, data) in stored_at.items() if tree.matches(i, orjson.loads(data or b"{}"))]
    return Selection(np.array(sorted(chosen), dtype=np.int64), len(found.maybe))


def page_of(
    reader: Reader,
    tree: Filter | None,
    after: PointId | None,
    limit: int,
    deadline: float | None,
    *,
    indexes: PayloadIndexes,
    view: View,
) -> tuple[list[Row], PointId | None]:
    """Return the first points that fulfil a filter in the order of ids, and the next id.

    Parameters
    ----------
    after : the least id (inclusive).
    """
    if tree is not None:
        chosen = by_indexes(reader, tree, deadline, indexes=indexes, view=view)
        if chosen is not None:
            return _page_among(reader, chosen.rows, after, limit, deadline)
    page: list[Row] = []
    for number, (row, point_id, payload) in enumerate(reader.scan(after)):
        if number % CHECK_EVERY == 0:
            check_deadline(deadline)
        if tree is not None and not tree.matches(point_id, orjson.loads(payload)):
            continue
        if len(page) == limit:
            return page, point_id
        page.append((row, point_id, payload))
    return page, None


def _page_among(
    reader: Reader, rows: Rows, after: PointId | None, limit: int, deadline: float | None
) -> tuple[list[Row], PointId | None]:
    """Return the first of some points in the order of ids, and the next id."""
    least = None if after is None else order_key(after)
    wanted: list[tuple[int, PointId]] = []
    if len(rows) <= SORTED_ROWS:
        stored = reader.points_of(rows.tolist(), payload=False)
        behind = [(row, i) for row, (i, _) in stored.items() if least is None or order_key(i) >= least]
        wanted = sorted(behind, key=lambda pair: order_key(pair[1]))[: limit + 1]
    else:
        among = bitmap_of(rows)
        for number, (row, i, _) in enumerate(reader.scan(after, payload=False)):
            if number % CHECK_EVERY == 0:
                check_deadline(deadline)
            if row in among:
                wanted.append((row, i))
                if len(wanted) > limit:
                    break
    payloads = reader.points_of([row for row, _ in wanted[:limit]], payload=True)
    page = [(row, i, payloads[row][1] or b"{}") for row, i in wanted[:limit]]
    return page, wanted[limit][1] if len(wanted) > limit else None


def _scanned(reader: Reader, tree: Filter, deadline: float | None) -> Selection:
    rows, read = [], 0
    for row, point_id, payload in reader.scan_rows(payload=tree.needs_payload):
        if read % CHECK_EVERY == 0:
            check_deadline(deadline)
        read += 1
        if tree.matches(point_id, orjson.loads(payload) if tree.needs_payload else {}):
            rows.append(row)
    return Selection(np.array(rows, dtype=np.int64), read if tree.needs_payload else 0)
