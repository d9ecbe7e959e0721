"""Points over HTTP: written, read, edited, deleted, counted, scrolled."""

from __future__ import annotations

import orjson
import pytest

from tests.service_calls import axis, ok, put, refused, texts, vectors


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
    assert ok(http.post(f"{path}/points/payload/delete", json={"keys": ["a", "b.c"], "filter": where}))["affected"] == 1
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
        page = ok(http.post(f"{path}/points/scroll", json={"limit": 2, "offset": offset, "with_payload": False}))
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
