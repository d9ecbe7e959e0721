"""Collections over HTTP: made, described, changed, dropped, and those that cannot be."""

from __future__ import annotations

import time
from http.client import HTTPConnection

import orjson
import pytest

from tests.service_calls import DIMENSION, axis, ok, put, refused, texts, vectors


def test_a_collection_of_vectors_is_described_in_qdrants_shape(http, name):
    path = vectors(http, name, "Euclid")
    put(http, path, {"id": 1, "vector": axis(0)})
    info = ok(http.get(path))
    assert info["status"] == "green"
    assert info["points_count"] == 1
    assert info["config"]["params"]["vectors"] == {
        "size": DIMENSION,
        "distance": "Euclid",
        "datatype": "float32",
    }
    assert (info["encoder"], info["space"], info["read_only"]) == (None, None, None)
    assert (info["received"], info["durable"], info["rejected"]) == (1, 1, 0)
    assert info["disk_bytes"]["vectors"] > 0


def test_a_collection_of_texts_keeps_encoder_and_space(http, name):
    info = ok(http.get(texts(http, name)))
    assert (info["encoder"], info["space"]) == ("fake", "words/8")
    assert info["config"]["params"]["vectors"]["size"] == DIMENSION


def test_the_map_with_the_unnamed_vector_is_the_same_as_the_object(http, name):
    ok(http.put(f"/collections/{name}", json={"vectors": {"": {"size": 3, "distance": "Dot"}}}))
    assert ok(http.get(f"/collections/{name}"))["config"]["params"]["vectors"]["size"] == 3


def test_float16_is_for_cosine_only(http, name):
    body = {"vectors": {"size": 3, "distance": "Dot", "datatype": "float16"}}
    refused(http.put(f"/collections/{name}", json=body), 400, "invalid_input")
    body["vectors"]["distance"] = "Cosine"
    ok(http.put(f"/collections/{name}", json=body))
    assert ok(http.get(f"/collections/{name}"))["vector_dtype"] == "float16"


def test_creating_twice_is_a_conflict(http, name):
    vectors(http, name)
    again = http.put(f"/collections/{name}", json={"vectors": {"size": 3, "distance": "Dot"}})
    refused(again, 409, "collection_exists")


def test_exists_list_and_drop(http, name):
    path = vectors(http, name)
    assert ok(http.get(f"{path}/exists")) == {"exists": True}
    assert {"name": name} in ok(http.get("/collections"))["collections"]
    assert ok(http.delete(path)) is True
    assert ok(http.delete(path)) is False
    assert ok(http.get(f"{path}/exists")) == {"exists": False}
    refused(http.get(path), 404, "unknown_collection")


@pytest.mark.parametrize("bad", ["..", ".hidden", "a%2Fb", "..%2f..%2fetc", "a%5Cb", "a%00b", "x" * 300, "%0A"])
def test_names_that_are_paths_are_refused(serve, tmp_path, bad):
    server = serve()
    # httpx would resolve the dots before it sends them.
    connection = HTTPConnection(server.url.removeprefix("http://"))
    connection.request("PUT", f"/collections/{bad}", orjson.dumps({"vectors": {"size": 3, "distance": "Dot"}}))
    response = connection.getresponse()
    body = orjson.loads(response.read())
    connection.close()
    assert (response.status, body["type"]) == (400, "invalid_name"), body
    assert list((tmp_path / "data" / "collections").iterdir()) == []


@pytest.mark.parametrize(
    ("body", "type_", "param"),
    [
        ({}, "no_encoder", "vectors"),
        ({"vectors": {"size": 0, "distance": "Dot"}}, "invalid_request", "vectors.size"),
        ({"vectors": {"size": 3.0, "distance": "Dot"}}, "invalid_request", "vectors.size"),
        ({"vectors": {"size": 3, "distance": "Manhattan"}}, "invalid_request", "vectors.distance"),
        ({"vectors": {"a": {"size": 3, "distance": "Dot"}}}, "invalid_request", "vectors"),
        ({"vectors": {"size": 3, "distance": "Dot", "multivector_config": {}}}, "unsupported", None),
        (
            {"vectors": {"size": 3, "distance": "Dot"}, "sparse_vectors": {"a": {}}},
            "invalid_request",
            "sparse_vectors",
        ),
        ({"vector": {"size": 3, "distance": "Dot"}}, "unknown_key", "vector"),
        ({"encoder": "no-such"}, "unknown_encoder", None),
        ({"encoder": "default", "vectors": {"size": 3, "distance": "Dot"}}, "other_space", "vectors.size"),
        ([], "invalid_request", None),
    ],
)
def test_collections_that_cannot_be(http, name, body, type_, param):
    refused(http.put(f"/collections/{name}", json=body), 400, type_, param)
    assert ok(http.get(f"/collections/{name}/exists")) == {"exists": False}


def test_metadata_is_merged_and_emptied(http, name):
    body = {"vectors": {"size": 3, "distance": "Dot"}, "metadata": {"a": 1}}
    ok(http.put(f"/collections/{name}", json=body))
    path = f"/collections/{name}"
    ok(http.patch(path, json={"metadata": {"b": 2}}))
    assert ok(http.get(path))["config"]["metadata"] == {"a": 1, "b": 2}
    ok(http.patch(path, json={"metadata": {}}))
    assert ok(http.get(path))["config"]["metadata"] == {}
    refused(http.patch("/collections/no-such", json={}), 404, "unknown_collection")


def test_stock_clients_name_the_encoder_in_metadata(http, name):
    body = {
        "vectors": {"size": DIMENSION, "distance": "Cosine"},
        "metadata": {"bitfold": {"encoder": "default"}},
    }
    ok(http.put(f"/collections/{name}", json=body))
    assert ok(http.get(f"/collections/{name}"))["encoder"] == "fake"


def test_a_collection_says_when_it_was_made(http, name):
    before = time.time()
    path = vectors(http, name)
    made = ok(http.get(path))["created_at"]
    assert before <= made <= time.time()
    put(http, path, {"id": 1, "vector": axis(0)})
    ok(http.patch(path, json={"metadata": {"a": 1}}))
    assert ok(http.get(path))["created_at"] == made
    ok(http.delete(path))
    vectors(http, name)
    assert ok(http.get(path))["created_at"] > made


@pytest.mark.parametrize(
    ("schema", "type_", "param"),
    [
        ({"type": "keyword", "foo": 1}, "unknown_key", "field_schema.foo"),
        ({"type": "geo"}, "invalid_request", "field_schema.type"),
        ({"type": "text", "tokenizer": 3}, "invalid_request", "field_schema.tokenizer"),
        ({"on_disk": True}, "invalid_request", "field_schema.type"),
        (None, "invalid_request", "field_schema"),
    ],
)
def test_payload_indexes_that_cannot_be(http, name, schema, type_, param):
    path = vectors(http, name)
    body = {"field_name": "a", "field_schema": schema}
    refused(http.put(f"{path}/index", json=body), 400, type_, param)
    assert ok(http.get(path))["payload_schema"] == {}


def test_payload_indexes_are_made_and_forgotten(http, name):
    path = vectors(http, name)
    put(http, path, *({"id": i, "vector": axis(i % 8), "payload": {"a": {"b": f"x{i % 4}"}}} for i in range(40)))
    body = {"query": axis(0), "filter": {"must": [{"key": "a.b", "match": {"value": "x2"}}]}, "limit": 50}
    found = ok(http.post(f"{path}/search", json=body))
    assert (found["stages"]["filtered_to"], found["stages"]["payloads_read"]) == (10, 40)
    response = http.put(f"{path}/index", json={"field_name": "a.b", "field_schema": "keyword"})
    assert ok(response)["status"] == "completed"
    assert "warnings" not in response.json()
    assert ok(http.get(path))["payload_schema"] == {"a.b": {"data_type": "keyword", "points": 40, "ready": True}}
    indexed = ok(http.post(f"{path}/search", json=body))
    assert indexed["points"] == found["points"]
    assert (indexed["stages"]["filtered_to"], indexed["stages"]["payloads_read"]) == (10, 0)
    ok(http.put(f"{path}/index", json={"field_name": "c", "field_schema": {"type": "text", "min_token_len": 2}}))
    schema = ok(http.get(path))["payload_schema"]
    assert {field: entry["data_type"] for field, entry in schema.items()} == {"a.b": "keyword", "c": "text"}
    ok(http.delete(f"{path}/index/a.b"))
    assert list(ok(http.get(path))["payload_schema"]) == ["c"]
    assert ok(http.post(f"{path}/search", json=body))["stages"]["payloads_read"] == 40
    refused(
        http.put(f"{path}/index", json={"field_name": "a[", "field_schema": "bool"}),
        400,
        "invalid_input",
        "field_name",
    )
    refused(http.put(f"{path}/index", json={"field_name": "g", "field_schema": "geo"}), 400, "invalid_request")
