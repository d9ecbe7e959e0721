"""Calibration: widths beside a slow search for them, what they promise beside what searches find."""

from __future__ import annotations

import io
import time
import zlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from index import calibrating, maintenance
from index.calibrating import calibrate_piece
from index.calibration import MARGIN, RANKS, SHARES, Calibration, Shape, Whereabouts, load_calibration
from index.errors import DiskFull, InvalidInput
from index.exact import Scorer
from index.filters import parse_filter
from index.maintenance import Maintainer, optimize, step
from index.measuring import NEVER, found_at
from index.points import SearchParams
from index.widths import BEYOND, widths_of
from tests.index_fakes import batch_of, config, exact_scores, open_store, trained, vectors_of

D = 24
N = 4000
SMALL = {"first_fit": 200, "tail_rows": 100, "save_rows": 1, "list_rows": 1000, "exact_below": 0, "file_bytes": 1 << 20}


def grouped(n=N, seed=0, groups=60):
    rng = np.random.default_rng(seed)
    middles = np.random.default_rng(42).standard_normal((groups, D))
    return (middles[rng.integers(0, groups, n)] + 0.6 * rng.standard_normal((n, D))).astype(np.float32)


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(calibrating, "SAMPLE", 150)


@pytest.fixture
def store(tmp_path):
    store = open_store(tmp_path, **SMALL)
    yield store
    store.close()


def written(store, vectors, distance="Cosine", bits=1):
    collection = store.create("c", config(distance, dimension=D, bits=bits))
    for start in range(0, len(vectors), 200):
        ids = range(start, min(start + 200, len(vectors)))
        collection.upsert(batch_of(ids, vectors[ids.start : ids.stop], [{"n": i % 10} for i in ids]))
    return collection


def recall(collection, vectors, queries, k=10, **params):
    found = collection.search(queries, k, params=SearchParams(exact=False, **params))
    share = 0
    for query, result in zip(queries, found, strict=True):
        best = np.argsort(-exact_scores(query, vectors, collection.config.distance), kind="stable")[:k]
        share += len(set(best.tolist()) & {hit.id for hit in result.hits}) / k
    return share / len(queries), found[0].stages


def shape(planes=1, lists=100):
    return Shape(points=10_000, planes=planes, code_bytes=48, dimension=384, binarizer=1, lists=lists, walked=0)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([1, 2, 4]), st.booleans(), st.floats(0.3, 0.999))
def test_settled_widths_are_the_cheapest_that_reach_the_target(seed, planes, lists, target):
    rng = np.random.default_rng(seed)
    n = 60
    ranks = rng.geometric(0.02, n).astype(np.int32)
    ranks[rng.random(n) < 0.02] = NEVER
    first = np.maximum(ranks, rng.geometric(0.01, n)).astype(np.int32)
    shares = rng.random(n).astype(np.float32) ** 3 if lists else np.zeros(n, np.float32)
    groups = (rng.random(n) < 0.4).astype(np.uint8)
    near = Whereabouts(shares, first, ranks)
    calibration = Calibration(shape(planes, 100 * lists), near, near, groups)
    recalls, costs = calibration._grid

    def slow(share, candidates, rerank):
        found = (shares <= SHARES[share]) & (first < RANKS[candidates]) & (ranks < RANKS[rerank])
        return min(found[groups == group].mean() for group in set(groups.tolist()))

    for share, candidates, rerank in rng.integers(0, [len(SHARES), len(RANKS), len(RANKS)], (40, 3)):
        assert recalls[share, candidates, rerank] == pytest.approx(slow(share, candidates, rerank))
        assert np.isfinite(costs[share, candidates, rerank]) == (
            rerank <= candidates and (lists or share == len(SHARES) - 1)
        )
    settled = calibration.settled(target)
    assert settled.candidates >= settled.rerank
    target = round(target, 4)  # as it is looked up
    wanted = min(target + MARGIN * (1 - target), slow(-1, -1, -1))
    assert settled.recall >= wanted - 1e-12
    cost = costs[np.searchsorted(SHARES, settled.share), RANKS == settled.candidates, :][:, RANKS == settled.rerank]
    assert cost.item() == costs[recalls >= wanted - 1e-12].min()
    assert calibration.settled(target) is settled


def test_a_higher_target_is_never_cheaper(store):
    collection = written(store, grouped())
    optimize(collection)
    calibration = collection.calibration
    found = [calibration.settled(target) for target in (0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.999)]
    assert [one.recall for one in found] == sorted(one.recall for one in found)
    recalls, costs = calibration._grid
    assert (np.diff(recalls, axis=0) >= 0).all()
    assert (np.diff(recalls, axis=1) >= 0).all()
    assert (np.diff(recalls, axis=2) >= 0).all()
    assert found[0].share < found[-1].share


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("distance", ["Cosine", "Dot", "Euclid"])
def test_queries_that_it_has_not_seen_reach_the_target(store, distance, bits):
    vectors = grouped()
    collection = written(store, vectors, distance, bits)
    optimize(collection)
    queries = grouped(150, seed=77)
    scanned = []
    for target in (0.8, 0.9, 0.97):
        reached, stages = recall(collection, vectors, queries, target_recall=target)
        assert reached >= target - 0.02
        assert stages.target_recall == target
        scanned.append(stages.scanned)
    assert scanned[0] <= scanned[-1]
    assert recall(collection, vectors, queries)[0] >= 0.96
    assert recall(collection, vectors, queries, k=100, target_recall=0.9)[0] >= 0.8


def test_what_is_measured_is_what_searches_find(store):
    vectors = grouped()
    collection = written(store, vectors)
    optimize(collection)
    view = collection.view
    for query in grouped(20, seed=5):
        unit = query / np.linalg.norm(query)
        near, deep = found_at(view, Scorer(unit, "Cosine"), -1)
        shares, first, ranks = near.shares, near.first, near.ranks
        best = np.argsort(-exact_scores(query, vectors, "Cosine"))[:10]
        assert len(ranks) == len(deep.ranks) == 10
        assert near.ranks.mean() < deep.ranks.mean()
        lists = view.segments[0].index.bands
        for share, candidates, rerank in [(0.1, 400, 20), (0.3, 40, 40), (1.0, 100, 15)]:
            promised = set(best[(shares <= share) & (first < candidates) & (ranks < rerank)].tolist())
            params = SearchParams(exact=False, probes=int(np.ceil(share * lists)), candidates=candidates, rerank=rerank)
            (found,) = collection.search(query[None], 10, params=params)
            assert promised <= {hit.id for hit in found.hits}


def test_the_sample_leaves_itself_out(store):
    vectors = grouped()
    collection = written(store, vectors)
    optimize(collection)
    unit = vectors[7] / np.linalg.norm(vectors[7])
    own, _ = found_at(collection.view, Scorer(unit, "Cosine"), -1)
    other, _ = found_at(collection.view, Scorer(unit, "Cosine"), 7)
    assert own.ranks[0] == 0
    np.testing.assert_array_equal(own.ranks[1:] - 1, other.ranks[:9])


def test_walks_widen_under_filters_as_what_is_as_deep_takes():
    rng = np.random.default_rng(0)
    near = Whereabouts(np.zeros(1000, np.float32), rng.integers(0, 100, 1000, dtype=np.int32), np.zeros(1000, np.int32))
    # Of the hundred nearest the first half lies close, the other far off: twice and twenty times as far as the ten.
    far = np.where(np.arange(10) < 5, 2, 20) * rng.integers(0, 100, (100, 10))
    far = far.astype(np.int32).ravel()
    walked = replace(shape(), walked=10_000, lists=0)
    calibration = Calibration(walked, near, Whereabouts(near.shares, far, near.ranks), np.zeros(1000, np.uint8))
    wider = [calibration.deeper_walks(0.9, passing) for passing in (1.0, 0.5, 0.2, 0.1, 0.01)]
    assert wider[:3] == pytest.approx([2, 2, 2], rel=0.1)
    both = np.quantile(far, 0.925) / np.quantile(near.first, 0.925)
    assert wider[3:] == pytest.approx([both, 10 * both])

    params = SearchParams(exact=False, target_recall=0.9)

    def widths(passing, k=10, **more):
        return widths_of(replace(params, **more), k, "Cosine", 64, calibration.planes, calibration, passing)

    alone = widths(1.0)
    assert alone.walk is None
    assert widths(0.1).candidates == alone.candidates
    assert widths(0.1).walk == pytest.approx(alone.candidates * wider[3], abs=1)
    assert widths(0.1, k=50).walk is None, "it was measured for ten"
    assert widths(0.1, candidates=70).walk is None, "it was asked for"
    none_deep = Calibration(walked, near, Whereabouts(far[:7].astype("f4"), far[:7], far[:7]), calibration.groups)
    assert none_deep.deeper_walks(0.9, 0.1) == 1


def test_widths_grow_under_filters_as_what_is_deep_is_farther_down():
    rng = np.random.default_rng(0)
    ranks = rng.geometric(0.05, 1000).astype(np.int32)
    shares = (rng.random(1000) * 0.1).astype(np.float32)
    near = Whereabouts(shares, ranks, ranks)
    groups = np.zeros(1000, np.uint8)
    for times, of_lists, power in ((10, 1, 0.0), (40, 2, np.log10(4)), (3, 4, 0.0)):
        deep = Whereabouts(shares * of_lists, ranks * times, ranks * times)
        growth = Calibration(shape(), near, deep, groups).settled(0.9).growth
        assert growth.rerank == pytest.approx(power, abs=0.05)
        assert growth.candidates == pytest.approx(power, abs=0.05)
        assert growth.lists == pytest.approx(np.log10(of_lists), abs=0.02)

    calibration = Calibration(shape(), near, Whereabouts(shares, ranks * 40, ranks * 40), groups)
    params = SearchParams(exact=False, target_recall=0.9)
    plain, tenth, hundredth = (widths_of(params, 10, "Cosine", 384, 1, calibration, s) for s in (1.0, 0.1, 0.01))
    assert tenth.rerank == pytest.approx(4 * BEYOND ** np.log10(4) * plain.rerank, rel=0.15)
    assert hundredth == tenth  # deeper than was measured
    half = widths_of(params, 10, "Cosine", 384, 1, calibration, 0.5)
    assert plain.rerank < half.rerank < tenth.rerank
    asked = SearchParams(exact=False, target_recall=0.9, rerank=20)
    assert widths_of(asked, 10, "Cosine", 384, 1, calibration, 0.1).rerank == 20


def test_filters_reach_the_target_where_all_but_the_nearest_is_equally_far(tmp_path):
    """A few near ones, then a crowd: a filter leaves those of the crowd, which codes tell apart badly."""
    rng = np.random.default_rng(0)
    crowd = rng.standard_normal((6000, 32)).astype(np.float32)
    middles = crowd[:40]
    near = np.repeat(middles, 12, axis=0) + 0.15 * rng.standard_normal((480, 32)).astype(np.float32)
    vectors = np.concatenate([crowd, near])
    store = open_store(tmp_path, **{**SMALL, "list_rows": 10**6})
    collection = store.create("c", config(dimension=32))
    payloads = [{"n": int(rng.integers(0, 100))} for _ in vectors]
    collection.upsert(batch_of(range(len(vectors)), vectors, payloads))
    optimize(collection)
    allowed = np.array([payload["n"] < 30 for payload in payloads])
    tree = parse_filter({"must": [{"key": "n", "range": {"lt": 30}}]})
    queries = middles + 0.1 * rng.standard_normal(middles.shape).astype(np.float32)
    params = SearchParams(exact=False, target_recall=0.95)
    share = 0.0
    for query in queries:
        (found,) = collection.search(query[None], 10, filter=tree, params=params)
        best = np.flatnonzero(allowed)[np.argsort(-exact_scores(query, vectors[allowed], "Cosine"))[:10]]
        share += len(set(best.tolist()) & {hit.id for hit in found.hits}) / 10 / len(queries)
    assert share >= 0.9
    store.close()


def test_explicit_knobs_override(store):
    collection = written(store, grouped())
    optimize(collection)
    query = grouped(1, seed=3)
    (found,) = collection.search(query, 10, params=SearchParams(exact=False, target_recall=0.5, probes=20, rerank=33))
    assert (found.stages.probed, found.stages.reranked) == (20, 33)


def test_it_is_saved_and_made_again_when_it_no_longer_fits(tmp_path, monkeypatch):
    store = open_store(tmp_path, **SMALL)
    vectors = grouped()
    collection = written(store, vectors)
    while step(collection, idle=False):
        pass
    assert collection.calibration is None  # only in a quiet time
    optimize(collection)
    first = collection.calibration
    assert first.shape.points == N
    assert not calibrate_piece(collection)
    store.close()

    store = open_store(tmp_path, **SMALL)
    collection = store.get("c")
    loaded = collection.calibration
    assert loaded.shape == first.shape
    np.testing.assert_array_equal(loaded.groups, first.groups)
    for depth in ("near", "deep"):
        for name in ("shares", "first", "ranks"):
            read, written_ = (getattr(getattr(one, depth), name) for one in (loaded, first))
            np.testing.assert_array_equal(read, written_)
    assert not calibrate_piece(collection)
    collection.upsert(batch_of(range(N, N + 2000), grouped(2000, seed=1)))
    optimize(collection)
    assert collection.calibration.shape.points == N + 2000
    before = collection.calibration
    collection.adopt(trained(vectors, bits=2))
    assert calibrate_piece(collection)
    while calibrate_piece(collection):
        pass
    assert collection.calibration is not before
    path = collection.calibration_path
    store.close()

    archive = io.BytesIO()  # what a calibration was at first
    np.savez(archive, **{name: np.zeros(1) for name in (*Shape.__slots__, "shares", "first", "ranks", "groups")})
    earlier = b"BFCALIB1" + zlib.crc32(archive.getvalue()).to_bytes(4, "little") + archive.getvalue()
    for damaged in (b"", path.read_bytes()[:-3], path.read_bytes()[:99] + b"!" + path.read_bytes()[100:], earlier):
        path.write_bytes(damaged)
        assert load_calibration(path) is None
    store = open_store(tmp_path, **SMALL)
    assert store.get("c").calibration is None

    def full(*_):
        raise DiskFull("no space left")

    monkeypatch.setattr(Calibration, "save", full)
    optimize(store.get("c"))
    assert store.get("c").calibration is not None
    store.close()


def test_queries_that_were_asked_count_for_themselves(store):
    vectors = grouped()
    collection = written(store, vectors)
    optimize(collection)
    assert set(collection.calibration.groups.tolist()) == {0}
    odd = np.random.default_rng(3).standard_normal((60, D)).astype(np.float32)  # between all groups: harder to find
    recall(collection, vectors, odd)
    easy = collection.calibration.settled(0.95)
    collection.calibration = None
    optimize(collection)
    assert set(collection.calibration.groups.tolist()) == {0, 1}
    assert (collection.calibration.groups == 1).sum() == 10 * len(odd)
    assert collection.calibration.settled(0.95).share > easy.share
    assert recall(collection, vectors, odd, target_recall=0.95)[0] >= 0.93


@pytest.mark.parametrize("target", [0, 1, -0.5, 1.5, float("nan")])
def test_targets_outside_are_refused(target):
    with pytest.raises(InvalidInput, match="must be above 0 and below 1"):
        SearchParams(target_recall=target)


@pytest.mark.parametrize("knob", ["candidates", "rerank", "bits", "probes", "target_recall"])
def test_knobs_that_contradict_are_refused(knob):
    with pytest.raises(InvalidInput, match=f"{knob} is for codes, but exact asks for no codes"):
        SearchParams(exact=True, **{knob: 0.5 if knob == "target_recall" else 1})


def test_calibrating_rests_beside_searches(store, monkeypatch):
    """Three times as long as it works; not while nobody searches, nor where there is no calibration yet."""
    vectors = vectors_of(2000, 1, dimension=D)
    collection = written(store, vectors)
    optimize(collection)
    monkeypatch.setattr(calibrating, "_fits", lambda *_: False)
    rests = []
    monkeypatch.setattr(Maintainer, "_rest", lambda _, seconds: rests.append(seconds))
    maintainer = Maintainer(lambda: [], 60.0)
    maintainer.stop()
    maintainer._stopping = False
    monkeypatch.setattr(maintenance, "step", lambda collection, **_: calibrate_piece(collection))
    maintainer._tend(collection)
    assert collection.measuring is not None
    assert not rests
    collection.search(vectors[:1], 3)
    started = time.monotonic()
    maintainer._tend(collection)
    assert 0 < rests.pop() <= 3 * (time.monotonic() - started)
    collection.calibration = None
    maintainer._tend(collection)
    assert collection.measuring is not None
    assert not rests


def test_a_calibration_from_before_there_were_lists_is_not_used(store):
    vectors = vectors_of(2000, 1, dimension=D)
    collection = written(store, vectors)
    optimize(collection)
    calibration = collection.calibration
    assert calibration is not None
    assert collection.view.layouts == (True, False)
    [found] = collection.search(vectors[:1], 10, params=SearchParams(exact=False))
    assert found.stages.target_recall is not None
    collection.calibration = replace(calibration, shape=replace(calibration.shape, lists=0))
    [found] = collection.search(vectors[:1], 10, params=SearchParams(exact=False))
    assert found.stages.target_recall is None
    collection.calibration = None
    [plain] = collection.search(vectors[:1], 10, params=SearchParams(exact=False))
    assert (found.stages.probed, found.stages.candidates) == (plain.stages.probed, plain.stages.candidates)
