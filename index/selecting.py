"""The rows that a filter selects: by payload indexes where they help, by reading payloads where they do not."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import NamedTuple

import numpy as np
import orjson
from pyroaring import BitMap

from index.fields.indexes import PayloadIndexes
from index.filters import Filter
from index.ids import PointId
from index.points import Rows
from index.ranking import check_deadline
from index.record import Reader

CHECK_EVERY = 1024  # rows between two looks at the clock
PIECE = 512  # payloads that are looked up at a time


class Selection(NamedTuple):
    """Rows, ascending, and how many payloads were read to find them."""

    rows: Rows
    read: int


def select(reader: Reader, tree: Filter, deadline: float | None, *, indexes: PayloadIndexes, end_row: int) -> Selection:
    """Return the rows of the points that fulfil a filter.

    Parameters
    ----------
    reader : of a commit that `indexes` have followed; it sees rows below `end_row`.

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

    def rows_of_ids(ids: Iterable[PointId]) -> BitMap:
        return BitMap(stored.row for stored in reader.stored(list(ids)).values())

    check = partial(check_deadline, deadline)
    found = indexes.candidates(tree, seq=reader.seq(), end_row=end_row, rows_of_ids=rows_of_ids, check=check)
    if found is None or 2 * len(found.maybe) > reader.count():
        return _scanned(reader, tree, deadline)
    if not len(found.maybe):
        return Selection(found.sure, 0)
    chosen = found.sure.tolist()
    for start in range(0, len(found.maybe), PIECE):
        check()
        stored_at = reader.points_of(found.maybe[start : start + PIECE].tolist(), payload=True)
        chosen += [row for row, (i, data) in stored_at.items() if tree.matches(i, orjson.loads(data or b"{}"))]
    return Selection(np.array(sorted(chosen), dtype=np.int64), len(found.maybe))


def _scanned(reader: Reader, tree: Filter, deadline: float | None) -> Selection:
    rows, read = [], 0
    for row, point_id, payload in reader.scan_rows(payload=tree.needs_payload):
        if read % CHECK_EVERY == 0:
            check_deadline(deadline)
        read += 1
        if tree.matches(point_id, orjson.loads(payload) if tree.needs_payload else {}):
            rows.append(row)
    return Selection(np.array(rows, dtype=np.int64), read if tree.needs_payload else 0)
