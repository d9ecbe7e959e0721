"""Bits over HTTP: kept as a collection says, used as a query says, refused where they are not there."""

from __future__ import annotations

import time

import numpy as np
import orjson
import pytest

from index.options import StoreOptions
from tests.conftest import WORDS, running
from tests.service_calls import load, ok, refused

D = 32
ROWS = np.random.default_rng(5).normal(size=(600, D)).astype(np.float32)
QUERIES = ROWS[:20] + 0.3 * np.random.default_rng(6).normal(size=(20, D)).astype(np.float32)

EXACT = [set(np.argsort(-(ROWS / np.linalg.norm(ROWS, axis=1, keepdims=True)) @ q)[:10].tolist()) for q in QUERIES]


@pytest.fixture(scope="module")
def http(tmp_path_factory):
    """A server whose collections have codes from 256 points on."""
    options = StoreOptions(
        exact_below=100, first_fit=256, tail_rows=128, save_rows=64, file_bytes=100 * D * 4, idle_seconds=0.1
    )
    with running(tmp_path_factory.mktemp("compression"), options=options) as server:
        yield server.http


def create(http, name, **keys):
    path = f"/collections/{name}"
    ok(http.put(path, json={"vectors": {"size": D, "distance": "Cosine"}, **keys}))
    return path


def found(http, path, query, **params):
    body = {"query": query.tolist(), "limit": 10, "params": params}
    result = ok(http.post(f"{path}/search", json=body))
    return [point["id"] for point in result["points"]], result["stages"]


def recall(http, path, **params):
    """The share of the exact ten that so many bits find, without reading a vector."""
    searches = [{"query": q.tolist(), "params": {"exact": False, "rerank": 0, **params}} for q in QUERIES]
    answers = ok(http.post(f"{path}/points/query/batch", json={"searches": searches}))
    coded = [{point["id"] for point in answer["points"]} for answer in answers]
    return sum(len(one & other) for one, other in zip(coded, EXACT, strict=True)) / (10 * len(QUERIES))


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_bits_are_kept_as_asked_and_used_as_asked(http, name, bits):
    path = create(http, name, bits=bits)
    load(http, path, ROWS)
    recalls = [recall(http, path, bits=used) for used in range(1, bits + 1)]
    assert recalls == sorted(recalls)
    assert recalls[-1] > {1: 0.3, 2: 0.6, 4: 0.8}[bits]
    assert recall(http, path) == recalls[-1], "all bits are the default"
    _, stages = found(http, path, QUERIES[0], exact=False, rerank=0)
    assert (stages["mode"], stages["reranked"], stages["bytes_read"]) == ("codes", 0, 0)
    _, stages = found(http, path, QUERIES[0], exact=False, bits=bits)
    assert (stages["bits"], stages["symmetric"]) == (bits, False)
    assert stages["reranked"] > 0
    assert stages["bytes_read"] == stages["reranked"] * D * 4
    codes = ok(http.get(path))["codes"]
    assert (codes["bits"], codes["code_dimensions"]) == (bits, D)
    assert codes["bytes_per_point"] >= bits * D / 8
    (binarizer,) = codes["binarizers"]
    assert (binarizer["version"], binarizer["learned"]) == (1, False)
    assert binarizer["points"] == ok(http.get(path))["indexed"] >= 256


def test_one_bit_is_the_default(http, name):
    assert ok(http.get(create(http, name)))["codes"]["bits"] == 1


def test_coded_queries_find_less_than_float_ones(http, name):
    path = create(http, name, bits=4)
    load(http, path, ROWS)
    for used in (1, 4):
        assert recall(http, path, bits=used, symmetric=True) < recall(http, path, bits=used)
    _, stages = found(http, path, QUERIES[0], exact=False, symmetric=True)
    assert stages["symmetric"] is True


def test_reads_are_capped(http, name):
    path = create(http, name, bits=2)
    load(http, path, ROWS)
    _, stages = found(http, path, QUERIES[0], exact=False, rerank=17)
    assert (stages["reranked"], stages["bytes_read"]) == (17, 17 * D * 4)


def test_codes_can_be_shorter_than_vectors(http, name):
    path = create(http, name, bits=4, code_dimensions=13)
    load(http, path, ROWS)
    codes = ok(http.get(path))["codes"]
    assert codes["code_dimensions"] == 16, "rounded up to whole bytes"
    assert 0.1 < recall(http, path) < 0.9


def test_a_query_in_qdrants_form_takes_the_same_parameters(http, name):
    path = create(http, name, bits=4)
    load(http, path, ROWS)
    for params in ({"exact": False, "bits": 1, "rerank": 0}, {"exact": False, "bits": 4, "symmetric": True}):
        body = {"query": QUERIES[0].tolist(), "params": params}
        points = ok(http.post(f"{path}/points/query", json=body))["points"]
        assert [point["id"] for point in points] == found(http, path, QUERIES[0], **params)[0]
    bodies = [{"query": QUERIES[0].tolist(), "params": {"exact": False, "bits": bits}} for bits in (1, 2, 4)]
    answers = ok(http.post(f"{path}/points/query/batch", json={"searches": bodies}))
    assert [len(answer["points"]) for answer in answers] == [10, 10, 10]


@pytest.mark.parametrize(
    ("params", "type_", "param"),
    [
        ({"bits": 3}, "invalid_input", "params.bits"),
        ({"bits": 0}, "invalid_request", "params.bits"),
        ({"bits": 9}, "invalid_request", "params.bits"),
        ({"bits": True}, "invalid_request", "params.bits"),
        ({"symmetric": 1}, "invalid_request", "params.symmetric"),
        ({"rerank": -1}, "invalid_request", "params.rerank"),
    ],
)
def test_parameters_that_cannot_be(http, name, params, type_, param):
    path = create(http, name, bits=2)
    load(http, path, ROWS[:300])
    refused(http.post(f"{path}/search", json={"query": QUERIES[0].tolist(), "params": params}), 400, type_, param)


def test_more_bits_than_are_stored_says_what_is_stored(http, name):
    path = create(http, name, bits=2)
    body = refused(http.post(f"{path}/search", json={"query": QUERIES[0].tolist(), "params": {"bits": 4}}), 400,
                   "invalid_input", "params.bits")  # fmt: skip
    assert "stores 2" in body["status"]["error"]


@pytest.mark.parametrize(
    ("keys", "param"),
    [
        ({"bits": 3}, "bits"),
        ({"bits": 8}, "bits"),
        ({"bits": "2"}, "bits"),
        ({"bits": True}, "bits"),
        ({"code_dimensions": 0}, "code_dimensions"),
        ({"code_dimensions": D + 1}, "code_dimensions"),
        ({"store_vectors": "no"}, "store_vectors"),
        ({"index": "tree"}, "index"),
        ({"index": "graph", "bits": 1}, "bits"),
        ({"metadata": {"bitfold": {"bits": 3}}}, "bits"),
        ({"metadata": {"bitfold": {"bits": "2"}}}, "metadata.bitfold.bits"),
        ({"metadata": {"bitfold": {"bit": 2}}}, "metadata.bitfold.bit"),
        ({"metadata": {"bitfold": "2 bits"}}, "metadata.bitfold"),
        ({"bits": 2, "metadata": {"bitfold": {"bits": 4}}}, "bits"),
    ],
)
def test_collections_that_cannot_be(http, name, keys, param):
    response = http.put(f"/collections/{name}", json={"vectors": {"size": D, "distance": "Dot"}, **keys})
    assert response.status_code == 400, response.text
    assert response.json()["param"] == param, response.text
    assert ok(http.get(f"/collections/{name}/exists")) == {"exists": False}


def test_stock_clients_say_it_in_metadata(http, name):
    own = {"bits": 4, "code_dimensions": 16, "store_vectors": True}
    path = create(http, name, bits=4, metadata={"bitfold": own, "owner": "library"})
    info = ok(http.get(path))
    assert (info["codes"]["bits"], info["codes"]["code_dimensions"], info["store_vectors"]) == (4, 16, True)
    assert info["config"]["metadata"]["owner"] == "library"


def test_a_collection_with_a_graph(http, name):
    path = create(http, name, index="graph")
    info = ok(http.get(path))
    assert info["codes"]["bits"] == 4
    assert info["index"] == {"kind": "graph", "points": 0, "building": None}
    assert ok(http.put(f"/collections/{name}-2", json={"vectors": {"size": D, "distance": "Dot"}, "bits": 1})) is True
    assert ok(http.get(f"/collections/{name}-2"))["index"]["kind"] == "lists"
    plain = ok(http.post("/collections/plan", json={"vectors": {"size": D, "distance": "Dot"}, "points": 10**6}))
    graph = {"vectors": {"size": D, "distance": "Dot"}, "points": 10**6, "index": "graph"}
    assert ok(http.post("/collections/plan", json=graph))["memory"]["links"] > 10**8 > plain["memory"]["links"] == 0


def test_metadata_that_comes_later_changes_nothing_and_says_so(http, name):
    path = create(http, name, bits=2)
    response = http.patch(path, json={"metadata": {"bitfold": {"bits": 4}}})
    assert ok(response) is True
    assert "changes nothing" in response.json()["warnings"][0]
    assert ok(http.get(path))["codes"]["bits"] == 2


def test_codes_only(http, name):
    path = create(http, name, bits=4, store_vectors=False)
    for first in range(0, len(ROWS), 100):  # a file of vectors each: only whole ones are dropped, never the newest
        load(http, path, ROWS[first : first + 100], first)
    end = time.monotonic() + 60
    while (info := ok(http.get(path)))["codes_only"] is None:
        assert time.monotonic() < end
        time.sleep(0.02)
    assert info["store_vectors"] is False
    loss = info["codes_only"]
    assert 0.7 < loss["recall_at_10"] <= loss["recall_at_100"] <= 1
    assert loss["bits"] == 4
    assert recall(http, path) > 0.8
    query = {"query": QUERIES[0].tolist()}
    refused(http.post(f"{path}/search", json=query | {"params": {"exact": True}}), 400, "vectors_dropped")
    refused(http.post(f"{path}/points/query", json=query | {"with_vector": True}), 400, "vectors_dropped")
    refused(http.post(f"{path}/points/query", json={"query": 0}), 400, "vectors_dropped")
    for route in ("train", "upgrade"):
        body = refused(http.post(f"{path}/{route}"), 400, "vectors_dropped")
        assert "store_vectors" in body["status"]["error"]
    one = http.get(f"{path}/points/0")
    assert ok(one) == {"id": 0, "payload": {}}
    assert "dropped" in one.json()["warnings"][0]


def test_texts_of_a_collection_of_codes_only_can_be_sent_again_with_other_payloads(http, name):
    path = f"/collections/{name}"
    ok(http.put(path, json={"encoder": "default", "store_vectors": False}))
    words = [f"{WORDS[i % 8]} {WORDS[i // 8 % 8]} {WORDS[i // 64 % 8]}" for i in range(1024)]

    def send(payload):
        lines = [orjson.dumps({"id": i, "text": text, "payload": payload}) for i, text in enumerate(words)]
        results = [ok(http.post(f"{path}/points/bulk", content=b"\n".join(lines[i::4]))) for i in range(4)]
        return sum(result["accepted"] for result in results)

    assert send({}) == 1024
    end = time.monotonic() + 60
    while ok(http.get(path))["codes_only"] is None:
        assert time.monotonic() < end
        time.sleep(0.02)
    assert send({"new": True}) == 1024
    assert ok(http.get(f"{path}/points/0"))["payload"] == {"new": True}
