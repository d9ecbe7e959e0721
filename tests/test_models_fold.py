"""Folds: rotations whose prefixes are the best linear ones, exact at full length."""

from __future__ import annotations

import numpy as np
import pytest

from models import CorruptModel, InvalidVectors, ModelNotFound
from models.fold import Fold, read_identity
from models.grouping import around_group_means, nearest
from models.presets import MINILM_SPACE, shipped_fold


@pytest.fixture(scope="module")
def vectors():
    """Unit vectors whose variance lies in a few directions, none of them a coordinate, around a mean."""
    rng = np.random.default_rng(5)
    turn, _ = np.linalg.qr(rng.standard_normal((24, 24)))
    raw = rng.standard_normal((400, 24)) * 0.7 ** np.arange(24) @ turn + 0.3
    return (raw / np.linalg.norm(raw, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def fold(vectors):
    return Fold.fit(vectors)


def test_axes_are_those_of_largest_variance(vectors, fold):
    wide = vectors.astype(np.float64)
    _, _, expected = np.linalg.svd(wide - wide.mean(axis=0), full_matrices=False)
    np.testing.assert_allclose(np.abs(np.sum(fold.axes * expected, axis=1)), 1, atol=1e-4)


def test_within_groups_the_axes_are_those_that_tell_similar_texts_apart():
    """Two subjects far apart along axis 0, and within both the spread is along axes 5, 3, 1."""
    rng = np.random.default_rng(2)
    subjects = np.where(rng.random(600) < 0.5, 1.0, -1.0)[:, None] * np.eye(8)[0]
    spread = rng.standard_normal((600, 3)) * (0.3, 0.2, 0.1) @ np.eye(8)[[5, 3, 1]]
    vectors = (subjects + spread + 1e-3 * rng.standard_normal((600, 8))).astype(np.float32)
    plain, grouped = Fold.fit(vectors), Fold.fit(vectors, groups=2)
    assert np.abs(plain.axes).argmax(axis=1)[:4].tolist() == [0, 5, 3, 1]
    assert np.abs(grouped.axes).argmax(axis=1)[:3].tolist() == [5, 3, 1]
    assert Fold.fit(vectors, groups=2).identity == grouped.identity


def test_groups_are_those_of_the_nearest_mean(vectors):
    centres = vectors[:7]
    expected = [max(range(7), key=lambda j: centres[j] @ v / np.linalg.norm(centres[j])) for v in vectors]
    owners = nearest(vectors, centres)
    assert owners.tolist() == expected
    rest = around_group_means(vectors, 7, seed=0)
    moved = vectors - rest
    means = np.unique(moved.round(4), axis=0)
    assert 2 <= len(means) <= 7
    for mean in means:
        own = np.abs(moved - mean).max(axis=1) < 1e-3
        np.testing.assert_allclose(rest[own].sum(axis=0), 0, atol=1e-4)
        np.testing.assert_allclose(vectors[own].mean(axis=0), mean, atol=1e-3)


def test_nothing_is_lost_at_full_length(vectors, fold):
    products = vectors @ vectors.T
    rotated = fold.rotate(vectors)
    np.testing.assert_allclose(rotated @ rotated.T, products, atol=1e-5)
    np.testing.assert_allclose(fold.widen(rotated), vectors, atol=1e-6)
    np.testing.assert_allclose(fold.project(vectors, 24), rotated, atol=1e-6)


@pytest.mark.parametrize("k", [1, 3, 7, 24])
def test_a_widened_prefix_scores_as_the_prefix_does(vectors, fold, k):
    queries, documents = vectors[:50], vectors[50:]
    short = fold.cut(queries, k)
    assert short.shape == (50, k)
    assert short.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(short, axis=1), 1, atol=1e-6)
    plain = queries.astype(np.float64) @ fold.axes[:k].T.astype(np.float64)
    np.testing.assert_allclose(short, plain / np.linalg.norm(plain, axis=1, keepdims=True), atol=1e-6)
    np.testing.assert_allclose(fold.widen(short) @ documents.T, short @ fold.project(documents, k).T, atol=1e-5)


def test_prefixes_keep_more_than_the_models_own(vectors, fold):
    kept = [np.square(fold.project(vectors, k)).sum() for k in range(1, 25)]
    assert kept == sorted(kept)
    for k in (2, 6, 12):
        assert np.square(fold.project(vectors, k)).sum() > 1.2 * np.square(vectors[:, :k]).sum()


def test_bytes_and_back(fold, tmp_path):
    data = fold.to_bytes()
    again = Fold.from_bytes(data)
    assert again.identity == fold.identity
    assert again.to_bytes() == data
    np.testing.assert_array_equal(again.axes, fold.axes)
    fold.save(tmp_path / "folder" / "a.safetensors")
    assert Fold.read(tmp_path / "folder" / "a.safetensors").identity == fold.identity
    assert read_identity(tmp_path / "folder" / "a.safetensors") == fold.identity


def test_the_identity_is_that_of_the_axes(vectors, fold):
    assert fold.identity.startswith("pca-")
    assert len(fold.identity) == 12
    assert Fold.fit(vectors).identity == fold.identity
    assert Fold.fit(vectors[1:]).identity != fold.identity


def test_what_is_no_fold(vectors, fold, tmp_path):
    with pytest.raises(InvalidVectors, match="needs n >= d"):
        Fold.fit(vectors[:23])
    with pytest.raises(InvalidVectors, match="not finite"):
        Fold.fit(np.where(np.arange(24) == 3, np.nan, vectors))
    with pytest.raises(InvalidVectors, match="orthonormal"):
        Fold(axes=fold.axes * 1.01)
    with pytest.raises(InvalidVectors, match="a square of axes"):
        Fold(axes=fold.axes[:5])
    for k in (0, 25):
        with pytest.raises(InvalidVectors, match=f"1 to 24 dimensions, not {k}"):
            fold.cut(vectors, k)
    with pytest.raises(InvalidVectors, match="no direction"):
        fold.cut(fold.axes[5:6] * 0, 3)
    with pytest.raises(ModelNotFound, match="no fold at .*nowhere"):
        Fold.read(tmp_path / "nowhere")
    with pytest.raises(ModelNotFound, match="nowhere"):
        read_identity(tmp_path / "nowhere")


def test_damaged_bytes(fold, tmp_path):
    data = fold.to_bytes()
    path = tmp_path / "a.safetensors"
    for damaged in (b"", data[:100], data[:-4], b"x" * 400):
        path.write_bytes(damaged)
        with pytest.raises(CorruptModel, match="a.safetensors"):
            Fold.read(path)
    # One bit of one axis: still nearly orthonormal, but not the fold that the file says it is.
    changed = bytearray(data)
    changed[-4] ^= 1
    path.write_bytes(changed)
    with pytest.raises(CorruptModel, match=f"does not state that it is pca-(?!{fold.identity[4:]})"):
        Fold.read(path)
    path.write_bytes(b"\x10\0\0\0\0\0\0\0" + b"{}" + b" " * 14)
    with pytest.raises(CorruptModel, match="states no identity"):
        read_identity(path)


def test_the_shipped_fold_is_one_of_the_default_space():
    fold = shipped_fold(MINILM_SPACE)
    assert fold is not None
    assert fold.dimension == 384
    assert shipped_fold("another space") is None
