"""Bytes of a collection over HTTP: counted, and foretold."""

from __future__ import annotations

import pytest

from service import memory
from tests.service_calls import axis, ok, put, refused, vectors


def test_a_footprint_names_its_parts(http, name):
    path = vectors(http, name)
    put(http, path, *({"id": i, "vector": axis(i % 8), "payload": {"a": i}} for i in range(40)))
    ok(http.put(f"{path}/index", json={"field_name": "a", "field_schema": "integer"}))
    found = ok(http.get(f"{path}/footprint"))
    assert found["points"] == 40
    for side, parts in (
        ("memory", {"codes", "ids", "factors", "rows", "tail", "payload_indexes", "binarizers"}),
        ("disk", {"vectors", "record", "codes", "payload_indexes"}),
    ):
        assert parts <= found[side].keys()
        assert found[side]["total"] == sum(found[side][part] for part in parts)
        assert found[side]["per_point"] == pytest.approx(found[side]["total"] / 40, abs=0.01)
    assert found["memory"]["payload_indexes"] > 0
    assert found["disk"]["vectors"] > 40 * 8 * 4
    process = found["process"]
    assert process["resident"] >= process["anonymous"] > 10 * 2**20
    refused(http.get("/collections/none/footprint"), 404, "unknown_collection")


def test_where_the_system_does_not_tell_nothing_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "_STATUS", tmp_path / "none")
    assert memory.process_memory() is None


def test_a_plan_grows_with_what_is_asked_for(http):
    body = {"points": 1_000_000, "vectors": {"size": 384, "distance": "Cosine"}}
    one = ok(http.post("/collections/plan", json=body))
    assert one["points"] == 1_000_000
    assert 58 <= one["memory"]["per_point"] <= 75
    assert one["disk"]["vectors"] == 1_000_000 * 1536
    more = {"bits": 4, "payload_bytes": 100, "text_bytes": 200.5, "payload_indexes": {"a.b": "float"}}
    two = ok(http.post("/collections/plan", json=body | more))
    assert two["memory"]["codes"] == pytest.approx(4 * one["memory"]["codes"], rel=0.05)  # the first plane is padded
    assert two["disk"]["record"] - one["disk"]["record"] == 300_500_000
    assert two["memory"]["payload_indexes"] - one["memory"]["payload_indexes"] == 13_000_000
    small = ok(http.post("/collections/plan", json=body | {"code_dimensions": 128, "datatype": "float16"}))
    assert small["memory"]["codes"] == one["memory"]["codes"] // 3
    assert small["disk"]["vectors"] * 2 == one["disk"]["vectors"]
    assert ok(http.post("/collections/plan", json=body | {"points": 0}))["memory"]["per_point"] is None
    # Nothing was made.
    assert "plan" not in [made["name"] for made in ok(http.get("/collections"))["collections"]]


def test_a_plan_of_texts_takes_the_dimension_of_their_encoder(http):
    found = ok(http.post("/collections/plan", json={"points": 100_000, "encoder": "default"}))
    assert found["disk"]["vectors"] == 100_000 * 8 * 4


@pytest.mark.parametrize(
    ("body", "type_", "param"),
    [
        ({"vectors": {"size": 8, "distance": "Dot"}}, "invalid_request", "points"),
        ({"points": -1, "encoder": "default"}, "invalid_request", "points"),
        ({"points": 10}, "no_encoder", "vectors"),
        ({"points": 10, "encoder": "nobody"}, "unknown_encoder", None),
        ({"points": 10, "vectors": {"size": 8, "distance": "Dot"}, "bits": 3}, "invalid_input", "bits"),
        ({"points": 10, "encoder": "default", "payload_indexes": {"a": "geo"}}, "invalid_request", None),
    ],
)
def test_plans_that_cannot_be(http, body, type_, param):
    response = http.post("/collections/plan", json=body)
    refused(response, 400, type_, *([param] if param else []))
