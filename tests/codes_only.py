"""What the tests of collections of codes only share: making one, and what its scores must be."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from index.maintenance import optimize
from index.points import SearchParams
from index.verify import verify
from tests.index_fakes import RotationFactory, config, exact_scores, fill, open_store, prefix_of, vectors_of

D = 16
DISTANCES = ["Cosine", "Dot", "Euclid"]
CODES = SearchParams(exact=False)


def codes_only(distance="Dot", **more):
    return replace(config(distance, **more), store_vectors=False)


def dropped(store, n=100, *, distance="Dot", bits=1, name="c"):
    """A collection of n points of which most have lost their vectors; and the vectors."""
    collection = store.create(name, codes_only(distance, bits=bits))
    vectors = fill(collection, n)
    optimize(collection)
    return collection, dict(enumerate(vectors))


def lost_ids(collection):
    with collection.snapshot() as (view, reader):
        rows = view.alive_rows()
        return {i for row, i, _ in reader.scan_rows() if row in set(rows[~view.readable(rows)].tolist())}


def code_scores(collection, query, points):
    """What codes alone say of each point that has a code, by the binarizer that made it."""
    found = {}
    with collection.snapshot() as (view, reader):
        ids = {row: i for row, i, _ in reader.scan_rows()}
        for segment in view.segments:
            of = [ids[row] for row in segment.alive_rows().tolist()]
            vectors = np.array([points[i] for i in of]).reshape(-1, len(query))
            scores = estimates(view.binarizers[segment.binarizer], query, vectors, collection.config.distance)
            found.update(zip(of, scores.tolist(), strict=True))
    return found


def reopened(store, **changes):
    store.close()
    return open_store(store.directory, **changes)


def estimates(binarizer, query, vectors, distance):
    """What codes alone say of vectors, from the definition."""
    if distance == "Cosine":
        query = query / np.linalg.norm(query)
        vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors = vectors.astype(np.float32)
    levels, factors = binarizer.encode(vectors)
    sums = prefix_of(levels, binarizer.bits, binarizer.bits) @ binarizer.queries(query[None].astype(np.float32))[0]
    found = factors[:, -1] * sums + query @ binarizer.mean
    if distance != "Euclid":
        return found
    squares = query @ query + (vectors**2).sum(axis=1) - 2 * found
    return -np.sqrt(np.maximum(squares, 0))


def check_everything(collection, points, *, seed=99):
    """Every point is there, once, scored by its vector where that is kept and by its own code where it is not."""
    assert collection.count() == collection.view.points == len(points)
    query = vectors_of(1, seed)[0]
    distance = collection.config.distance
    hits = collection.search(query[None], len(points) + 5, params=CODES)[0].hits
    assert sorted(hit.id for hit in hits) == sorted(points)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    if not points:
        return
    vectors = np.array(list(points.values()))
    gone = lost_ids(collection)
    true = dict(zip(points, exact_scores(query, vectors, distance).tolist(), strict=True))
    coded = code_scores(collection, query, points)
    scale = np.abs(list(true.values())).max()
    for hit in hits:
        expected = coded[hit.id] if hit.id in gone else true[hit.id]
        # The scan rounds plane 0 to 8 bits; nothing else may differ.
        assert hit.score == pytest.approx(expected, abs=0.08 * scale if hit.id in gone else 1e-5 * scale)


def check_sound(store, points):
    """The same holds after a restart, and the files are as they should be."""
    store.close()
    report = verify(store.directory, RotationFactory())
    assert report.problems == []
    again = open_store(store.directory)
    assert again.damaged == {}
    check_everything(again.get("c"), points)
    again.close()
