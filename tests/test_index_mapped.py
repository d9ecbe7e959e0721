"""Codes that stay in their files: scored as those in memory are, in collections that do not fit under the limit."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from index import proposing
from index.code_index import CodeIndex
from index.codes import pack, pack_bits, values
from index.filters import parse_filter
from index.footprint import footprint
from index.kernels import plane_products
from index.maintenance import optimize
from index.mapped_index import MappedIndex
from index.points import SearchParams
from tests.index_fakes import batch_of, config, contents, open_store
from tests.large_segments import SMALL, N, grouped, upkeep

ALL = {"candidates": N, "rerank": N, "probes": 10**6}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Return what copies a store of N points, three of them deleted, to a folder; each kind is made once."""
    made = {}

    def copied(path, *, bits, index="lists"):
        if (bits, index) not in made:
            made[bits, index] = folder = tmp_path_factory.mktemp(f"{bits}-{index}")
            store = open_store(folder, **SMALL)
            collection = store.create("c", config(bits=bits, index=index))
            vectors = grouped()
            for start in range(0, N, 100):
                ids = range(start, start + 100)
                collection.upsert(batch_of(ids, vectors[ids.start : ids.stop], [{"n": i} for i in ids]))
            optimize(collection)
            collection.delete([5, 6, 7])
            store.close()
        shutil.copytree(made[bits, index], path, dirs_exist_ok=True)

    return copied


def hits(collection, queries, filter=None, **params):
    found = collection.search(queries, 10, filter=filter, params=SearchParams(exact=False, **(ALL | params)))
    return [[(hit.id, round(hit.score, 5)) for hit in result.hits] for result in found]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 200), st.integers(1, 6), st.sampled_from([1, 2, 4]), st.booleans())
def test_it_finds_what_codes_in_memory_find(seed, n, lists, bits, filtered):
    rng = np.random.default_rng(seed)
    levels = rng.integers(0, 1 << bits, (n, 32), dtype=np.uint8)
    planes = pack(levels, bits)
    membership = rng.integers(0, lists, n)
    bands = [np.flatnonzero(membership == i) for i in range(lists)]
    mapped, held = MappedIndex(planes, bands), CodeIndex(planes[:, 0], bands, np.ascontiguousarray(planes[:, 1:]))
    query = rng.standard_normal(32).astype(np.float32)
    positions = rng.permutation(n)[: n // 2 + 1]
    for p in range(1, bits + 1):
        truth = values(levels[positions] >> (bits - p), p) @ query
        np.testing.assert_allclose(plane_products(planes, p, positions, query), truth, atol=1e-3)
    assert (len(mapped), mapped.bits, mapped.bands) == (len(held), held.bits, held.bands)
    for read in ("planes_at", "codes_at", "lists_of", "counts"):
        np.testing.assert_array_equal(getattr(mapped, read)(positions), getattr(held, read)(positions))

    allowed = rng.random(n) < 0.5 if filtered else np.ones(n, dtype=bool)
    bitmap = pack_bits(allowed) if filtered else None
    chosen = rng.permutation(lists)[: rng.integers(1, lists + 1)]
    k = int(rng.integers(1, n + 1))
    first = values(levels >> (bits - 1), 1) @ query
    [(found, scores)] = mapped.probe(query[None], k, bitmap, [chosen])
    inside = np.flatnonzero(allowed & np.isin(membership, chosen))
    np.testing.assert_allclose(scores, first[found], atol=1e-3)
    np.testing.assert_allclose(np.sort(scores), np.sort(first[inside])[::-1][:k][::-1], atol=1e-3)
    [(found, _)] = mapped.scan(query[None], k, bitmap)
    expected = sum(min(k, int(allowed[band].sum())) for band in bands)
    assert len(set(found.tolist())) == len(found) == expected
    again = mapped.in_lists([np.arange(n)])
    np.testing.assert_array_equal(again.planes_at(positions), planes[positions])


@pytest.mark.parametrize(("bits", "index"), [(1, "lists"), (4, "lists"), (4, "graph")])
def test_codes_beyond_the_limit_stay_in_their_files(tmp_path, written, bits, index):
    written(tmp_path, bits=bits, index=index)
    queries = grouped(20, seed=5)
    narrow = parse_filter({"must": [{"key": "n", "range": {"lt": 40}}]})

    def answers(collection):
        filtered = hits(collection, queries, narrow, rerank=36)
        return [hits(collection, queries), hits(collection, queries, bits=1), filtered]

    store = open_store(tmp_path, **SMALL)
    collection = store.get("c")
    assert not collection.info().codes_mapped
    expected = answers(collection)
    before = footprint(collection).memory
    store.close()

    store = open_store(tmp_path, **SMALL, memory_limit=1000)
    collection = store.get("c")
    assert collection.info().codes_mapped
    after = footprint(collection).memory
    assert (after["codes"], after["links"]) == (0, 0) != (before["codes"], before["links"])
    assert sum(after.values()) < sum(before.values())
    upkeep(collection)  # a graph is for codes in memory: lists take its place
    assert [segment.centroids is not None for segment in collection.view.segments] == [True]
    assert isinstance(collection.view.segments[0].index, MappedIndex)
    assert answers(collection) == expected

    more = grouped(600, seed=3)
    for start in range(0, 600, 100):
        ids = range(N + start, N + start + 100)
        collection.upsert(batch_of(ids, more[start : start + 100], [{"n": i} for i in ids]))
    optimize(collection)
    assert isinstance(collection.view.segments[0].index, MappedIndex), "what merges stays in its file, too"
    assert len(contents(collection)) == N + 600 - 3
    grown = hits(collection, queries, candidates=2 * N, rerank=2 * N)
    store.close()
    store = open_store(tmp_path, **SMALL)
    assert not store.get("c").info().codes_mapped
    assert hits(store.get("c"), queries, candidates=2 * N, rerank=2 * N) == grown
    store.close()


def test_collections_that_come_later_stay_in_their_files(tmp_path):
    for name in ("a", "b"):
        store = open_store(tmp_path, **SMALL)
        collection = store.create(name, config())
        collection.upsert(batch_of(range(N), grouped(), [{"n": i} for i in range(N)]))
        optimize(collection)
        store.close()
    store = open_store(tmp_path, **SMALL)
    room = sum(footprint(store.get("a")).memory.values())
    store.close()
    store = open_store(tmp_path, **SMALL, memory_limit=room + 2000)
    assert [store.get(name).info().codes_mapped for name in ("a", "b")] == [False, True]
    store.close()


@pytest.mark.parametrize("bits", [1, 4])
def test_few_allowed_codes_are_scored_one_by_one(tmp_path, written, monkeypatch, bits):
    written(tmp_path, bits=bits)
    queries = grouped(20, seed=5)
    store = open_store(tmp_path, **SMALL)
    collection = store.get("c")
    collection.calibration = None
    tree = parse_filter({"must": [{"key": "n", "range": {"gte": 100, "lt": 150}}]})
    scored = []
    real = proposing.plane_products
    monkeypatch.setattr(
        proposing, "plane_products", lambda codes, p, at, query: scored.append(len(at)) or real(codes, p, at, query)
    )
    for probes in (10**6, 20):
        scored.clear()
        params = {"filter": tree, "rerank": 49, "probes": probes}
        monkeypatch.setattr(proposing, "SCAN", 1)
        one_by_one = hits(collection, queries, **params)
        assert 0 < max(scored) <= 50
        assert (max(scored) == 50) == (probes == 10**6)
        scored.clear()
        monkeypatch.setattr(proposing, "SCAN", 10**9)
        assert hits(collection, queries, **params) == one_by_one
        assert not scored
    store.close()
