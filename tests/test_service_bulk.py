"""Bulk loads over HTTP: counts, errors by line, idempotence, gzip, limits, clients that go away."""

from __future__ import annotations

import base64
import gzip
import socket
import threading
import time

import numpy as np
import orjson
import pytest

from index.collection import Collection
from index.errors import DiskFull
from service.bulk import MAX_REPORTED, Inflater, Report
from service.ndjson import LineError
from service.responses import ApiError
from tests.conftest import WORDS, FakeEncoder
from tests.service_calls import DIMENSION, ok, texts, vectors


def lines(*points):
    return b"".join(orjson.dumps(point) + b"\n" for point in points)


def load(http, path, body, **headers):
    return http.post(f"{path}/points/bulk", content=body, headers=headers)


def count(http, path):
    return ok(http.post(f"{path}/points/count", json={}))["count"]


def test_good_lines_are_kept_and_bad_ones_reported(http, name):
    path = texts(http, name)
    body = (
        lines(
            {"id": 1, "text": "red sun", "payload": {"n": 1}},
            {"id": 2},
            {"id": "two", "text": "blue moon"},
            {"id": 4, "text": "no word that is known"},
            {"id": 5, "text": "red " * 9},
            {"id": 6, "text": "rain", "payload": [1]},
        )
        + b"{broken\n\n"
        + lines({"id": 9, "text": "stone", "more": 1}, {"id": 10, "text": "tree"})
    )
    result = ok(load(http, path, body))
    errors = [(error["line"], error["id"], error["type"]) for error in result.pop("errors")]
    assert errors == [
        (2, 2, "invalid_line"),
        (4, 4, "invalid_content"),
        (6, 6, "invalid_payload"),
        (7, None, "invalid_json"),
        (9, 9, "unknown_key"),
    ]
    assert result == {
        "accepted": 4, "rejected": 5, "truncated": 1, "unchanged": 0, "errors_truncated": False,
        "truncated_lines": [5], "truncated_lines_truncated": False,
    }  # fmt: skip
    found = ok(http.post(f"{path}/points/scroll", json={"with_text": True}))["points"]
    assert [(p["id"], p["text"].strip()[:9]) for p in found] == [
        (1, "red sun"), (5, "red red r"), (10, "tree"), ("two", "blue moon"),
    ]  # fmt: skip
    info = ok(http.get(path))
    assert (info["received"], info["durable"], info["rejected"]) == (9, 4, 5)


def test_vectors_as_lists_and_base64(http, name):
    path = vectors(http, name)
    data = np.random.default_rng(1).standard_normal((2, DIMENSION)).astype("<f4")
    body = lines(
        {"id": 1, "vector": data[0].tolist()},
        {"id": 2, "vector": base64.b64encode(data[1].tobytes()).decode()},
        {"id": 3, "vector": data[0].tolist()[:-1]},
        {"id": 4, "text": "red"},
    )
    result = ok(load(http, path, body))
    assert (result["accepted"], [error["type"] for error in result["errors"]]) == (
        2,
        ["invalid_vector", "no_encoder"],
    )
    found = ok(http.post(f"{path}/points", json={"ids": [1, 2], "with_vector": True}))
    np.testing.assert_array_equal(np.array([point["vector"] for point in found], np.float32), data)


def test_the_same_file_again_changes_and_encodes_nothing(serve):
    encoder = FakeEncoder()
    http = serve(encoder, bulk_batch=4).http
    path = texts(http, "again")
    points = [{"id": i, "text": word, "payload": {"i": i}} for i, word in enumerate(WORDS)]
    assert ok(load(http, path, lines(*points)))["unchanged"] == 0
    assert encoder.encoded == list(WORDS)
    result = ok(load(http, path, lines(*points)))
    assert (result["accepted"], result["unchanged"]) == (8, 8)
    points[3]["payload"] = {"i": "new"}
    points[5]["text"] = "red sun"
    result = ok(load(http, path, lines(*points)))
    assert (result["accepted"], result["unchanged"]) == (8, 6)
    assert encoder.encoded == [*WORDS, "red sun"]
    found = ok(http.post(f"{path}/points", json={"ids": [3, 5], "with_text": True}))
    assert [(point["payload"], point["text"]) for point in found] == [
        ({"i": "new"}, "sun"),
        ({"i": 5}, "red sun"),
    ]
    assert ok(http.post(f"{path}/search", json={"query": "sun", "limit": 1}))["points"][0]["id"] == 3


def test_of_an_id_that_comes_twice_the_last_line_counts(http, name):
    path = texts(http, name)
    ok(load(http, path, lines({"id": 1, "text": "sun"})))
    # The second line is what is stored: taken for unchanged, it would let the first one win.
    result = ok(load(http, path, lines({"id": 1, "text": "moon"}, {"id": 1, "text": "sun"})))
    assert result["accepted"] == 2
    assert ok(http.get(f"{path}/points/1"))["text"] == "sun"


@pytest.mark.parametrize("size", [1, 7, 64, 100_000])
def test_chunks_may_break_anywhere(http, name, size):
    path = vectors(http, name)
    points = [{"id": i, "vector": [float(i)] * DIMENSION, "payload": {"ü": "é" * 20}} for i in range(50)]
    body = lines(*points)[:-1]
    chunks = (body[i : i + size] for i in range(0, len(body), size))
    assert ok(load(http, path, chunks))["accepted"] == 50
    compressed = gzip.compress(body[:1000]) + gzip.compress(body[1000:])
    chunks = (compressed[i : i + size] for i in range(0, len(compressed), size))
    result = ok(load(http, path, chunks, **{"Content-Encoding": "gzip"}))
    assert (result["accepted"], result["unchanged"]) == (50, 50)


def test_an_empty_body_loads_nothing(http, name):
    path = vectors(http, name)
    assert ok(load(http, path, b""))["accepted"] == 0
    assert ok(load(http, path, b"\n\n \n"))["rejected"] == 0


def test_damaged_gzip_keeps_what_came_before(serve):
    http = serve(bulk_batch=1).http
    path = vectors(http, "gz")
    rng = np.random.default_rng(3)
    body = lines(*({"id": i, "vector": rng.standard_normal(DIMENSION).tolist()} for i in range(400)))
    whole = gzip.compress(body)
    for broken in (whole[:-20], whole[: len(whole) // 2], b"not gzip at all"):
        response = load(http, path, broken, **{"Content-Encoding": "gzip"})
        assert (response.status_code, response.json()["type"]) == (400, "invalid_gzip")
        assert response.json()["result"]["accepted"] <= count(http, path)
    assert count(http, path) > 100
    response = load(http, path, whole, **{"Content-Encoding": "br"})
    assert (response.status_code, response.json()["type"]) == (415, "unsupported_encoding")


def test_line_and_text_limits(serve):
    http = serve(max_line_bytes=1024, max_text_bytes=100).http
    path = texts(http, "limits")
    body = lines(
        {"id": 1, "text": "red"},
        {"id": 2, "text": "x" * 2000},
        {"id": 3, "text": "é" * 51},
        {"id": 4, "text": "sun"},
    )
    result = ok(load(http, path, body))
    assert [(e["line"], e["type"]) for e in result["errors"]] == [
        (2, "line_too_large"),
        (3, "text_too_large"),
    ]
    assert count(http, path) == 2


def test_only_the_first_errors_are_listed(http, name):
    path = vectors(http, name)
    result = ok(load(http, path, b"x\n" * 250))
    assert (result["rejected"], len(result["errors"]), result["errors_truncated"]) == (
        250,
        MAX_REPORTED,
        True,
    )
    assert [error["line"] for error in result["errors"]] == list(range(1, MAX_REPORTED + 1))


def test_only_the_first_lines_that_were_cut_are_listed(http, name):
    result = ok(load(http, texts(http, name), lines(*({"id": i, "text": "red " * 9} for i in range(101)))))
    assert (result["truncated"], result["truncated_lines"]) == (101, list(range(1, 101)))
    assert result["truncated_lines_truncated"] is True


def test_report_keeps_a_hundred_errors_however_they_come():
    report = Report()
    for start in range(0, 300, 60):
        report.refuse([LineError(start + i, None, "t", "m") for i in range(60)])
    assert (report.rejected, len(report.errors)) == (300, MAX_REPORTED)
    assert report.result()["errors_truncated"] is True


def test_unknown_collections_and_keys(http):
    response = load(http, "/collections/no-such", b"x" * 3_000_000)
    assert (response.status_code, response.json()["type"]) == (404, "unknown_collection")
    response = http.post("/collections/no-such/points/bulk?batch=3", content=b"")
    assert (response.status_code, response.json()["type"]) == (400, "unknown_key")


def test_counts_are_shown_while_a_load_runs(serve):
    http = serve(bulk_batch=10).http
    path = vectors(http, "live")
    sent, release = threading.Event(), threading.Event()

    def body():
        yield lines(*({"id": i, "vector": [1.0] * DIMENSION} for i in range(25)))
        sent.set()
        release.wait(30)
        yield lines({"id": 25, "vector": [1.0] * DIMENSION})

    answers = []
    thread = threading.Thread(target=lambda: answers.append(load(http, path, body())))
    thread.start()
    assert sent.wait(10)
    end = time.monotonic() + 20
    while ok(http.get(path))["durable"] < 20 and time.monotonic() < end:
        time.sleep(0.01)
    info = ok(http.get(path))
    release.set()
    thread.join()
    assert info["received"] >= info["durable"] == info["points_count"] >= 20
    assert ok(answers[0])["accepted"] == 26


def test_a_client_that_goes_away_loses_nothing_durable(serve):
    server = serve(bulk_batch=10)
    path = vectors(server.http, "gone")
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        data = lines(*({"id": i, "vector": [1.0] * DIMENSION} for i in range(200))) + b'{"id": 999, "vec'
        head = f"POST {path}/points/bulk HTTP/1.1\r\nHost: x\r\nContent-Length: {10 * len(data)}\r\n\r\n"
        connection.sendall(head.encode() + data)
        end = time.monotonic() + 20
        while (durable := count(server.http, path)) < 190 and time.monotonic() < end:
            time.sleep(0.01)
    assert durable >= 190
    ok(load(server.http, path, lines({"id": 500, "vector": [1.0] * DIMENSION})))
    found = ok(server.http.post(f"{path}/points", json={"ids": list(range(190)) + [500, 999]}))
    assert [point["id"] for point in found] == [*range(190), 500]


def test_a_dropped_collection_ends_the_load(serve):
    http = serve(bulk_batch=5).http
    path = vectors(http, "dropped")

    def body():
        yield lines(*({"id": i, "vector": [1.0] * DIMENSION} for i in range(20)))
        ok(http.delete(path))
        yield lines(*({"id": i, "vector": [1.0] * DIMENSION} for i in range(20)))

    response = load(http, path, body())
    assert (response.status_code, response.json()["type"]) == (404, "unknown_collection")
    assert "result" in response.json()


def test_more_loads_than_allowed_get_429_and_searches_go_on(serve):
    server = serve(max_concurrent_bulk=1)
    path = vectors(server.http, "many")
    begun, release = threading.Event(), threading.Event()

    def body():
        yield lines({"id": 1, "vector": [1.0] * DIMENSION})
        begun.set()
        release.wait(30)

    answers = []
    thread = threading.Thread(target=lambda: answers.append(load(server.http, path, body())))
    thread.start()
    assert begun.wait(10)
    end = time.monotonic() + 20
    while (response := load(server.http, path, b"")).status_code == 200 and time.monotonic() < end:
        time.sleep(0.01)
    search = server.http.post(f"{path}/search", json={"query": [1.0] * DIMENSION})
    release.set()
    thread.join()
    assert (response.status_code, response.json()["type"]) == (429, "over_capacity")
    assert response.headers["retry-after"] == "1"
    ok(search)
    assert ok(answers[0])["accepted"] == 1
    assert ok(load(server.http, path, b""))["accepted"] == 0


def test_disk_full_says_what_was_kept(serve, monkeypatch):
    http = serve(bulk_batch=10).http
    path = vectors(http, "full")
    write = Collection.upsert

    def upsert(self, batch):
        if 15 in batch.ids:
            raise DiskFull("no room for 10 rows", hint="make some")
        write(self, batch)

    monkeypatch.setattr(Collection, "upsert", upsert)
    body = lines(*({"id": i, "vector": [1.0] * DIMENSION} for i in range(30)))
    chunks = (body[i : i + 100] for i in range(0, len(body), 100))
    response = load(http, path, chunks)
    assert (response.status_code, response.json()["type"]) == (507, "disk_full")
    accepted = response.json()["result"]["accepted"]
    assert accepted == count(http, path)
    assert accepted < 30


def test_inflater_refuses_bombs_and_holds_little():
    bomb = gzip.compress(b"\0" * (100 << 20), 9)
    sizes = []
    with pytest.raises(ApiError, match="grows more than 400 times") as refusal:
        sizes.extend(len(piece) for piece in Inflater().feed(bomb))
    assert refusal.value.status == 413
    assert max(sizes) <= 1 << 16
    assert sum(sizes) < 66 << 20


def test_inflater_reads_members_and_notices_a_missing_end():
    data = gzip.compress(b"one\n") + gzip.compress(b"two\n")
    inflater = Inflater()
    assert b"".join(piece for i in range(len(data)) for piece in inflater.feed(data[i : i + 1])) == b"one\ntwo\n"
    inflater.finish()
    cut = Inflater()
    assert b"".join(cut.feed(data[:-4])) == b"one\ntwo\n"
    with pytest.raises(ApiError, match="ends too early"):
        cut.finish()
    Inflater().finish()
