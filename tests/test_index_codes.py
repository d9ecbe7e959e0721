"""Code layout and the index over codes beside slow, obvious versions of the same."""

from __future__ import annotations

import numpy as np
import pytest

from index.code_index import CodeIndex, to_blocks
from index.codes import integer_products, pack, pack_bits, prefix_values, unpack, unpack_bits, values
from index.kernels import plane_products
from tests.index_fakes import rounding


def random_levels(n, m, bits, seed=0):
    return np.random.default_rng(seed).integers(0, 1 << bits, (n, m)).astype(np.uint8)


def random_codes(n, m, seed=0):
    """Levels of one bit and their plane."""
    levels = random_levels(n, m, 1, seed)
    return levels, np.ascontiguousarray(pack(levels, 1)[:, 0])


def signs(packed):
    """The +-1 that one plane stands for."""
    return prefix_values(packed[:, None], 1)


def slow_scores(query, packed):
    return signs(packed) @ query


def query_of(m, seed=1):
    return np.random.default_rng(seed).standard_normal(m).astype(np.float32)


def whole(n):
    return [np.arange(n, dtype=np.int64)]


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
@pytest.mark.parametrize("m", [8, 24, 384])
def test_packing_by_hand(m, bits):
    levels = random_levels(5, m, bits)
    planes = pack(levels, bits)
    assert planes.shape == (5, bits, m // 8)
    for row in range(5):
        for j in range(m):
            for t in range(bits):
                assert planes[row, t, j // 8] >> (j % 8) & 1 == levels[row, j] >> (bits - 1 - t) & 1
    np.testing.assert_array_equal(unpack(planes), levels)
    for p in range(1, bits + 1):
        np.testing.assert_array_equal(unpack(planes[:, :p]), levels >> (bits - p))
    assert unpack(pack(levels[:0], bits)).shape == (0, m)


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_values_are_the_sum_of_signed_halves(bits):
    levels = random_levels(9, 16, bits)
    planes = pack(levels, bits)
    expected = np.zeros(levels.shape)
    for p in range(1, bits + 1):
        expected += 2.0 ** -(p - 1) * np.where(levels >> (bits - p) & 1, 1.0, -1.0)
        got = prefix_values(planes, p)
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(values(levels, bits), expected)
    grid = values(np.arange(1 << bits, dtype=np.uint8), bits)
    np.testing.assert_array_equal(np.diff(grid), 2.0 ** (1 - (bits - 1)))
    assert grid[0] == -grid[-1]


@pytest.mark.parametrize("u", [0, 1, 2, 3])
def test_the_integer_identity(u):
    """Beside the slow float formula, and the one that counts bits (BEBR: both hold exactly)."""
    m, bits = 48, u + 1
    queries, documents = random_levels(3, m, bits, 1), random_levels(7, m, bits, 2)
    got = integer_products(queries, documents, bits)
    assert got.dtype == np.int64
    slow = values(queries, bits).astype(np.float64) @ values(documents, bits).astype(np.float64).T
    np.testing.assert_array_equal(got / 4.0**u, slow)
    query_planes, planes = pack(queries, bits), pack(documents, bits)
    counted = np.zeros(got.shape)
    for s in range(bits):
        for t in range(bits):
            different = np.bitwise_count(query_planes[:, None, s] ^ planes[None, :, t]).sum(axis=2, dtype=np.int64)
            counted += 2.0 ** -(s + t) * (m - 2 * different)
    np.testing.assert_array_equal(got / 4.0**u, counted)
    # What symmetric search computes: the query's values as floats against planes.
    for query, expected in zip(queries, got, strict=True):
        if bits in (1, 2, 4):
            floats = values(query, bits)
            got = plane_products(planes, bits, np.arange(len(planes)), floats)
            np.testing.assert_allclose(got * 4.0**u, expected, atol=1e-2)


def test_bitmaps_are_least_significant_bit_first():
    flags = np.zeros(11, dtype=np.bool_)
    flags[[0, 9]] = True
    assert pack_bits(flags).tolist() == [1, 2]
    np.testing.assert_array_equal(unpack_bits(pack_bits(flags), 11), flags)


@pytest.mark.parametrize(("n", "m"), [(0, 8), (1, 8), (31, 16), (32, 64), (33, 40), (100, 384)])
def test_blocks_have_byte_after_byte_of_32_codes(n, m):
    _, packed = random_codes(n, m, seed=n)
    blocks = to_blocks(packed)
    assert blocks.shape == (-(-n // 32), m // 8, 32)
    for i in range(n):
        np.testing.assert_array_equal(blocks[i // 32, :, i % 32], packed[i])


@pytest.mark.parametrize(("n", "m"), [(1, 8), (31, 16), (100, 40), (333, 384)])
@pytest.mark.parametrize("bands", [1, 3])
def test_codes_are_read_back(n, m, bands):
    _, packed = random_codes(n, m, seed=n)
    order = np.random.default_rng(4).permutation(n)
    index = CodeIndex(packed, [np.sort(band) for band in np.array_split(order, bands)])
    np.testing.assert_array_equal(index.codes_at(np.arange(n)), packed)
    some = np.random.default_rng(5).integers(0, n, 20)
    np.testing.assert_array_equal(index.codes_at(some), packed[some])
    assert index.codes_at(some[:0]).shape == (0, m // 8)


@pytest.mark.parametrize("m", [8, 24, 128, 384])
@pytest.mark.parametrize("k", [1, 10, 137, 500])
def test_scan_finds_the_best_within_rounding(m, k):
    n = 137
    _, packed = random_codes(n, m)
    query = query_of(m)
    slow = slow_scores(query, packed)
    [(positions, scores)] = CodeIndex(packed, whole(n)).scan(query[None], k, None)
    assert len(set(positions.tolist())) == len(positions) == min(k, n)
    slack = rounding(query)
    assert np.abs(scores - slow[positions]).max() <= slack
    worst_kept = np.sort(slow)[::-1][len(positions) - 1]
    assert slow[positions].min() >= worst_kept - 2 * slack


def test_the_rounding_bound_can_fail():
    _, packed = random_codes(64, 128)
    query = query_of(128)
    assert np.abs(slow_scores(query, packed)).max() > 2 * rounding(query)


@pytest.mark.parametrize("share", [0.5, 0.05])
@pytest.mark.parametrize("k", [3, 200])
def test_selector_is_honoured(share, k):
    n = 200
    _, packed = random_codes(n, 64)
    query = query_of(64)
    flags = np.random.default_rng(2).random(n) < share
    [(positions, _)] = CodeIndex(packed, whole(n)).scan(query[None], k, pack_bits(flags))
    assert flags[positions].all()
    assert len(set(positions.tolist())) == len(positions) == min(k, flags.sum())
    slow = np.where(flags, slow_scores(query, packed), -np.inf)
    assert slow[positions].max() >= slow.max() - 2 * rounding(query)


def test_nothing_allowed_gives_nothing():
    _, packed = random_codes(70, 32)
    nothing = pack_bits(np.zeros(70, bool))
    [(positions, scores)] = CodeIndex(packed, whole(70)).scan(query_of(32)[None], 5, nothing)
    assert len(positions) == len(scores) == 0


@pytest.mark.parametrize("k", [1, 4, 40, 1000])
def test_each_band_keeps_its_own_candidates(k):
    n = 90
    _, packed = random_codes(n, 48)
    order = np.random.default_rng(3).permutation(n)
    bands = [np.sort(order[:10]), np.sort(order[10:40]), np.sort(order[40:])]
    query = query_of(48)
    index = CodeIndex(packed, bands)
    assert index.bands == 3
    [(positions, scores)] = index.scan(query[None], k, None)
    slow = slow_scores(query, packed)
    assert np.abs(scores - slow[positions]).max() <= rounding(query)
    for band in bands:
        mine = np.intersect1d(positions, band)
        assert len(mine) == min(k, len(band))
        assert slow[mine].min() >= np.sort(slow[band])[::-1][len(mine) - 1] - 2 * rounding(query)
    flags = np.zeros(n, dtype=np.bool_)
    flags[bands[1][:5]] = True
    [(allowed, _)] = index.scan(query[None], k, pack_bits(flags))
    assert len(allowed) == min(k, 5)
    assert flags[allowed].all()


def test_documents_with_the_lowest_score_are_not_lost():
    n, m = 50, 64
    levels, _ = random_codes(n, m)
    query = query_of(m)
    levels[[7, 30]] = query < 0
    packed = pack(levels, 1)[:, 0]
    index = CodeIndex(packed, whole(n))
    [(positions, scores)] = index.scan(query[None], n, None)
    assert sorted(positions.tolist()) == list(range(n))
    np.testing.assert_allclose(scores[np.isin(positions, [7, 30])], -np.abs(query).sum(), atol=rounding(query))
    flags = np.arange(n) % 10 == 0
    [(positions, _)] = index.scan(query[None], 9, pack_bits(flags))
    assert sorted(positions.tolist()) == [0, 10, 20, 30, 40]
    [(positions, _)] = index.scan(np.zeros((1, m), np.float32), 20, None)
    assert len(positions) == 20
