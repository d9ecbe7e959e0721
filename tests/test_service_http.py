"""The HTTP API against a live server: every route, every limit, every typed error."""

from __future__ import annotations

import asyncio
import threading
import time
from http.client import HTTPConnection

import numpy as np
import orjson
import pytest

from index.collection import Collection
from index.errors import DiskFull
from service import schemas
from service.encoders import Encoders, open_encoders
from service.fields import NO_EFFECT
from service.limits import Pool
from service.responses import ApiError
from service.settings import Settings
from tests.conftest import WORDS, FakeEncoder, Server, fake_encoders

DIMENSION = len(WORDS)


def axis(i, value=1.0):
    vector = [0.0] * DIMENSION
    vector[i] = value
    return vector


def ok(response):
    assert response.status_code == 200, response.text
    body = response.json()
    assert body["status"] == "ok"
    assert body["time"] >= 0
    return body["result"]


def refused(response, status, type_, param=None):
    body = response.json()
    assert (response.status_code, body["type"]) == (status, type_), body
    assert set(body) >= {"status", "time", "type", "param", "hint"}
    assert body["status"]["error"]
    if param is not None:
        assert body["param"] == param
    return body


def vectors(http, name, distance="Dot", size=DIMENSION):
    ok(http.put(f"/collections/{name}", json={"vectors": {"size": size, "distance": distance}}))
    return f"/collections/{name}"


def texts(http, name):
    ok(http.put(f"/collections/{name}", json={"encoder": "default"}))
    return f"/collections/{name}"


def put(http, path, *points):
    return ok(http.put(f"{path}/points", json={"points": list(points)}))


# The server


def test_root_shows_title_and_versions(http):
    body = http.get("/").json()
    assert body["title"] == "bitfold"
    assert body["version"] == "1.20.0"
    assert "bitfold_version" in body


@pytest.mark.parametrize("path", ["/healthz", "/livez"])
def test_health_is_plain_text(http, path):
    response = http.get(path)
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain")


def test_encoders_are_listed(http):
    result = ok(http.get("/encoders"))
    assert result["default"] == "fake"
    assert [encoder["name"] for encoder in result["encoders"]] == ["fake"]


def test_docs_need_no_network_and_list_every_route(http):
    page = http.get("/docs").text
    assert "//cdn" not in page
    assert "<script" not in page
    for path in http.get("/openapi.json").json()["paths"]:
        assert path in page


def test_unknown_routes_and_methods_have_the_error_envelope(http):
    refused(http.get("/nowhere"), 404, "no_route")
    response = http.delete("/encoders")
    refused(response, 405, "no_method")
    assert response.headers["allow"]


def test_metrics_count_requests_by_route(http, name):
    vectors(http, name)
    text = http.get("/metrics").text
    counted = [line for line in text.splitlines() if 'route="/collections/{collection}",status="200"' in line]
    assert any(line.startswith('bitfold_requests_total{method="PUT"') for line in counted)
    assert f'bitfold_points{{collection="{name}"}} 0.0' in text


# Collections


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


@pytest.mark.parametrize(
    "bad", ["..", ".hidden", "a%2Fb", "..%2f..%2fetc", "a%5Cb", "a%00b", "x" * 300, "%0A"]
)
def test_names_that_are_paths_are_refused(serve, tmp_path, bad):
    server = serve()
    # httpx would resolve the dots before it sends them.
    connection = HTTPConnection(server.url.removeprefix("http://"))
    connection.request(
        "PUT", f"/collections/{bad}", orjson.dumps({"vectors": {"size": 3, "distance": "Dot"}})
    )
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


def test_payload_indexes_are_recorded_and_forgotten(http, name):
    path = vectors(http, name)
    response = http.put(f"{path}/index", json={"field_name": "a.b", "field_schema": "keyword"})
    assert ok(response)["status"] == "completed"
    assert "recorded" in response.json()["warnings"][0]
    ok(
        http.put(
            f"{path}/index", json={"field_name": "c", "field_schema": {"type": "text", "min_token_len": 2}}
        )
    )
    schema = ok(http.get(path))["payload_schema"]
    assert {field: entry["data_type"] for field, entry in schema.items()} == {"a.b": "keyword", "c": "text"}
    ok(http.delete(f"{path}/index/a.b"))
    assert list(ok(http.get(path))["payload_schema"]) == ["c"]
    refused(
        http.put(f"{path}/index", json={"field_name": "g", "field_schema": "geo"}), 400, "invalid_request"
    )


# Keys without effect and unknown keys


def test_known_keys_without_effect_are_named_in_warnings(http, name):
    body = {
        "vectors": {"size": DIMENSION, "distance": "Dot", "on_disk": True, "hnsw_config": {"m": 4}},
        "hnsw_config": {"m": 16},
        "quantization_config": {"scalar": {"type": "int8"}},
        "optimizers_config": None,
        "shard_number": 2,
    }
    response = http.put(f"/collections/{name}?timeout=3", json=body)
    ok(response)
    named = {warning.split()[0] for warning in response.json()["warnings"]}
    assert named == {
        "timeout", "vectors.on_disk", "vectors.hnsw_config", "hnsw_config", "quantization_config",
        "shard_number",
    }  # fmt: skip


def test_query_warnings_name_nested_keys(http, name):
    path = vectors(http, name)
    body = {"query": axis(0), "params": {"hnsw_ef": 64, "exact": True}, "shard_key": "a"}
    response = http.post(f"{path}/points/query?consistency=majority", json=body)
    ok(response)
    named = {warning.split()[0] for warning in response.json()["warnings"]}
    assert named == {"params.hnsw_ef", "shard_key", "consistency"}
    batch = http.post(f"{path}/points/query/batch", json={"searches": [body]})
    assert any(w.startswith("searches[0].params.hnsw_ef") for w in batch.json()["warnings"])


def test_wait_true_is_what_happens_and_wait_false_is_not(http, name):
    path = vectors(http, name)
    body = {"points": [{"id": 1, "vector": axis(0)}]}
    assert "warnings" not in http.put(f"{path}/points?wait=true", json=body).json()
    assert "wait" in http.put(f"{path}/points?wait=false", json=body).json()["warnings"][0]


def test_every_ineffective_key_of_the_models_has_its_reason():
    def models(base):
        for model in base.__subclasses__():
            yield model
            yield from models(model)

    silent = [
        f"{model.__name__}.{key}"
        for model in models(schemas.Request)
        for key, field in model.model_fields.items()
        if field.metadata and "without effect" in str(field.metadata) and key not in NO_EFFECT
    ]
    assert silent == []


@pytest.mark.parametrize(
    ("route", "body", "param"),
    [
        ("/points/query", {"query": [0.0] * 8, "params": {"ef": 3}}, "params.ef"),
        ("/points/query", {"query": {"nearest": [0.0] * 8, "mmr": {}}}, "query.mmr"),
        ("/points/query", {"query": [0.0] * 8, "prefetsch": []}, "prefetsch"),
        ("/points/count", {"exakt": True}, "exakt"),
        ("/search", {"query": "red", "top": 3}, "top"),
        ("/points/query?nope=1", {"query": [0.0] * 8}, "nope"),
    ],
)
def test_unknown_keys_are_refused_by_name(http, name, route, body, param):
    path = vectors(http, name)
    refused(http.post(path + route, json=body), 400, "unknown_key", param)


@pytest.mark.parametrize(
    ("route", "body", "param"),
    [
        ("/points/query", {"query": [0.0] * 8, "prefetch": []}, "prefetch"),
        ("/points/query", {"query": [0.0] * 8, "lookup_from": {"collection": "a"}}, "lookup_from"),
        ("/points/scroll", {"order_by": "a"}, "order_by"),
    ],
)
def test_what_qdrant_can_and_this_cannot_is_refused_unless_null(http, name, route, body, param):
    path = vectors(http, name)
    refused(http.post(path + route, json=body), 400, "unsupported", param)
    ok(http.post(path + route, json=body | {param: None}))


@pytest.mark.parametrize(
    "body", [b"", b"{", b"nul", b'{"query": NaN}', b"\xff\xfe", b'"\\ud800"', b"[" * 3000]
)
def test_what_is_not_json_is_refused(http, name, body):
    path = vectors(http, name)
    refused(http.post(f"{path}/search", content=body), 400, "invalid_json")


@pytest.mark.parametrize(
    "query", ["wait=maybe", "timeout=0", "timeout=x", "timeout=1e3", "ordering=none", "timeout=" + "9" * 50]
)
def test_query_parameters_are_checked(http, name, query):
    path = vectors(http, name)
    refused(http.put(f"{path}/points?{query}", json={"points": []}), 400, "invalid_request")


# Writing and reading points


def test_points_come_back_as_they_were(http, name):
    path = vectors(http, name)
    payload = {"a": [1, 2.5, None], "b": {"ü": "x"}}
    put(
        http,
        path,
        {"id": 1, "vector": axis(0, 2.0), "payload": payload},
        {"id": "1", "vector": {"": axis(1)}},
    )
    found = ok(http.post(f"{path}/points", json={"ids": ["1", 1, 99], "with_vector": True}))
    assert found == [
        {"id": "1", "payload": {}, "vector": axis(1)},
        {"id": 1, "payload": payload, "vector": axis(0, 2.0)},
    ]


def test_one_point_by_path(http, name):
    path = texts(http, name)
    uuid = "00000000-0000-0000-0000-0000000000AB"
    put(
        http,
        path,
        {"id": 7, "text": "red sun"},
        {"id": uuid, "text": "moon"},
        {"id": "a/b c", "text": "rain"},
    )
    assert ok(http.get(f"{path}/points/7"))["text"] == "red sun"
    assert ok(http.get(f"{path}/points/{uuid.lower()}"))["id"] == uuid.lower()
    assert ok(http.get(f"{path}/points/a%2Fb%20c"))["text"] == "rain"
    refused(http.get(f"{path}/points/8"), 404, "unknown_point")


def test_columns_are_the_same_as_rows(http, name):
    path = vectors(http, name)
    batch = {"ids": [1, 2], "vectors": {"": [axis(0), axis(1)]}, "payloads": [{"a": 1}, None]}
    ok(http.put(f"{path}/points", json={"batch": batch}))
    found = ok(http.post(f"{path}/points", json={"ids": [1, 2], "with_vector": True}))
    assert [(p["payload"], p["vector"]) for p in found] == [({"a": 1}, axis(0)), ({}, axis(1))]
    batch["ids"].append(3)
    refused(http.put(f"{path}/points", json={"batch": batch}), 400, "invalid_request", "batch")


def test_a_wrong_point_leaves_nothing_of_its_request(http, name):
    path = vectors(http, name)
    points = [{"id": 1, "vector": axis(0)}, {"id": 2, "vector": [1.0]}]
    refused(http.put(f"{path}/points", json={"points": points}), 400, "invalid_vector", "points[1].vector")
    assert ok(http.post(f"{path}/points/count", json={})) == {"count": 0}


@pytest.mark.parametrize(
    ("point", "type_"),
    [
        ({"id": 1}, "invalid_request"),
        ({"id": 1, "vector": [1.0] * 8, "text": "red"}, "invalid_request"),
        ({"id": 1, "vector": "AAAA"}, "invalid_vector"),
        ({"id": 1, "vector": ["1.0"] * 8}, "invalid_vector"),
        ({"id": 1, "vector": [True] * 8}, "invalid_vector"),
        ({"id": 1, "vector": [[1.0] * 8]}, "invalid_vector"),
        ({"id": 1, "vector": [1e39] * 8}, "invalid_vector"),
        ({"id": 1, "vector": [1e38] * 8}, "invalid_vector"),
        ({"id": 1, "vector": {"a": [1.0] * 8}}, "invalid_vector"),
        ({"id": 1, "text": "red"}, "no_encoder"),
        ({"id": 1, "vector": {"text": "red", "model": "fake"}}, "no_encoder"),
        ({"id": -1, "vector": [1.0] * 8}, "invalid_id"),
        ({"id": 2**64, "vector": [1.0] * 8}, "invalid_id"),
        ({"id": 1.5, "vector": [1.0] * 8}, "invalid_id"),
        ({"id": True, "vector": [1.0] * 8}, "invalid_id"),
        ({"id": "", "vector": [1.0] * 8}, "invalid_id"),
        ({"id": "x" * 513, "vector": [1.0] * 8}, "invalid_id"),
        ({"id": 1, "vector": [1.0] * 8, "payload": []}, "invalid_request"),
    ],
)
def test_points_that_cannot_be(http, name, point, type_):
    path = vectors(http, name)
    refused(http.put(f"{path}/points", json={"points": [point]}), 400, type_)


def test_a_payload_nested_too_deeply_is_refused(http, name):
    path = vectors(http, name)
    deep = b'{"a":' * 300 + b"1" + b"}" * 300
    body = b'{"points":[{"id":1,"vector":' + orjson.dumps(axis(0)) + b',"payload":' + deep + b"}]}"
    refused(http.put(f"{path}/points", content=body), 400, "invalid_payload")


def test_zero_vectors_have_no_direction_under_cosine(http, name):
    path = vectors(http, name, "Cosine")
    body = {"points": [{"id": 1, "vector": axis(0, 0.0)}]}
    refused(http.put(f"{path}/points", json=body), 400, "invalid_vector")
    put(http, path, {"id": 1, "vector": axis(0, 5.0)})
    assert ok(http.post(f"{path}/points", json={"ids": [1], "with_vector": True}))[0]["vector"] == axis(0)


def test_delete_by_ids_and_by_filter(http, name):
    path = vectors(http, name)
    put(http, path, *({"id": i, "vector": axis(0), "payload": {"odd": bool(i % 2)}} for i in range(6)))
    assert ok(http.post(f"{path}/points/delete", json={"points": [0, 99]}))["affected"] == 1
    odd = {"filter": {"must": [{"key": "odd", "match": {"value": True}}]}}
    assert ok(http.post(f"{path}/points/delete", json=odd))["affected"] == 3
    left = ok(http.post(f"{path}/points/scroll", json={}))["points"]
    assert [point["id"] for point in left] == [2, 4]
    refused(http.post(f"{path}/points/delete", json={}), 400, "invalid_request")
    refused(http.post(f"{path}/points/delete", json={"points": [1], **odd}), 400, "invalid_request")


def test_payload_edits(http, name):
    path = vectors(http, name)
    put(
        http,
        path,
        {"id": 1, "vector": axis(0), "payload": {"a": 1, "b": {"c": 2}}},
        {"id": 2, "vector": axis(1)},
    )

    def payload():
        return ok(http.get(f"{path}/points/1"))["payload"]

    ok(http.post(f"{path}/points/payload", json={"payload": {"x": 1}, "points": [1]}))
    assert payload() == {"a": 1, "b": {"c": 2}, "x": 1}
    ok(http.post(f"{path}/points/payload", json={"payload": {"d": 3}, "key": "b", "points": [1]}))
    assert payload() == {"a": 1, "b": {"c": 2, "d": 3}, "x": 1}
    where = {"must": [{"key": "x", "match": {"value": 1}}]}
    assert (
        ok(http.post(f"{path}/points/payload/delete", json={"keys": ["a", "b.c"], "filter": where}))[
            "affected"
        ]
        == 1
    )
    assert payload() == {"b": {"d": 3}, "x": 1}
    ok(http.put(f"{path}/points/payload", json={"payload": {"only": True}, "points": [1]}))
    assert payload() == {"only": True}
    ok(http.post(f"{path}/points/payload/clear", json={"points": [1]}))
    assert payload() == {}
    body = {"payload": {}, "key": "a..b", "points": [1]}
    refused(http.post(f"{path}/points/payload", json=body), 400, "invalid_payload")


def test_scroll_pages_through_integers_then_strings(http, name):
    path = vectors(http, name)
    ids = [3, 10, 2**64 - 1, "1", "b", "é"]
    put(http, path, *({"id": i, "vector": axis(0), "payload": {"n": str(i)}} for i in reversed(ids)))
    seen, offset = [], None
    while True:
        page = ok(
            http.post(f"{path}/points/scroll", json={"limit": 2, "offset": offset, "with_payload": False})
        )
        assert all("payload" not in point for point in page["points"])
        seen += [point["id"] for point in page["points"]]
        offset = page["next_page_offset"]
        if offset is None:
            break
    assert seen == ids


def test_count_with_a_filter(http, name):
    path = vectors(http, name)
    put(http, path, *({"id": i, "vector": axis(0), "payload": {"n": i}} for i in range(5)))
    body = {"filter": {"must": [{"key": "n", "range": {"gte": 2}}]}, "exact": False}
    assert ok(http.post(f"{path}/points/count", json=body)) == {"count": 3}
    wrong = {"filter": {"must": [{"key": "n", "range": {"gte": "x"}}]}}
    refused(http.post(f"{path}/points/count", json=wrong), 400, "invalid_filter", "filter.must[0].range.gte")


# Searching


@pytest.mark.parametrize(
    ("distance", "expected", "threshold", "kept"),
    [
        ("Dot", [(3, 6.0), (2, 4.0), (1, 2.0)], 3.0, [3, 2]),
        ("Cosine", [(1, 1.0), (2, 1.0), (3, 1.0)], 0.99, [1, 2, 3]),
        ("Euclid", [(2, 0.0), (1, 1.0), (3, 1.0)], 0.5, [2]),
    ],
)
def test_scores_on_the_wire(http, name, distance, expected, threshold, kept):
    path = vectors(http, name, distance)
    put(http, path, *({"id": i, "vector": axis(0, float(i))} for i in (1, 2, 3)))
    hits = ok(http.post(f"{path}/points/query", json={"query": axis(0, 2.0)}))["points"]
    assert [(hit["id"], hit["score"]) for hit in hits] == expected
    assert all(hit["version"] == 0 and "payload" not in hit for hit in hits)
    body = {"query": axis(0, 2.0), "score_threshold": threshold}
    assert [hit["id"] for hit in ok(http.post(f"{path}/points/query", json=body))["points"]] == kept
    assert [hit["id"] for hit in ok(http.post(f"{path}/search", json=body))["points"]] == kept


def test_the_forms_of_a_query_agree(http, name):
    path = texts(http, name)
    put(
        http,
        path,
        {"id": 1, "text": "red sun"},
        {"id": 2, "text": "red moon"},
        {"id": "x", "text": "rain tree"},
    )
    by_text = {"text": "red sun", "model": "fake"}
    vector = [float(np.float32(1 / np.sqrt(2))) if w in ("red", "sun") else 0.0 for w in WORDS]
    expected = [(1, 1.0), (2, 0.5), ("x", 0.0)]
    for query in (
        by_text,
        {"nearest": by_text},
        {"text": "red sun"},
        vector,
        {"nearest": vector},
        {"": vector},
    ):
        hits = ok(http.post(f"{path}/points/query", json={"query": query}))["points"]
        assert [(hit["id"], pytest.approx(hit["score"], abs=1e-6)) for hit in hits] == expected
    for query in (1, {"nearest": 1}):
        hits = ok(http.post(f"{path}/points/query", json={"query": query}))["points"]
        assert [(hit["id"], pytest.approx(hit["score"], abs=1e-6)) for hit in hits] == expected[1:]
    refused(http.post(f"{path}/points/query", json={"query": "1"}), 404, "unknown_point")
    refused(http.post(f"{path}/points/query", json={"query": {"recommend": {}}}), 400, "invalid_vector")
    refused(http.post(f"{path}/points/query", json={}), 400, "invalid_request", "query")


def test_plain_search_by_text(http, name):
    path = texts(http, name)
    put(http, path, {"id": 1, "text": "red sun", "payload": {"n": 1}}, {"id": 2, "text": "moon"})
    result = ok(http.post(f"{path}/search", json={"query": "sun", "limit": 1}))
    (hit,) = result["points"]
    assert hit == {"id": 1, "score": pytest.approx(2**-0.5), "text": "red sun", "payload": {"n": 1}}
    stages = result["stages"]
    assert (stages["mode"], stages["scanned"]) == ("exact", 2)
    assert stages["milliseconds"]["encode"] >= 0
    body = {"query": "sun", "with_text": False, "with_payload": False}
    assert set(ok(http.post(f"{path}/search", json=body))["points"][0]) == {"id", "score"}
    refused(http.post(f"{path}/search", json={"query": "   "}), 400, "invalid_text", "query")
    refused(http.post(f"{path}/search", json={"query": "unheard of"}), 400, "invalid_text")
    refused(http.post(f"{path}/search", json={"query": {"text": "sun"}}), 400, "invalid_request", "query")


def test_codes_find_what_exact_search_finds(serve):
    rng = np.random.default_rng(5)
    data = rng.standard_normal((300, 32)).astype(np.float32)
    http = serve().http
    path = vectors(http, "codes", "Cosine", 32)
    put(http, path, *({"id": i, "vector": row.tolist()} for i, row in enumerate(data)))
    body = {
        "query": data[17].tolist(),
        "limit": 5,
        "params": {"exact": False, "candidates": 300, "rerank": 300},
    }
    by_codes = ok(http.post(f"{path}/search", json=body))
    assert by_codes["stages"]["mode"] == "codes"
    assert by_codes["stages"]["bits"] == 1
    body["params"] = {"exact": True}
    exact = ok(http.post(f"{path}/search", json=body))
    assert [hit["id"] for hit in by_codes["points"]] == [hit["id"] for hit in exact["points"]]
    assert exact["points"][0]["id"] == 17


def test_offset_limit_and_filter(http, name):
    path = vectors(http, name)
    put(http, path, *({"id": i, "vector": axis(0, float(i)), "payload": {"n": i}} for i in range(1, 9)))
    even = {"must": [{"has_id": [2, 4, 6, 8]}]}
    body = {"query": axis(0), "limit": 2, "offset": 1, "filter": even}
    assert [hit["id"] for hit in ok(http.post(f"{path}/points/query", json=body))["points"]] == [6, 4]
    assert [hit["id"] for hit in ok(http.post(f"{path}/search", json=body))["points"]] == [6, 4]
    wrong = {"query": axis(0), "filter": {"must": [{"has_id": [1.5]}]}}
    refused(http.post(f"{path}/search", json=wrong), 400, "invalid_filter", "filter.must[0].has_id[0]")


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        (True, {"a": {"b": 1, "c": [{"d": 2, "e": 3}]}, "f": 4}),
        (["f"], {"f": 4}),
        (["a.b", "none"], {"a": {"b": 1}}),
        (["a.c[].d"], {"a": {"c": [{"d": 2}]}}),
        (["a", "a.b"], {"a": {"b": 1, "c": [{"d": 2, "e": 3}]}}),
        ({"include": ["f"]}, {"f": 4}),
        ({"exclude": ["a.c", "f"]}, {"a": {"b": 1}}),
    ],
)
def test_payload_keys_can_be_chosen(http, name, selector, expected):
    path = vectors(http, name)
    payload = {"a": {"b": 1, "c": [{"d": 2, "e": 3}]}, "f": 4}
    put(http, path, {"id": 1, "vector": axis(0), "payload": payload})
    for route, body in (
        ("/points/query", {"query": axis(0)}),
        ("/search", {"query": axis(0)}),
        ("/points/scroll", {}),
    ):
        points = ok(http.post(path + route, json={**body, "with_payload": selector}))["points"]
        assert points[0]["payload"] == expected


def test_batch_answers_in_order_and_equals_single_queries(http, name):
    path = texts(http, name)
    put(http, path, *({"id": i, "text": word, "payload": {"w": word}} for i, word in enumerate(WORDS)))
    searches = [
        {"query": {"text": "sun"}, "limit": 1},
        {"query": 0, "limit": 2, "with_payload": True},
        {"query": axis(2), "limit": 1, "filter": {"must": [{"has_id": [5]}]}},
        {"query": {"text": "moon"}, "limit": 3, "offset": 1},
        {"query": axis(4), "limit": 1, "with_vector": True},
    ]
    results = ok(http.post(f"{path}/points/query/batch", json={"searches": searches}))
    singles = [ok(http.post(f"{path}/points/query", json=search)) for search in searches]
    assert results == singles
    assert results[0]["points"][0]["id"] == WORDS.index("sun")
    assert ok(http.post(f"{path}/points/query/batch", json={"searches": []})) == []
    searches[3]["query"] = [1.0]
    refused(http.post(f"{path}/points/query/batch", json={"searches": searches}), 400, "invalid_vector")


def test_long_texts_are_reported_never_cut_in_silence(http, name):
    path = texts(http, name)
    long = "red " * 9
    response = http.put(
        f"{path}/points", json={"points": [{"id": "l", "text": long}, {"id": 2, "text": "red"}]}
    )
    assert response.json()["warnings"] == [
        "1 texts are longer than the model's window, their ends are not in the vectors: 'l'"
    ]
    search = http.post(f"{path}/search", json={"query": long})
    assert "longer than the model's window" in search.json()["warnings"][0]
    assert ok(search)["points"][0]["text"] == long


def test_unchanged_texts_are_not_encoded_again(serve):
    encoder = FakeEncoder()
    http = serve(encoder).http
    path = texts(http, "again")
    put(http, path, {"id": 1, "text": "red"}, {"id": 2, "text": "sun"})
    put(http, path, {"id": 1, "text": "red"}, {"id": 2, "text": "sun", "payload": {"new": 1}})
    assert encoder.encoded == ["red", "sun"]
    assert ok(http.get(f"{path}/points/2"))["payload"] == {"new": 1}
    assert ok(http.post(f"{path}/search", json={"query": "sun", "limit": 1}))["points"][0]["id"] == 2
    put(http, path, {"id": 1, "text": "moon"})
    assert encoder.encoded == ["red", "sun", "moon"]


# Encoders


def test_an_encoder_of_another_space_is_refused(serve):
    other = FakeEncoder(name="other", space="words/other")
    twin = FakeEncoder(name="twin")
    http = serve(FakeEncoder(), other, twin).http
    path = texts(http, "spaces")
    put(http, path, {"id": 1, "vector": {"text": "red", "model": "twin"}})
    assert twin.encoded == ["red"]
    body = refused(
        http.post(f"{path}/points/query", json={"query": {"text": "red", "model": "other"}}),
        400,
        "other_space",
    )
    assert "words/other" in body["status"]["error"]
    assert "words/8" in body["status"]["error"]
    points = [{"id": 1, "vector": {"text": "red", "model": "other"}}]
    refused(http.put(f"{path}/points", json={"points": points}), 400, "other_space")
    refused(
        http.post(f"{path}/points/query", json={"query": {"text": "a", "model": "?"}}), 400, "unknown_encoder"
    )
    ok(http.post(f"{path}/points/query", json={"query": {"text": "red", "model": "twin"}}))


def test_a_collection_whose_encoder_changed_its_space_is_refused_for_texts(serve, tmp_path):
    server = serve(FakeEncoder(), data_dir=tmp_path / "d")
    path = texts(server.http, "changed")
    put(server.http, path, {"id": 1, "text": "red"})
    server.stop()
    http = serve(FakeEncoder(space="words/9"), data_dir=tmp_path / "d").http
    refused(http.post(f"{path}/search", json={"query": "red"}), 400, "other_space")
    assert ok(http.post(f"{path}/search", json={"query": axis(0)}))["points"][0]["id"] == 1


def test_a_model_that_fails_to_load_keeps_vectors_searchable(tmp_path):
    def broken(name):
        raise OSError(f"{name} is truncated")

    encoders = Encoders(load=broken, names={}, default="bad")
    server = Server(Settings(data_dir=tmp_path, port=0, log_level="error"), encoders, None)
    try:
        http = server.http
        while (ready := http.get("/readyz")).status_code == 503:
            time.sleep(0.01)
        assert ready.json()["result"]["encoders_failed"] == {"bad": "bad is truncated"}
        refused(http.put("/collections/t", json={"encoder": "default"}), 503, "encoder_unavailable")
        path = vectors(http, "v")
        put(http, path, {"id": 1, "vector": axis(0)})
        assert ok(http.post(f"{path}/search", json={"query": axis(0)}))["points"][0]["id"] == 1
    finally:
        server.stop()


def test_readyz_waits_for_the_default_encoder():
    started, release = threading.Event(), threading.Event()

    def slow(_):
        started.set()
        release.wait()
        return FakeEncoder()

    encoders = Encoders(load=slow, names={}, default="slow")
    encoders.start()
    assert started.wait(5)
    assert not encoders.settled()
    release.set()
    assert encoders.get("default").name == "fake"
    assert encoders.settled()


def test_a_server_without_encoders_says_so():
    with pytest.raises(Exception, match="there is no encoder 'default'"):
        Encoders(load=fake_encoders(FakeEncoder()).get, names={}, default=None).get("default")


# Limits


def test_body_limit(serve):
    http = serve(max_body_bytes=2000).http
    path = vectors(http, "body")
    refused(http.post(f"{path}/search", content=b" " * 2001), 413, "body_too_large")
    chunked = http.post(f"{path}/search", content=(b" " * 500 for _ in range(10)))
    refused(chunked, 413, "body_too_large")
    body = orjson.dumps({"query": axis(0)})
    ok(http.post(f"{path}/search", content=body.ljust(2000)))


def test_encoded_bodies_are_for_bulk_only(http, name):
    path = vectors(http, name)
    response = http.post(f"{path}/search", content=b"x", headers={"Content-Encoding": "gzip"})
    refused(response, 415, "unsupported_encoding")


def test_limits_of_numbers(serve):
    http = serve(max_limit=5, max_batch=2, max_queries=1, max_text_bytes=20).http
    path = texts(http, "numbers")
    query = {"query": axis(0)}
    ok(http.post(f"{path}/search", json={**query, "limit": 3, "offset": 2}))
    refused(
        http.post(f"{path}/search", json={**query, "limit": 3, "offset": 3}), 400, "limit_too_large", "limit"
    )
    refused(http.post(f"{path}/points/query", json={**query, "limit": 6}), 400, "limit_too_large")
    refused(http.post(f"{path}/points/scroll", json={"limit": 6}), 400, "limit_too_large")
    refused(http.post(f"{path}/search", json={**query, "limit": 0}), 400, "invalid_request", "limit")
    refused(http.post(f"{path}/points", json={"ids": [1, 2, 3]}), 400, "batch_too_large", "ids")
    refused(http.post(f"{path}/points/delete", json={"points": [1, 2, 3]}), 400, "batch_too_large")
    three = [{"id": i, "text": "red"} for i in range(3)]
    refused(http.put(f"{path}/points", json={"points": three}), 400, "batch_too_large", "points")
    refused(http.post(f"{path}/points/query/batch", json={"searches": [query] * 2}), 400, "batch_too_large")
    long = [{"id": 1, "text": "red" * 7}]
    refused(http.put(f"{path}/points", json={"points": long}), 413, "text_too_large", "points[0].text")
    refused(http.post(f"{path}/search", json={"query": "é" * 11}), 413, "text_too_large", "query")


def test_the_api_key_guards_everything_but_health(serve):
    http = serve(api_key="s3cret").http
    for path in ("/healthz", "/livez", "/readyz"):
        assert http.get(path).status_code in (200, 503)
    for path in ("/", "/collections", "/metrics", "/docs", "/openapi.json", "/nowhere"):
        refused(http.get(path), 401, "wrong_api_key")
    refused(http.get("/collections", headers={"api-key": "s3cret2"}), 401, "wrong_api_key")
    refused(http.get("/collections", headers={"api-key": "sécret".encode("latin-1")}), 401, "wrong_api_key")
    ok(http.get("/collections", headers={"api-key": "s3cret"}))
    ok(http.get("/collections", headers={"Authorization": "Bearer s3cret"}))
    document = http.get("/openapi.json", headers={"api-key": "s3cret"}).json()
    assert document["security"] == [{"api-key": []}]


def test_over_capacity_is_answered_at_once(serve):
    entered, release = threading.Event(), threading.Event()

    class Slow(FakeEncoder):
        def encode_queries(self, texts):
            if texts == ["sun"]:
                entered.set()
                release.wait(30)
            return super().encode_queries(texts)

    server = serve(Slow(), search_threads=1, max_queued=0)
    path = texts(server.http, "busy")
    waiting = []
    thread = threading.Thread(
        target=lambda: waiting.append(server.http.post(f"{path}/search", json={"query": "sun"}))
    )
    thread.start()
    assert entered.wait(10)
    refusal = server.http.post(f"{path}/search", json={"query": axis(0)})
    release.set()
    thread.join()
    refused(refusal, 429, "over_capacity")
    assert refusal.headers["retry-after"] == "1"
    ok(waiting[0])
    ok(server.http.post(f"{path}/search", json={"query": axis(0)}))


def test_a_search_that_waited_too_long_is_answered_408(serve):
    class Slow(FakeEncoder):
        def encode_queries(self, texts):
            time.sleep(0.05)
            return super().encode_queries(texts)

    http = serve(Slow(), search_timeout_ms=20).http
    path = texts(http, "late")
    put(http, path, {"id": 1, "vector": axis(0)})
    refused(http.post(f"{path}/search", json={"query": "sun"}), 408, "deadline_exceeded")


def test_pool_refuses_beyond_threads_and_queue():
    async def overfill():
        release = threading.Event()
        pool = Pool("test", threads=1, queue=1, prepare=lambda: None)
        first = asyncio.create_task(pool.run(release.wait))
        second = asyncio.create_task(pool.run(release.wait))
        await asyncio.sleep(0)
        with pytest.raises(ApiError, match="no room"):
            await pool.run(release.wait)
        release.set()
        await asyncio.gather(first, second)
        await asyncio.sleep(0)
        assert await pool.run(lambda: 3) == 3
        pool.close()

    asyncio.run(overfill())


# What is broken below


def test_a_damaged_collection_is_503_and_the_others_work(serve, tmp_path):
    server = serve(data_dir=tmp_path / "d")
    put(server.http, vectors(server.http, "good"), {"id": 1, "vector": axis(0)})
    put(server.http, vectors(server.http, "bad"), {"id": 1, "vector": axis(0)})
    server.stop()
    for path in (tmp_path / "d" / "collections" / "bad" / "vectors").iterdir():
        path.write_bytes(b"")
    http = serve(data_dir=tmp_path / "d").http
    body = refused(http.post("/collections/bad/search", json={"query": axis(0)}), 503, "damaged_collection")
    assert "bad" in body["status"]["error"]
    assert ok(http.post("/collections/good/search", json={"query": axis(0)}))["points"][0]["id"] == 1
    assert "bad" in http.get("/readyz").json()["result"]["collections_damaged"]


def test_a_collection_dropped_during_a_search_is_404(serve, monkeypatch):
    http = serve().http
    path = vectors(http, "vanishing")
    search = Collection.search

    def drop_first(self, *args, **kwargs):
        ok(http.delete(path))
        return search(self, *args, **kwargs)

    monkeypatch.setattr(Collection, "search", drop_first)
    refused(http.post(f"{path}/search", json={"query": axis(0)}), 404, "unknown_collection")


def test_a_full_disk_is_507_and_reads_go_on(serve, monkeypatch):
    http = serve().http
    path = vectors(http, "full")
    put(http, path, {"id": 1, "vector": axis(0)})
    with monkeypatch.context() as patched:
        patched.setattr(
            Collection, "upsert", lambda *_: (_ for _ in ()).throw(DiskFull("no room", hint="make some"))
        )
        body = {"points": [{"id": 2, "vector": axis(0)}]}
        assert refused(http.put(f"{path}/points", json=body), 507, "disk_full")["hint"] == "make some"
        assert len(ok(http.post(f"{path}/search", json={"query": axis(0)}))["points"]) == 1
    put(http, path, {"id": 2, "vector": axis(0)})


def test_everything_survives_a_restart(serve, tmp_path):
    server = serve(data_dir=tmp_path / "d")
    path = texts(server.http, "kept")
    put(server.http, path, {"id": 1, "text": "red sun", "payload": {"a": 1}})
    server.stop()
    http = serve(data_dir=tmp_path / "d").http
    (hit,) = ok(http.post(f"{path}/search", json={"query": "sun"}))["points"]
    assert (hit["id"], hit["text"], hit["payload"]) == (1, "red sun", {"a": 1})


def test_requests_under_way_finish_when_the_server_stops(serve):
    entered = threading.Event()

    class Slow(FakeEncoder):
        def encode_queries(self, texts):
            entered.set()
            time.sleep(0.2)
            return super().encode_queries(texts)

    server = serve(Slow())
    path = texts(server.http, "drain")
    put(server.http, path, {"id": 1, "vector": axis(3)})
    answers = []
    thread = threading.Thread(
        target=lambda: answers.append(server.http.post(f"{path}/search", json={"query": "sun"}))
    )
    thread.start()
    assert entered.wait(10)
    server.uvicorn.should_exit = True
    thread.join()
    assert ok(answers[0])["points"][0]["id"] == 1


# The real thing


def test_the_packaged_encoder_finds_what_is_meant(tmp_path):
    settings = Settings(data_dir=tmp_path, port=0, log_level="error")
    server = Server(settings, open_encoders(default="default", model_dir=None, threads=1), None)
    try:
        http = server.http
        path = texts(http, "facts")
        put(
            http,
            path,
            {
                "id": 1,
                "text": "The Nile flows north through eleven countries.",
                "payload": {"topic": "rivers"},
            },
            {"id": 2, "text": "A violin has four strings and is played with a bow."},
            {"id": 3, "text": "Penguins are birds that cannot fly but swim well."},
        )
        info = ok(http.get(path))
        assert (info["encoder"], info["config"]["params"]["vectors"]["size"]) == ("minilm", 384)
        assert info["space"].startswith("all-MiniLM-L6-v2@")
        for text, expected in (
            ("a river in Africa", 1),
            ("musical instrument", 2),
            ("animals of the Antarctic", 3),
        ):
            assert (
                ok(http.post(f"{path}/search", json={"query": text, "limit": 1}))["points"][0]["id"]
                == expected
            )
        response = http.post(f"{path}/points/bulk", content=orjson.dumps({"id": 4, "text": "word " * 400}))
        assert ok(response)["truncated_lines"] == [1]
        assert [e["state"] for e in ok(http.get("/encoders"))["encoders"]] == ["loaded"]
    finally:
        server.stop()
