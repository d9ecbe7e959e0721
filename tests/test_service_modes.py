"""Modes of a collection: who encodes what is stored and what is asked, and that both are always of one space."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from index.store import Store
from models import Sizes
from models.binarizers import Binarizers
from service.encoders import Encoders, Known, Pair
from service.settings import Settings
from tests.conftest import WORDS, FakeEncoder, Server
from tests.service_calls import axis, ok, put, refused, texts, vectors

TEACHER, STUDENT = "teacher-a", "student-a"


def fakes():
    """A teacher and a student of one space, and an encoder of another."""
    student = FakeEncoder(name=STUDENT, sizes=Sizes((0, 1), (4, 8)))
    return FakeEncoder(name=TEACHER), student, FakeEncoder(name="other", space="words/other")


class Servers:
    """Servers over one data directory, one after the other, each with encoders of its own."""

    def __init__(self, data_dir):
        self.data_dir = data_dir
        self.server = None

    def start(self, *encoders, known=None, **registry):
        """Serve encoders, the first of them as default; return a client once all is loaded that is going to be."""
        self.stop()
        loaders = {encoder.name: encoder for encoder in encoders}
        names = {name: Known() for name in loaders} | (known or {})
        default = {"default": encoders[0].name if encoders else None}
        self.encoders = Encoders(load=loaders.__getitem__, names=names, **(default | registry))
        self.server = Server(Settings(data_dir=self.data_dir, port=0, log_level="error"), self.encoders, None)
        end = time.monotonic() + 20
        while self.server.http.get("/readyz").status_code == 503:
            assert time.monotonic() < end
            time.sleep(0.01)
        return self.server.http

    def stop(self):
        if self.server is not None:
            self.server.stop()
            self.server = None

    def attributes(self, name, **changes):
        """What a collection keeps of its encoders, after a change, while no server runs; None removes a key."""
        self.stop()
        store = Store(self.data_dir, Binarizers())
        try:
            collection = store.get(name)
            if changes:
                together = {**collection.config.attributes, **changes}
                collection.set_attributes({key: value for key, value in together.items() if value is not None})
            kept = dict(collection.config.attributes)
        finally:
            store.close()
        return {key: kept[key] for key in ("encoder", "query_encoder", "space", "fold") if key in kept}


@pytest.fixture
def servers(tmp_path):
    made = Servers(tmp_path / "d")
    yield made
    made.stop()


def make(http, encoder, name="c"):
    ok(http.put(f"/collections/{name}", json={"encoder": encoder}))
    return f"/collections/{name}"


@pytest.mark.parametrize(
    ("encoder", "documents", "queries", "shown"),
    [
        (TEACHER, TEACHER, TEACHER, TEACHER),
        (STUDENT, STUDENT, STUDENT, STUDENT),
        ("default", TEACHER, TEACHER, TEACHER),
        ("fast", TEACHER, STUDENT, {"document": TEACHER, "query": STUDENT}),
        ("also-fast", TEACHER, STUDENT, {"document": TEACHER, "query": STUDENT}),
        ({"document": TEACHER, "query": STUDENT}, TEACHER, STUDENT, {"document": TEACHER, "query": STUDENT}),
        ({"document": STUDENT, "query": "default"}, STUDENT, TEACHER, {"document": STUDENT, "query": TEACHER}),
        ({"document": STUDENT, "query": STUDENT}, STUDENT, STUDENT, STUDENT),
    ],
)
def test_each_side_has_its_encoder(servers, encoder, documents, queries, shown):
    teacher, student, _ = made = fakes()
    by_name = {one.name: one for one in made}
    http = servers.start(*made, pairs={"fast": Pair(TEACHER, STUDENT)}, aliases={"also-fast": "fast"})
    ok(http.put("/collections/c", json={"encoder": encoder}))
    ok(http.put("/collections/same", json={"metadata": {"bitfold": {"encoder": encoder}}}))
    info = ok(http.get("/collections/c"))
    assert ok(http.get("/collections/same"))["encoder"] == info["encoder"]
    assert (info["encoder"], info["space"], info["fold"]) == (shown, "words/8", "backwards")
    assert info["texts_refused"] is None
    put(http, "/collections/c", {"id": 1, "text": "red sun"}, {"id": 2, "text": "moon"})
    found = ok(http.post("/collections/c/search", json={"query": "sun"}))
    assert found["points"][0] == {"id": 1, "score": pytest.approx(2**-0.5), "text": "red sun", "payload": {}}
    assert found["stages"]["encoder"] == queries
    assert by_name[documents].encoded == ["red sun", "moon"]
    assert [asked for asked, _, _ in by_name[queries].asked] == [["sun"]]
    for one in (teacher, student):
        if one.name != documents:
            assert one.encoded == []
        if one.name != queries:
            assert one.asked == []
    expected = {"encoder": documents, "space": "words/8", "fold": "backwards"}
    if documents != queries:
        expected["query_encoder"] = queries
    assert servers.attributes("c") == servers.attributes("same") == expected


def test_a_named_model_stands_for_its_side(servers):
    teacher, student, other = fakes()
    known = {"other": Known(space="words/other")}
    http = servers.start(teacher, student, other, known=known, pairs={"fast": Pair(TEACHER, STUDENT)})
    path = make(http, STUDENT)
    put(http, path, {"id": 1, "vector": {"text": "red", "model": "fast"}})
    assert (teacher.encoded, student.encoded) == (["red"], [])
    ok(http.post(f"{path}/points/query", json={"query": {"text": "red", "model": "fast"}}))
    assert (teacher.asked, len(student.asked)) == ([], 1)
    ok(http.post(f"{path}/search", json={"query": "red", "encoder": TEACHER}))
    assert len(teacher.asked) == 1
    refused(http.post(f"{path}/search", json={"query": "red", "encoder": "other"}), 400, "other_space")
    refused(http.post(f"{path}/search", json={"query": "red", "encoder": "?"}), 400, "unknown_encoder")
    refused(http.post(f"{path}/search", json={"query": axis(0), "encoder": TEACHER}), 400, "invalid_request", "encoder")


def test_a_pair_can_be_the_default(servers):
    teacher, student, _ = fakes()
    http = servers.start(teacher, student, pairs={"fast": Pair(TEACHER, STUDENT)}, default="fast")
    assert servers.encoders.loaded(TEACHER) is teacher
    assert servers.encoders.loaded(STUDENT) is student
    assert ok(http.get("/encoders"))["default"] == "fast"
    path = texts(http, "c")
    assert ok(http.get(path))["encoder"] == {"document": TEACHER, "query": STUDENT}
    put(http, path, {"id": 1, "vector": {"text": "red", "model": "default"}})
    ok(http.post(f"{path}/points/query", json={"query": {"text": "red", "model": "default"}}))
    assert (teacher.encoded, len(student.asked)) == (["red"], 1)


def test_two_spaces_make_no_collection(servers):
    http = servers.start(*fakes())
    first, second = ({"document": TEACHER, "query": "other"}, {"document": "other", "query": STUDENT})
    for body in ({"encoder": first}, {"metadata": {"bitfold": {"encoder": second}}}):
        wrong = refused(http.put("/collections/c", json=body), 400, "other_space", "encoder")
        assert "space words/8" in wrong["status"]["error"]
        assert "space words/other" in wrong["status"]["error"]
        assert "GET /encoders" in wrong["hint"]
    assert ok(http.get("/collections"))["collections"] == []


def test_two_spaces_are_told_apart_without_loading(servers):
    known = {"big": Known(space="one"), "small": Known(space="two"), "good": Known(space="one")}
    http = servers.start(known=known)
    wrong = refused(
        http.put("/collections/c", json={"encoder": {"document": "big", "query": "small"}}), 400, "other_space"
    )
    assert "encoder big makes vectors of the space one, encoder small of the space two" in wrong["status"]["error"]
    assert servers.encoders.failures() == {}  # there is nothing to load here: an attempt would fail
    alike = {"encoder": {"document": "big", "query": "good"}}
    refused(http.put("/collections/c", json=alike), 503, "encoder_unavailable")


def test_what_is_loaded_counts_more_than_what_was_known(servers):
    teacher, student, _ = fakes()
    student.space = "words/new"
    http = servers.start(teacher, student, known={STUDENT: Known(space="words/8")})
    body = {"encoder": {"document": TEACHER, "query": STUDENT}}
    wrong = refused(http.put("/collections/c", json=body), 400, "other_space")
    assert "words/new" in wrong["status"]["error"]


def test_encoders_that_are_none(servers):
    http = servers.start(*fakes())
    for encoder, type_, param in (
        ("no-such", "unknown_encoder", None),
        ({"document": TEACHER, "query": "no-such"}, "unknown_encoder", None),
        ({"document": TEACHER}, "invalid_request", "encoder.query"),
        ({"document": TEACHER, "query": 5}, "invalid_request", "encoder.query"),
        ({"document": TEACHER, "query": ""}, "invalid_request", "encoder.query"),
        ({"document": TEACHER, "query": STUDENT, "more": 1}, "unknown_key", "encoder.more"),
        ([TEACHER, STUDENT], "invalid_request", "encoder"),
        (5, "invalid_request", "encoder"),
        ({}, "invalid_request", "encoder.document"),
    ):
        refused(http.put("/collections/c", json={"encoder": encoder}), 400, type_, param)
        carried = {"metadata": {"bitfold": {"encoder": encoder}}}
        place = None if param is None else f"metadata.bitfold.{param}"
        refused(http.put("/collections/c", json=carried), 400, type_, place)
    assert ok(http.get("/collections"))["collections"] == []


def test_body_and_metadata_must_say_the_same(servers):
    http = servers.start(*fakes())
    pair = {"document": TEACHER, "query": STUDENT}
    body = {"encoder": pair, "metadata": {"bitfold": {"encoder": TEACHER}}}
    refused(http.put("/collections/c", json=body), 400, "invalid_request", "encoder")
    body["metadata"]["bitfold"]["encoder"] = pair
    ok(http.put("/collections/c", json=body))


@pytest.mark.parametrize("loaded", [False, True])
@pytest.mark.parametrize("side", ["document", "query"])
def test_a_start_finds_collections_of_another_space(servers, side, loaded):
    teacher, student, _ = fakes()
    http = servers.start(teacher, student)
    path = make(http, {"document": TEACHER, "query": STUDENT})
    put(http, path, {"id": 1, "text": "red"}, {"id": 2, "vector": axis(3)})
    put(http, vectors(http, "v"), {"id": 1, "vector": axis(0)})

    teacher, student, _ = fakes()
    changed = teacher if side == "document" else student
    changed.space = "words/9"
    known = {} if loaded else {changed.name: Known(space="words/9")}
    http = servers.start(FakeEncoder(name="plain"), teacher, student, known=known)
    if loaded:
        servers.encoders.get(changed.name)
    expected = f"encoder {changed.name} is of the space words/9, the collection holds the space words/8"
    ready = http.get("/readyz").json()
    assert ready["result"]["ready"]
    assert ready["result"]["collections_refusing_texts"] == {"c": expected}
    assert ready["result"]["collections_refusing_texts_count"] == 1
    assert ready["warnings"] == [f"collection c takes vectors only: {expected}"]
    assert ok(http.get(path))["texts_refused"] == expected

    def ask():
        return http.post(f"{path}/search", json={"query": "red"})

    def write():
        return http.put(f"{path}/points", json={"points": [{"id": 3, "text": "sun"}]})

    wrong = refused((write if side == "document" else ask)(), 400, "other_space")
    assert "words/8" in wrong["status"]["error"]
    assert "words/9" in wrong["status"]["error"]
    ok((ask if side == "document" else write)())
    assert ok(http.post(f"{path}/search", json={"query": axis(3)}))["points"][0]["id"] == 2
    put(http, path, {"id": 4, "vector": axis(5)})
    # Another encoder of the space still reads and writes.
    good = student if side == "document" else teacher
    ok(http.post(f"{path}/search", json={"query": "red", "encoder": good.name}))
    put(http, path, {"id": 5, "vector": {"text": "blue", "model": good.name}})


def test_a_collection_whose_encoder_is_gone_takes_vectors(servers):
    http = servers.start(*fakes())
    path = make(http, {"document": TEACHER, "query": STUDENT})
    put(http, path, {"id": 1, "text": "red"})
    http = servers.start(FakeEncoder(name=TEACHER))
    assert http.get("/readyz").json()["result"]["collections_refusing_texts"] == {
        "c": f"encoder {STUDENT} is not known to this server"
    }
    wrong = refused(http.post(f"{path}/search", json={"query": "red"}), 400, "unknown_encoder")
    assert f"encoder {STUDENT} of collection c" in wrong["status"]["error"]
    put(http, path, {"id": 2, "text": "sun"})
    assert ok(http.post(f"{path}/search", json={"query": axis(0)}))["points"][0]["id"] == 1
    # Without any encoder the server is ready, and says the same.
    http = servers.start()
    assert set(http.get("/readyz").json()["result"]["collections_refusing_texts"]) == {"c"}
    assert ok(http.post(f"{path}/search", json={"query": axis(0)}))["points"][0]["id"] == 1


def test_an_encoder_that_fails_keeps_its_collections_for_vectors(servers):
    http = servers.start(*fakes())
    path = make(http, {"document": TEACHER, "query": STUDENT})
    put(http, path, {"id": 1, "text": "red"})
    http = servers.start(FakeEncoder(name=TEACHER), known={STUDENT: Known(space="words/8")})
    result = http.get("/readyz").json()["result"]
    assert result["encoders_failed"] == {STUDENT: f"'{STUDENT}'"}
    assert result["collections_refusing_texts"] == {"c": f"encoder {STUDENT} failed to load: '{STUDENT}'"}
    refused(http.post(f"{path}/search", json={"query": "red"}), 503, "encoder_unavailable")
    ok(http.post(f"{path}/search", json={"query": "red", "encoder": TEACHER}))
    assert ok(http.post(f"{path}/search", json={"query": axis(0)}))["points"][0]["id"] == 1


def test_a_start_loads_what_queries_of_collections_need(servers):
    http = servers.start(*fakes())
    make(http, {"document": "other", "query": "other"}, "one")
    make(http, {"document": TEACHER, "query": STUDENT}, "two")
    servers.start(FakeEncoder(name="plain"), *fakes())
    states = {status.name: status.state for status in servers.encoders.statuses()}
    assert states == {"plain": "loaded", TEACHER: "not loaded", STUDENT: "loaded", "other": "loaded"}


def test_readyz_waits_for_the_encoders_of_collections():
    release = threading.Event()

    def load(name):
        if name == "slow":
            assert release.wait(20)
        return FakeEncoder(name=name)

    encoders = Encoders(load=load, names={"slow": Known(), "unused": Known()}, default="quick")
    done = threading.Event()
    encoders.start(["slow", "gone"], then=done.set)
    encoders.get("quick")
    assert not encoders.settled()
    until = time.monotonic() + 20
    while [status.state for status in encoders.statuses()] != ["loaded", "loading", "not loaded"]:
        assert time.monotonic() < until
        time.sleep(0.001)
    assert not done.is_set()
    release.set()
    assert done.wait(20)
    assert encoders.settled()


def test_older_collections_get_their_fold_recorded_and_nothing_else(servers):
    http = servers.start(*fakes())
    path = make(http, TEACHER)
    make(http, {"document": TEACHER, "query": STUDENT}, "pair")
    put(http, path, {"id": 1, "text": "red stone"})
    assert servers.attributes("c", fold=None) == {"encoder": TEACHER, "space": "words/8"}  # as before there were folds
    servers.attributes("pair", fold=None)
    http = servers.start(*fakes())
    until = time.monotonic() + 20
    while ok(http.get(path))["fold"] != "backwards":
        assert time.monotonic() < until
        time.sleep(0.01)
    answer = http.post(f"{path}/search", json={"query": "stone", "params": {"dimensions": 2}}).json()
    assert "warnings" not in answer
    assert answer["result"]["points"][0]["score"] == pytest.approx(1)  # of what the two axes see, "stone" is all
    assert servers.attributes("c") == {"encoder": TEACHER, "space": "words/8", "fold": "backwards"}
    assert servers.attributes("pair")["fold"] == "backwards"


def test_a_collection_of_an_encoder_without_fold_stays_as_it_is(servers):
    http = servers.start(FakeEncoder(fold=None))
    path = texts(http, "c")
    assert ok(http.get(path))["fold"] is None
    http = servers.start(FakeEncoder(fold=None))
    put(http, path, {"id": 1, "text": "red"})
    body = {"query": "red stone", "params": {"dimensions": 2}}
    (hit,) = ok(http.post(f"{path}/search", json=body))["points"]
    assert hit["score"] == pytest.approx(1)  # without a fold it is the first axes that are kept
    assert servers.attributes("c") == {"encoder": "fake", "space": "words/8"}


def test_another_fold_is_used_and_said(servers):
    http = servers.start(FakeEncoder(fold="older"))
    path = texts(http, "c")
    put(http, path, {"id": 1, "text": "stone"})
    http = servers.start(FakeEncoder())
    assert ok(http.get(path))["fold"] == "older"
    for params, said in (({"dimensions": 2}, True), ({"layers": 0}, False), ({"dimensions": 8}, False)):
        for route in ("search", "points/query"):
            query = "stone" if route == "search" else {"text": "stone"}
            answer = http.post(f"{path}/{route}", json={"query": query, "params": params}).json()
            assert answer["result"]["points"][0]["score"] == pytest.approx(1)
            assert bool(answer.get("warnings")) == said
            if said:
                assert "fold backwards of encoder fake" in answer["warnings"][0]
                assert "it was older" in answer["warnings"][0]


def test_a_size_that_the_encoder_lacks_is_named_with_its_place_in_a_batch(servers):
    http = servers.start(*fakes())
    path = texts(http, "c")
    sizes = [{}, {"dimensions": 4}, {"dimensions": 3}, {"dimensions": 3}]
    searches = [{"query": {"text": "stone"}, "params": size} for size in sizes]
    wrong = http.post(f"{path}/points/query/batch", json={"searches": searches})
    refused(wrong, 400, "unsupported_size", "searches[2].params")
    refused(http.post(f"{path}/search", json={"query": "stone", "params": sizes[2]}), 400, "unsupported_size", "params")


def test_in_a_batch_every_size_counts_for_itself(servers):
    """Under Cosine, documents are compared by their direction in what a query was cut to."""
    http = servers.start(*fakes())
    path = texts(http, "c")
    put(http, path, {"id": 1, "text": "red stone"}, {"id": 2, "text": "stone sea sun"}, {"id": 3, "text": "moon red"})
    bodies = [
        {"query": {"text": text}, "params": {"exact": exact, **size}}
        for text in ("stone", "sea stone")
        for size in ({"dimensions": 2}, {}, {"dimensions": 4}, {"dimensions": 4, "layers": 0})
        for exact in (True, False)
    ]
    alone = [ok(http.post(f"{path}/points/query", json=body))["points"] for body in bodies]
    together = ok(http.post(f"{path}/points/query/batch", json={"searches": bodies}))
    assert [one["points"] for one in together] == alone
    vectors = FakeEncoder().encode_documents(["red stone", "stone sea sun", "moon red"]).vectors
    for body, points in zip(bodies, alone, strict=True):
        params = body["params"]
        k = params.get("dimensions", len(WORDS))
        parts = vectors @ FakeEncoder().axes(k).T
        lengths = np.linalg.norm(parts, axis=1)
        (query,) = (
            FakeEncoder()
            .encode_queries([body["query"]["text"]], layers=params.get("layers"), dimensions=params.get("dimensions"))
            .vectors
        )
        query = query[::-1] if k == len(WORDS) else query  # whole vectors are not folded
        scores = parts @ query / np.where(lengths > 0, lengths, 1)
        assert {point["id"]: point["score"] for point in points} == pytest.approx(dict(enumerate(scores, 1)), abs=1e-6)


def test_vectors_have_no_modes(http, name):
    path = vectors(http, name)
    info = ok(http.get(path))
    assert (info["encoder"], info["space"], info["fold"], info["texts_refused"]) == (None,) * 4
    refused(http.post(f"{path}/search", json={"query": "red", "params": {"layers": 0}}), 400, "no_encoder")


def test_the_words_of_the_fake_are_as_expected():
    vectors = FakeEncoder().encode_queries(["stone red", "stone"], dimensions=2).vectors
    assert vectors.tolist() == [[1, 0], [1, 0]]
    assert (vectors[0] @ FakeEncoder().axes(2)).tolist() == axis(WORDS.index("stone"))
    assert np.array_equal(FakeEncoder().encode_queries(["red sun"], layers=0).vectors[0], axis(0))
