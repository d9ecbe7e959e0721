"""Search with several bits a dimension: stages beside brute force over values, the choices per query, refusals."""

from __future__ import annotations

import numpy as np
import pytest

from index import funnel
from index.codes import integer_products, unpack
from index.errors import InvalidInput
from index.filters import parse_filter
from index.maintenance import optimize
from index.points import CollectionConfig, SearchParams
from tests.index_fakes import (
    brute_force,
    check_hits,
    config,
    estimates_of,
    exact_scores,
    fill,
    open_store,
    vectors_of,
)

DISTANCES = ["Cosine", "Dot", "Euclid"]
EVEN = parse_filter({"must": [{"key": "even", "match": {"value": True}}]})
D = 32


@pytest.fixture
def store(tmp_path):
    store = open_store(tmp_path, first_fit=500, tail_rows=200, save_rows=10_000, file_bytes=1 << 20)
    yield store
    store.close()


def make(store, distance, n, *, bits, spread=0.0, **more):
    collection = store.create(f"{distance}-{bits}", config(distance, dimension=D, bits=bits, **more))
    vectors = fill(collection, n, step=500, spread=spread)
    collection.seal()
    return collection, vectors


def unit(query, distance):
    return query / np.linalg.norm(query) if distance == "Cosine" else query


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("merged", [False, True])
def test_all_planes_of_all_rows_are_brute_force(store, distance, bits, merged):
    """Nothing is read, every row is a candidate: scores are the estimates, to what a scan rounds plane 0."""
    n = 3000
    collection, _ = make(store, distance, n, bits=bits, spread=0.0 if distance == "Cosine" else 0.6)
    if merged:
        optimize(collection)
        assert (max(segment.index.bands for segment in collection.view.segments) > 1) == (distance != "Cosine")
    for query in vectors_of(4, 99, dimension=D):
        for p in range(1, bits + 1):
            params = SearchParams(exact=False, candidates=n, rerank=0, bits=p)
            result = collection.search(query[None], n, params=params)[0]
            expected, slack = brute_force(collection, unit(query, distance), p)
            got = estimates_of(result, query, distance)
            assert (np.abs(got - expected) <= slack + 1e-4 * np.abs(expected).max()).all()
            assert np.abs(got - expected).mean() < 0.1 * expected.std()
            assert [hit.score for hit in result.hits] == sorted((hit.score for hit in result.hits), reverse=True)
            stages = result.stages
            assert (stages.bits, stages.reranked, stages.bytes_read) == (p, 0, 0)
            assert stages.refined == (n if p > 1 else 0)


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("bits", [1, 2, 4])
def test_symmetric_scores_are_the_integer_identity(store, distance, bits):
    n = 900
    collection, _ = make(store, distance, n, bits=bits)
    (binarizer,) = collection.view.binarizers.values()
    data = [segment.data() for segment in collection.view.segments]
    for query in vectors_of(3, 99, dimension=D):
        asked = unit(query, distance)
        levels, scales = binarizer.query_levels(asked[None])
        for p in range(1, bits + 1):
            estimates = []
            for part in data:
                products = integer_products(levels >> (bits - p), unpack(part.planes[:, :p]), p)[0] / 4.0 ** (p - 1)
                estimate = scales[0].astype(np.float64) * part.factors[:, p - 1] * products + asked @ binarizer.mean
                estimates.append(estimate if part.beta is None else estimate + part.beta)
            expected = np.concatenate(estimates)
            params = SearchParams(exact=False, candidates=n, rerank=0, bits=p, symmetric=True)
            result = collection.search(query[None], n, params=params)[0]
            assert (result.stages.symmetric, result.stages.refined) == (True, n)
            got = estimates_of(result, query, distance)
            np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def recall(collection, vectors, queries, k=10, **params):
    distance = collection.config.distance
    reached = 0
    for query, result in zip(
        queries, collection.search(queries, k, params=SearchParams(exact=False, **params)), strict=True
    ):
        scores = exact_scores(query, vectors, distance)
        worst = np.sort(scores)[::-1][k - 1]
        assert len({hit.id for hit in result.hits}) == len(result.hits) == k
        reached += sum(scores[hit.id] >= worst - 1e-4 * abs(worst) for hit in result.hits)
    return reached / (k * len(queries))


@pytest.mark.parametrize("distance", DISTANCES)
def test_more_bits_never_find_less(store, distance):
    collection, vectors = make(store, distance, 3000, bits=4)
    optimize(collection)
    queries = vectors_of(30, 99, dimension=D)
    for rerank in (0, 15):
        found = [recall(collection, vectors, queries, candidates=1500, rerank=rerank, bits=p) for p in (1, 2, 3, 4)]
        assert found == sorted(found)
        assert found[-1] > found[0] + 0.15
    assert recall(collection, vectors, queries, candidates=1500, rerank=15) >= 0.95
    symmetric = recall(collection, vectors, queries, candidates=1500, rerank=0, bits=2, symmetric=True)
    assert symmetric < recall(collection, vectors, queries, candidates=1500, rerank=0, bits=2)


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("bits", [2, 4])
def test_defaults_reach_recall_with_fewer_reads(store, distance, bits):
    collection, vectors = make(store, distance, 4000, bits=bits, spread=0.0 if distance == "Cosine" else 0.5)
    optimize(collection)
    queries = vectors_of(20, 99, dimension=D)
    one, all_bits = (collection.search(queries, 10, params=SearchParams(exact=False, bits=b))[0] for b in (1, None))
    assert all_bits.stages.reranked < one.stages.reranked / 2
    assert all_bits.stages.bytes_read == all_bits.stages.reranked * 4 * D
    assert all_bits.stages.bits == bits
    assert recall(collection, vectors, queries) >= 0.98


def test_fewer_planes_of_more_are_planned_as_fewer(store):
    collection, _ = make(store, "Cosine", 3000, bits=4)
    query = vectors_of(1, 99, dimension=D)
    reads = [collection.search(query, 10, params=SearchParams(exact=False, bits=p))[0].stages for p in (1, 2, 3, 4)]
    assert [s.reranked for s in reads] == sorted((s.reranked for s in reads), reverse=True)
    assert len({s.reranked for s in reads}) == 4
    assert [s.refined > 0 for s in reads] == [False, True, True, True]


@pytest.mark.parametrize("distance", DISTANCES)
def test_rerank_caps_what_is_read(store, distance):
    collection, vectors = make(store, distance, 1000, bits=2, spread=0.0 if distance == "Cosine" else 0.5)
    fill(collection, 30, first=1000, seed=8)
    assert collection.view.tail.count == 30
    vectors = np.concatenate([vectors, vectors_of(30, 8, dimension=D)])
    query = vectors_of(1, 99, dimension=D)
    exact = exact_scores(query[0], vectors, distance)
    for rerank in (0, 4, 25):
        result = collection.search(query, 25, params=SearchParams(exact=False, rerank=rerank))[0]
        assert result.stages.reranked == rerank
        assert result.stages.bytes_read == rerank * D * 4
        assert len({hit.id for hit in result.hits}) == 25
        scores = [hit.score for hit in result.hits]
        assert scores == sorted(scores, reverse=True)
        true = [hit for hit in result.hits if abs(hit.score - exact[hit.id]) < 1e-5 * abs(exact[hit.id])]
        assert len(true) >= min(rerank, 20)
        near = np.array([abs(hit.score - exact[hit.id]) for hit in result.hits])
        assert near.max() < np.abs(exact).max()
    everything = collection.search(query, 1030, params=SearchParams(exact=False, rerank=0))[0]
    assert {hit.id for hit in everything.hits} == set(range(1030))


@pytest.mark.parametrize("rerank", [None, 0, 3, 50])
def test_a_narrow_filter_reads_no_more_than_it_may(store, rerank):
    collection, vectors = make(store, "Cosine", 1000, bits=4)
    chosen = list(range(0, 400, 10))
    only = parse_filter({"must": [{"has_id": chosen}]})
    query = vectors_of(1, 99, dimension=D)
    result = collection.search(query, 10, filter=only, params=SearchParams(exact=False, rerank=rerank))[0]
    assert {hit.id for hit in result.hits} <= set(chosen)
    assert len(result.hits) == 10
    if rerank in (None, 50):
        assert result.stages.mode == "exact"
        check_hits(result.hits, query[0], {i: vectors[i] for i in chosen}, 10, "Cosine")
    else:
        assert result.stages.reranked == rerank


@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("distance", DISTANCES)
def test_filtered_search_is_never_short(store, distance, bits, monkeypatch):
    monkeypatch.setattr(funnel, "READ_ALLOWED", 0)
    collection, _ = make(store, distance, 930, bits=bits, spread=0.0 if distance == "Cosine" else 1.0)
    query = vectors_of(1, 99, dimension=D)
    for wanted in (0, 1, 5, 40, 450):
        chosen = {int(i) for i in np.random.default_rng(wanted).permutation(930)[:wanted]}
        only = parse_filter({"must": [{"has_id": sorted(chosen)}]})
        for more in ({}, {"rerank": 0}, {"symmetric": True}, {"candidates": 1, "rerank": 1}):
            hits = collection.search(query, 30, filter=only, params=SearchParams(exact=False, **more))[0].hits
            assert len({hit.id for hit in hits}) == len(hits) == min(30, wanted)
            assert chosen.issuperset(hit.id for hit in hits)
    result = collection.search(query, 20, filter=EVEN, params=SearchParams(exact=False))[0]
    assert all(hit.id % 2 == 0 for hit in result.hits)


def test_fewer_code_dimensions(store):
    collection, vectors = make(store, "Cosine", 2000, bits=4, code_dimension=20)
    info = collection.info()
    assert (info.bits, info.code_dimension) == (4, 24)
    assert info.code_bytes_per_point == 4 * (24 / 8 + 2)
    queries = vectors_of(10, 99, dimension=D)
    assert recall(collection, vectors, queries, rerank=200, candidates=600) >= 0.95


def test_what_info_tells_before_there_are_codes(store):
    info = store.create("c", config(dimension=D, bits=2, code_dimension=9)).info()
    assert (info.bits, info.code_dimension, info.binarizers, info.codes_only) == (2, 16, [], None)


@pytest.mark.parametrize("exact", [False, None])
def test_bits_that_are_not_stored_are_refused(store, exact):
    collection, _ = make(store, "Cosine", 600, bits=2)
    query = vectors_of(1, 99, dimension=D)
    with pytest.raises(InvalidInput, match="bits 4 were asked for, this collection stores 2") as caught:
        collection.search(query, 3, params=SearchParams(exact=exact, bits=4))
    assert (caught.value.param, caught.value.hint) == ("params.bits", "use 1 to 2")
    collection.search(query, 3, params=SearchParams(exact=exact, bits=2))
    with pytest.raises(InvalidInput, match="bits 2 were asked for, this collection stores 1"):
        store.create("empty", config(dimension=D)).search(query, 3, params=SearchParams(bits=2))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"bits": 0}, "bits is 0, but must be at least 1"),
        ({"candidates": 0}, "candidates is 0, but must be at least 1"),
        ({"rerank": -1}, "rerank is -1, but must be at least 0"),
    ],
)
def test_impossible_parameters_are_refused(params, message):
    with pytest.raises(InvalidInput, match=message) as caught:
        SearchParams(**params)
    assert caught.value.param == f"params.{next(iter(params))}"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bits": 3}, "3 bits a dimension cannot be kept"),
        ({"bits": 0}, "0 bits a dimension cannot be kept"),
        ({"code_dimension": 0}, "codes of 0 dimensions cannot be made of vectors of dimension 16"),
        ({"code_dimension": 17}, "codes of 17 dimensions cannot be made of vectors of dimension 16"),
    ],
)
def test_impossible_configurations_are_refused(settings, message):
    with pytest.raises(InvalidInput, match=message):
        CollectionConfig(16, "Cosine", **settings)
