"""What one request may hold, for how long, and what happens when a collection changes under it."""

from __future__ import annotations

import gzip
import os
import resource
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import orjson
import pytest
from starlette.responses import Response

from index.collection import Collection
from index.errors import InvalidVector, UnknownCollection
from index.points import Point
from models import InvalidText
from models.encoder import Encoded
from service import queries
from service.encoders import Encoders, Known
from service.errors import EncoderLoading, EncoderUnavailable
from service.ingest import Incoming, ingest
from service.limits import Budget
from service.responses import ApiError, translate
from service.settings import Settings
from service.vectors import read_numbers
from tests.conftest import WORDS, FakeEncoder, Server
from tests.service_calls import axis, ok, refused, texts, vectors


def begin(server, path, *, length, data=b""):
    """Send the head of a POST and the first bytes of its body."""
    host, port = server.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=20)
    head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\n\r\n"
    connection.sendall(head.encode() + data)
    return connection


def answer(connection):
    """Read until the server closes the connection."""
    received = b""
    while chunk := connection.recv(65_536):
        received += chunk
    return received


# Bytes and seconds of bodies


def test_budget_takes_what_is_left_and_gives_it_back():
    budget = Budget("body", 10)
    with budget.share() as one:
        one.take(6)
        with budget.share() as two:
            two.take(4)
            with pytest.raises(ApiError, match="no room for more body requests") as caught:
                one.take(1)
            assert caught.value.status == 429
        one.take(4)
    with budget.share() as three:
        three.take(10)


def test_bodies_that_arrive_hold_bytes_together(serve, monkeypatch):
    server = serve(max_body_bytes=2000, max_bodies_bytes=2000)
    path = vectors(server.http, "together")
    body = orjson.dumps({"query": axis(0)})
    held, released = threading.Event(), threading.Event()
    take, give = Budget.take, Budget.give

    def taking(self, size):
        take(self, size)
        if size == 1990:
            held.set()

    def giving(self, size):
        give(self, size)
        if size == 1990:
            released.set()

    monkeypatch.setattr(Budget, "take", taking)
    monkeypatch.setattr(Budget, "give", giving)
    with begin(server, f"{path}/search", length=2000, data=b" " * 1990):
        assert held.wait(20)
        response = server.http.post(f"{path}/search", content=body)
        assert refused(response, 429, "over_capacity")["hint"]
        assert response.headers["retry-after"] == "1"
    assert released.wait(20)
    ok(server.http.post(f"{path}/search", content=body))


@pytest.mark.parametrize("route", ["search", "points/bulk"])
def test_a_body_that_stalls_ends_with_408(serve, route):
    server = serve(body_idle_s=0.2, max_concurrent_bulk=1)
    path = vectors(server.http, "stalled")
    line = orjson.dumps({"id": 1, "vector": axis(1)}) + b"\n"
    with begin(server, f"{path}/{route}", length=1000, data=line) as connection:
        received = answer(connection)
    assert received.startswith(b"HTTP/1.1 408 ")
    assert b'"type":"body_stalled"' in received
    # The place of a load is free again.
    ok(server.http.post(f"{path}/points/bulk", content=line))


def test_blocks_before_a_stall_stay(serve):
    server = serve(body_idle_s=0.3, bulk_batch=1)
    path = vectors(server.http, "partly")
    data = b"".join(orjson.dumps({"id": i, "vector": axis(1)}) + b"\n" for i in range(3))
    with begin(server, f"{path}/points/bulk", length=10_000, data=data) as connection:
        received = orjson.loads(answer(connection).split(b"\r\n\r\n", 1)[1])
    assert received["type"] == "body_stalled"
    assert received["result"]["accepted"] == ok(server.http.post(f"{path}/points/count", json={}))["count"] > 0


def test_a_load_that_fails_early_is_answered_while_the_client_still_sends(serve):
    """The rest of the body is passed over by the server, on a connection that goes on."""
    http = serve().http
    path = vectors(http, "early")
    rest = np.random.default_rng(0).bytes(32 << 20)
    damaged = gzip.compress(b"x" * 100)[:-8] + rest
    response = http.post(f"{path}/points/bulk", content=damaged, headers={"Content-Encoding": "gzip"})
    refused(response, 400, "invalid_gzip")
    assert ok(http.get(f"{path}/exists"))["exists"]


# A collection that is dropped and made again meanwhile


def test_a_write_for_a_dropped_collection_does_not_reach_the_next_one(serve, monkeypatch):
    server = serve()
    http = server.http
    path = vectors(http, "reborn")
    engine_get = _replace_after_reading(monkeypatch, http, path)
    response = http.put(f"{path}/points", json={"points": [{"id": 1, "vector": axis(0)}]})
    assert engine_get.is_set()
    refused(response, 404, "unknown_collection")
    assert ok(http.post(f"{path}/points/count", json={}))["count"] == 0


@pytest.mark.parametrize("route", ["search", "points/query"])
def test_a_query_for_a_dropped_collection_is_not_put_to_the_next_one(serve, monkeypatch, route):
    http = serve().http
    path = vectors(http, "reborn")
    replaced = _replace_after_reading(monkeypatch, http, path)
    response = http.post(f"{path}/{route}", json={"query": axis(0)})
    assert replaced.is_set()
    refused(response, 404, "unknown_collection")


def _replace_after_reading(monkeypatch, http, path):
    """Make a collection of one dimension out of the one that a request has just read vectors for."""
    done = threading.Event()

    def replace(value, where, dimension):
        vector = read_numbers(value, where, dimension)
        if not done.is_set():
            done.set()
            ok(http.delete(path))
            vectors(http, path.rsplit("/", 1)[1], size=1)
        return vector

    for module in ("service.vectors", "service.routes_search"):
        monkeypatch.setattr(f"{module}.read_numbers", replace)
    return done


def test_a_load_does_not_go_on_in_the_next_collection(serve):
    server = serve(bulk_batch=1)
    http = server.http
    path = texts(http, "reborn")

    def lines():
        yield orjson.dumps({"id": 1, "text": "red"}) + b"\n"
        end = time.monotonic() + 20
        while ok(http.get(path))["points_count"] == 0 and time.monotonic() < end:
            yield b"\n" * 65_536
        ok(http.delete(path))
        texts(http, "reborn")
        yield orjson.dumps({"id": 2, "text": "sun"}) + b"\n"

    body = refused(http.post(f"{path}/points/bulk", content=lines()), 404, "unknown_collection")
    assert body["result"]["accepted"] == 1
    assert ok(http.post(f"{path}/points/count", json={}))["count"] == 0


def test_engine_takes_no_vectors_of_another_width(serve):
    server = serve()
    vectors(server.http, "narrow")
    engine = _engine(server)
    with pytest.raises(InvalidVector, match="have 1 dimensions, the collection has 8"):
        engine.search("narrow", [queries.Query(limit=1, vector=np.ones(1, np.float32))])
    one = Incoming([1], [None], np.ones((1, 1), np.float32), [b"{}"], [bytes(16)])
    with pytest.raises(InvalidVector, match="have 1 dimensions"):
        engine.upsert("narrow", one)
    old = engine.catalog.get("narrow")
    engine.catalog.drop("narrow")
    vectors(server.http, "narrow")
    with pytest.raises(UnknownCollection, match="dropped meanwhile"), engine.catalog.using("narrow", old):
        pass


def _engine(server):
    """The engine of a running server, taken from a request as its routes do."""
    found = []

    async def look(request):
        found.append(request.state.services.engine)
        return Response()

    server.app.router.add_route("/look", look)
    server.http.get("/look")
    return found[0]


# Encoders that load


def test_searches_do_not_wait_for_an_encoder(tmp_path):
    release = threading.Event()

    def slow(_):
        release.wait(30)
        return FakeEncoder()

    with FakeServer(tmp_path, Encoders(load=lambda _: FakeEncoder(), names={}, default="fake")) as http:
        path = texts(http, "late")
        ok(http.put(f"{path}/points", json={"points": [{"id": 1, "text": "sun"}]}))
    with FakeServer(tmp_path, Encoders(load=slow, names={}, default="fake"), search_threads=1) as http:
        try:
            response = http.post(f"{path}/search", json={"query": "sun"})
            refused(response, 503, "encoder_unavailable")
            assert response.headers["retry-after"] == "2"
            assert ok(http.post(f"{path}/search", json={"query": axis(3)}))["points"][0]["id"] == 1
        finally:
            release.set()
        end = time.monotonic() + 20
        while (response := http.post(f"{path}/search", json={"query": "sun"})).status_code == 503:
            assert time.monotonic() < end
        assert ok(response)["points"][0]["id"] == 1


class FakeServer:
    """A server with encoders of its own, as a context that gives its client."""

    def __init__(self, data_dir, encoders, **settings):
        self._server = Server(Settings(data_dir=data_dir, port=0, log_level="error", **settings), encoders, None)

    def __enter__(self):
        return self._server.http

    def __exit__(self, *_):
        self._server.stop()


def test_asking_without_waiting_begins_to_load():
    encoders = Encoders(load=lambda _: FakeEncoder(), names={"other": Known()}, default=None)
    with pytest.raises(EncoderLoading, match="other is still loading"):
        encoders.get("other", wait=0)
    end = time.monotonic() + 20
    while encoders.statuses()[0].state != "loaded":
        assert time.monotonic() < end
        time.sleep(0.01)
    assert encoders.get("other", wait=0).name == "fake"


def test_only_what_passes_says_when_to_try_again():
    assert translate(EncoderLoading("soon")).headers == {"Retry-After": "2"}
    assert translate(EncoderUnavailable("broken")).headers == {}
    assert translate(EncoderUnavailable("broken")).status == 503


# Sizes of answers


def test_a_page_of_large_points_ends_early(monkeypatch):
    monkeypatch.setattr(queries, "PAGE_BYTES", 100_000)
    stored = [Point(i, b"{}", "x" * 1000, None) for i in range(1000)]
    asked = []

    def read(after, count):
        asked.append(count)
        start = after or 0
        following = start + count
        return stored[start:following], following if following < len(stored) else None

    points, following = queries.bounded_page(read, None, 1000)
    assert 90 <= len(points) <= 200
    assert following == len(points)
    assert [point.id for point in points] == list(range(len(points)))
    assert max(asked) <= 200


def test_a_page_of_small_points_is_whole():
    stored = [Point(i, b"{}", None, np.zeros(4, np.float32)) for i in range(3000)]

    def read(after, count):
        start = after or 0
        return stored[start : start + count], start + count if start + count < len(stored) else None

    points, following = queries.bounded_page(read, None, 2500)
    assert ([point.id for point in points], following) == (list(range(2500)), 2500)
    points, following = queries.bounded_page(read, 2900, 2500)
    assert (len(points), following) == (100, None)


def test_scroll_over_http_gives_every_point_though_pages_end_early(serve, monkeypatch):
    monkeypatch.setattr(queries, "PAGE_BYTES", 20_000)
    http = serve().http
    path = vectors(http, "pages")
    points = [{"id": i, "vector": axis(0), "payload": {"long": "x" * 500}} for i in range(300)]
    ok(http.put(f"{path}/points", json={"points": points}))
    offset, found, pages = None, [], 0
    while pages == 0 or offset is not None:
        page = ok(http.post(f"{path}/points/scroll", json={"limit": 1000, "offset": offset}))
        found += [point["id"] for point in page["points"]]
        offset, pages = page["next_page_offset"], pages + 1
    assert found == list(range(300))
    assert pages > 1


def test_a_batch_may_not_ask_for_too_many_points_together(serve):
    http = serve(max_limit=10).http
    path = vectors(http, "batch")
    one = {"query": axis(0), "limit": 10}
    ok(http.post(f"{path}/points/query/batch", json={"searches": [one] * 10}))
    response = http.post(f"{path}/points/query/batch", json={"searches": [one] * 10 + [{"query": axis(0), "limit": 1}]})
    assert "101 points together, at most 100" in refused(response, 400, "limit_too_large")["status"]["error"]


# Reads


def test_the_deadline_of_a_read_holds_for_reading_by_id(serve):
    http = serve().http
    path = vectors(http, "timed")
    ok(http.put(f"{path}/points", json={"points": [{"id": 1, "vector": axis(0)}]}))
    for response in (
        http.post(f"{path}/points?timeout=5", json={"ids": [1]}),
        http.get(f"{path}/points/1?timeout=5"),
    ):
        assert ok(response)
        assert "warnings" not in response.json()


def test_a_read_that_waited_too_long_is_not_begun(serve, monkeypatch):
    http = serve(search_threads=1, search_timeout_ms=50).http
    path = vectors(http, "waits")
    entered, release = threading.Event(), threading.Event()
    points = Collection.points

    def held(self, *args, **kwargs):
        entered.set()
        release.wait(20)
        return points(self, *args, **kwargs)

    monkeypatch.setattr(Collection, "points", held)
    first = threading.Thread(target=lambda: http.post(f"{path}/points", json={"ids": [1]}))
    first.start()
    assert entered.wait(10)
    threading.Timer(0.3, release.set).start()
    refused(http.post(f"{path}/points", json={"ids": [1]}), 408, "deadline_exceeded")
    first.join()


def test_readyz_shows_names_only_with_the_key(tmp_path):
    def broken(_):
        raise OSError("/secret/place is not there")

    encoders = Encoders(load=broken, names={}, default="fake")
    with FakeServer(tmp_path, encoders, api_key="s3cret") as http:
        end = time.monotonic() + 20
        while http.get("/readyz").status_code != 200:
            assert time.monotonic() < end
        body = http.get("/readyz").json()
        assert body["result"] == {
            "ready": True,
            "encoders_failed_count": 1,
            "collections_damaged_count": 0,
            "collections_refusing_texts_count": 0,
        }
        assert "warnings" not in body
        shown = http.get("/readyz", headers={"api-key": "s3cret"}).json()
        assert "/secret/place" in shown["result"]["encoders_failed"]["fake"]
        assert shown["warnings"]
        assert "secret" not in http.get("/readyz", headers={"api-key": "wrong"}).text


# Refused texts of a load


class Picky(FakeEncoder):
    """Refuses texts without known words, after it has encoded all; counts what it encoded."""

    def __init__(self):
        super().__init__()
        self.work = 0

    def encode_documents(self, given):
        self.work += len(given)
        bad = [i for i, text in enumerate(given) if text not in WORDS]
        if bad:
            raise InvalidText(f"no words in text {bad[0]}", index=bad[0])
        rows = np.array([axis(WORDS.index(text)) for text in given], np.float32)
        return Encoded(vectors=rows, truncated=np.array([text == "sun" for text in given]))


def test_refused_texts_do_not_encode_the_block_once_each(serve):
    server = serve()
    vectors(server.http, "picky")
    collection = _engine(server).catalog.get("picky")
    n = 512
    given = ["?" if i % 2 else WORDS[i % 8] for i in range(n)]
    incoming = Incoming(list(range(n)), given, None, [b"{}"] * n, [i.to_bytes(16, "big") for i in range(n)])
    encoder = Picky()
    outcome = ingest(collection, incoming, encoder, skip_bad=True)
    assert outcome.accepted == n // 2
    assert sorted(i for i, _ in outcome.refused) == list(range(1, n, 2))
    assert encoder.work <= 10 * n
    found = collection.points(list(range(n)), with_vector=True)
    assert [point.id for point in found] == list(range(0, n, 2))
    assert all(point.vector.tolist() == axis(point.id % 8) for point in found)
    with pytest.raises(InvalidText, match="point 2: no words in the text"):
        ingest(collection, Incoming([1, 2], ["red", "?"], None, [b"{}"] * 2, [b"a" * 16, b"b" * 16]), encoder)


def test_vectors_of_the_wrong_length_are_refused_before_their_numbers_are_looked_at():
    with pytest.raises(ApiError, match="has 3 dimensions"):
        read_numbers(["a", None, {}], "query", 2)


# The process


def test_open_files_are_raised_to_the_hard_limit():
    hard = min(4096, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    code = (
        "import resource; from service.process import allow_open_files;"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, (100, {hard})); allow_open_files();"
        "import sys; sys.stdout.write(str(resource.getrlimit(resource.RLIMIT_NOFILE)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ))
    assert done.stdout == str((hard, hard)), done.stderr
