"""Graphs over codes: beside brute force, beside scans of the same codes, built again whatever happens to them."""

from __future__ import annotations

import sqlite3
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from index import graph_building, layouts, walking
from index.blobs import DamagedBlobs
from index.codes import in_bitmap, pack, pack_bits, set_bits, unpack, values
from index.errors import CorruptCollection, DiskFull, InvalidInput
from index.filters import parse_filter
from index.footprint import footprint, foretell
from index.graph import GraphIndex, from_nibbles
from index.graph_file import load_links
from index.kernels import to_nibbles
from index.linking import Linker
from index.maintenance import optimize, step
from index.merging import merge
from index.metering import measure_now
from index.points import CollectionConfig, SearchParams
from index.widths import ALL_LISTS
from tests.index_fakes import batch_of, config, contents, exact_scores, open_store, trained, vectors_of
from tests.large_segments import SMALL, D, N, grouped, passing, upkeep


def written(store, vectors, name="c", payload=lambda i: {"n": i}, index="graph", **options):
    collection = store.create(name, config(options.pop("distance", "Cosine"), bits=4, index=index, **options))
    for start in range(0, len(vectors), 100):
        ids = range(start, min(start + 100, len(vectors)))
        collection.upsert(batch_of(ids, vectors[ids.start : ids.stop], [payload(i) for i in ids]))
    return collection


@pytest.fixture(autouse=True)
def walks_pay(monkeypatch):
    """Among so few codes they never do."""
    monkeypatch.setattr(walking, "STEP", 1)


@pytest.fixture
def store(tmp_path):
    store = open_store(tmp_path, **SMALL)
    yield store
    store.close()


def hits(collection, queries, k=10, **params):
    wide = {"candidates": 300, "rerank": 100} | params
    found = collection.search(queries, k, params=SearchParams(exact=False, **wide))
    return [[(hit.id, round(hit.score, 5)) for hit in result.hits] for result in found]


def in_graph(collection):
    return [isinstance(segment.index, GraphIndex) for segment in collection.view.segments]


def recall(found, queries, vectors, k=10):
    best = [set(np.argsort(-exact_scores(query, vectors, "Cosine"))[:k].tolist()) for query in queries]
    return np.mean([len({hit.id for hit in result.hits} & one) / k for result, one in zip(found, best, strict=True)])


# A graph by itself


def planes_of(n, m, seed=0):
    return pack(np.random.default_rng(seed).integers(0, 16, (n, m), dtype=np.uint8), 4)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 300), st.sampled_from([8, 16, 24, 48]))
def test_a_walk_that_keeps_everything_scores_as_brute_force(seed, n, m):
    rng = np.random.default_rng(seed)
    planes = planes_of(n, m, seed)
    linker = Linker(n, m // 8)
    for start in range(0, n, 70):
        linker.add(planes[start : start + 70])
    graph = linker.graph()
    assert len(graph) == len(linker) == n
    np.testing.assert_array_equal(graph.planes_at(np.arange(n)), planes)
    query = rng.standard_normal(m).astype(np.float32)
    coded = values(unpack(planes), 4)
    truth = coded @ query
    positions = rng.permutation(n)[: n // 2 + 1]
    np.testing.assert_allclose(graph.scores_at(query, positions), truth[positions], atol=1e-3)

    found, scores = graph.walk(query, 2 * n)
    assert len(set(found.tolist())) == len(found) <= n
    np.testing.assert_allclose(scores, truth[found], atol=1e-3)
    nearness = scores / np.linalg.norm(coded[found], axis=1)
    assert (np.diff(nearness) <= 0.01 * np.linalg.norm(query)).all(), "walks round queries to 8 bits"
    if n <= 20:  # then all of them are neighbours
        assert len(found) == n


@given(st.integers(0, 10**6), st.integers(1, 100))
def test_bitmaps_and_their_positions(seed, n):
    rng = np.random.default_rng(seed)
    flags = rng.random(n) < 0.5
    np.testing.assert_array_equal(set_bits(pack_bits(flags)), np.flatnonzero(flags))
    positions = rng.permutation(n)[: n // 2 + 1]
    np.testing.assert_array_equal(in_bitmap(pack_bits(flags), positions), flags[positions])


def test_nibbles_and_back():
    planes = planes_of(100, 24)
    nibbles = to_nibbles(planes)
    assert nibbles.shape == (100, 12)
    np.testing.assert_array_equal(nibbles[:, 0] & 15, unpack(planes)[:, 0])
    np.testing.assert_array_equal(nibbles[:, 0] >> 4, unpack(planes)[:, 1])
    np.testing.assert_array_equal(from_nibbles(nibbles), planes)


def test_a_graph_made_of_its_parts_answers_alike():
    planes = planes_of(500, 16)
    linker = Linker(500, 2)
    linker.add(planes)
    graph, links = linker.graph(), linker.links()
    same = GraphIndex.of((planes[:300], planes[300:]), 2, links)
    for query in np.random.default_rng(1).standard_normal((20, 16)).astype(np.float32):
        for one, other in zip(graph.walk(query, 30), same.walk(query, 30), strict=True):
            np.testing.assert_array_equal(one, other)
    assert same.bytes_by_part() == graph.bytes_by_part()
    with pytest.raises(ValueError, match="400 codes do not fit links of 500"):
        GraphIndex.of((planes[:400],), 2, links)
    with pytest.raises(ValueError, match="501 codes do not fit links of 500"):
        GraphIndex.of((planes, planes[:1]), 2, links)
    with pytest.raises(ValueError, match="neighbours do not fit 500 nodes"):
        GraphIndex.of((planes,), 2, replace(links, neighbours=links.neighbours[:-1]))


# In a collection


def test_large_segments_get_a_graph(store):
    small = written(store, grouped(250), "small")
    optimize(small)
    assert in_graph(small) == [False]
    vectors, queries = grouped(), grouped(20, seed=5)
    collection = written(store, vectors)
    upkeep(collection)
    assert in_graph(collection)[0]
    assert collection.layout is None
    assert not step(collection, idle=True)
    found = collection.search(queries, 10, params=SearchParams(exact=False, candidates=60))
    assert found[0].stages.plan == "walk"
    assert found[0].stages.walked == 60
    assert found[0].stages.bits == 4
    assert recall(found, queries, vectors) > 0.95


@pytest.mark.parametrize("distance", ["Cosine", "Euclid"])
def test_a_graph_answers_as_a_scan_of_the_same_codes(tmp_path, distance):
    vectors = grouped()
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)  # norms that differ are scanned band by band
    queries = grouped(20, seed=5)
    made = []
    for index in ("lists", "graph"):
        store = open_store(tmp_path / index, **{**SMALL, "list_rows": 300 if index == "graph" else 10**6})
        made.append(written(store, vectors, index=index, distance=distance))
        optimize(made[-1])
    assert [in_graph(collection) for collection in made] == [[False], [True]]
    for params in ({}, {"symmetric": True}, {"rerank": 0, "symmetric": True}, {"probes": ALL_LISTS}):
        found = [hits(collection, queries, candidates=N, **params) for collection in made]
        assert found[0] == found[1]
    data = [collection.view.segments[0].data() for collection in made]
    np.testing.assert_array_equal(data[0].planes, data[1].planes)


def test_a_graph_scores_by_all_planes_however_many_are_asked_for(store):
    vectors, queries = np.split(grouped(1020, groups=30), [1000])
    collection = written(store, vectors)
    optimize(collection)
    assert in_graph(collection) == [True]
    found = [hits(collection, queries, rerank=0, bits=bits) for bits in (4, 2, 1)]
    assert found[0] == found[1]
    assert found[0] == found[2]


def test_wider_walks_never_lose_a_row(store):
    vectors, queries = np.split(grouped(3060, groups=300), [3000])
    collection = written(store, vectors)
    optimize(collection)
    reached = []
    for candidates in (10, 20, 60, 400):
        params = SearchParams(exact=False, candidates=candidates, rerank=candidates)
        reached.append(recall(collection.search(queries, 10, params=params), queries, vectors))
    assert reached == sorted(reached)
    assert reached[0] < reached[-1]
    assert reached[-1] > 0.97


NEAR_AND_FAR = [(0.9, 0), (0.5, 0), (0.1, 0), (0.02, 0), (0.5, 1), (0.1, 1), (0.5, -1), (0.1, -1), (0.02, -1)]


@pytest.mark.parametrize(("share", "side"), NEAR_AND_FAR)
def test_filters_keep_recall_wherever_they_lead(store, share, side):
    vectors = grouped(6000, groups=60)
    query = grouped(1, seed=2)
    near = exact_scores(query[0], vectors, "Cosine")
    allowed = passing(near, share, side)
    collection = written(store, vectors, payload=lambda i: {"yes": bool(allowed[i])})
    optimize(collection)
    tree = parse_filter({"must": [{"key": "yes", "match": {"value": True}}]})
    params = SearchParams(exact=False, candidates=80, rerank=60)
    (found,) = collection.search(query, 10, filter=tree, params=params)
    assert found.stages.mode == "codes"
    # What codes of 16 dimensions lose is another matter: all of them are looked at.
    (whole,) = collection.search(query, 10, filter=tree, params=replace(params, probes=ALL_LISTS))
    assert whole.stages.walked == allowed.sum()
    assert len(found.hits) == 10
    assert all(allowed[hit.id] for hit in found.hits)
    assert len({hit.id for hit in found.hits} & {hit.id for hit in whole.hits}) >= 9
    # What opposes the query, or is narrow, is scored whole: a walk would look at more.
    assert (found.stages.walked == allowed.sum()) == (share < 0.1 or side < 0)
    (page,) = collection.search(query, 200, filter=tree, params=SearchParams(exact=False, rerank=0))
    assert len(page.hits) == min(200, allowed.sum())


def test_pages_longer_than_a_walk_are_filled(store):
    collection = written(store, grouped())
    optimize(collection)
    collection.delete(list(range(0, N, 5)))
    query = grouped(1, seed=3)
    for k in (10, 500, N):
        assert len(hits(collection, query, k=k, candidates=1)[0]) == min(k, N * 4 // 5)


def test_codes_alone_get_a_graph(tmp_path):
    store = open_store(tmp_path, **{**SMALL, "file_bytes": 16_384})
    vectors, queries = np.split(grouped(2020), [2000])
    collection = written(store, vectors, store_vectors=False)
    optimize(collection)
    assert in_graph(collection)[0]
    assert not collection.view.readable(np.arange(10)).any(), "they are dropped"
    assert recall(collection.search(queries, 10), queries, vectors) > 0.8
    store.close()


def test_recall_targets_and_the_meter(store):
    vectors, queries = np.split(grouped(4060, groups=400), [4000])
    collection = written(store, vectors)
    optimize(collection)
    assert collection.calibration.shape.walked == len(vectors)
    walked, reached = [], []
    for target in (0.7, 0.9, 0.99):
        found = collection.search(queries, 10, params=SearchParams(exact=False, target_recall=target))
        assert found[0].stages.target_recall == target
        walked.append(found[0].stages.walked)
        reached.append(recall(found, queries, vectors))
        assert reached[-1] >= target - 0.02
    assert walked == sorted(set(walked))
    report = measure_now(collection, 60, 10, params=SearchParams(exact=False, candidates=10, rerank=10))
    assert report.recall < 0.95
    assert report.lost_by_probing > 0  # the walk, not the codes
    assert abs(1 - report.recall - report.lost_by_codes - report.lost_by_probing) < 1e-3


def test_queries_that_were_asked_take_the_place_of_guesses(store):
    vectors, queries = np.split(grouped(4060, groups=400), [4000])
    collection = written(store, vectors)
    optimize(collection)
    assert not collection.calibration.knows_asked
    for _ in range(5):
        collection.search(queries, 10, params=SearchParams(exact=False))
    assert step(collection, idle=True)
    upkeep(collection)
    assert collection.calibration.knows_asked
    assert not step(collection, idle=True)


# Upkeep, starts, damage


def test_what_changes_while_a_graph_is_built_is_kept(store, monkeypatch):
    monkeypatch.setattr(graph_building, "A_PIECE", 100)
    vectors = grouped()
    collection = written(store, vectors)
    while not (collection.layout and collection.layout.share > 0):
        assert step(collection, idle=True)
    collection.delete(list(range(0, N, 3)))
    moved = vectors_of(1, 7)
    collection.upsert(batch_of([1], moved, [{"n": 1}]))
    upkeep(collection)
    assert in_graph(collection)[0]
    left = {i: vectors[i] for i in range(N) if i % 3} | {1: moved[0]}
    assert set(contents(collection)) == set(left)
    query = grouped(1, seed=6)
    best = sorted(left, key=lambda i: -exact_scores(query[0], left[i][None], "Cosine")[0])[:50]
    (found,) = collection.search(query, 50, params=SearchParams(exact=False, rerank=N, candidates=N))
    assert [hit.id for hit in found.hits] == best


def graph_file(path):
    (found,) = (path / "collections" / "c" / "codes").glob("*.graph")
    return found


def test_graphs_are_saved_and_built_again_only_where_they_are_missing(tmp_path, monkeypatch):
    store = open_store(tmp_path, **SMALL)
    vectors, queries = grouped(), grouped(10, seed=8)
    collection = written(store, vectors)
    optimize(collection)
    collection.delete([5, 6])
    expected = hits(collection, queries)
    store.close()

    monkeypatch.setattr(Linker, "add", None)  # nothing is built again
    store = open_store(tmp_path, **SMALL)
    collection = store.get("c")
    assert in_graph(collection) == [True]
    assert not layouts.layout_piece(collection)
    assert hits(collection, queries) == expected
    store.close()
    monkeypatch.undo()

    path = graph_file(tmp_path)
    for damage in (lambda data: data[:-1], lambda data: data[:40] + b"?" + data[41:], lambda _: b""):
        path.write_bytes(damage(path.read_bytes()))
        store = open_store(tmp_path, **SMALL)
        collection = store.get("c")
        assert in_graph(collection) == [False]
        assert hits(collection, queries, candidates=N) == expected  # of a scan
        upkeep(collection)
        assert in_graph(collection) == [True]
        assert path.exists()
        store.close()


def test_building_goes_on_where_a_start_interrupts_it(tmp_path, monkeypatch):
    monkeypatch.setattr(graph_building, "A_PIECE", 100)
    monkeypatch.setattr(graph_building, "SAVE_SECONDS", 0.0)
    added = []
    real = Linker.add
    monkeypatch.setattr(Linker, "add", lambda linker, planes: added.append(len(planes)) or real(linker, planes))
    store = open_store(tmp_path, **SMALL)
    collection = written(store, grouped())
    collection.seal()
    merge(collection, collection.view.segments, 1)
    starts = 0
    while not in_graph(collection)[0]:
        for _ in range(5):
            layouts.layout_piece(collection)
        store.close()
        store = open_store(tmp_path, **SMALL)
        collection, starts = store.get("c"), starts + 1
    assert starts >= 2
    segment = collection.view.segments[0]
    assert added == [100] * (N // 100)
    assert len(segment.index) == N
    store.close()


def test_a_graph_of_other_rows_is_not_taken(store):
    collection = written(store, grouped())
    optimize(collection)
    (segment,) = collection.view.segments
    path = graph_file(collection.folder.parent.parent)
    assert len(load_links(path, segment).levels) == N
    collection.delete([3])
    optimize(collection)
    with pytest.raises(DamagedBlobs, match="No such file|of other rows"):
        load_links(path.with_suffix(".gone"), segment)
    with pytest.raises(DamagedBlobs, match="of other rows"):
        load_links(graph_file(collection.folder.parent.parent), segment)


def test_a_full_disk_costs_only_the_saving(store, monkeypatch, caplog):
    def full(*_):
        raise DiskFull("no space left")

    monkeypatch.setattr(graph_building, "save_links", full)
    collection = written(store, grouped())
    optimize(collection)
    assert in_graph(collection) == [True]
    assert "the next start builds it again" in caplog.text


def test_norms_that_differ_have_no_graph(store):
    rng = np.random.default_rng(0)
    vectors = grouped() * np.exp(0.5 * rng.standard_normal((N, 1))).astype(np.float32)
    collection = written(store, vectors, distance="Dot")
    optimize(collection)
    assert in_graph(collection) == [False]


def test_footprint_counts_the_links(store):
    vectors = grouped(3000)
    collection = written(store, vectors)
    optimize(collection)
    counted = footprint(collection)
    (segment,) = collection.view.segments
    assert counted.memory["links"] == segment.index.bytes_by_part()["links"]
    assert counted.memory["codes"] == 3000 * D // 2
    predicted = foretell(3000, collection.config, collection.options)
    for name in ("codes", "links", "ids", "factors"):
        assert predicted.memory[name] == pytest.approx(counted.memory[name], rel=0.05), name
    assert predicted.disk["codes"] == pytest.approx(counted.disk["codes"], rel=0.05)


def test_a_graph_wants_four_bits():
    assert CollectionConfig(8, "Cosine", bits=4, index="graph").index == "graph"
    with pytest.raises(InvalidInput, match="a graph is over codes of 4 bits a dimension, not 1"):
        CollectionConfig(8, "Cosine", index="graph")
    with pytest.raises(InvalidInput, match="index 'tree' is unknown"):
        CollectionConfig(8, "Cosine", index="tree")


def test_a_graph_takes_no_binarizer_of_fewer_bits(store):
    vectors = grouped(400)
    collection = written(store, vectors)
    with pytest.raises(InvalidInput, match="a graph is over codes of 4 bits a dimension, not 2"):
        collection.adopt(trained(vectors, bits=2))
    assert collection.adopt(trained(vectors, bits=4)) == 2


def test_earlier_versions_refuse_a_collection_with_a_graph(store, monkeypatch):
    written(store, grouped(10), "plain", index="lists")
    collection = written(store, grouped(10))
    for name, expected in (("plain", 2), ("c", 3)):
        with sqlite3.connect(collection.folder.parent / name / "record.db") as db:
            assert db.execute("PRAGMA user_version").fetchone() == (expected,)
    store.close()
    monkeypatch.setattr("index.record.FORMAT", 2)
    reopened = open_store(collection.folder.parent.parent, **SMALL)
    reopened.get("plain")
    with pytest.raises(CorruptCollection, match="format 3, this program reads up to 2"):
        reopened.get("c")
    reopened.close()
