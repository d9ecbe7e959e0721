"""Rows in ascending lists of rows: where each is, and whether it is there."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def located(
    values: NDArray[np.integer[Any]], ascending: NDArray[np.integer[Any]]
) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Return the places of (k,) values, in any order, in an ascending list, and which of them it holds.

    The place of one that it does not hold means nothing, but is in the list unless the list is empty.
    """
    if not len(ascending):
        return np.zeros(len(values), dtype=np.intp), np.zeros(len(values), dtype=np.bool_)
    at = np.minimum(np.searchsorted(ascending, values), len(ascending) - 1)
    return at, np.asarray(ascending[at] == values)
