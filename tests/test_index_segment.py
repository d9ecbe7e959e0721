"""Segments: encoding, norm bands, deletes, and the file that saves them."""

from __future__ import annotations

import os

import numpy as np
import pytest

from index.codes import scores, unpack
from index.segment import (
    FIRST_BAND,
    DamagedCodes,
    Segment,
    SegmentData,
    encode_rows,
    load,
    norm_bands,
    save,
)
from tests.index_fakes import RotationFactory, vectors_of

D = 24


def data_of(n, distance="Cosine", *, rows=None, spread=0.0, first_row=1000, seed=0):
    vectors = vectors_of(n, seed, dimension=D, spread=spread)
    rows = np.arange(n) + first_row if rows is None else np.asarray(rows)
    binarizer = RotationFactory().fit(vectors, 0)
    pieces = [(rows[:5], vectors[:5]), (rows[5:], vectors[5:])]
    span = (first_row, int(rows[-1]) + 1)
    return vectors, binarizer, encode_rows(pieces, span, 3, binarizer, distance)


def same(a, b):
    for name in ("first_row", "end_row", "binarizer"):
        assert getattr(a, name) == getattr(b, name)
    for name in ("codes", "factors", "beta", "offsets"):
        left, right = getattr(a, name), getattr(b, name)
        assert (left is None) == (right is None)
        if left is not None:
            assert left.dtype == right.dtype
            np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("distance", ["Cosine", "Dot", "Euclid"])
def test_the_code_estimates_the_score(distance):
    vectors, binarizer, data = data_of(60, distance)
    query = vectors_of(1, 9, dimension=D)
    estimate = data.factors * scores(binarizer.queries(query), data.codes)[0] + query @ binarizer.mean
    exact = (vectors @ query[0]).astype(np.float64)
    if distance == "Euclid":
        np.testing.assert_allclose(data.beta, -0.5 * (vectors**2).sum(axis=1), rtol=1e-5)
    else:
        assert data.beta is None
    assert np.corrcoef(estimate, exact)[0, 1] > 0.7
    along = vectors[:1] - binarizer.mean
    own = data.factors[0] * scores(binarizer.queries(along), data.codes[:1])[0, 0]
    assert own == pytest.approx(float((along**2).sum()), rel=1e-4)


def test_pieces_do_not_matter():
    vectors, binarizer, data = data_of(20)
    whole = encode_rows([(np.arange(20) + 1000, vectors)], (1000, 1020), 3, binarizer, "Cosine")
    np.testing.assert_array_equal(whole.codes, data.codes)
    np.testing.assert_allclose(whole.factors, data.factors, rtol=1e-5)
    np.testing.assert_array_equal(unpack(data.codes), binarizer.encode(vectors)[0])
    assert data.offsets is None


def test_no_rows_make_an_empty_segment():
    binarizer = RotationFactory().fit(vectors_of(3, dimension=D), 0)
    empty = encode_rows([], (5, 9), 1, binarizer, "Euclid")
    assert empty.codes.shape == (0, D // 8)
    assert len(empty.factors) == 0


@pytest.mark.parametrize("distance", ["Cosine", "Euclid"])
@pytest.mark.parametrize("rows", [None, [1000, 1001, 1007, 1030, 1031, 1090, 2000]])
def test_a_saved_segment_is_the_live_one(tmp_path, distance, rows):
    _, _, data = data_of(7, distance, rows=rows)
    path = tmp_path / "x.codes"
    save(path, data)
    same(load(path), data)
    assert os.listdir(tmp_path) == ["x.codes"]


def test_every_flipped_byte_and_every_cut_is_detected(tmp_path):
    _, _, data = data_of(7, "Euclid", rows=[1000, 1001, 1007, 1030, 1031, 1090, 2000])
    path = tmp_path / "x.codes"
    save(path, data)
    raw = path.read_bytes()
    for at in range(0, len(raw)):
        path.write_bytes(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
        with pytest.raises(DamagedCodes, match=r"x\.codes"):
            load(path)
    for length in (0, 3, 16, 40, len(raw) - 1):
        path.write_bytes(raw[:length])
        with pytest.raises(DamagedCodes, match=r"x\.codes"):
            load(path)
    path.write_bytes(raw + b"\0")
    with pytest.raises(DamagedCodes, match=r"x\.codes"):
        load(path)
    path.unlink()
    with pytest.raises(DamagedCodes, match=r"x\.codes"):
        load(path)


def banded(norms, distance):
    n = len(norms)
    beta = -0.5 * norms.astype(np.float32) ** 2 if distance == "Euclid" else None
    data = SegmentData(0, n, 1, np.zeros((n, 1), np.uint8), norms.astype(np.float32), beta, None)
    return norm_bands(data, distance)


@pytest.mark.parametrize("distance", ["Dot", "Euclid"])
@pytest.mark.parametrize("n", [5, FIRST_BAND, FIRST_BAND + 1, 3 * FIRST_BAND, 9000])
def test_bands_cut_positions_by_norm(distance, n):
    norms = np.exp(np.random.default_rng(0).standard_normal(n))
    bands = banded(norms, distance)
    np.testing.assert_array_equal(np.sort(np.concatenate(bands)), np.arange(n))
    for band in bands:
        assert len(band) > 0
        assert (np.diff(band) > 0).all()
    assert [len(b) for b in bands[:-1]] == [FIRST_BAND * 2**i for i in range(len(bands) - 1)]
    likeliest = -norms if distance == "Dot" else norms
    for first, second in zip(bands[:-1], bands[1:], strict=True):
        assert likeliest[first].max() <= likeliest[second].min() + 1e-6


def test_like_norms_and_cosine_need_one_band():
    spread = np.exp(np.random.default_rng(0).standard_normal(5000))
    assert len(banded(spread, "Cosine")) == 1
    assert len(banded(1 + 0.01 * spread, "Dot")) == 1
    assert len(banded(spread, "Dot")) == 3
    assert [len(band) for band in banded(np.empty(0), "Dot")] == [0]
    assert len(banded(np.zeros(10), "Euclid")) == 1


@pytest.mark.parametrize("rows", [None, [1000, 1001, 1007, 1030, 1031, 1090, 2000]])
def test_deleted_rows(rows):
    _, _, data = data_of(7, rows=rows)
    segment = Segment.build(data, "Cosine")
    mine = segment.rows_at(np.arange(7))
    assert mine.tolist() == (rows or list(range(1000, 1007)))
    assert segment.without(np.array([3, 999, 5000], dtype=np.int64)) is segment
    fewer = segment.without(np.array([999, mine[2], mine[6], 5000]))
    assert (segment.count, fewer.count, len(fewer)) == (7, 5, 7)
    assert np.flatnonzero(~fewer.alive_flags()).tolist() == [2, 6]
    assert segment.alive is None
    assert np.flatnonzero(fewer.without(mine[:1]).alive_flags()).tolist() == [1, 3, 4, 5]
    assert np.flatnonzero(segment.flags_of(mine[[0, 4]])).tolist() == [0, 4]
    assert fewer.without(mine).count == 0
    if rows:
        assert not segment.flags_of(np.array([1002, 1999])).any()


def test_bytes_a_point():
    assert Segment.build(data_of(7)[2], "Cosine").bytes_per_point == D // 8 + 12
    holes = data_of(3, "Euclid", rows=[1000, 1003, 1004])[2]
    assert Segment.build(holes, "Euclid").bytes_per_point == D // 8 + 20
