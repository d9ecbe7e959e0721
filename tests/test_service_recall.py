"""Recall over HTTP: targets asked for, the meter, the page of metrics, and what is refused."""

from __future__ import annotations

import time

import numpy as np
import pytest

from index.options import StoreOptions
from tests.conftest import running
from tests.service_calls import load, ok, refused

D = 16
N = 2000
OPTIONS = StoreOptions(
    exact_below=0, first_fit=200, tail_rows=100, save_rows=1, list_rows=500, recall_sample=1.0, idle_seconds=0.1
)
PATH = "/collections/c"


def until(found):
    end = time.monotonic() + 60
    while not (result := found()):
        assert time.monotonic() < end, "upkeep has not come"
        time.sleep(0.05)
    return result


@pytest.fixture(scope="module")
def vectors():
    rng = np.random.default_rng(0)
    middles = rng.standard_normal((40, D))
    return (middles[rng.integers(0, 40, N + 50)] + 0.6 * rng.standard_normal((N + 50, D))).astype(np.float32)


@pytest.fixture(scope="module")
def http(tmp_path_factory, vectors):
    with running(tmp_path_factory.mktemp("recall"), options=OPTIONS) as server:
        ok(server.http.put(PATH, json={"vectors": {"size": D, "distance": "Cosine"}}))
        load(server.http, PATH, vectors[:N])
        until(lambda: (ok(server.http.get(f"{PATH}/recall"))["calibration"] or {}).get("shape", {}).get("lists"))
        yield server.http


def test_a_target_is_reached(http, vectors):
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    scanned = []
    for target in (0.7, 0.9, 0.99):
        found = 0
        for query in unit[N:]:
            body = {"query": query.tolist(), "limit": 10, "params": {"target_recall": target, "exact": False}}
            result = ok(http.post(f"{PATH}/search", json=body))
            best = set(np.argsort(-(unit[:N] @ query))[:10].tolist())
            found += len(best & {point["id"] for point in result["points"]})
        assert found / 500 >= target - 0.03
        assert result["stages"]["target_recall"] == target
        scanned.append(result["stages"]["scanned"])
    assert scanned[0] <= scanned[-1]


def test_the_report_tells_live_recall_and_what_targets_take(http, vectors):
    for query in vectors[N : N + 5].tolist():
        ok(http.post(f"{PATH}/search", json={"query": query, "limit": 10, "params": {"exact": False}}))
    report = until(lambda: (found := ok(http.get(f"{PATH}/recall")))["live"]["queries"] and found)
    live = report["live"]
    assert 0.8 <= live["recall"] <= 1
    assert live["recall"] + live["lost_by_codes"] + live["lost_by_probing"] == pytest.approx(1, abs=0.001)
    targets = report["calibration"]["targets"]
    assert [one["target_recall"] for one in targets] == sorted(one["target_recall"] for one in targets)
    # Widths need not grow one by one: what costs less for a higher target may look into fewer lists and read more.
    assert [one["recall"] for one in targets] == sorted(one["recall"] for one in targets)
    assert report["calibration"]["shape"]["points"] <= N
    metrics = http.get("/metrics").text
    assert 'bitfold_recall{collection="c",filtered="any"} ' in metrics
    assert 'bitfold_recall_lost{by="probing",collection="c"} ' in metrics


def test_recall_is_measured_when_asked_for(http):
    report = ok(http.post(f"{PATH}/recall", json={"queries": 30, "limit": 5, "params": {"probes": 1, "rerank": 5}}))
    better = ok(http.post(f"{PATH}/recall", json={"queries": 30, "limit": 5, "params": {"target_recall": 0.99}}))
    assert (report["queries"], report["limit"]) == (30, 5)
    assert report["recall"] < better["recall"]
    assert ok(http.post(f"{PATH}/recall"))["queries"] == 20
    few = http.post(f"{PATH}/recall", json={"queries": 1000, "filter": {"must": [{"has_id": [1, 2]}]}, "limit": 3})
    assert ok(few)["filtered"] > 0


def test_what_makes_no_sense_is_refused(http):
    path = f"{PATH}/recall"
    refused(http.post(path, json={"params": {"exact": True}}), 400, "invalid_request", "params.exact")
    refused(http.post(path, json={"params": {"layers": 0}}), 400, "invalid_request", "params.layers")
    refused(http.post(path, json={"queries": 0}), 400, "invalid_request", "queries")
    refused(http.post(path, json={"limit": 10**9}), 400, "limit_too_large", "limit")
    refused(http.get("/collections/none/recall"), 404, "unknown_collection")
    refused(http.post("/collections/none/recall"), 404, "unknown_collection")
    for target in (0, 1, -1, 7, "high"):
        body = {"query": [0.1] * D, "params": {"target_recall": target}}
        refused(http.post(f"{PATH}/search", json=body), 400, "invalid_request", "params.target_recall")
    body = {"query": [0.1] * D, "params": {"target_recall": 0.9, "exact": True}}
    refused(http.post(f"{PATH}/search", json=body), 400, "invalid_input", "params.target_recall")
