"""Segments: encoding, norm bands, deletes, and the file that saves them."""

from __future__ import annotations

import json
import os
import re
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from index.codes import prefix_values, unpack
from index.codes_file import FIRST_MAGIC, MAGIC, DamagedCodes, load, save
from index.segment import FIRST_BAND, Segment, norm_bands
from index.segment_data import SegmentData, encode_rows, joined, narrowed
from tests.index_fakes import trained, vectors_of

D = 24
HOLES = [1000, 1001, 1007, 1030, 1031, 1090, 2000]
BITS = [1, 2, 4]


def data_of(n, distance="Cosine", *, rows=None, spread=0.0, first_row=1000, seed=0, bits=1):
    vectors = vectors_of(n, seed, dimension=D, spread=spread)
    rows = np.arange(n) + first_row if rows is None else np.asarray(rows)
    binarizer = trained(vectors, bits=bits)
    pieces = [(rows[:5], vectors[:5]), (rows[5:], vectors[5:])]
    span = (first_row, int(rows[-1]) + 1)
    return vectors, binarizer, encode_rows(pieces, span, 3, binarizer, distance)


def same(a, b):
    for name in ("first_row", "end_row", "binarizer"):
        assert getattr(a, name) == getattr(b, name)
    for name in ("planes", "factors", "beta", "offsets"):
        left, right = getattr(a, name), getattr(b, name)
        assert (left is None) == (right is None)
        if left is not None:
            assert left.dtype == right.dtype
            np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("distance", ["Cosine", "Dot", "Euclid"])
@pytest.mark.parametrize("bits", BITS)
def test_the_code_estimates_the_score(distance, bits):
    vectors, binarizer, data = data_of(60, distance, bits=bits)
    query = vectors_of(1, 9, dimension=D)
    exact = (vectors @ query[0]).astype(np.float64)
    likeness = []
    for p in range(1, bits + 1):
        products = prefix_values(data.planes, p) @ binarizer.queries(query)[0]
        estimate = data.factors[:, p - 1] * products + query @ binarizer.mean
        likeness.append(np.corrcoef(estimate, exact)[0, 1])
    assert likeness == sorted(likeness)
    assert likeness[-1] > {1: 0.7, 2: 0.9, 4: 0.99}[bits]
    if distance == "Euclid":
        np.testing.assert_allclose(data.beta, -0.5 * (vectors**2).sum(axis=1), rtol=1e-5)
    else:
        assert data.beta is None
    along = vectors[:1] - binarizer.mean
    own = data.factors[0, bits - 1] * float(prefix_values(data.planes[:1], bits)[0] @ binarizer.queries(along)[0])
    assert own == pytest.approx(float((along**2).sum()), rel=2e-3)


@pytest.mark.parametrize("bits", BITS)
def test_pieces_do_not_matter(bits):
    vectors, binarizer, data = data_of(20, bits=bits)
    whole = encode_rows([(np.arange(20) + 1000, vectors)], (1000, 1020), 3, binarizer, "Cosine")
    np.testing.assert_array_equal(whole.planes, data.planes)
    np.testing.assert_allclose(whole.factors, data.factors, rtol=2e-3)
    np.testing.assert_array_equal(unpack(data.planes), binarizer.encode(vectors)[0])
    assert data.offsets is None


def test_no_rows_make_an_empty_segment():
    binarizer = trained(vectors_of(3, dimension=D), bits=2)
    empty = encode_rows([], (5, 9), 1, binarizer, "Euclid")
    assert empty.planes.shape == (0, 2, D // 8)
    assert len(empty) == len(empty.factors) == 0


@pytest.mark.parametrize("distance", ["Cosine", "Dot"])
def test_factors_are_narrow_where_nothing_is_lost(distance):
    factors = np.array([[1.0, 0.013], [0.0, 3.7]], np.float32)
    narrow = narrowed(factors, distance)
    assert narrow.dtype == (np.float16 if distance == "Cosine" else np.float32)
    np.testing.assert_allclose(narrow, factors, rtol=1e-3)
    for bad in (1e-6, 1e6):
        kept = narrowed(np.array([[1.0, bad]], np.float32), distance)
        assert kept.dtype == np.float32


@pytest.mark.parametrize("distance", ["Cosine", "Euclid"])
@pytest.mark.parametrize("rows", [None, HOLES])
@pytest.mark.parametrize("bits", BITS)
def test_a_saved_segment_is_the_live_one(tmp_path, distance, rows, bits):
    _, _, data = data_of(7, distance, rows=rows, bits=bits)
    path = tmp_path / "x.codes"
    save(path, data)
    same(load(path), data)
    same(Segment.build(data, distance).data(), data)
    assert path.read_bytes()[:8] == MAGIC
    assert os.listdir(tmp_path) == ["x.codes"]


@pytest.mark.parametrize("distance", ["Cosine", "Euclid"])
@pytest.mark.parametrize("rows", [None, HOLES])
def test_a_file_of_the_first_format_is_read(tmp_path, distance, rows):
    """Written by hand, as the first version did."""
    _, _, data = data_of(7, distance, rows=rows)
    header = {"first_row": data.first_row, "end_row": data.end_row, "binarizer": 3, "n": 7, "code_bytes": D // 8}
    header |= {"beta": data.beta is not None, "holes": rows is not None}
    arrays = [data.planes, data.factors.astype("<f4"), data.beta, data.offsets]
    raw = json.dumps(header).encode()
    body = raw + b"".join(array.tobytes() for array in arrays if array is not None)
    path = tmp_path / "x.codes"
    path.write_bytes(FIRST_MAGIC + struct.pack("<II", zlib.crc32(body), len(raw)) + body)
    found = load(path)
    assert found.factors.dtype == np.float32
    same(found, replace(data, factors=data.factors.astype(np.float32)))
    same(Segment.build(found, distance).data(), data)


@pytest.mark.parametrize("bits", BITS)
def test_every_flipped_byte_and_every_cut_is_detected(tmp_path, bits):
    _, _, data = data_of(7, "Euclid", rows=HOLES, bits=bits)
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


@pytest.mark.parametrize("distance", ["Cosine", "Euclid"])
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("dead", [[], [1003, 1011, 1019]])
def test_joined_segments_are_those_coded_at_once(distance, bits, dead):
    vectors, binarizer, whole = data_of(20, distance, bits=bits)
    rows, parts = np.arange(20) + 1000, []
    for start, end in ((0, 6), (6, 7), (7, 20)):
        data = encode_rows([(rows[start:end], vectors[start:end])], (1000 + start, 1000 + end), 3, binarizer, distance)
        parts.append(Segment.build(data, distance).without(np.array(dead, dtype=np.int64)).data())
    keep = ~np.isin(rows, dead)
    again = encode_rows([(rows[keep], vectors[keep])], (1000, 1020), 3, binarizer, distance)
    got = joined(parts, (1000, 1020))
    np.testing.assert_allclose(got.factors.astype(np.float32), again.factors.astype(np.float32), rtol=2e-3)
    same(replace(got, factors=again.factors), again)
    if not dead:
        same(replace(got, factors=whole.factors), whole)


def test_planes_at():
    _, _, data = data_of(40, bits=4)
    segment = Segment.build(data, "Cosine")
    at = np.array([3, 3, 39, 0])
    np.testing.assert_array_equal(segment.index.planes_at(at), data.planes[at])
    assert segment.bits == 4


def banded(norms, distance):
    n = len(norms)
    beta = -0.5 * norms.astype(np.float32) ** 2 if distance == "Euclid" else None
    factors = norms.astype(np.float32)[:, None]
    return norm_bands(SegmentData(0, n, 1, np.zeros((n, 1, 1), np.uint8), factors, beta, None), distance)


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


@pytest.mark.parametrize("rows", [None, HOLES])
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
    assert Segment.build(data_of(7)[2], "Cosine").bytes_per_point == D // 8 + 2
    assert Segment.build(data_of(7, bits=4)[2], "Cosine").bytes_per_point == 4 * (D // 8 + 2)
    holes = data_of(3, "Euclid", rows=[1000, 1003, 1004], bits=2)[2]
    assert Segment.build(holes, "Euclid").bytes_per_point == 2 * (D // 8 + 4) + 8


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="this system does not tell")
def test_a_file_of_codes_takes_no_memory_once_it_was_read(tmp_path):
    rng = np.random.default_rng(0)
    planes = rng.integers(0, 256, (40_000, 4, 12), dtype=np.uint8)
    path = tmp_path / "codes"
    save(path, SegmentData(0, len(planes), 1, planes, np.ones((len(planes), 4), np.float16), None, None))

    def resident():
        inside, total = False, 0
        for line in Path("/proc/self/smaps").read_text().splitlines():
            if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
                inside = line.endswith(str(path))
            elif inside and line.startswith("Rss:"):
                total += int(line.split()[1]) * 1024
        return total

    data = load(path)
    assert resident() < planes.nbytes / 10, "the checksum read all of it"
    np.testing.assert_array_equal(np.concatenate([piece.copy() for piece in data.pieces(1000)]), planes)
    assert resident() < planes.nbytes / 10
    np.testing.assert_array_equal(data.planes, planes)
    assert resident() > planes.nbytes / 2, "it is counted"
