"""The uniform grid and multi-bit training-free codes, against loops written from the formulas."""

from __future__ import annotations

import numpy as np
import pytest

from models import Binarizers, CorruptBinarizer, TrainingFreeFactory
from models.grid import GAUSSIAN_STEP, correction_factors, levels_of, prefix_of, values_of
from models.serialization import read_arrays, write_arrays


def text_like(n, d, seed=0):
    """Unit vectors around a mean, with a falling spectrum."""
    rng = np.random.default_rng(seed)
    scale = np.arange(1, d + 1) ** -0.4
    vectors = rng.standard_normal((n, d)) * scale + 0.3 * scale
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
def test_values_are_sums_of_halved_signs(bits):
    for level in range(2**bits):
        signs = [1 if level >> (bits - 1 - plane) & 1 else -1 for plane in range(bits)]
        for planes in range(1, bits + 1):
            prefix = prefix_of(np.array([level], np.uint8), bits, planes)
            expected = sum(sign * 2.0**-t for t, sign in enumerate(signs[:planes]))
            assert values_of(prefix, planes)[0] == expected


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
def test_levels_are_the_nearest(bits):
    grid = values_of(np.arange(2**bits, dtype=np.uint8), bits)
    values = np.random.default_rng(0).uniform(-3, 3, 500).astype(np.float32)
    nearest = np.abs(values[:, None] - grid).argmin(axis=1)
    np.testing.assert_array_equal(levels_of(values, bits), nearest)
    np.testing.assert_array_equal(levels_of(grid, bits), np.arange(2**bits))
    assert levels_of(np.zeros(1, np.float32), bits)[0] == 2 ** (bits - 1)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_the_step_is_the_best_for_a_gaussian(bits):
    draws = np.random.default_rng(1).standard_normal(200_000).astype(np.float32)

    def error(step):
        unit = np.float32(step * 2 ** (bits - 1) / 2)
        return np.mean((values_of(levels_of(draws / unit, bits), bits) * unit - draws) ** 2)

    best = GAUSSIAN_STEP[bits]
    assert error(best) < min(error(0.9 * best), error(1.1 * best))


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_factors_make_every_prefix_exact_along_the_document(bits):
    rng = np.random.default_rng(2)
    x = rng.standard_normal((20, 16)).astype(np.float32)
    scales = rng.uniform(0.5, 2, 16).astype(np.float32)
    levels = levels_of(x / scales, bits)
    factors = correction_factors(x, levels, bits, scales)
    assert factors.shape == (20, bits)
    for row in range(20):
        for planes in range(1, bits + 1):
            values = values_of(levels[row] >> (bits - planes), planes)
            estimate = factors[row, planes - 1] * sum(x[row] * scales * values)
            assert estimate == pytest.approx(float(x[row] @ x[row]), rel=1e-4)
    assert correction_factors(np.zeros((1, 8), np.float32), np.zeros((1, 8), np.uint8), bits).tolist() == [[0.0] * bits]


@pytest.mark.parametrize(("d", "dimensions"), [(64, None), (64, 20), (1040, None)])
def test_more_planes_estimate_better(d, dimensions):
    documents, queries = text_like(400, d), text_like(20, d, seed=3)
    binarizer = TrainingFreeFactory().fit(documents, 0, bits=4, dimensions=dimensions)
    levels, factors = binarizer.encode(documents)
    mapped = binarizer.queries(queries)
    assert levels.max() == 15
    assert levels.shape[1] == binarizer.code_dimension == -(-(dimensions or d) // 8) * 8
    true = queries @ (documents - binarizer.mean).T
    errors = []
    for planes in range(1, 5):
        values = values_of(prefix_of(levels, 4, planes), planes)
        errors.append(np.square(mapped @ values.T * factors[:, planes - 1] - true).mean())
    assert errors == sorted(errors, reverse=True)
    if dimensions is None:
        assert errors[3] < errors[0] / 8


def test_queries_are_coded_on_the_same_grid():
    documents, queries = text_like(400, 64), text_like(20, 64, seed=3)
    binarizer = TrainingFreeFactory().fit(documents, 0, bits=4)
    levels, factors = binarizer.query_levels(queries)
    coded = values_of(levels, 4) * factors[:, None]
    mapped = binarizer.queries(queries)
    assert np.linalg.norm(coded - mapped) < 0.15 * np.linalg.norm(mapped)
    shorter = factors[:, None] * 0.95 * values_of(levels, 4)
    assert np.linalg.norm(shorter - mapped) > np.linalg.norm(coded - mapped)


def test_a_dimension_without_variance_has_a_level_for_what_comes_later():
    documents = text_like(100, 8)
    documents[:, 3] = 0.25
    binarizer = TrainingFreeFactory(rotation="pca").fit(documents, 0, bits=4)
    moved = documents.copy()
    moved[:, 3] += 0.5
    for vectors in (documents, moved):
        levels, factors = binarizer.encode(vectors)
        assert np.isfinite(factors).all()
    assert (levels != binarizer.encode(documents)[0]).any()


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_bytes_give_the_same_binarizer(bits):
    documents = text_like(100, 24)
    binarizer = Binarizers().fit(documents, 5, bits=bits)
    again = Binarizers().load(binarizer.to_bytes())
    for got, expected in zip(again.encode(documents), binarizer.encode(documents), strict=True):
        np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(again.queries(documents), binarizer.queries(documents))
    assert (again.bits, again.identity, again.learned) == (bits, binarizer.identity, False)
    assert again.identity.startswith(f"training-free-{bits}b-")
    assert binarizer.identity != Binarizers().fit(documents, 6, bits=bits).identity


@pytest.mark.parametrize("change", [{"bits": 3}, {"bits": 9}, {"bits": "2"}, {"scales": -1.0}, {"scales": None}])
def test_inconsistent_bytes_are_refused(change):
    header, arrays = read_arrays(Binarizers().fit(text_like(50, 8), 0, bits=2).to_bytes())
    arrays = dict(arrays)
    if "bits" in change and change["bits"] != 3:
        header["bits"] = change["bits"]
    elif "bits" in change:
        del header["bits"]
    elif change["scales"] is None:
        del arrays["scales"]
    else:
        arrays["scales"] = arrays["scales"] * np.float32(change["scales"])
    with pytest.raises(CorruptBinarizer, match="inconsistent"):
        Binarizers().load(write_arrays(header, arrays))
