"""The encoders of the default space as they are shipped, over HTTP: names, modes, sizes, of all that are there."""

from __future__ import annotations

import time

import numpy as np
import pytest

from models import presets
from service.settings import Settings
from tests.conftest import Server
from tests.service_calls import ok, put, refused, texts

STUDENT = presets.DATA / "student"
needs_student = pytest.mark.skipif(
    not (STUDENT / "student.json").is_file(), reason="models/data/student is missing: no encoders student and static"
)
FACTS = {
    1: "The Nile flows north through eleven countries.",
    2: "A violin has four strings and is played with a bow.",
    3: "Penguins are birds that cannot fly but swim well.",
}
QUESTIONS = {"river in Africa": 1, "musical instrument with strings": 2, "birds that swim": 3}
TEACHER = "minilm"


@pytest.fixture(scope="module")
def http(tmp_path_factory):
    """Serve with nothing configured, as `make serve` does."""
    server = Server(Settings(data_dir=tmp_path_factory.mktemp("space"), port=0, log_level="error"), None, None)
    while server.http.get("/readyz").status_code == 503:
        time.sleep(0.01)
    yield server.http
    server.stop()


def encoders(http):
    return {encoder["name"]: encoder for encoder in ok(http.get("/encoders"))["encoders"]}


def embedded(http, model, texts, **options):
    """Vectors of texts; an encoder that loads is asked again."""
    body = {"model": model, "input": texts} | options
    while (answer := http.post("/v1/embeddings", json=body)).status_code == 503:
        assert "still loading" in answer.text
        time.sleep(0.01)
    assert answer.status_code == 200, answer.text
    return np.array([item["embedding"] for item in answer.json()["data"]], np.float32)


def test_nothing_needs_to_be_configured(http):
    listed = ok(http.get("/encoders"))
    assert listed["default"] == TEACHER
    assert listed["pairs"]["leaf-ir"] == {"document": "arctic-m-v1.5", "query": "leaf-ir"}
    teacher = encoders(http)[TEACHER]
    assert (teacher["state"], teacher["dimension"], teacher["max_tokens"]) == ("loaded", 384, 256)
    assert teacher["sizes"]["layers"] == [6]
    assert teacher["sizes"]["dimensions"][-1] == 384
    assert "teacher" in teacher["details"]["aliases"]
    assert teacher["runtime"] in ("onnx", "torch")
    ok(http.put("/collections/named", json={"encoder": "teacher"}))
    assert ok(http.get("/collections/named"))["encoder"] == TEACHER


def test_a_folded_encoder_has_a_space_of_its_own(http):
    folded = encoders(http)[f"{TEACHER}-folded"]
    assert folded["space"].startswith(encoders(http)[TEACHER]["space"] + "/")
    body = {"encoder": {"document": TEACHER, "query": f"{TEACHER}-folded"}}
    wrong = refused(http.put("/collections/mixed", json=body), 400, "other_space", "encoder")
    assert folded["space"] in wrong["status"]["error"]


@pytest.mark.parametrize("dimensions", [64, 128, 256])
def test_short_queries_find_what_whole_ones_do(http, dimensions):
    path = texts(http, f"short-{dimensions}")
    put(http, path, *({"id": id_, "text": text} for id_, text in FACTS.items()))
    teacher = embedded(http, f"{TEACHER}-folded", list(FACTS.values()), dimensions=dimensions)
    for question, expected in QUESTIONS.items():
        body = {"query": question, "params": {"dimensions": dimensions}}
        found = ok(http.post(f"{path}/search", json=body))
        assert (found["points"][0]["id"], found["stages"]["dimensions"]) == (expected, dimensions)
        # A short query against whole documents: the cosine with their prefix.
        asked = embedded(http, f"{TEACHER}-folded", [question], dimensions=dimensions, input_type="query")[0]
        expected_scores = sorted(teacher @ asked, reverse=True)
        assert [hit["score"] for hit in found["points"]] == pytest.approx(expected_scores, abs=1e-5)
        assert np.argmax(teacher @ asked) == expected - 1


@needs_student
def test_student_and_static_are_encoders_of_the_default_space(http):
    listed = encoders(http)
    names = (TEACHER, "student", "static")
    assert len({listed[name]["space"] for name in names}) == 1
    own = "student" if listed["student"]["sizes"]["layers"] != [0] else "static"
    assert [listed[name]["role"] for name in names] == ["teacher", own, "static"]
    assert listed["static"]["sizes"]["layers"] == [0]
    assert listed["student"]["sizes"]["layers"][0] == 0
    assert listed["student"]["sizes"]["dimensions"] == listed[TEACHER]["sizes"]["dimensions"]
    assert (listed["static"]["runtime"], listed["student"]["dimension"]) == ("numpy", 384)
    assert listed["student"]["details"]["license"]


@needs_student
@pytest.mark.parametrize(
    ("encoder", "queries"),
    [
        (TEACHER, TEACHER),
        ({"document": TEACHER, "query": "student"}, "student"),
        ({"document": "teacher", "query": "static"}, "static"),
        ("student", "student"),
        ("static", "static"),
    ],
)
def test_modes_of_the_default_space(http, encoder, queries):
    path = f"/collections/mode-{encoder if isinstance(encoder, str) else 'pair-' + queries}"
    ok(http.put(path, json={"encoder": encoder}))
    put(http, path, *({"id": id_, "text": text} for id_, text in FACTS.items()))
    for question, expected in QUESTIONS.items():
        found = ok(http.post(f"{path}/search", json={"query": question}))
        assert (found["points"][0]["id"], found["stages"]["encoder"]) == (expected, queries)
    # Whoever reads this space reads every collection of it.
    for name in (TEACHER, "student", "static"):
        embedded(http, name, ["loaded"])
        found = ok(http.post(f"{path}/search", json={"query": "river in Africa", "encoder": name}))
        assert (found["points"][0]["id"], found["stages"]["encoder"]) == (1, name)


@needs_student
def test_static_is_the_first_exit_of_the_student(http):
    asked = list(QUESTIONS)
    static = embedded(http, "static", asked, input_type="query")
    np.testing.assert_allclose(embedded(http, "student", asked, layers=0), static, atol=1e-6)
    whole = embedded(http, "student", asked)
    assert encoders(http)["student"]["sizes"]["layers"] == [0] or np.abs(whole - static).max() > 1e-3
    path = texts(http, "exits")
    put(http, path, *({"id": id_, "text": text} for id_, text in FACTS.items()))
    found = ok(http.post(f"{path}/search", json={"query": asked[0], "encoder": "student", "params": {"layers": 0}}))
    assert (found["points"][0]["id"], found["stages"]["layers"]) == (1, 0)
    body = {"query": asked[0], "encoder": "static", "params": {"layers": 6}}
    wrong = refused(http.post(f"{path}/search", json=body), 400, "unsupported_size", "params")
    assert "layers 0" in wrong["status"]["error"]
