"""Rows in ascending lists of rows, beside looking for each."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from index.rows import located

numbers = st.lists(st.integers(0, 30), max_size=20)


@given(values=numbers, held=numbers.map(set))
@pytest.mark.parametrize("dtype", [np.int64, np.uint32])
def test_places_are_those_of_a_slow_search(values, held, dtype):
    ascending = sorted(held)
    at, found = located(np.array(values, dtype=np.int64), np.array(ascending, dtype=dtype))
    assert found.tolist() == [value in held for value in values]
    assert at[found].tolist() == [ascending.index(value) for value in values if value in held]
    assert (at < max(len(ascending), 1)).all()
