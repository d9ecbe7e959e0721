"""Inverted lists: beside brute force, whole search where all are looked into, found again whatever happens to them."""

from __future__ import annotations

import json
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from index import clustering, layouts
from index.allowed import Allowed
from index.blobs import DamagedBlobs
from index.clustering import Clustering
from index.code_index import CodeIndex
from index.codes import pack_bits
from index.errors import DiskFull, InvalidInput
from index.filters import parse_filter
from index.footprint import footprint, foretell
from index.lists import Assigner, Centroids, Lists, Means, lists_for
from index.lists_file import SavedLists, load_lists, save_lists
from index.maintenance import optimize, step
from index.merging import merge
from index.points import SearchParams
from index.probing import lists_to_probe
from index.widths import Widths
from tests.index_fakes import batch_of, config, contents, exact_scores, open_store, rounding, vectors_of
from tests.large_segments import SMALL, D, N, grouped, passing, upkeep

EVERYTHING = SearchParams(exact=False, probes=10**6)


def written(store, vectors, name="c", distance="Cosine", payload=lambda i: {"n": i}):
    collection = store.create(name, config(distance))
    for start in range(0, len(vectors), 100):
        ids = range(start, min(start + 100, len(vectors)))
        collection.upsert(batch_of(ids, vectors[ids.start : ids.stop], [payload(i) for i in ids]))
    return collection


@pytest.fixture
def store(tmp_path):
    store = open_store(tmp_path, **SMALL)
    yield store
    store.close()


def hits(collection, queries, k=10, **params):
    # Not what is calibrated: that is another without lists.
    wide = {"candidates": max(400, k), "rerank": max(200, k)} | params
    found = collection.search(queries, k, params=SearchParams(exact=False, **wide))
    return [[(hit.id, hit.score) for hit in result.hits] for result in found]


# Lists by themselves


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 200), st.integers(1, 12), st.booleans())
def test_probing_is_scoring_what_is_in_the_lists(seed, n, lists, filtered):
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 256, (n, 4), dtype=np.uint8)
    membership = rng.integers(0, lists, n).astype(np.uint16)
    bands = Lists(np.zeros((lists, D), np.float32), membership).positions()
    assert [band.tolist() for band in bands] == [np.flatnonzero(membership == i).tolist() for i in range(lists)]
    index = CodeIndex(codes, bands)
    allowed = rng.random(n) < 0.5 if filtered else np.ones(n, dtype=bool)
    chosen = rng.permutation(lists)[: rng.integers(1, lists + 1)]
    query = rng.standard_normal(32).astype(np.float32)
    k = int(rng.integers(1, n + 1))
    [(positions, scores)] = index.probe(query[None], k, pack_bits(allowed) if filtered else None, [chosen])

    truth = (2.0 * np.unpackbits(codes, axis=1, bitorder="little") - 1) @ query
    inside = np.flatnonzero(allowed & np.isin(membership, chosen))
    assert len(set(positions.tolist())) == len(positions) == min(k, len(inside))
    assert set(positions.tolist()) <= set(inside.tolist())
    slack = rounding(query)
    np.testing.assert_allclose(scores, truth[positions], atol=slack)
    if len(positions):
        best = np.sort(truth[inside])[::-1][len(positions) - 1]
        assert truth[positions].min() >= best - 2 * slack
    np.testing.assert_array_equal(index.counts(inside), np.bincount(membership[inside], minlength=max(lists, 1)))
    np.testing.assert_array_equal(index.codes_at(inside), codes[inside])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 400), st.integers(1, 12), st.integers(1, 40), st.booleans())
def test_queries_that_share_a_scan_find_what_each_finds_alone(seed, n, lists, count, filtered):
    rng = np.random.default_rng(seed)
    membership = rng.integers(0, lists, n).astype(np.uint16)
    bands = Lists(np.zeros((lists, D), np.float32), membership).positions()
    index = CodeIndex(rng.integers(0, 256, (n, 4), dtype=np.uint8), bands)
    bitmap = pack_bits(rng.random(n) < 0.5) if filtered else None
    queries = rng.standard_normal((count, 32)).astype(np.float32)
    groups = [rng.permutation(lists)[: rng.integers(1, lists + 1)] for _ in queries]
    k = int(rng.integers(1, n + 1))
    for together, alone in (
        (index.probe(queries, k, bitmap, groups), lambda i: index.probe(queries[i : i + 1], k, bitmap, [groups[i]])),
        (index.scan(queries, k, bitmap), lambda i: index.scan(queries[i : i + 1], k, bitmap)),
    ):
        assert len(together) == count
        for i, (positions, scores) in enumerate(together):
            [(expected, expected_scores)] = alone(i)
            np.testing.assert_array_equal(np.sort(scores), np.sort(expected_scores))
            # Of what ties with the last one, which comes is nobody's promise.
            above = {p for p, s in zip(expected.tolist(), expected_scores, strict=True) if s > expected_scores.min()}
            assert above <= set(positions.tolist())


def test_centroids_are_ranked_as_floats_would_rank_them():
    rng = np.random.default_rng(1)
    centroids = (rng.standard_normal((300, 48)) * np.linspace(0.01, 2, 48)).astype(np.float32)
    centroids[:, 5] = 0
    kept = Centroids(centroids)
    assert len(kept) == 300
    assert kept.nbytes == 300 * 48 + 4 * 48
    shared = 0
    for query in rng.standard_normal((50, 48)).astype(np.float32):
        nearest = kept.nearest(query, 20)
        assert len(set(nearest.tolist())) == 20
        shared += len(set(nearest.tolist()) & set(np.argsort(-(centroids @ query))[:20].tolist()))
    assert shared > 0.95 * 50 * 20
    assert sorted(kept.nearest(query, 1000).tolist()) == list(range(300))
    assert len(kept.nearest(np.zeros(48, np.float32), 3)) == 3


def test_rounds_of_k_means_bring_centroids_nearer():
    vectors = grouped(800)
    centroids, distances = vectors[:30].copy(), []
    for _ in range(5):
        nearest = Assigner(centroids)(vectors)
        slow = ((vectors[:, None] - centroids) ** 2).sum(axis=2)
        np.testing.assert_array_equal(nearest, slow.argmin(axis=1))
        distances.append(slow.min(axis=1).mean())
        means = Means(centroids)
        for start in range(0, 800, 170):
            means.add(vectors[start : start + 170])
        centroids = means.centroids()
        for number in set(nearest.tolist()):
            np.testing.assert_allclose(centroids[number], vectors[nearest == number].mean(axis=0), rtol=0.01, atol=0.01)
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < 0.8 * distances[0]
    assert lists_for(1) == 1
    assert lists_for(1_000_000) == 3000


def test_a_centroid_without_vectors_takes_half_of_the_fullest():
    vectors = np.ones((10, 4), np.float32)
    means = Means(np.array([[1, 1, 1, 1], [9, 9, 9, 9], [-9, 9, 9, 9]], np.float32))
    means.add(vectors)
    found = means.centroids()
    np.testing.assert_allclose(found, 1, atol=0.01)
    assert len(np.unique(found, axis=0)) == 3


# In a collection


def test_large_segments_get_lists_and_small_ones_do_not(store):
    small = written(store, grouped(250), "small")
    optimize(small)
    assert [segment.centroids for segment in small.view.segments] == [None]
    collection = written(store, grouped())
    upkeep(collection)
    (segment, *_) = collection.view.segments
    assert len(segment.centroids) == segment.index.bands == lists_for(segment.count)
    assert collection.layout is None
    assert not step(collection, idle=True)


@pytest.mark.parametrize("distance", ["Cosine", "Euclid"])
def test_looking_into_all_lists_is_looking_at_all_codes(tmp_path, distance):
    flat = open_store(tmp_path / "flat", **{**SMALL, "list_rows": 10**6})
    listed = open_store(tmp_path / "listed", **SMALL)
    vectors = grouped()
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)  # norms that differ are scanned band by band
    queries = grouped(20, seed=5)
    made = [written(store, vectors, distance=distance) for store in (flat, listed)]
    for collection in made:
        optimize(collection)
    assert [collection.view.segments[0].centroids is None for collection in made] == [True, False]
    assert hits(made[0], queries) == hits(made[1], queries, probes=10**6)
    assert hits(made[0], queries, symmetric=True) == hits(made[1], queries, probes=10**6, symmetric=True)
    for store in (flat, listed):
        store.close()


def test_more_lists_never_lose_a_row(store):
    vectors = grouped(3000)
    collection = written(store, vectors)
    optimize(collection)
    queries = grouped(40, seed=9)
    reached, scanned = [], []
    for probes in (4, 8, 16, 64, 10**6):
        found = collection.search(
            queries, 10, params=SearchParams(exact=False, probes=probes, candidates=3000, rerank=3000)
        )
        share = 0
        for query, result in zip(queries, found, strict=True):
            best = set(np.argsort(-exact_scores(query, vectors, "Cosine"))[:10].tolist())
            share += len(best & {hit.id for hit in result.hits}) / 10
            assert len(result.hits) == 10
        reached.append(share / len(queries))
        scanned.append(found[0].stages.scanned)
    assert reached == sorted(reached)
    assert scanned == sorted(scanned)
    assert reached[0] < 0.9
    assert reached[-1] == 1
    assert found[0].stages.probed == collection.view.segments[0].index.bands


def test_pages_longer_than_the_lists_looked_into_are_filled(store):
    collection = written(store, grouped())
    optimize(collection)
    query = grouped(1, seed=3)
    assert len(hits(collection, query, k=500, probes=1)[0]) == 500
    assert hits(collection, query, k=N, probes=1) == hits(collection, query, k=N, probes=10**6)


NEAR_AND_FAR = [(0.5, 0), (0.1, 0), (0.5, 1), (0.1, 1), (0.02, 1), (0.5, -1), (0.1, -1), (0.02, -1)]


@pytest.mark.parametrize(("share", "side"), NEAR_AND_FAR)
def test_filters_keep_recall_wherever_they_lead(store, share, side):
    vectors = grouped(6000, groups=60)
    query = grouped(1, seed=2)
    near = exact_scores(query[0], vectors, "Cosine")
    allowed = passing(near, share, side)
    collection = written(store, vectors, payload=lambda i: {"yes": bool(allowed[i])})
    optimize(collection)
    collection.calibration = None
    tree = parse_filter({"must": [{"key": "yes", "match": {"value": True}}]})
    # All that is looked at is read: what is missing then, the lists have lost. One less, and all allowed would be read.
    wide = SearchParams(exact=False, candidates=6000, rerank=int(allowed.sum()) - 1)
    (found,) = collection.search(query, 10, filter=tree, params=wide)
    assert found.stages.mode == "codes"
    best = np.flatnonzero(allowed)[np.argsort(-near[allowed])[:10]]
    assert len(found.hits) == 10
    assert all(allowed[hit.id] for hit in found.hits)
    # A filter that cuts off all that is near is the hardest: a thousand rows are about as far as its ten best.
    assert len({hit.id for hit in found.hits} & set(best.tolist())) >= (7 if side < 0 else 9)
    (page,) = collection.search(query, 200, filter=tree, params=SearchParams(exact=False, probes=1, rerank=0))
    assert len(page.hits) == min(200, allowed.sum())


def test_a_filter_probes_no_list_without_a_row_that_it_allows(store):
    collection = written(store, grouped())
    optimize(collection)
    (segment,) = collection.view.segments
    query = grouped(1, seed=4)[0]
    far = segment.index._ids(int(segment.centroids.nearest(query, 10**6)[-1])).copy()
    lists, held = lists_to_probe(
        segment, query, 10, Widths(400, 200, None, 0.1), Allowed(segment.rows_at(far)).places(segment)
    )
    assert (len(lists), held) == (1, len(far))


# Upkeep, starts, damage


def test_what_changes_while_lists_are_found_is_kept(store):
    vectors = grouped()
    collection = written(store, vectors)
    while not (collection.layout and collection.layout.share > 0):
        assert step(collection, idle=True)
    collection.delete(list(range(0, N, 3)))
    moved = vectors_of(1, 7)
    collection.upsert(batch_of([1], moved, [{"n": 1}]))
    upkeep(collection)
    left = {i: vectors[i] for i in range(N) if i % 3} | {1: moved[0]}
    assert set(contents(collection)) == set(left)
    query = grouped(1, seed=6)
    best = sorted(left, key=lambda i: -exact_scores(query[0], left[i][None], "Cosine")[0])[:50]
    (found,) = collection.search(query, 50, params=SearchParams(exact=False, probes=10**6, rerank=N, candidates=N))
    assert [hit.id for hit in found.hits] == best


def test_lists_are_saved_and_found_again_only_where_they_are_missing(tmp_path, monkeypatch):
    store = open_store(tmp_path, **SMALL)
    vectors, queries = grouped(), grouped(10, seed=8)
    collection = written(store, vectors)
    optimize(collection)
    collection.delete([5, 6])
    expected = hits(collection, queries)
    store.close()
    (path,) = (tmp_path / "collections" / "c" / "codes").glob("*.lists")

    monkeypatch.setattr(clustering, "Means", None)  # nothing is found again
    store = open_store(tmp_path, **SMALL)
    collection = store.get("c")
    assert collection.view.segments[0].centroids is not None
    assert not list_all(collection)
    assert hits(collection, queries) == expected
    store.close()
    monkeypatch.undo()

    for damage in (lambda data: data[:-1], lambda data: data[:40] + b"?" + data[41:], lambda _: b""):
        whole = path.read_bytes()
        path.write_bytes(damage(whole))
        store = open_store(tmp_path, **SMALL)
        collection = store.get("c")
        assert collection.view.segments[0].centroids is None
        assert hits(collection, queries, probes=1) == hits(collection, queries)  # all codes are looked at
        upkeep(collection)
        assert hits(collection, queries, probes=10**6) == hits(collection, queries, probes=10**6)
        assert path.exists()
        store.close()


def list_all(collection):
    """Whether there was anything to do."""
    worked = False
    while layouts.layout_piece(collection):
        worked = True
    return worked


def test_finding_lists_goes_on_where_a_start_interrupts_it(tmp_path, monkeypatch):
    monkeypatch.setattr(clustering, "PIECES_A_SAVE", 1)
    monkeypatch.setattr(clustering, "LEAST_ROWS", 50)
    monkeypatch.setattr(clustering, "PRODUCTS", 1)
    monkeypatch.setattr(clustering, "ROUNDS", (1, 2))
    store = open_store(tmp_path / "whole", **SMALL)
    whole = written(store, grouped())
    optimize(whole)
    expected = whole.view.segments[0].index._band_of.copy()
    store.close()
    rounds = []
    real = clustering.Means
    monkeypatch.setattr(clustering, "Means", lambda *args: rounds.append(1) or real(*args))

    store = open_store(tmp_path / "cut", **SMALL)
    collection = written(store, grouped())
    collection.seal()
    merge(collection, collection.view.segments, 1)
    starts = 0
    while collection.view.segments[0].centroids is None:
        for _ in range(14):
            layouts.layout_piece(collection)
        store.close()
        store = open_store(tmp_path / "cut", **SMALL)
        collection, starts = store.get("c"), starts + 1
    assert starts > 2
    assert len(rounds) == 2
    np.testing.assert_array_equal(collection.view.segments[0].index._band_of, expected)
    store.close()


def test_lists_of_other_rows_are_not_taken(store, tmp_path):
    collection = written(store, grouped())
    optimize(collection)
    (segment,) = collection.view.segments
    lists = Lists(grouped(5), np.zeros(len(segment), np.uint16))
    path = tmp_path / "x.lists"
    save_lists(path, segment, SavedLists(lists, 7))
    loaded = load_lists(path, segment, D)
    np.testing.assert_array_equal(loaded.lists.centroids, lists.centroids)
    assert loaded.next_row == 7
    with pytest.raises(DamagedBlobs, match="of other rows"):
        load_lists(path, segment, D + 1)
    collection.delete([3])
    optimize(collection)
    with pytest.raises(DamagedBlobs, match="of other rows"):
        load_lists(path, collection.view.segments[0], D)
    with pytest.raises(DamagedBlobs, match="No such file"):
        load_lists(tmp_path / "none.lists", segment, D)


def test_a_file_of_the_first_layout_is_found_unusable_and_made_again(tmp_path, caplog):
    store = open_store(tmp_path, **SMALL)
    collection = written(store, grouped())
    optimize(collection)
    (segment,) = collection.view.segments
    store.close()
    (path,) = (tmp_path / "collections" / "c" / "codes").glob("*.lists")
    whole = path.read_bytes()
    first, end, n = segment.first_row, segment.end_row, len(segment)
    header = {"first_row": first, "end_row": end, "n": n, "offsets": 0, "lists": 1, "next_row": end}
    raw = json.dumps(header).encode()
    body = raw + bytes(4 * D) + bytes(2 * n)
    path.write_bytes(struct.pack("<8sII", b"BFLISTS1", zlib.crc32(body), len(raw)) + body)

    store = open_store(tmp_path, **SMALL)
    collection = store.get("c")
    assert collection.view.segments[0].centroids is None
    assert "is made again: " in caplog.text
    upkeep(collection)
    assert path.read_bytes() == whole
    store.close()


def test_merged_segments_lose_their_lists_files(store):
    collection = written(store, grouped())
    optimize(collection)
    collection.upsert(batch_of(range(N, 2 * N), grouped(seed=1), [{"n": i} for i in range(N)]))
    optimize(collection)
    (segment,) = collection.view.segments
    (path,) = (collection.folder / "codes").glob("*.lists")
    assert load_lists(path, segment, D).next_row == segment.end_row == 2 * N


def test_a_full_disk_costs_only_the_saving(store, monkeypatch, caplog):
    def full(*_):
        raise DiskFull("no space left")

    monkeypatch.setattr(clustering, "save_lists", full)
    collection = written(store, grouped())
    optimize(collection)
    assert collection.view.segments[0].centroids is not None
    assert "the next start finds them again" in caplog.text


def test_norms_that_differ_have_no_lists(store):
    rng = np.random.default_rng(0)
    vectors = grouped() * np.exp(0.5 * rng.standard_normal((N, 1))).astype(np.float32)
    collection = written(store, vectors, distance="Dot")
    optimize(collection)
    assert collection.view.segments[0].centroids is None
    assert collection.view.segments[0].index.bands > 1


def test_vectors_that_are_alike_end_in_few_lists(store):
    collection = written(store, np.ones((N, D), np.float32))
    optimize(collection)
    assert len(hits(collection, np.ones((1, D)), k=20)[0]) == 20


def test_dead_rows_without_vectors_do_not_stop_it(store, tmp_path):
    collection = written(store, grouped())
    upkeep(collection)
    fresh = Clustering(collection.view.segments[0], tmp_path, D)
    collection.delete(list(range(0, 900)))
    upkeep(collection)  # vector files are rewritten without them
    while fresh.step(collection.view) is None:
        pass


def test_lists_are_counted_and_foretold(store):
    collection = written(store, grouped(6000))
    optimize(collection)
    found, told = footprint(collection), foretell(6000, collection.config, collection.options)
    (segment,) = collection.view.segments
    assert found.memory["lists"] == segment.centroids.nbytes
    for part in ("codes", "ids", "lists"):
        assert found.memory[part] == pytest.approx(told.memory[part], rel=0.1), part
    assert found.disk["codes"] == pytest.approx(told.disk["codes"], rel=0.02)


def test_probes_below_one_are_refused():
    with pytest.raises(InvalidInput, match="probes is 0, but must be at least 1"):
        SearchParams(probes=0)
