"""Memory and disk that loads would take: what fits is loaded, what does not is refused before it begins."""

from __future__ import annotations

import gzip
import re
import time
from collections import namedtuple

import orjson
import pytest

from index.options import StoreOptions
from service import room
from service.load_size import Announced
from service.room import Expected
from tests.conftest import FakeEncoder
from tests.service_calls import axis, command, ok, put, refused, texts, vectors

# A point that waits for codes takes 33 bytes (8 floats, a flag) and an eighth; there are no codes below first_fit.
LIMIT = 10_000
FITS = 250
TOO_MANY = 400
OPTIONS = StoreOptions(memory_limit=LIMIT, exact_below=100_000)


@pytest.fixture
def small(serve):
    """A server whose collections may take 10,000 bytes, in blocks of 20 lines."""
    return serve(options=OPTIONS, bulk_batch=20)


def lines(first, count, value=1.0, payload=None):
    points = ({"id": i, "vector": axis(i % 8, value)} | ({"payload": payload} if payload else {}) for i in range(count))
    return b"".join(orjson.dumps(point | {"id": 100_000 + first + point["id"]}) + b"\n" for point in points)


def pieces(body, size=700):
    """The same body without its length."""
    return (body[i : i + size] for i in range(0, len(body), size))


def load(http, path, body, query="", **headers):
    return http.post(f"{path}/points/bulk{query}", content=body, headers=headers)


def count(http, path):
    return ok(http.post(f"{path}/points/count", json={}))["count"]


def metrics(http):
    found = re.findall(r"^(bitfold_memory\S*) (\S+)$", http.get("/metrics").text, re.MULTILINE)
    return {name: float(value) for name, value in found}


def test_a_load_that_will_not_fit_is_refused_before_it_begins(small):
    http = small.http
    path = vectors(http, "c")
    body = refused(load(http, path, lines(0, TOO_MANY)), 507, "will_not_fit")
    assert body["result"]["accepted"] == count(http, path) == 0
    message = body["status"]["error"]
    # Lines are all of one length here: nine tenths of what their bytes say are expected for sure.
    assert "about 360 new points" in message
    assert "11.7 KiB more of memory" in message
    assert "the limit is 9.8 KiB" in message
    for way in ("bits", "code_dimensions", "POST /collections/plan", "BITFOLD_MEMORY_LIMIT"):
        assert way in body["hint"]
    assert ok(load(http, path, lines(0, FITS)))["accepted"] == count(http, path) == FITS


def test_how_many_come_is_believed(small):
    http = small.http
    path = vectors(http, "c")
    told = f"?points={TOO_MANY}"
    for headers, encode in (({}, bytes), ({}, pieces), ({"Content-Encoding": "gzip"}, gzip.compress)):
        # What is sent now is little: the rest is announced for later requests.
        body = refused(load(http, path, encode(lines(0, 30)), told, **headers), 507, "will_not_fit")
        assert body["status"]["error"].startswith(f"{TOO_MANY} new points are expected in 'c'")
        assert count(http, path) == 0
    assert ok(load(http, path, pieces(lines(0, FITS)), f"?points={FITS}"))["accepted"] == FITS


@pytest.mark.parametrize(
    ("encode", "headers"), [(pieces, {}), (gzip.compress, {"Content-Encoding": "gzip"})], ids=["chunked", "gzip"]
)
def test_a_load_of_unknown_size_ends_where_room_does(small, encode, headers):
    http = small.http
    path = vectors(http, "c")
    body = refused(load(http, path, encode(lines(0, TOO_MANY)), **headers), 507, "will_not_fit")
    there = count(http, path)
    assert body["result"]["accepted"] == there
    assert ok(http.get(f"{path}/footprint"))["memory"]["total"] <= LIMIT
    # The next block, as it happened to come, would have been too much.
    block = int(re.match(r"(\d+) new points", body["status"]["error"])[1])
    assert there + block > FITS


def test_loads_that_say_too_little_end_where_room_does(small):
    path = vectors(small.http, "c")
    body = refused(load(small.http, path, lines(0, TOO_MANY), "?points=10"), 507, "will_not_fit")
    assert 0 < body["result"]["accepted"] == count(small.http, path) < LIMIT / 33


def test_what_is_there_already_can_be_loaded_again(small):
    http = small.http
    path = vectors(http, "c")
    held = 280
    ok(load(http, path, lines(0, held)))
    for query in ("", f"?points={held}"):
        again = ok(load(http, path, lines(0, held), query))
        assert (again["accepted"], again["unchanged"]) == (held, held)
    # Other vectors under the same ids: for a while that takes more, and at rest it does not.
    assert ok(load(http, path, lines(0, held, 2.0), f"?points={held}"))["accepted"] == held
    # A load that goes on behind what is there: some must be new, however its first lines look.
    body = refused(load(http, path, lines(0, TOO_MANY), f"?points={TOO_MANY}"), 507, "will_not_fit")
    assert "120 new points" in body["status"]["error"]
    assert body["result"]["accepted"] == 0
    refused(load(http, path, lines(held, held), f"?points={held}"), 507, "will_not_fit")
    assert count(http, path) == held


def test_small_writes_are_refused_too_and_overwrites_are_not(small):
    http = small.http
    path = vectors(http, "c")
    ok(load(http, path, lines(0, 280)))
    points = [{"id": i, "vector": axis(0)} for i in range(60)]
    body = refused(http.put(f"{path}/points", json={"points": points}), 507, "will_not_fit")
    assert "result" not in body
    assert "60 new points" in body["status"]["error"]
    assert count(http, path) == 280
    put(http, path, *({"id": 100_000 + i, "vector": axis(1)} for i in range(60)))
    put(http, path, {"id": 1, "vector": axis(1)})
    assert count(http, path) == 281


def test_all_collections_share_the_limit_and_a_dropped_one_gives_its_part_back(small):
    http = small.http
    one, two = vectors(http, "one"), vectors(http, "two")
    ok(load(http, one, lines(0, FITS)))
    until(lambda: metrics(http)['bitfold_memory_bytes{collection="one"}'] > 33 * FITS)
    assert metrics(http)["bitfold_memory_limit_bytes"] == LIMIT
    refused(load(http, two, lines(0, 100), "?points=100"), 507, "will_not_fit")
    server = ok(http.get(f"{two}/footprint"))["server"]
    assert (server["memory"] > 33 * FITS, server["memory_limit"]) == (True, LIMIT)
    ok(http.delete(one))
    assert ok(load(http, two, lines(0, 100), "?points=100"))["accepted"] == 100


def test_without_a_limit_nothing_is_refused_or_shown(http, name):
    path = vectors(http, name)
    assert ok(load(http, path, lines(0, TOO_MANY), "?points=1000"))["accepted"] == TOO_MANY
    assert "bitfold_memory_limit_bytes" not in metrics(http)
    plan = ok(http.post("/collections/plan", json={"points": 1, "vectors": {"size": 8, "distance": "Dot"}}))
    assert plan["server"]["memory_limit"] is None
    assert plan["server"]["disk_free"] > 0


def test_the_setting_is_the_limit(serve):
    http = serve(memory_limit="10KB").http
    path = vectors(http, "c")
    refused(load(http, path, lines(0, TOO_MANY), f"?points={TOO_MANY}"), 507, "will_not_fit")
    assert ok(http.get(f"{path}/footprint"))["server"]["memory_limit"] == 10_000


def test_a_load_that_the_disk_has_no_room_for_is_refused_before_it_begins(serve, monkeypatch):
    http = serve(bulk_batch=20).http
    path = vectors(http, "c")
    usage = namedtuple("usage", "total used free")
    # A point takes 32 bytes for its vector and 80 for its id; 1,000 more for these payloads.
    free = 150 * 112
    monkeypatch.setattr(room.shutil, "disk_usage", lambda _: usage(10**12, 0, free))
    body = refused(load(http, path, lines(0, 200), "?points=200"), 507, "disk_full")
    assert body["result"]["accepted"] == count(http, path) == 0
    assert "200 new points" in body["status"]["error"]
    assert "16.4 KiB are free" in body["status"]["error"]
    refused(load(http, path, lines(0, 20, payload={"a": "x" * 1000})), 507, "disk_full")
    refused(load(http, path, lines(0, 200)), 507, "disk_full")
    assert ok(load(http, path, lines(0, 100), "?points=100"))["accepted"] == 100
    # The same again takes nothing at rest.
    assert ok(load(http, path, lines(0, 100), "?points=100"))["unchanged"] == 100


def test_nothing_is_encoded_for_which_there_is_no_room(serve):
    encoder = FakeEncoder()
    http = serve(encoder, options=OPTIONS).http
    path = texts(http, "c")
    body = b"".join(orjson.dumps({"id": i, "text": "red sun"}) + b"\n" for i in range(TOO_MANY))
    refused(load(http, path, body), 507, "will_not_fit")
    assert encoder.encoded == []


def test_the_command_line_tells_how_many_come(small, tmp_path, capsys):
    path = vectors(small.http, "c")
    file = tmp_path / "points.jsonl"
    file.write_bytes(lines(0, TOO_MANY))
    # The body has no length: only the number says that it will not fit.
    status, _, error = command(capsys, "index", file, "-c", "c", "--url", small.url)
    assert (status, count(small.http, path)) == (1, 0)
    assert f"{TOO_MANY} new points are expected in 'c'" in error
    file.write_bytes(lines(0, FITS))
    status, _, _ = command(capsys, "index", file, "-c", "c", "--url", small.url)
    assert (status, count(small.http, path)) == (0, FITS)


@pytest.mark.parametrize("value", ["-1", "x", "1.5", "", "9" * 13])
def test_numbers_of_points_that_cannot_be(http, name, value):
    path = vectors(http, name)
    refused(load(http, path, lines(0, 1), f"?points={value}"), 400, "invalid_request", "points")


def test_what_a_request_announces():
    headers = {"content-length": "1000"}
    assert Announced.of({}, headers, "identity").expected(10, 100) == Expected(100, told=False)
    assert Announced.of({}, headers, "identity").expected(10, 2000) == Expected(10, told=False)
    assert Announced.of({}, headers, "gzip").expected(10, 100) is None
    assert Announced.of({}, {}, "identity").expected(10, 100) is None
    assert Announced.of({"points": "7"}, headers, "gzip").expected(10, 100) == Expected(7, told=True)


def until(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)
