"""A tiny binarizer and helpers for the tests of `index`, which must not need `models`."""

from __future__ import annotations

import json
import struct
import zlib

import numpy as np

from index.codes import prefix_values
from index.collection import Collection
from index.options import StoreOptions
from index.points import Batch, CollectionConfig, content_hash
from index.store import Store

# Levels of a normal variable lie closest with this value of the grid's unit, in standard deviations.
UNITS = {1: 1.0, 2: 0.9957, 3: 1.172, 4: 1.341}
HEADER = struct.Struct("<4sIIIIf")


class RandomRotation:
    """Centres, rotates, rounds to `unit` times a mid-rise grid; code dimensions beyond its rows are padding.

    `matrix` is (rows, d), orthonormal rows; fewer than d make a worse binarizer. With `reads_older` its queries
    score the codes of older ones with the same directions and unit. One bit has no unit: levels are signs.
    """

    def __init__(self, mean, matrix, *, bits=1, unit=1.0, learned=False, reads_older=False):
        self.mean = mean
        self.matrix = matrix
        self.bits = bits
        self.unit = unit
        self.learned = learned
        self.reads_older = reads_older
        self.dimension = len(mean)
        self.code_dimension = -(-len(matrix) // 8) * 8
        self.identity = f"fake-{bits}b-{zlib.crc32(self.to_bytes()):08x}"

    def _pad(self, array):
        return np.pad(array, ((0, 0), (0, self.code_dimension - array.shape[1])))

    def encode(self, vectors):
        x = (vectors - self.mean) @ self.matrix.T
        levels = levels_of(x / self.unit, self.bits)
        factors = [correction(x, self.unit * prefix_of(levels, self.bits, p)) for p in range(1, self.bits + 1)]
        return self._pad(levels), np.stack(factors, axis=1).astype(np.float32)

    def queries(self, vectors):
        return np.ascontiguousarray(self._pad(vectors @ self.matrix.T * self.unit), dtype=np.float32)

    def query_levels(self, vectors):
        y = vectors @ self.matrix.T
        units = UNITS[self.bits] * np.sqrt((y * y).mean(axis=1, keepdims=True))
        levels = levels_of(y / units, self.bits)
        scales = self.unit * units[:, 0] * correction(y, units * prefix_of(levels, self.bits, self.bits))
        return self._pad(levels), scales.astype(np.float32)

    def reads(self, older):
        same = np.array_equal(self.matrix[: len(older.matrix)], older.matrix) and self.unit == older.unit
        return self.reads_older and same

    def to_bytes(self):
        data = np.concatenate([self.mean, self.matrix.ravel()]).astype("<f4").tobytes()
        if (self.bits, self.learned, len(self.matrix)) == (1, False, self.dimension):
            return data  # as before there were more bits: what golden data of version 1 holds
        flags = self.learned + 2 * self.reads_older
        return HEADER.pack(b"FAKE", self.bits, len(self.matrix), self.dimension, flags, self.unit) + data


def levels_of(x, bits):
    """Levels of values in units of the grid."""
    return np.clip(np.floor(x * 2 ** (bits - 1) / 2 + 2 ** (bits - 1)), 0, 2**bits - 1).astype(np.uint8)


def prefix_of(levels, bits, p):
    """The values of the first p planes: a sum of +-1, +-1/2, ..., term by term."""
    return sum(2.0**-t * (2.0 * (levels >> (bits - 1 - t) & 1) - 1) for t in range(p))


def correction(x, approximation):
    """What makes `<x, approximation>` the squared norm of x."""
    products = (x * approximation).sum(axis=1)
    return np.divide((x * x).sum(axis=1), products, out=np.zeros_like(products), where=products > 0)


def trained(vectors, *, bits=1, rows=None, seed=0, learned=True, reads_older=False):
    """A binarizer as somebody would train it, over `rows` random directions."""
    d = vectors.shape[1]
    matrix, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((d, d)))
    matrix = matrix[:rows].astype(np.float32)
    mean = vectors.mean(axis=0).astype(np.float32)
    unit = 1.0 if bits == 1 else float(np.float32(UNITS[bits] * ((vectors - mean) @ matrix.T).std()))
    return RandomRotation(mean, matrix, bits=bits, unit=unit or 1.0, learned=learned, reads_older=reads_older)


class RotationFactory:
    """Fits and loads `RandomRotation`; counts the fits."""

    def __init__(self):
        self.fits = 0

    def fit(self, vectors, seed, *, bits, dimensions):
        self.fits += 1
        return trained(vectors, bits=bits, rows=dimensions, seed=seed, learned=False)

    def load(self, data):
        if data[:4] != b"FAKE":
            values = np.frombuffer(data, "<f4")
            d = int((np.sqrt(1 + 4 * len(values)) - 1) / 2)
            return self._read(data, d, d)
        _, bits, rows, d, flags, unit = HEADER.unpack(data[: HEADER.size])
        more = {"learned": bool(flags & 1), "reads_older": bool(flags & 2)}
        return self._read(data[HEADER.size :], rows, d, bits=bits, unit=unit, **more)

    def _read(self, data, rows, d, **more):
        if len(data) != 4 * (d + rows * d):
            raise ValueError("not a rotation")
        values = np.frombuffer(data, "<f4")
        return RandomRotation(values[:d].copy(), values[d:].reshape(rows, d).copy(), **more)


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


def config(
    distance="Cosine",
    *,
    dimension=DIMENSION,
    dtype="float32",
    bits=1,
    code_dimension=None,
    store_vectors=True,
    index="lists",
    **attributes,
):
    return CollectionConfig(dimension, distance, dtype, attributes, bits, code_dimension, store_vectors, index)


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


def rounding(query):
    """An upper bound of what rounding an `(m,)` query can add up to in a scan: half a step a dimension."""
    nibbles = np.abs(query).reshape(-1, 4).sum(axis=1)
    step = max(nibbles.max() / 253, nibbles.sum() / (65_000 - len(query) / 2))
    return step / 2 * len(query) + 1e-3


def brute_force(collection, query, p):
    """Estimates by p planes of all coded rows, in their order, in float64; how far a scan's rounding may take them."""
    estimates, slack = [], []
    for segment in collection.view.segments:
        binarizer = collection.view.binarizers[segment.binarizer]
        data = segment.data()
        coded = binarizer.queries(query[None])[0]
        used = min(p, segment.bits)
        part = data.factors[:, used - 1] * (prefix_values(data.planes, used).astype(np.float64) @ coded)
        part += query.astype(np.float64) @ binarizer.mean
        estimates.append(part if data.beta is None else part + data.beta)
        slack.append(data.factors[:, used - 1] * rounding(coded))
    return np.concatenate(estimates), np.concatenate(slack)


def estimates_of(result, query, distance):
    """The estimates that the scores of a search for all rows stand for, in the order of ids."""
    scores = np.empty(len(result.hits))
    scores[[hit.id for hit in result.hits]] = [hit.score for hit in result.hits]
    return ((query.astype(np.float64) ** 2).sum() - scores**2) / 2 if distance == "Euclid" else scores
