"""Training-free binarizers: the rotation, the signs, the estimate, the bytes."""

from __future__ import annotations

import base64
import subprocess
import sys
import zlib

import numpy as np
import pytest

from models import CorruptBinarizer, InvalidSize, InvalidVectors, TrainingFreeFactory
from models.grid import correction_factors as factors_of

# Four dimensions, mean (1, 2, 3, 4), rotation that reverses the order of the dimensions. Format version 1.
GOLDEN = base64.b64decode(
    "QklURk9MREG0AAAAeyJhcnJheXMiOlt7ImR0eXBlIjoiPGY0IiwibmFtZSI6Im1lYW4iLCJzaGFwZSI6WzRdfSx7ImR0eXBl"
    "IjoiPGY0IiwibmFtZSI6Im1hdHJpeCIsInNoYXBlIjpbNCw0XX1dLCJtZXRhIjp7ImJpbmFyaXplciI6InRyYWluaW5nLWZy"
    "ZWUiLCJvdXRwdXRzIjo0LCJyb3RhdGlvbiI6ImRlbnNlIn0sInZlcnNpb24iOjF9AACAPwAAAEAAAEBAAACAQAAAAAAAAAAA"
    "AAAAAAAAgD8AAAAAAAAAAAAAgD8AAAAAAAAAAAAAgD8AAAAAAAAAAAAAgD8AAAAAAAAAAAAAAADm0O9E"
)


def correction_factors(transformed):
    """Factors of signs, (n,)."""
    return factors_of(transformed, (transformed >= 0).astype(np.uint8), 1)[:, 0]


def gaussian(n, d, seed=0, offset=0.5):
    return (np.random.default_rng(seed).standard_normal((n, d)) + offset).astype(np.float32)


def fitted(d, n=200, seed=7, rotation=None, **settings):
    return TrainingFreeFactory(rotation=rotation).fit(gaussian(n, d), seed, **settings)


def matrix_of(binarizer):
    """R, (m, d) float64, read column by column from the public map."""
    return binarizer.queries(np.eye(binarizer.dimension, dtype=np.float32)).T.astype(np.float64)


@pytest.mark.parametrize("d", [1, 8, 12, 100, 384, 1024, 1025, 1536])
def test_rotation_is_orthogonal(d):
    binarizer = fitted(d, n=3)
    rotation = matrix_of(binarizer)[:d]
    assert binarizer.code_dimension % 8 == 0
    assert d <= binarizer.code_dimension < d + 8
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(d), atol=2e-6)


@pytest.mark.parametrize("d", [384, 1536])
def test_rotation_spreads_one_dimension_over_all(d):
    largest = np.abs(matrix_of(fitted(d, n=3))).max()
    assert largest < 8 / np.sqrt(d)


@pytest.mark.parametrize("d", [8, 12, 100])
def test_levels_are_the_signs_of_the_slow_formula(d):
    binarizer = fitted(d)
    rotation = matrix_of(binarizer)
    documents = gaussian(50, d, seed=1)
    levels = binarizer.encode(documents)[0]
    assert levels.dtype == np.uint8
    compared = 0
    for document, row in zip(documents, levels, strict=True):
        for j in range(d):
            x = sum(rotation[j, i] * (float(document[i]) - float(binarizer.mean[i])) for i in range(d))
            if abs(x) > 1e-5:
                compared += 1
                assert row[j] == (x >= 0)
    assert compared > 0.99 * 50 * d


@pytest.mark.parametrize("d", [12, 100, 1030])
def test_padding_adds_nothing(d):
    binarizer = fitted(d, n=20)
    documents = gaussian(30, d, seed=2)
    assert binarizer.code_dimension > d
    assert not binarizer.queries(documents)[:, d:].any()
    assert not binarizer.transform(documents)[:, d:].any()
    assert not binarizer.encode(documents)[0][:, d:].any()


def test_transform_is_centred_and_queries_are_not():
    binarizer = fitted(24)
    vectors = gaussian(5, 24, seed=3)
    rotation = matrix_of(binarizer)
    np.testing.assert_allclose(binarizer.mean, gaussian(200, 24).mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(binarizer.transform(vectors), (vectors - binarizer.mean) @ rotation.T, atol=1e-5)
    np.testing.assert_allclose(binarizer.queries(vectors), vectors @ rotation.T, atol=1e-5)


@pytest.mark.parametrize("d", [128, 1536])
def test_estimate_follows_the_inner_product_and_beats_hamming(d):
    """Documents and queries share a few directions, as text does, and norms are spread."""
    rng = np.random.default_rng(11)
    shared = rng.standard_normal((16, d))

    def draw(n):
        vectors = rng.standard_normal((n, 16)) @ shared + rng.standard_normal((n, d))
        return (vectors * rng.lognormal(0, 0.5, (n, 1)) + 1).astype(np.float32)

    documents, queries = draw(500), draw(20)
    binarizer = TrainingFreeFactory().fit(documents, 1)
    true = queries.astype(np.float64) @ (documents - binarizer.mean).T
    signs = 2.0 * binarizer.encode(documents)[0] - 1
    rotated = binarizer.queries(queries)
    estimate = rotated @ signs.T * correction_factors(binarizer.transform(documents))
    hamming = np.sign(rotated) @ signs.T

    def correlation(scores):
        return np.mean([np.corrcoef(true[i], scores[i])[0, 1] for i in range(len(queries))])

    assert correlation(estimate) > 0.95
    assert correlation(estimate) > correlation(hamming) + 0.02


@pytest.mark.parametrize("d", [16, 100, 1030])
def test_encode_is_signs_and_factors_of_the_transform(d):
    binarizer = fitted(d, n=20)
    documents = gaussian(30, d, seed=4)
    levels, factors = binarizer.encode(documents)
    assert levels.dtype == np.uint8
    np.testing.assert_array_equal(levels[:, :d], binarizer.transform(documents)[:, :d] >= 0)
    np.testing.assert_array_equal(factors[:, 0], correction_factors(binarizer.transform(documents)))


def test_correction_factors_by_hand():
    transformed = np.array([[3, -4, 0], [0, 0, 0], [2, 0, 0]], dtype=np.float32)
    factors = correction_factors(transformed)
    assert factors.dtype == np.float32
    np.testing.assert_allclose(factors, [25 / 7, 0, 2], rtol=1e-6)


def test_correction_factor_is_exact_along_the_document():
    x = gaussian(10, 40)
    own = np.einsum("ij,ij->i", x, np.sign(x)) * correction_factors(x)
    np.testing.assert_allclose(own, (x**2).sum(axis=1), rtol=1e-5)


def test_one_vector_and_constant_dimensions():
    one = gaussian(1, 16)
    binarizer = TrainingFreeFactory().fit(one, 0)
    assert binarizer.encode(one)[0].tolist() == [[1] * 16]
    assert correction_factors(binarizer.transform(one)).tolist() == [0.0]
    constant = gaussian(50, 16)
    constant[:, 3] = 2.5
    assert np.isfinite(TrainingFreeFactory(rotation="pca").fit(constant, 0, dimensions=8).transform(constant)).all()


@pytest.mark.parametrize("rotation", ["random", "pca"])
@pytest.mark.parametrize(("d", "dimensions"), [(40, 12), (40, 40), (1100, 64), (1100, 1040)])
def test_fewer_dimensions_have_orthonormal_rows(rotation, d, dimensions):
    binarizer = fitted(d, n=30, dimensions=dimensions, rotation=rotation)
    rows = matrix_of(binarizer)[:dimensions]
    assert binarizer.code_dimension == -(-dimensions // 8) * 8
    np.testing.assert_allclose(rows @ rows.T, np.eye(dimensions), atol=5e-6)


def test_pca_keeps_the_directions_that_vary():
    rng = np.random.default_rng(5)
    basis = np.linalg.qr(rng.standard_normal((64, 64)))[0][:8]
    vectors = (rng.standard_normal((300, 8)) @ basis + 3).astype(np.float32)
    length = (vectors - vectors.mean(axis=0)).astype(np.float64)
    kept = fitted_on(vectors, "pca").transform(vectors)
    lost = fitted_on(vectors, "random").transform(vectors)
    np.testing.assert_allclose((kept**2).sum(), (length**2).sum(), rtol=1e-4)
    assert (lost**2).sum() < 0.5 * (length**2).sum()


def fitted_on(vectors, rotation):
    return TrainingFreeFactory(rotation=rotation).fit(vectors, 3, dimensions=8)


def test_chunks_equal_the_whole(monkeypatch):
    documents = gaussian(100, 1100)
    binarizer = fitted(1100, n=5)
    whole, (levels, factors) = binarizer.transform(documents), binarizer.encode(documents)
    monkeypatch.setattr("models.binarizer.CHUNK_ROWS", 7)
    monkeypatch.setattr("models.rotation.CHUNK_ROWS", 7)
    np.testing.assert_allclose(binarizer.transform(documents), whole, atol=1e-5)
    sure = np.abs(whole) > 1e-4
    assert sure.mean() > 0.99
    chunked = binarizer.encode(documents)
    assert (chunked[0] == levels)[sure].all()
    np.testing.assert_allclose(chunked[1], factors, rtol=1e-5)


@pytest.mark.parametrize(
    "settings", [{"d": 12}, {"d": 384}, {"d": 1536}, {"d": 40, "dimensions": 16, "rotation": "pca"}]
)
def test_saved_and_loaded_equals_live(settings):
    live = fitted(n=20, **settings)
    loaded = TrainingFreeFactory().load(live.to_bytes())
    vectors = gaussian(40, settings["d"], seed=9)
    assert (loaded.dimension, loaded.code_dimension) == (live.dimension, live.code_dimension)
    assert loaded.to_bytes() == live.to_bytes()
    assert np.array_equal(loaded.mean, live.mean)
    assert np.array_equal(loaded.transform(vectors), live.transform(vectors))
    assert np.array_equal(loaded.queries(vectors), live.queries(vectors))
    assert np.array_equal(loaded.encode(vectors)[0], live.encode(vectors)[0])


def test_wide_rotations_are_stored_in_a_fraction_of_the_matrix():
    assert len(fitted(3072, n=2).to_bytes()) < 3072 * 3072 * 4 / 5


@pytest.mark.parametrize("d", [24, 1100])
def test_same_seed_same_bytes(d):
    assert fitted(d, seed=1).to_bytes() == fitted(d, seed=1).to_bytes()
    assert fitted(d, seed=1).to_bytes() != fitted(d, seed=2).to_bytes()


def test_same_seed_same_bytes_in_another_process():
    script = (
        "import hashlib, numpy as np; from models import TrainingFreeFactory;"
        "v = np.arange(60, dtype=np.float32).reshape(5, 12) % 7;"
        "print(hashlib.sha256(TrainingFreeFactory().fit(v, 3).to_bytes()).hexdigest())"
    )
    outputs = {subprocess.run([sys.executable, "-c", script], capture_output=True, check=True).stdout for _ in "ab"}
    assert len(outputs) == 1


def test_golden_bytes_of_version_1():
    binarizer = TrainingFreeFactory().load(GOLDEN)
    assert (binarizer.dimension, binarizer.code_dimension) == (4, 8)
    assert binarizer.mean.tolist() == [1, 2, 3, 4]
    vectors = np.array([[0, 2, 4, 5], [9, 0, 0, 0]], dtype=np.float32)
    assert binarizer.transform(vectors).tolist() == [[1, 1, 0, -1, 0, 0, 0, 0], [-4, -3, -2, 8, 0, 0, 0, 0]]
    assert binarizer.queries(vectors[:1]).tolist() == [[5, 4, 2, 0, 0, 0, 0, 0]]
    assert binarizer.encode(vectors)[0].tolist() == [[1, 1, 1, 0, 0, 0, 0, 0], [0, 0, 0, 1, 0, 0, 0, 0]]
    assert binarizer.to_bytes() == GOLDEN


def test_every_damaged_byte_is_noticed():
    for position in range(len(GOLDEN)):
        damaged = bytearray(GOLDEN)
        damaged[position] ^= 0x20
        with pytest.raises(CorruptBinarizer, match="binarizer"):
            TrainingFreeFactory().load(bytes(damaged))


def test_every_cut_is_noticed():
    for length in range(len(GOLDEN)):
        with pytest.raises(CorruptBinarizer, match="binarizer"):
            TrainingFreeFactory().load(GOLDEN[:length])


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        (b'"version":1', b'"version":2', "format version 2"),
        (b'"training-free"', b'"training-paid"', "kind 'training-paid'"),
        (b'"rotation":"dense"', b'"rotation":"tense"', "inconsistent parts"),
        (b'"outputs":4', b'"outputs":5', "inconsistent parts"),
        (b'"shape":[4,4]', b'"shape":[4,3]', "unreadable header"),
        (b'"shape":[4,4]', b'"shape":[2,8]', "inconsistent parts"),
        (b'"shape":[4,4]', b'"shape":[4,9]', "unreadable header"),
        (b'"name":"mean"', b'"name":"meme"', "inconsistent parts"),
        (b'"dtype":"<f4"', b'"dtype":"|O8"', "unreadable header"),
        (b'{"arrays"', b'["arrays"', "unreadable header"),
    ],
)
def test_wrong_contents_under_a_right_checksum(old, new, match):
    body = GOLDEN[:-4].replace(old, new)
    assert body != GOLDEN[:-4]
    with pytest.raises(CorruptBinarizer, match=match):
        TrainingFreeFactory().load(body + zlib.crc32(body).to_bytes(4, "little"))


@pytest.mark.parametrize(
    ("vectors", "match"),
    [
        (np.zeros((0, 8), np.float32), "fitted on"),
        (np.zeros(8, np.float32), "fitted on"),
        (np.full((2, 8), np.nan, np.float32), "not all finite"),
        (np.full((2, 8), np.inf, np.float32), "not all finite"),
    ],
)
def test_vectors_that_nothing_can_be_fitted_on(vectors, match):
    with pytest.raises(InvalidVectors, match=match):
        TrainingFreeFactory().fit(vectors, 0)


def test_wrong_shapes_and_settings():
    with pytest.raises(InvalidVectors, match=r"shape \(2, 7\), not \(n, 8\)"):
        fitted(8).encode(np.zeros((2, 7), np.float32))
    for dimensions in (0, 9):
        with pytest.raises(InvalidSize, match=f"cannot keep {dimensions} dimensions"):
            TrainingFreeFactory().fit(gaussian(5, 8), 0, dimensions=dimensions)
    for bits in (0, 9):
        with pytest.raises(InvalidSize, match=f"{bits} bits"):
            TrainingFreeFactory().fit(gaussian(5, 8), 0, bits=bits)
    with pytest.raises(ValueError, match="'random' or 'pca'"):
        TrainingFreeFactory(rotation="none")


def test_no_rows_give_no_rows():
    binarizer = fitted(12)
    empty = np.zeros((0, 12), np.float32)
    assert binarizer.encode(empty)[0].shape == binarizer.transform(empty).shape == (0, 16)
    assert correction_factors(binarizer.transform(empty)).shape == (0,)


def test_half_precision_and_strided_input_is_taken():
    binarizer = fitted(16)
    wide = gaussian(6, 32)
    np.testing.assert_array_equal(binarizer.transform(wide[:, ::2]), binarizer.transform(wide[:, ::2].copy()))
    half = wide[:, :16].astype(np.float16)
    np.testing.assert_array_equal(binarizer.encode(half)[0], binarizer.encode(half.astype(np.float32))[0])
