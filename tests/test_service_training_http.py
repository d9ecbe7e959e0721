"""Training, upgrading and uploading over HTTP, with the real process that trains, also across a SIGKILL."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from index.options import StoreOptions
from models.binarizer import TrainingFreeFactory
from tests.conftest import FakeEncoder, running
from tests.kill_server import Server as KillableServer
from tests.service_calls import DIMENSION, ended, load, ok, refused, texts
from tests.small_server import DIMENSION as D

RNG = np.random.default_rng(4)
CENTRES = RNG.normal(size=(60, D))
ROWS = (CENTRES[RNG.integers(0, 60, 1500)] + 0.3 * RNG.normal(size=(1500, D))).astype(np.float32)
UNIT = ROWS / np.linalg.norm(ROWS, axis=1, keepdims=True)
OPTIONS = StoreOptions(exact_below=100, first_fit=256, tail_rows=128, save_rows=64)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with running(tmp_path_factory.mktemp("training"), FakeEncoder(), options=OPTIONS, training_nice=0) as server:
        yield server


@pytest.fixture
def http(server):
    return server.http


def create(http, name, rows=ROWS, **keys):
    path = f"/collections/{name}"
    ok(http.put(path, json={"vectors": {"size": D, "distance": "Cosine"}, "bits": 2, **keys}))
    load(http, path, rows)
    return path


def fitted(seed, **size):
    return TrainingFreeFactory().fit(UNIT, seed, **{"bits": 2, "dimensions": None} | size)


def binarizers(http, path):
    return {each["name"]: each["points"] for each in ok(http.get(path))["codes"]["binarizers"]}


def test_a_binarizer_is_trained_and_used_while_searches_go_on(http, name):
    path = create(http, name)
    before = binarizers(http, path)
    response = http.post(f"{path}/train", json={"epochs": 3, "force": True})
    job = ok(response, 202)
    assert response.headers["location"] == f"/jobs/{job['id']}"
    assert (job["kind"], job["collection"], job["state"]) == ("train", name, "queued")
    assert (job["parameters"]["bits"], job["parameters"]["epochs"]) == (2, 3)
    searched, done = [], threading.Event()

    def search():
        while not done.wait(0.05):
            query = {"query": ROWS[len(searched) % 100].tolist(), "limit": 1, "params": {"exact": False}}
            searched.append(ok(http.post(f"{path}/search", json=query))["points"][0]["id"])

    searcher = threading.Thread(target=search)
    searcher.start()
    refused(http.post(f"{path}/train", json={}), 409, "job_exists")
    job = ended(http, job)
    done.set()
    searcher.join()
    assert (job["state"], job["error"]) == ("done", None)
    assert searched == [i % 100 for i in range(len(searched))], "every search found its own vector"
    assert len(searched) > 10
    assert set(job["figures"]) == {"name", "report", "comparison", "version"}
    assert job["figures"]["report"]["verdict"] in ("better", "not better")
    assert job["started"] <= job["finished"]
    coded = sum(before.values())
    assert binarizers(http, path) == {job["figures"]["name"]: coded}
    assert job["figures"]["name"].startswith("recurrent-2b-")
    (info,) = ok(http.get(path))["codes"]["binarizers"]
    assert (info["learned"], info["version"]) == (True, job["figures"]["version"])
    again = ok(http.get(f"/jobs/{job['id']}"))
    assert again == job == ok(http.get("/jobs"))["jobs"][0]
    assert ok(http.delete(f"/jobs/{job['id']}")) == job, "what is finished stays as it is"


def test_a_training_is_cancelled(http, name):
    path = create(http, name)
    before = binarizers(http, path)
    job = ok(http.post(f"{path}/train"), 202)
    end = time.monotonic() + 60
    while "starting" not in job["progress"]["message"]:
        assert time.monotonic() < end
        time.sleep(0.01)
        job = ok(http.get(f"/jobs/{job['id']}"))
    assert ok(http.delete(f"/jobs/{job['id']}"))["cancelling"] is True
    assert ended(http, job)["state"] == "cancelled"
    assert binarizers(http, path) == before


def test_a_training_goes_on_after_a_sigkill(tmp_path):
    server = KillableServer("small", tmp_path / "data", BITFOLD_TRAINING_NICE="0")
    server.start()
    try:
        with server.client() as http:
            path = create(http, "c")
            job = ok(http.post(f"{path}/train", json={"force": True}), 202)
            end = time.monotonic() + 300
            while job["progress"]["message"] in ("", "sampling", "starting to train"):
                assert time.monotonic() < end, job
                time.sleep(0.02)
                job = ok(http.get(f"/jobs/{job['id']}"))
            assert job["state"] == "running", job
        server.kill()
        server.start()
        with server.client() as http:
            job = ended(http, job)
            assert (job["state"], job["starts"]) == ("done", 2), job
            assert list(binarizers(http, path)) == [job["figures"]["name"]]
            query = {"query": ROWS[3].tolist(), "limit": 1, "params": {"exact": False}}
            assert ok(http.post(f"{path}/search", json=query))["points"][0]["id"] == 3
    finally:
        server.kill()


def test_an_upload_and_an_upgrade(http, name):
    path = create(http, name)
    (old,) = binarizers(http, path)
    coded = binarizers(http, path)[old]
    one = fitted(1)
    result = ok(http.put(f"{path}/binarizer", content=one.to_bytes()))
    assert (result["name"], result["version"], result["comparison"]["worse"]) == (one.identity, 2, False)
    assert binarizers(http, path) == {old: coded, one.identity: 0}
    response = http.post(f"{path}/upgrade", json={})
    job = ended(http, ok(response, 202))
    assert response.headers["location"] == f"/jobs/{job['id']}"
    assert (job["kind"], job["state"], job["error"]) == ("upgrade", "done", None)
    assert job["progress"]["done"] == job["progress"]["total"] == coded
    assert binarizers(http, path) == {one.identity: coded}
    assert ended(http, ok(http.post(f"{path}/upgrade"), 202))["state"] == "done", "there may be nothing to do"


def test_an_upload_that_finds_less_is_a_conflict_with_figures(http, name):
    path = create(http, name)
    before = binarizers(http, path)
    poor = TrainingFreeFactory().fit(RNG.normal(size=(300, D)).astype(np.float32), 0, bits=2, dimensions=8)
    response = http.put(f"{path}/binarizer?force=false", content=poor.to_bytes())
    body = refused(response, 409, "worse_binarizer")
    assert body["result"]["worse"] is True
    assert body["result"]["candidate"]["r10@10"] < body["result"]["current"]["r10@10"]
    assert "force" in body["hint"]
    assert binarizers(http, path) == before
    assert ok(http.put(f"{path}/binarizer?force=true", content=poor.to_bytes()))["comparison"]["worse"] is True


def test_binarizers_that_do_not_fit(http, name):
    path = texts(http, name)
    wide = TrainingFreeFactory().fit(RNG.normal(size=(300, 9)).astype(np.float32), 0, bits=1, dimensions=None)
    body = refused(http.put(f"{path}/binarizer", content=wide.to_bytes()), 400, "invalid_input")
    assert f"dimension 9, those of {name} have {DIMENSION}" in body["status"]["error"]
    right = TrainingFreeFactory().fit(RNG.normal(size=(300, 8)).astype(np.float32), 0, bits=1, dimensions=None)
    refused(http.put(f"{path}/binarizer?space=other", content=right.to_bytes()), 400, "other_space", "space")
    for content in (b"", b"{}", right.to_bytes()[:-1]):
        refused(http.put(f"{path}/binarizer", content=content), 400, "invalid_binarizer")
    refused(http.put(f"{path}/binarizer?force=yes", content=right.to_bytes()), 400, "invalid_request", "force")
    refused(http.put("/collections/none/binarizer", content=right.to_bytes()), 404, "unknown_collection")
    ok(http.put(f"{path}/binarizer?space=words/8", content=right.to_bytes()))


@pytest.mark.parametrize(
    ("body", "type_", "param"),
    [
        ({"bits": 3}, "invalid_input", "bits"),
        ({"bits": "2"}, "invalid_request", "bits"),
        ({"sample": 7}, "invalid_input", "sample"),
        ({"dimensions": 0}, "invalid_request", "dimensions"),
        ({"epochs": 0}, "invalid_request", "epochs"),
        ({"epoch": 1}, "unknown_key", "epoch"),
        ([], "invalid_request", None),
    ],
)
def test_trainings_that_cannot_be(http, name, body, type_, param):
    path = create(http, name, ROWS[:300])
    refused(http.post(f"{path}/train", json=body), 400, type_, param)


def test_too_few_vectors_and_no_collection(http, name):
    path = create(http, name, ROWS[:20])
    body = refused(http.post(f"{path}/train"), 400, "too_few_vectors")
    assert "20 points, too few" in body["status"]["error"]
    for route in ("train", "upgrade"):
        refused(http.post(f"/collections/none/{route}"), 404, "unknown_collection")
    refused(http.post(f"{path}/upgrade", json={"now": True}), 400, "unknown_key", "now")


def test_metrics_count_jobs(http):
    text = http.get("/metrics").text
    assert 'bitfold_jobs{state="running"} 0.0' in text
    done = [job for job in ok(http.get("/jobs"))["jobs"] if job["state"] == "done"]
    assert f'bitfold_jobs{{state="done"}} {len(done)}.0' in text


def test_jobs_that_are_not_there(http):
    for job in ("0", "x", "99999", "%2e%2e"):
        refused(http.get(f"/jobs/{job}"), 404, "unknown_job")
        refused(http.delete(f"/jobs/{job}"), 404, "unknown_job")


def test_dropping_a_collection_ends_its_training(http, name):
    path = create(http, name)
    job = ok(http.post(f"{path}/train"), 202)
    ok(http.delete(path))
    job = ended(http, job)
    assert (job["state"], job["error"]["type"]) == ("failed", "unknown_collection")
    assert "dropped" in job["error"]["message"] or "does not exist" in job["error"]["message"]
