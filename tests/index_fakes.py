"""A tiny binarizer and helpers for the tests of `index`, which must not need `models`."""

from __future__ import annotations

import json

import numpy as np

from index.collection import Collection
from index.options import StoreOptions
from index.points import Batch, CollectionConfig, content_hash
from index.store import Store


class RandomRotation:
    """Centres, rotates, keeps signs; code dimensions beyond d are padding with level 0."""

    def __init__(self, mean, matrix):
        self.mean = mean
        self.matrix = matrix
        self.dimension = len(mean)
        self.code_dimension = -(-self.dimension // 8) * 8

    def _pad(self, array):
        return np.pad(array, ((0, 0), (0, self.code_dimension - self.dimension)))

    def encode(self, vectors):
        x = (vectors - self.mean) @ self.matrix.T
        sums = np.abs(x).sum(axis=1)
        factors = np.divide((x * x).sum(axis=1), sums, out=np.zeros_like(sums), where=sums > 0)
        return self._pad((x >= 0).astype(np.uint8)), factors.astype(np.float32)

    def queries(self, vectors):
        return np.ascontiguousarray(self._pad(vectors @ self.matrix.T), dtype=np.float32)

    def to_bytes(self):
        return np.concatenate([self.mean, self.matrix.ravel()]).astype("<f4").tobytes()


class RotationFactory:
    """Fits and loads `RandomRotation`; counts the fits."""

    def __init__(self):
        self.fits = 0

    def fit(self, vectors, seed):
        self.fits += 1
        d = vectors.shape[1]
        matrix, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((d, d)))
        return RandomRotation(vectors.mean(axis=0).astype(np.float32), matrix.astype(np.float32))

    def load(self, data):
        values = np.frombuffer(data, "<f4")
        d = int((np.sqrt(1 + 4 * len(values)) - 1) / 2)
        if len(data) != 4 * (d + d * d):
            raise ValueError("not a rotation")
        return RandomRotation(values[:d].copy(), values[d:].reshape(d, d).copy())


DIMENSION = 16


def options(**changes):
    small = {
        "exact_below": 10_000,
        "first_fit": 32,
        "tail_rows": 16,
        "fan_out": 3,
        "save_rows": 16,
        "file_bytes": 24 * DIMENSION * 4,
        "background": False,
    }
    return StoreOptions(**{**small, **changes})


def open_store(path, factory=None, **changes):
    return Store(path, factory or RotationFactory(), options(**changes))


def config(distance="Cosine", *, dimension=DIMENSION, dtype="float32", **attributes):
    return CollectionConfig(dimension=dimension, distance=distance, dtype=dtype, attributes=attributes)


def vectors_of(n, seed=0, *, dimension=DIMENSION, spread=0.0):
    """(n, d) float32; with `spread`, norms are lognormal."""
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((n, dimension))
    return (vectors * np.exp(spread * rng.standard_normal((n, 1)))).astype(np.float32)


def batch_of(ids, vectors, payloads=None, texts=None):
    ids = list(ids)
    payloads = payloads if payloads is not None else [{"n": i} for i in range(len(ids))]
    texts = texts if texts is not None else [None] * len(ids)
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    hashes = [
        content_hash(vector.tobytes() if text is None else text.encode())
        for vector, text in zip(vectors, texts, strict=True)
    ]
    return Batch(
        ids=ids,
        vectors=vectors,
        payloads=[json.dumps(payload).encode() for payload in payloads],
        texts=texts,
        hashes=hashes,
    )


def fill(collection: Collection, n, *, first=0, step=7, seed=0, spread=0.0, texts=False):
    """Write n points with ids first, first + 1, ... in batches of `step`; return their vectors."""
    vectors = vectors_of(n, seed, dimension=collection.config.dimension, spread=spread)
    for start in range(0, n, step):
        ids = range(first + start, first + min(start + step, n))
        part = [f"text {i}" for i in ids] if texts else None
        payloads = [{"n": i, "even": i % 2 == 0} for i in ids]
        collection.upsert(batch_of(ids, vectors[start : start + step], payloads, part))
    return vectors


def exact_scores(query, vectors, distance):
    """The definition, in float64."""
    query, vectors = query.astype(np.float64), vectors.astype(np.float64)
    if distance == "Euclid":
        return -np.sqrt(((vectors - query) ** 2).sum(axis=1))
    if distance == "Cosine":
        query = query / np.linalg.norm(query)
        vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors @ query


def contents(collection):
    """Everything that a collection holds, by id."""
    points, following = collection.scroll(limit=10**9, with_vector=True, with_text=True)
    assert following is None
    return {p.id: (p.payload, p.text, p.vector.tobytes()) for p in points}


def check_hits(hits, query, vectors_by_id, k, distance, tolerance=1e-5):
    """Tie-safe comparison of exact hits with the oracle."""
    ids = list(vectors_by_id)
    assert len(hits) == min(k, len(ids))
    assert len({hit.id for hit in hits}) == len(hits)
    if not hits:
        return
    scores = exact_scores(query, np.array([vectors_by_id[i] for i in ids]), distance)
    by_id = dict(zip(ids, scores.tolist(), strict=True))
    scale = max(1.0, np.abs(scores).max())
    got = np.array([hit.score for hit in hits])
    assert np.abs(got - [by_id[hit.id] for hit in hits]).max() <= tolerance * scale
    assert (np.diff(got) <= 0).all()
    best = np.sort(scores)[::-1][: len(hits)]
    assert np.abs(got - best).max() <= tolerance * scale
