"""The comparison with other engines: true answers, what is best, and a whole small run of those that are installed."""

from __future__ import annotations

import re
import sys
from xml.etree import ElementTree

import numpy as np
import pytest

from benchmarks.compression.results import Results
from benchmarks.peers import __main__ as command
from benchmarks.peers import plots
from benchmarks.peers.child import KEYS
from benchmarks.peers.collecting import collect
from benchmarks.peers.datasets import BUCKETS, SHARES, load, real, recall
from benchmarks.peers.engine import grid, label
from benchmarks.peers.summary import Asked, Turn, gather

D = 384
RNG = np.random.default_rng(0)


def unit(n):
    vectors = RNG.standard_normal((n, D)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture
def files(tmp_path):
    np.save(tmp_path / "points.npy", unit(1600))
    np.save(tmp_path / "queries.npy", unit(12))
    return tmp_path / "points.npy", tmp_path / "queries.npy"


def test_truth_is_a_full_sort_under_every_filter(tmp_path, files):
    found = load(tmp_path / "work", real(tmp_path / "work", *files, limit=1500))
    vectors, queries = np.load(files[0])[:1500], np.load(files[1])
    for share in SHARES:
        allowed = np.flatnonzero(found.points.buckets < share * BUCKETS)
        order = allowed[np.argsort(-(queries @ vectors[allowed].T), axis=1)[:, :10]]
        ids = found.truth[share]
        assert np.array_equal(ids[:, : order.shape[1]], order)
        assert (ids[:, order.shape[1] :] == -1).all()
        assert recall(ids, ids) == recall(ids[:, ::-1], ids) == float(len(allowed) > 0)
        assert recall(np.full_like(ids, -2), ids) == 0


def asked(recall, qps):
    return Asked(f"{recall}", recall, qps, qps, qps, 1.0, 2.0)


def test_the_best_setting_is_the_fastest_that_reaches_a_recall():
    sweep = [asked(0.9, 50), asked(0.96, 30), asked(0.97, 40), asked(0.99, 10)]
    turn = Turn("x", {}, {}, {1.0: sweep, 0.5: []})
    assert turn.best(0.95).qps == 40
    assert turn.best(0.98).qps == 10
    assert turn.best(0.999) is None
    assert turn.best(0.5, 0.5) is None
    assert turn.highest(1.0).recall == 0.99
    assert [one.recall for one in turn.curve()] == [0.9, 0.97, 0.99]


@pytest.mark.parametrize("rates", [(3, 21_000), (180, 900), (90, 220), (1010, 1090)])
def test_ticks_are_plain_numbers(tmp_path, rates):
    pytest.importorskip("matplotlib")
    turn = Turn("x", {}, {}, {1.0: [asked(0.99, rates[0]), asked(0.9, rates[1])]})
    assert plots.curves([turn], tmp_path / "a.svg")
    drawn = ElementTree.parse(tmp_path / "a.svg").iter("{http://www.w3.org/2000/svg}text")
    labels = ["".join(one.itertext()) for one in drawn]
    ticks = [label for label in labels if any(map(str.isdigit, label)) and label != "recall@10"]
    assert all(re.fullmatch(r"0\.\d\d|1\.00|\d{1,3}(,\d{3})*", tick) for tick in ticks), ticks
    assert sum(not re.fullmatch(r"[01]\.\d\d", tick) for tick in ticks) >= 3


def test_settings_are_all_combinations():
    assert grid(a=[1, 2], b=[0.5]) == [{"a": 1, "b": 0.5}, {"a": 2, "b": 0.5}]
    assert label({"ef": 16, "oversampling": 1.5}) == "ef 16, oversampling 1.5"


def test_real_embeddings_are_mixed_and_none_comes_twice(tmp_path):
    trained, judged = tmp_path / "teacher", tmp_path / "judged"
    trained.mkdir()
    texts = unit(50)
    np.save(trained / "a.npy", texts.astype(np.float16))
    np.save(trained / "b.npy", texts[:20].astype(np.float16))
    for name in ("scifact", "cosqa", "covidqa"):
        for part, n in (("documents", 30), ("queries-test", 120)):
            (judged / name / part).mkdir(parents=True)
            np.save(judged / name / part / "00000000.npy", unit(n))
    points, queries = (np.load(path) for path in collect(trained, judged, tmp_path / "out"))
    assert (points.shape, queries.shape) == ((50 + 3 * 30, D), (300, D))
    np.testing.assert_allclose(np.linalg.norm(points, axis=1), 1, atol=1e-5)


def test_a_whole_small_run(tmp_path, files, monkeypatch):
    """Children of their own, results that are kept, a page with tables and figures."""
    work = tmp_path / "work"
    common = ["peers", "measure", "--work", str(work), "--real", str(files[0]), "--queries", str(files[1])]
    monkeypatch.setattr(sys, "argv", [*common, "--passes", "1", "--only", "bitfold-1"])
    command.main()
    (turns,) = gather(Results(work / "results.jsonl", KEYS)).values()
    (turn,) = turns
    assert turn.name == "bitfold-1"
    assert {share for share, settings in turn.asked.items() if settings} == set(SHARES)
    assert turn.highest(1.0).recall > 0.9
    assert turn.build["searchable"] <= turn.build["optimized"]
    assert turn.memory["anonymous"] > 0
    before = (work / "results.jsonl").read_bytes()
    command.main()  # goes on where it stopped: nothing is left to do
    assert (work / "results.jsonl").read_bytes() == before

    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "benchmarks.md").write_text("<!-- part: peers real-1600 -->\n\nwhat was there\n\n<!-- end -->\n")
    monkeypatch.setattr(sys, "argv", ["peers", "report", "--work", str(work), "--docs", str(docs)])
    command.main()
    assert "| bitfold-1 |" in (docs / "benchmarks.md").read_text()
    assert "what was there" not in (docs / "benchmarks.md").read_text()
    assert (docs / "images" / "peers-real-1600-curves.svg").read_text().startswith("<?xml")
