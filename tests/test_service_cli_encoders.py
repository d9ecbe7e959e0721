"""The options of `bitfold index` and `bitfold search` that choose encoders and sizes, against a live server."""

from __future__ import annotations

import json

import pytest

from tests.conftest import FakeEncoder
from tests.service_calls import command, ok


@pytest.fixture
def made(serve, tmp_path):
    """A server of a teacher, a student and a stranger, and a file of two documents."""
    encoders = FakeEncoder(name="teach"), FakeEncoder(name="learn"), FakeEncoder(name="other", space="words/other")
    file = tmp_path / "documents.jsonl"
    file.write_text('{"id": 1, "text": "red stone"}\n{"id": 2, "text": "sun"}\n')
    return serve(*encoders), encoders, file


def test_a_new_collection_has_an_encoder_for_each_side(made, capsys):
    server, (teach, learn, _), file = made
    status, out, _ = command(
        capsys, "index", file, "-c", "c", "--encoder", "teach", "--query-encoder", "learn", "--url", server.url
    )
    assert (status, out.splitlines()[-1][:24]) == (0, "2 documents: 2 accepted ")
    assert ok(server.http.get("/collections/c"))["encoder"] == {"document": "teach", "query": "learn"}
    assert command(capsys, "search", "sun", "-c", "c", "--url", server.url)[0] == 0
    assert (teach.encoded, [asked for asked, _, _ in learn.asked]) == (["red stone", "sun"], [["sun"]])
    assert command(capsys, "collections", "--url", server.url)[1] == (
        "c: 2 points, 0 with codes; 8-d Cosine, encoder teach, queries learn\n"
    )


def test_two_spaces_are_refused(made, capsys):
    server, _, file = made
    status, _, err = command(
        capsys, "index", file, "-c", "c", "--encoder", "teach", "--query-encoder", "other", "--url", server.url
    )
    assert status == 1
    assert "encoder teach makes vectors of the space words/8, encoder other of the space words/other" in err
    assert ok(server.http.get("/collections"))["collections"] == []


def test_a_search_chooses_encoder_and_size(made, capsys):
    server, (teach, learn, _), file = made
    assert command(capsys, "index", file, "-c", "c", "--encoder", "teach", "--url", server.url)[0] == 0
    options = ("--encoder", "learn", "--layers", "0", "--dimensions", "2", "--json", "--url", server.url)
    for _ in range(50):  # a search does not wait for an encoder that loads
        status, out, err = command(capsys, "search", "stone red", "-c", "c", *options)
        if "still loading" not in err:
            break
    assert status == 0, err
    found = json.loads(out)
    assert {key: found["stages"][key] for key in ("encoder", "layers", "dimensions")} == {
        "encoder": "learn",
        "layers": 0,
        "dimensions": 2,
    }
    assert (found["points"][0]["id"], found["points"][0]["score"]) == (1, pytest.approx(1))
    assert (teach.asked, learn.asked) == ([], [(["stone red"], 0, 2)])
    status, _, err = command(capsys, "search", "stone", "-c", "c", "--dimensions", "3", "--url", server.url)
    assert status == 1
    assert "dimensions 2, 4, 8" in err
