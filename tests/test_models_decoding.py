"""Levels chosen for a linear decoder: the fast block form against a slow loop over single dimensions."""

from __future__ import annotations

import numpy as np
import pytest

import models.decoding as decoding
from models.decoding import fit_decoder, polish, query_matrix, relative_error
from models.grid import levels_of, values_of


def correlated(n, d, seed=0):
    rng = np.random.default_rng(seed)
    vectors = (rng.standard_normal((n, d)) * np.arange(1, d + 1) ** -0.5) @ rng.standard_normal((d, d))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def start(vectors, m, bits, seed=1):
    rows = np.random.default_rng(seed).standard_normal((m, vectors.shape[1])).astype(np.float32)
    projected = vectors @ rows.T
    return levels_of(projected / projected.std(axis=0), bits)


def slow_polish(vectors, levels, decoder, bits, sweeps):
    """One document and one dimension at a time: the level whose whole reconstruction is nearest."""
    grid = values_of(np.arange(2**bits, dtype=np.uint8), bits).astype(np.float64)
    polished = levels.copy()
    for x, row in zip(vectors.astype(np.float64), polished, strict=True):
        for _ in range(sweeps):
            for j in range(len(row)):
                values = values_of(row, bits).astype(np.float64)
                rest = x - decoder.astype(np.float64) @ values + decoder[:, j] * values[j]
                errors = [np.sum((rest - decoder[:, j] * v) ** 2) for v in grid]
                row[j] = int(np.argmin(errors))
    return polished


@pytest.mark.parametrize(("bits", "m"), [(1, 24), (1, 70), (2, 40), (4, 12)])
def test_polish_is_coordinate_descent(bits, m):
    vectors = correlated(30, 16)
    levels = start(vectors, m, bits)
    decoder = fit_decoder(vectors, values_of(levels, bits))
    fast = polish(vectors, levels, decoder, bits, 2)
    slow = slow_polish(vectors, levels, decoder, bits, 2)
    # Rounding decides ties, and a tie decides what follows.
    assert (fast != slow).any(axis=1).mean() <= 0.1
    assert relative_error(vectors, values_of(fast, bits), decoder) == pytest.approx(
        relative_error(vectors, values_of(slow, bits), decoder), rel=0.02
    )


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_every_sweep_and_every_fit_brings_the_reconstruction_nearer(bits):
    vectors = correlated(500, 32)
    levels = start(vectors, 40, bits)
    errors = []
    for _ in range(3):
        decoder = fit_decoder(vectors, values_of(levels, bits))
        errors.append(relative_error(vectors, values_of(levels, bits), decoder))
        levels = polish(vectors, levels, decoder, bits, 1)
        errors.append(relative_error(vectors, values_of(levels, bits), decoder))
    assert all(later <= earlier * 1.001 for earlier, later in zip(errors, errors[1:], strict=False))
    assert errors[-1] < 0.8 * errors[0]


def test_each_document_alone_and_any_block_size_give_the_same(monkeypatch):
    vectors = correlated(70, 24)
    levels = start(vectors, 48, 2)
    decoder = fit_decoder(vectors, values_of(levels, 2))
    whole = polish(vectors, levels, decoder, 2, 3)
    monkeypatch.setattr(decoding, "ROWS", 16)
    monkeypatch.setattr(decoding, "BLOCK", 7)
    cut = polish(vectors, levels, decoder, 2, 3)
    assert (whole != cut).any(axis=1).mean() <= 0.05


def test_rounding_is_already_best_for_orthogonal_columns():
    vectors = correlated(200, 16)
    rotation = np.linalg.qr(np.random.default_rng(3).standard_normal((16, 16)))[0].astype(np.float32)
    levels = levels_of(vectors @ rotation / np.float32(0.25), 2)
    np.testing.assert_array_equal(polish(vectors, levels, rotation * np.float32(0.25), 2, 2), levels)


def test_a_column_of_zeros_moves_nothing():
    vectors = correlated(20, 8)
    levels = start(vectors, 12, 1)
    decoder = fit_decoder(vectors, values_of(levels, 1))
    decoder[:, 5] = 0
    polished = polish(vectors, levels, decoder, 1, 2)
    assert relative_error(vectors, values_of(polished, 1), decoder) <= relative_error(
        vectors, values_of(levels, 1), decoder
    )


def test_query_matrix():
    vectors = correlated(400, 16)
    levels = start(vectors, 24, 1)
    values = values_of(levels, 1)
    decoder = fit_decoder(vectors, values)
    np.testing.assert_allclose(query_matrix(decoder, vectors, values, 0.0), decoder.T, atol=1e-5)
    even = query_matrix(decoder, vectors, values, 0.5)
    variances, axes = np.linalg.eigh(vectors.T @ vectors / len(vectors))
    rebuilt = ((values @ even @ axes) ** 2).mean(axis=0)
    stretched = rebuilt / ((values @ decoder.T @ axes) ** 2).mean(axis=0)
    reached = stretched < decoding.MOST_STRETCH**2 * 0.99
    np.testing.assert_allclose(rebuilt[reached], variances[reached], rtol=0.02, atol=1e-5)
