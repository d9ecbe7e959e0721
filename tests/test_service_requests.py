"""Bodies and query strings over HTTP: keys without effect, unknown keys, what is not supported, what is no JSON."""

from __future__ import annotations

import pytest

from service import schemas
from service.fields import NO_EFFECT
from tests.service_calls import DIMENSION, axis, ok, refused, vectors


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
    body = {"query": axis(0), "params": {"hnsw_ef": 64, "idf": "global", "exact": True}, "shard_key": "a"}
    response = http.post(f"{path}/points/query?consistency=majority", json=body)
    ok(response)
    named = {warning.split()[0] for warning in response.json()["warnings"]}
    assert named == {"params.hnsw_ef", "params.idf", "shard_key", "consistency"}
    batch = http.post(f"{path}/points/query/batch", json={"searches": [body]})
    assert any(w.startswith("searches[0].params.hnsw_ef") for w in batch.json()["warnings"])


def test_a_count_that_asks_for_an_estimate_is_told_that_it_is_exact(http, name):
    path = vectors(http, name)
    estimate = http.post(f"{path}/points/count", json={"exact": False}).json()
    assert estimate["result"] == {"count": 0}
    assert [warning.split()[0] for warning in estimate["warnings"]] == ["exact"]
    for body in ({}, {"exact": True}, {"exact": None}):
        assert "warnings" not in http.post(f"{path}/points/count", json=body).json()


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


@pytest.mark.parametrize("body", [b"", b"{", b"nul", b'{"query": NaN}', b"\xff\xfe", b'"\\ud800"', b"[" * 3000])
def test_what_is_not_json_is_refused(http, name, body):
    path = vectors(http, name)
    refused(http.post(f"{path}/search", content=body), 400, "invalid_json")


@pytest.mark.parametrize(
    "query", ["wait=maybe", "timeout=0", "timeout=x", "timeout=1e3", "ordering=none", "timeout=" + "9" * 50]
)
def test_query_parameters_are_checked(http, name, query):
    path = vectors(http, name)
    refused(http.put(f"{path}/points?{query}", json={"points": []}), 400, "invalid_request")
