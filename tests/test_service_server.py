"""The server as a whole, over HTTP: its own routes, limits, the API key, too many requests, late ones."""

from __future__ import annotations

import asyncio
import threading
import time

import orjson
import pytest

from service.limits import Pool
from service.responses import ApiError
from tests.conftest import FakeEncoder
from tests.service_calls import axis, ok, put, refused, texts, vectors


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
    refused(http.post(f"{path}/search", json={**query, "limit": 3, "offset": 3}), 400, "limit_too_large", "limit")
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
        def encode_queries(self, texts, **size):
            if texts == ["sun"]:
                entered.set()
                release.wait(30)
            return super().encode_queries(texts, **size)

    server = serve(Slow(), search_threads=1, max_queued=0)
    path = texts(server.http, "busy")
    waiting = []
    thread = threading.Thread(target=lambda: waiting.append(server.http.post(f"{path}/search", json={"query": "sun"})))
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
        def encode_queries(self, texts, **size):
            time.sleep(0.05)
            return super().encode_queries(texts, **size)

    http = serve(Slow(), search_timeout_ms=20).http
    path = texts(http, "late")
    put(http, path, {"id": 1, "vector": axis(0)})
    refused(http.post(f"{path}/search", json={"query": "sun"}), 408, "deadline_exceeded")


def test_pool_refuses_beyond_threads_and_queue():
    async def overfill():
        release = threading.Event()
        pool = Pool("test", threads=1, queue=1)
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
