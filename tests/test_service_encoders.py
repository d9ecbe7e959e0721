"""Encoders over HTTP: other spaces, failures, none at all, and the packaged one on real texts."""

from __future__ import annotations

import threading
import time

import orjson
import pytest

from service.client import Client
from service.demo import CORPUS
from service.encoders import Encoders, open_encoders
from service.evaluation import evaluate
from service.settings import ClientSettings, Settings
from tests.conftest import FakeEncoder, Server, fake_encoders
from tests.service_calls import axis, ok, put, refused, texts, vectors


def test_an_encoder_of_another_space_is_refused(serve):
    other = FakeEncoder(name="other", space="words/other")
    twin = FakeEncoder(name="twin")
    http = serve(FakeEncoder(), other, twin).http
    path = texts(http, "spaces")
    put(http, path, {"id": 1, "vector": {"text": "red", "model": "twin"}})
    assert twin.encoded == ["red"]
    points = [{"id": 1, "vector": {"text": "red", "model": "other"}}]
    refused(http.put(f"{path}/points", json={"points": points}), 400, "other_space")
    body = refused(
        http.post(f"{path}/points/query", json={"query": {"text": "red", "model": "other"}}),
        400,
        "other_space",
    )
    assert "words/other" in body["status"]["error"]
    assert "words/8" in body["status"]["error"]
    refused(http.post(f"{path}/points/query", json={"query": {"text": "a", "model": "?"}}), 400, "unknown_encoder")
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
            assert ok(http.post(f"{path}/search", json={"query": text, "limit": 1}))["points"][0]["id"] == expected
        response = http.post(f"{path}/points/bulk", content=orjson.dumps({"id": 4, "text": "word " * 400}))
        assert ok(response)["truncated_lines"] == [1]
        assert [e["state"] for e in ok(http.get("/encoders"))["encoders"]] == ["loaded"]
    finally:
        server.stop()


def test_the_packaged_encoder_ranks_the_sample_corpus_well_with_codes(tmp_path):
    settings = Settings(data_dir=tmp_path, port=0, log_level="error")
    server = Server(settings, open_encoders(default="default", model_dir=None, threads=1), None)
    try:
        with Client(ClientSettings(url=server.url)) as client:
            report = evaluate(
                client, CORPUS.parent, split="test", collection="sample", encoder="default", on_progress=lambda *_: None
            )
    finally:
        server.stop()
    assert (report.encoder, report.mode, report.truncated) == ("minilm", "codes", 0)
    assert report.documents >= 250
    # Measured: 1.0 and 0.914; what is missing there, exact search misses too.
    assert report.recall_at_10_of_exact >= 0.99
    assert report.ndcg_at_10 >= 0.85
