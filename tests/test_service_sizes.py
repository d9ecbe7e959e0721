"""Sizes of query texts: layers and dimensions over one stored copy, in every route, and what is said about them."""

from __future__ import annotations

import numpy as np
import pytest

from models import Sizes
from tests.conftest import WORDS, FakeEncoder
from tests.service_calls import axis, ok, put, refused, texts, vectors

DOCUMENTS = ["red sun", "stone tree", "stone rain sun", "tree tree stone", "moon rain", "blue green red", "stone"]


def oracle(query, layers=1, dimensions=8):
    """Scores of all documents by the plain definition: the cosines of prefixes in the folded basis, 0 for none."""

    def counts(text):
        return np.array([[word == axis_word for axis_word in WORDS] for word in text.split()], float).sum(axis=0)

    asked = counts(query.split()[0] if layers == 0 else query)[::-1][:dimensions]
    asked /= np.linalg.norm(asked)
    stored = np.array([counts(text) for text in DOCUMENTS])[:, ::-1][:, :dimensions]
    lengths = np.linalg.norm(stored, axis=1)
    return stored @ asked / np.where(lengths > 0, lengths, 1)


@pytest.fixture(scope="module")
def filled(shared_server):
    """A collection of the documents; their ids are their places."""
    path = texts(shared_server.http, "sizes")
    put(shared_server.http, path, *({"id": i, "text": text} for i, text in enumerate(DOCUMENTS)))
    return path


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("layers", [None, 0, 1])
@pytest.mark.parametrize("dimensions", [None, 2, 4, 8])
@pytest.mark.parametrize("query", ["stone tree rain", "tree stone"])
def test_scores_are_cosines_of_prefixes(http, filled, query, layers, dimensions, exact):
    size = {"layers": layers, "dimensions": dimensions}
    params = {"exact": exact} | {key: value for key, value in size.items() if value is not None}
    expected = oracle(query, 1 if layers is None else layers, dimensions or 8)
    found = ok(http.post(f"{filled}/search", json={"query": query, "params": params}))
    asked = {"query": {"text": query}, "params": params}
    single = ok(http.post(f"{filled}/points/query", json=asked))
    (batched,) = ok(http.post(f"{filled}/points/query/batch", json={"searches": [asked]}))
    for points in (found["points"], single["points"], batched["points"]):
        assert sorted(hit["id"] for hit in points) == list(range(len(DOCUMENTS)))
        assert [hit["score"] for hit in points] == pytest.approx(sorted(expected, reverse=True), abs=1e-6)
        assert [hit["score"] for hit in points] == pytest.approx([expected[hit["id"]] for hit in points], abs=1e-6)
    stages = found["stages"]
    assert (stages["encoder"], stages["layers"], stages["dimensions"]) == (
        "fake",
        1 if layers is None else layers,
        dimensions or 8,
    )
    assert stages["mode"] == ("exact" if exact else "codes")


def test_sizes_differ_at_all():
    whole, short = oracle("stone tree rain red"), oracle("stone tree rain red", dimensions=2)
    assert np.argsort(whole).tolist() != np.argsort(short).tolist()
    assert oracle("red stone", layers=0).tolist() != oracle("red stone").tolist()


def test_stages_say_what_was_known(serve):
    encoder = FakeEncoder()
    http = serve(encoder).http
    path = texts(http, "known")
    put(http, path, {"id": 1, "text": "sun"})

    def cached(query, **params):
        stages = ok(http.post(f"{path}/search", json={"query": query, "params": params}))["stages"]
        assert stages["milliseconds"]["encode"] >= 0
        return stages["cached"]

    assert [cached("sun"), cached("sun"), cached("sun", layers=1), cached("sun", dimensions=8)] == [False, *[True] * 3]
    assert [cached("sun", layers=0), cached("sun", layers=0)] == [False, True]
    assert len(encoder.asked) == 2
    stages = ok(http.post(f"{path}/search", json={"query": axis(0)}))["stages"]
    assert not {"encoder", "layers", "dimensions", "cached", "truncated"} & set(stages)
    shown = http.get("/metrics").text
    assert 'bitfold_query_texts_total{cached="true"} 4.0' in shown
    assert 'bitfold_query_texts_total{cached="false"} 2.0' in shown
    assert "bitfold_query_encodings_total 2.0" in shown


def test_the_cache_can_be_turned_off(serve):
    encoder = FakeEncoder()
    http = serve(encoder, query_cache=0).http
    path = texts(http, "uncached")
    for _ in range(2):
        assert not ok(http.post(f"{path}/search", json={"query": "sun"}))["stages"]["cached"]
    assert len(encoder.asked) == 2


def test_a_batch_is_encoded_in_groups_of_one_size(serve):
    encoder, twin = FakeEncoder(), FakeEncoder(name="twin")
    http = serve(encoder, twin).http
    path = texts(http, "groups")
    put(http, path, *({"id": i, "text": word} for i, word in enumerate(WORDS)))
    put(http, path, {"id": 99, "vector": {"text": "red", "model": "twin"}})
    searches = [
        {"query": {"text": "stone"}, "params": {"dimensions": 4}},
        {"query": {"text": "red stone"}},
        {"query": {"text": "tree"}, "params": {"dimensions": 4}},
        {"query": axis(2)},
        {"query": {"text": "sun stone"}, "params": {"layers": 0}},
        {"query": {"text": "rain"}, "params": {"dimensions": 4, "rerank": 5}},
        {"query": {"text": "moon", "model": "twin"}, "params": {"dimensions": 4}},
        {"query": 3},
        {"query": {"text": "stone"}, "params": {"dimensions": 4}, "limit": 1},
    ]
    found = ok(http.post(f"{path}/points/query/batch", json={"searches": searches}))
    assert encoder.asked == [(["stone", "tree", "rain"], 1, 4), (["red stone"], 1, 8), (["sun stone"], 0, 8)]
    assert twin.asked == [(["moon"], 1, 4)]
    assert found == [ok(http.post(f"{path}/points/query", json=search)) for search in searches]


@pytest.mark.parametrize(
    "params", [{"layers": 2}, {"dimensions": 3}, {"dimensions": 9}, {"layers": 0, "dimensions": 5}, {"layers": 1000}]
)
def test_sizes_that_the_encoder_lacks(http, filled, params):
    asked = {"query": {"text": "red"}, "params": params}
    for route, body, param in (
        ("search", {"query": "red", "params": params}, "params"),
        ("points/query", asked, "params"),
        ("points/query/batch", {"searches": [{"query": 1}, asked]}, "searches[1].params"),
    ):
        wrong = refused(http.post(f"{filled}/{route}", json=body), 400, "unsupported_size", param)
        assert "layers 0, 1 and dimensions 2, 4, 8" in wrong["status"]["error"]


def test_pairs_of_sizes(serve):
    sizes = Sizes((0, 1), (2, 4, 8), pairs=((0, 4), (1, 8)))
    http = serve(FakeEncoder(sizes=sizes)).http
    path = texts(http, "pairs")

    def size(**params):
        stages = ok(http.post(f"{path}/search", json={"query": "stone", "params": params}))["stages"]
        return stages["layers"], stages["dimensions"]

    assert [size(), size(layers=0), size(dimensions=4), size(layers=1, dimensions=8)] == [
        (1, 8),
        (0, 4),
        (0, 4),
        (1, 8),
    ]
    body = {"query": "stone", "params": {"layers": 1, "dimensions": 4}}
    wrong = refused(http.post(f"{path}/search", json=body), 400, "unsupported_size")
    assert "(0, 4), (1, 8)" in wrong["status"]["error"]


@pytest.mark.parametrize("key", ["layers", "dimensions"])
def test_vectors_have_no_size(http, name, filled, key):
    params = {key: 1 if key == "layers" else 8}
    plain = vectors(http, name)
    for path in (filled, plain):
        for route, query in (("search", axis(0)), ("points/query", axis(0)), ("points/query", 1)):
            body = {"query": query, "params": params}
            wrong = refused(http.post(f"{path}/{route}", json=body), 400, "invalid_request", f"params.{key}")
            assert "the query is no text" in wrong["status"]["error"]
            assert "send a whole vector" in wrong["hint"]
        body = {"searches": [{"query": axis(0)}, {"query": {"": axis(0)}, "params": params}]}
        wrong = http.post(f"{path}/points/query/batch", json=body)
        refused(wrong, 400, "invalid_request", f"searches[1].params.{key}")
    # A prefix in place of a vector is not taken for one.
    refused(http.post(f"{filled}/search", json={"query": axis(0)[:4]}), 400, "invalid_vector")


@pytest.mark.parametrize(
    "params",
    [{"layers": -1}, {"layers": 1001}, {"dimensions": 0}, {"dimensions": 1 << 20}, {"layers": "1"}, {"layers": 1.0}],
)
def test_sizes_that_are_none(http, filled, params):
    (key,) = params
    wrong = http.post(f"{filled}/search", json={"query": "red", "params": params})
    refused(wrong, 400, "invalid_request", f"params.{key}")


def test_a_text_that_is_nothing_in_its_prefix_is_refused(http, filled):
    body = {"query": "red", "params": {"dimensions": 2}}
    refused(http.post(f"{filled}/search", json=body), 400, "invalid_text", "query")
    searches = [{"query": {"text": "stone"}}, {"query": 1}, {"query": {"text": "red"}, "params": {"dimensions": 2}}]
    wrong = refused(
        http.post(f"{filled}/points/query/batch", json={"searches": searches}), 400, "invalid_text", "searches[2].query"
    )
    assert wrong["status"]["error"] == "the text has no known word"


def test_a_batch_says_which_texts_are_too_long(http, filled):
    long = "stone " * 9
    searches = [
        {"query": {"text": "stone"}},
        {"query": {"text": long}},
        {"query": 1},
        {"query": {"text": long + "red"}, "params": {"dimensions": 4}},
    ]
    for _ in range(2):  # known or not
        answer = http.post(f"{filled}/points/query/batch", json={"searches": searches}).json()
        assert answer["warnings"] == [
            f"the text of searches[{i}].query is longer than the model's window: its end was not used" for i in (1, 3)
        ]
        assert ok(http.post(f"{filled}/search", json={"query": long}))["stages"]["truncated"]
        assert not ok(http.post(f"{filled}/search", json={"query": "stone"}))["stages"]["truncated"]
        alone = http.post(f"{filled}/points/query", json=searches[1]).json()
        assert alone["warnings"] == ["the text of query is longer than the model's window: its end was not used"]
