"""Searches over HTTP: scores, forms of a query, pages, payload keys, batches, long texts."""

from __future__ import annotations

import numpy as np
import pytest

from tests.conftest import WORDS, FakeEncoder
from tests.service_calls import axis, ok, put, refused, texts, vectors


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
        (True, {"a": {"b": 1, "c": [{"d": 2, "e": 3}]}, "f": 4, "g.h": 5}),
        (["f"], {"f": 4}),
        (["a.b", "none"], {"a": {"b": 1}}),
        (["a.c[].d"], {"a": {"c": [{"d": 2}]}}),
        (["a", "a.b"], {"a": {"b": 1, "c": [{"d": 2, "e": 3}]}}),
        ({"include": ["f"]}, {"f": 4}),
        ({"exclude": ["a.c", "f"]}, {"a": {"b": 1}, "g.h": 5}),
        ([], {}),
        ({"include": []}, {}),
        ({"exclude": []}, {"a": {"b": 1, "c": [{"d": 2, "e": 3}]}, "f": 4, "g.h": 5}),
        (['"g.h"', "f"], {"f": 4, "g.h": 5}),
        ({"exclude": ["a", '"g.h"']}, {"f": 4}),
        (["g.h"], {}),
    ],
)
def test_payload_keys_can_be_chosen(http, name, selector, expected):
    path = vectors(http, name)
    payload = {"a": {"b": 1, "c": [{"d": 2, "e": 3}]}, "f": 4, "g.h": 5}
    put(http, path, {"id": 1, "vector": axis(0), "payload": payload})
    for route, body in (
        ("/points/query", {"query": axis(0)}),
        ("/search", {"query": axis(0)}),
        ("/points/scroll", {}),
    ):
        points = ok(http.post(path + route, json={**body, "with_payload": selector}))["points"]
        assert points[0]["payload"] == expected


@pytest.mark.parametrize("key", ["a..b", "", "a[0].b", 'a"b', "a" * 5000])
@pytest.mark.parametrize("choice", ["include", "exclude"])
def test_payload_keys_that_are_no_paths(http, name, key, choice):
    path = vectors(http, name)
    body = {"query": axis(0), "with_payload": {choice: ["f", key]}}
    refused(http.post(f"{path}/points/query", json=body), 400, "invalid_input", f"with_payload.{choice}[1]")


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
    response = http.put(f"{path}/points", json={"points": [{"id": "l", "text": long}, {"id": 2, "text": "red"}]})
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
