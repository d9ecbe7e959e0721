"""What is broken below the HTTP API: damage, drops, full disks, restarts and stops."""

from __future__ import annotations

import errno
import os
import sys
import threading
import time

import httpx
import orjson
import pytest

from index import durable
from index.collection import Collection
from index.errors import DiskFull
from tests.conftest import FakeEncoder
from tests.kill_server import Server
from tests.kill_writers import BULK_BATCH
from tests.service_calls import axis, ok, put, refused, texts, vectors


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
        patched.setattr(Collection, "upsert", lambda *_: (_ for _ in ()).throw(DiskFull("no room", hint="make some")))
        body = {"points": [{"id": 2, "vector": axis(0)}]}
        assert refused(http.put(f"{path}/points", json=body), 507, "disk_full")["hint"] == "make some"
        assert len(ok(http.post(f"{path}/search", json={"query": axis(0)}))["points"]) == 1
    put(http, path, {"id": 2, "vector": axis(0)})


@pytest.mark.parametrize("route", ["", "/bulk"])
def test_a_disk_that_fills_up_is_507_until_there_is_room(serve, tmp_path, monkeypatch, route):
    """Only the system call fails, for files of vectors; everything above it is real."""
    server = serve(data_dir=tmp_path / "d")
    http = server.http
    path = vectors(http, "full")
    put(http, path, {"id": 1, "vector": axis(0)})
    written = os.pwrite

    def write(vector):
        point = {"id": 2, "vector": vector}
        if route == "/bulk":
            return http.post(f"{path}/points/bulk", content=orjson.dumps(point))
        return http.put(f"{path}/points", json={"points": [point]})

    def no_room(fd, data, offset):
        if offset and len(data) > 1:
            written(fd, bytes(data[:1]), offset)  # as a disk does: what fits is written
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(durable.os, "pwrite", no_room)
        body = refused(write(axis(1)), 507, "disk_full")
        assert "no space left" in body["status"]["error"]
        assert ok(http.post(f"{path}/points/count", json={})) == {"count": 1}
        assert [hit["id"] for hit in ok(http.post(f"{path}/search", json={"query": axis(0)}))["points"]] == [1]
    ok(write(axis(2)))
    server.stop()
    http = serve(data_dir=tmp_path / "d").http
    found = ok(http.post(f"{path}/points", json={"ids": [1, 2], "with_vector": True}))
    assert [point["vector"] for point in found] == [axis(0), axis(2)]


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
        def encode_queries(self, texts, **size):
            entered.set()
            time.sleep(0.2)
            return super().encode_queries(texts, **size)

    server = serve(Slow())
    path = texts(server.http, "drain")
    put(server.http, path, {"id": 1, "vector": axis(3)})
    answers = []
    thread = threading.Thread(target=lambda: answers.append(server.http.post(f"{path}/search", json={"query": "sun"})))
    thread.start()
    assert entered.wait(10)
    server.uvicorn.should_exit = True
    thread.join()
    assert ok(answers[0])["points"][0]["id"] == 1


def test_a_load_that_outlives_the_drain_time_says_what_is_durable(serve, tmp_path):
    server = serve(data_dir=tmp_path / "d", bulk_batch=10)
    path = vectors(server.http, "long")
    ended = threading.Event()
    answers = []

    def body():
        # In one piece: lines that arrive after a block was cut wait for the next ten.
        yield b"".join(orjson.dumps({"id": i, "vector": axis(1)}) + b"\n" for i in range(20))
        ended.wait(50)

    client = httpx.Client(base_url=server.url, timeout=60)

    def load():
        answers.append(client.post(f"{path}/points/bulk", content=body()))

    thread = threading.Thread(target=load)
    thread.start()
    until(lambda: ok(server.http.get(path))["durable"] == 20)
    server.uvicorn.config.timeout_graceful_shutdown = 1
    server.stop()
    ended.set()
    thread.join()
    client.close()
    assert refused(answers[0], 503, "stopping")["result"]["accepted"] == 20
    http = serve(data_dir=tmp_path / "d").http
    assert ok(http.post(f"{path}/points/count", json={})) == {"count": 20}


@pytest.mark.skipif(sys.platform == "win32", reason="SIGTERM is POSIX")
def test_a_load_under_way_is_finished_after_sigterm(tmp_path):
    half = 2 * BULK_BATCH
    draining = threading.Event()
    answers = []

    def body():
        for i in range(2 * half):
            if i == half:
                assert draining.wait(30)
            yield orjson.dumps({"id": i, "vector": [1.0, float(i)]}) + b"\n"

    server = Server("usual", tmp_path / "data")
    server.start()
    try:
        with server.client() as client:
            path = vectors(client, "loaded", size=2)
            load = threading.Thread(target=lambda: answers.append(client.post(f"{path}/points/bulk", content=body())))
            load.start()
            until(lambda: ok(client.get(path))["durable"] >= BULK_BATCH)
            server.ask_to_stop()
            until(lambda: is_refused(server))
            draining.set()
            load.join(30)
        assert ok(answers[0])["accepted"] == 2 * half
        assert server.process.wait(30) == 0, server.state()
        server.start()
        with server.client() as client:
            assert ok(client.post(f"{path}/points/count", json={})) == {"count": 2 * half}
    finally:
        server.clean_up()


def until(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_refused(server):
    with server.client() as client:
        try:
            client.get("/healthz")
        except httpx.ConnectError:
            return True
    return False
