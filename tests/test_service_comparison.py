"""Two binarizers compared: beside an obvious count, and what is called worse."""

from __future__ import annotations

import numpy as np
import pytest

from models.binarizer import TrainingFreeFactory
from service.comparison import compare

RNG = np.random.default_rng(11)
D = 24
DATABASE = (RNG.normal(size=(400, D)) * RNG.uniform(0.5, 2, size=(400, 1))).astype(np.float32)
QUERIES = RNG.normal(size=(30, D)).astype(np.float32)


def fitted(bits, seed=0, rows=DATABASE):
    return TrainingFreeFactory().fit(rows, seed, bits=bits, dimensions=None)


def counted(binarizer, euclid):
    """r10@N by depth, one query at a time, from what the protocol of binarizers says."""
    levels, factors = binarizer.encode(DATABASE)
    planes = [2.0**-t * (2.0 * (levels >> (binarizer.bits - 1 - t) & 1) - 1) for t in range(binarizer.bits)]
    found = dict.fromkeys((10, 20, 100), 0)
    for query in QUERIES:
        (mapped,) = binarizer.queries(query[None])
        shifts = [-float(document @ document) / 2 if euclid else 0.0 for document in DATABASE]
        exact = sorted(range(len(DATABASE)), key=lambda row: -(query @ DATABASE[row] + shifts[row]))
        coded = sorted(
            range(len(DATABASE)),
            key=lambda row: -(factors[row, -1] * sum(mapped @ plane[row] for plane in planes) + shifts[row]),
        )
        for depth in found:
            found[depth] += len(set(exact[:10]) & set(coded[:depth]))
    return {f"r10@{depth}": hits / (10 * len(QUERIES)) for depth, hits in found.items()}


@pytest.mark.parametrize("distance", ["Dot", "Euclid"])
def test_recalls_are_those_of_an_obvious_count(distance):
    one, four = fitted(1), fitted(4)
    result = compare(one, four, QUERIES, DATABASE, distance)
    for binarizer, measured in ((one, result.current), (four, result.candidate)):
        expected = counted(binarizer, distance == "Euclid")
        assert {name: measured[name] for name in expected} == pytest.approx(expected, abs=1e-4)
    assert (result.queries, result.database) == (30, 400)


def test_more_bits_are_better_and_fewer_worse():
    one, four = fitted(1), fitted(4)
    better = compare(one, four, QUERIES, DATABASE, "Dot")
    worse = compare(four, one, QUERIES, DATABASE, "Dot")
    assert better.low > 0
    assert not better.worse
    assert (worse.difference, worse.low, worse.high) == pytest.approx((-better.difference, -better.high, -better.low))
    assert worse.worse
    assert f"difference {worse.difference:+.4f}" in str(worse)


def test_another_rotation_is_not_worse_and_the_same_one_is_the_same():
    one = fitted(2)
    same = compare(one, fitted(2), QUERIES, DATABASE, "Dot")
    assert (same.difference, same.low, same.high, same.worse) == (0, 0, 0, False)
    other = compare(one, fitted(2, seed=1), QUERIES, DATABASE, "Dot")
    assert other.low < 0 < other.high
    assert not other.worse


def test_a_large_loss_is_one_though_few_queries_prove_nothing():
    four, one = fitted(4), fitted(1)
    few = compare(four, one, QUERIES[:1], DATABASE, "Dot")
    assert few.difference < -0.02
    assert few.worse


def test_fewer_vectors_than_are_asked_for():
    result = compare(fitted(1), fitted(2), QUERIES, DATABASE[:6], "Dot")
    assert result.current["r10@10"] == result.candidate["r10@100"] == 1
    assert not result.worse
