"""POST /v1/embeddings and GET /v1/models, asked by OpenAI's own client over a live server."""

from __future__ import annotations

import asyncio
import base64

import numpy as np
import openai
import pytest
from sentence_transformers.util.quantization import quantize_embeddings

from service.encoders import Encoders, Known, Pair
from service.settings import Settings
from service.wire_forms import in_form
from tests.conftest import WINDOW, FakeEncoder, Server, running
from tests.openai_calls import client, loaded, vectors
from tests.service_calls import axis, refused

LONG = "blue " * (WINDOW + 1)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Serve two fakes: the default's prefixes are its own, those of `turned` are of a fold."""
    encoders = FakeEncoder(name="plain", fold=None), FakeEncoder(name="turned"), FakeEncoder(name="turned-folded")
    with running(tmp_path_factory.mktemp("openai"), *encoders) as server:
        yield loaded(server, *(encoder.name for encoder in encoders))


@pytest.fixture(scope="module")
def ask(server):
    with client(server) as made:
        yield lambda input="red", model="default", **options: made.embeddings.create(
            input=input, model=model, **options
        )


# What is answered


def test_a_text_and_a_list_are_answered_in_openai_s_shape(ask):
    one = ask("red")
    assert one.model_dump() == {
        "object": "list",
        "data": [{"object": "embedding", "index": 0, "embedding": axis(0)}],
        "model": "plain",
        "usage": {"prompt_tokens": 1, "total_tokens": 1},
        "truncated": [],
    }
    two = ask(["sun", "green rain"], model="plain")
    assert [item.index for item in two.data] == [0, 1]
    np.testing.assert_array_equal(vectors(two)[0], axis(3))
    np.testing.assert_array_equal(np.flatnonzero(vectors(two)[1]), [1, 5])
    assert two.usage.prompt_tokens == two.usage.total_tokens == 3


def test_the_client_s_own_base64_and_floats_are_the_same_vectors(server, ask):
    words = ["red green", "sun sun sun moon", "blue"]
    np.testing.assert_array_equal(vectors(ask(words)), vectors(ask(words, encoding_format="float")))
    body = {"model": "default", "input": words, "encoding_format": "base64"}
    raw = server.http.post("/v1/embeddings", json=body).json()["data"]
    decoded = [np.frombuffer(base64.b64decode(item["embedding"]), "<f4") for item in raw]
    np.testing.assert_array_equal(decoded, vectors(ask(words, encoding_format="float")))
    # Without a format the answer is numbers: only the client asks for base64 by itself.
    del body["encoding_format"]
    assert isinstance(server.http.post("/v1/embeddings", json=body).json()["data"][0]["embedding"][0], float)


def test_the_async_client(server):
    async def embed():
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as made:
            answers = [made.embeddings.create(model="default", input=word) for word in ("red", "moon", "tree")]
            return [answer.data[0].embedding for answer in await asyncio.gather(*answers)]

    assert asyncio.run(embed()) == [axis(0), axis(4), axis(6)]


def test_dimensions_are_cut_then_normalised(ask):
    whole, short = vectors(ask("red moon sun")), vectors(ask("red moon sun", dimensions=4))
    assert short.shape == (1, 4)
    np.testing.assert_allclose(short, whole[:, :4] / np.linalg.norm(whole[:, :4]), atol=1e-7)
    assert not np.allclose(short, whole[:, :4])


def test_layers_are_an_exit_of_the_model(ask):
    np.testing.assert_array_equal(vectors(ask("red moon", extra_body={"layers": 0})), [axis(0)])
    assert vectors(ask("red moon", extra_body={"layers": 1}))[0][4] > 0


def test_cut_texts_are_reported(server, ask):
    answer = ask(["red", LONG, "green", LONG])
    assert answer.truncated == [1, 3]
    assert answer.usage.prompt_tokens == 2 * WINDOW + 2
    with client(server) as made:
        raw = made.embeddings.with_raw_response.create(model="default", input=["red", LONG])
        assert raw.headers["bitfold-truncated"] == "1"
        assert "bitfold-truncated" not in made.embeddings.with_raw_response.create(model="plain", input="red").headers
    assert ask("red", extra_body={"truncate": False}).truncated == []


def test_the_side_of_a_search_picks_the_prompt_and_uses_the_cache_of_queries(tmp_path):
    encoder = FakeEncoder()
    with running(tmp_path, encoder, max_queries=2) as server, client(server) as made:
        loaded(server, "default")
        documents = len(encoder.encoded)
        query = {"input_type": "query"}
        for _ in range(2):
            made.embeddings.create(model="default", input=["red", "sun"], extra_body=query)
        assert [asked for asked, _, _ in encoder.asked] == [["red", "sun"]]
        assert len(encoder.encoded) == documents
        # More than a search may ask at once are no queries that come again.
        for _ in range(2):
            made.embeddings.create(model="default", input=["red", "sun", "moon"], extra_body=query)
        assert len(encoder.asked) == 3
        made.embeddings.create(model="default", input="red")
        assert len(encoder.asked) == 3
        assert encoder.encoded[documents:] == ["red"]


def test_a_name_that_stands_for_two_encoders(tmp_path):
    encoders = {name: FakeEncoder(name=name) for name in ("big", "small")}
    registry = Encoders(
        load=encoders.__getitem__,
        names={name: Known() for name in encoders},
        default="both",
        pairs={"both": Pair("big", "small"), "small": Pair("big", "small")},
        aliases={"large": "big"},
    )
    server = Server(Settings(data_dir=tmp_path, port=0, log_level="error"), registry, None)
    try:
        with client(server) as made:
            loaded(server, "big", "small")

            def answers(model, side):
                return made.embeddings.create(model=model, input="red", extra_body={"input_type": side}).model

            assert [answers(name, "document") for name in ("both", "default", "large")] == ["big"] * 3
            assert [answers(name, "query") for name in ("both", "default")] == ["small"] * 2
            assert answers("large", "query") == "big"
            # An encoder's own name means that encoder, on both sides.
            assert answers("small", "document") == "small"
    finally:
        server.stop()


def test_models_are_listed(server):
    with client(server) as made:
        listed = list(made.models.list())
    assert [model.id for model in listed] == ["plain", "turned", "turned-folded"]
    assert {model.object for model in listed} == {"model"}
    assert {model.owned_by for model in listed} == {"bitfold"}


def test_user_is_taken_and_null_is_no_value(server, ask):
    assert ask("red", user="someone").data[0].embedding == axis(0)
    body = {"model": "default", "input": "red", "dimensions": None, "layers": None, "user": None}
    assert server.http.post("/v1/embeddings", json=body).status_code == 200


# Forms


@pytest.mark.parametrize("k", [1, 7, 8, 24, 30])
@pytest.mark.parametrize("form", ["binary", "ubinary"])
def test_sign_bits_are_those_of_sentence_transformers(form, k):
    drawn = np.random.default_rng(k).standard_normal((50, k)).astype(np.float32)
    drawn[0] = 0
    expected = quantize_embeddings(drawn, form)
    found = np.array(in_form(drawn, form))
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


def test_base64_is_little_endian_float32_whatever_the_order_in_memory():
    drawn = np.random.default_rng(0).standard_normal((3, 10)).astype(np.float32)
    for rows in (drawn, np.asfortranarray(drawn), drawn[:, ::2]):
        decoded = [np.frombuffer(base64.b64decode(text), "<f4") for text in in_form(rows, "base64")]
        np.testing.assert_array_equal(decoded, rows)
        np.testing.assert_array_equal(in_form(rows, "float"), rows)


def test_embedding_types_are_answered_by_name_and_the_first_is_the_embedding(ask):
    wanted = ["ubinary", "float", "binary", "base64", "float"]
    item = ask("red moon tree", extra_body={"embedding_types": wanted}).data[0]
    whole = vectors(ask("red moon tree"))[0]
    assert list(item.embeddings) == ["ubinary", "float", "binary", "base64"]
    np.testing.assert_array_equal(np.array(item.embeddings["float"], np.float32), whole)
    np.testing.assert_array_equal(np.frombuffer(base64.b64decode(item.embeddings["base64"]), "<f4"), whole)
    assert item.embedding == item.embeddings["ubinary"] == [0b10001010]
    assert item.embeddings["binary"] == [0b10001010 - 128]
    # The client decodes base64 by itself: what it shows is numbers even then.
    assert ask("red", extra_body={"embedding_types": ["base64"]}).data[0].embedding == axis(0)


# What is refused


Bad = openai.BadRequestError
BAD = {
    "unknown model": ({"model": "gpt"}, openai.NotFoundError, "model_not_found", "model", "plain, turned"),
    "tokens": ({"input": [1, 2, 3]}, Bad, "token_ids", "input", "check_embedding_ctx_length"),
    "token lists": ({"input": [[1, 2], [3]]}, Bad, "token_ids", "input", "send strings"),
    "no inputs": ({"input": []}, Bad, "invalid_request", "input", "empty list"),
    "empty": ({"input": ""}, Bad, "invalid_text", "input", "is empty"),
    "blank": ({"input": ["red", " \n"]}, Bad, "invalid_text", "input[1]", "is empty"),
    "no word": ({"input": ["red", "xyz"]}, Bad, "invalid_text", "input[1]", "input[1]: the text has no"),
    "null": ({"input": ["red", None]}, Bad, "invalid_request", "input[1]", "not a string"),
    "bool": ({"input": True}, Bad, "invalid_request", "input", "not a string"),
    "object": ({"input": {"a": 1}}, Bad, "invalid_request", "input", "not a string"),
    "too many": ({"input": ["red"] * 2049}, Bad, "batch_too_large", "input", "2048"),
    "size": ({"dimensions": 5}, Bad, "unsupported_size", "dimensions", "2, 4, 8"),
    "larger": ({"dimensions": 16}, Bad, "unsupported_size", "dimensions", "2, 4, 8"),
    "zero": ({"dimensions": 0}, Bad, "invalid_request", "dimensions", "greater than"),
    "fraction": ({"dimensions": 4.5}, Bad, "invalid_request", "dimensions", "integer"),
    "layers": ({"extra_body": {"layers": 6}}, Bad, "unsupported_size", "layers", "layers 0, 1"),
    "format": ({"encoding_format": "hex"}, Bad, "invalid_request", "encoding_format", "base64"),
    "types": ({"extra_body": {"embedding_types": ["int8"]}}, Bad, "invalid_request", None, "ubinary"),
    "no types": ({"extra_body": {"embedding_types": []}}, Bad, "invalid_request", None, "at least 1"),
    "side": ({"extra_body": {"input_type": "both"}}, Bad, "invalid_request", "input_type", "query"),
    "key": ({"extra_body": {"dimension": 4}}, Bad, "unknown_key", "dimension", "mean dimensions"),
    "query string": ({"extra_query": {"a": 1}}, Bad, "unknown_key", "a", "not known"),
    "long": (
        {"input": ["red", LONG], "extra_body": {"truncate": False}},
        Bad, "context_length_exceeded", "input[1]", f"{WINDOW} tokens",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", list(BAD))
def test_what_is_wrong_is_said_in_openai_s_words(ask, case):
    request, kind, code, param, words = BAD[case]
    with pytest.raises(kind) as caught:
        ask(**request)
    error = caught.value
    assert (error.type, error.code) == ("invalid_request_error", code)
    if param is not None:
        assert error.param == param
    assert words in error.body["message"]
    assert set(error.body) == {"message", "type", "param", "code"}


def test_as_many_as_openai_takes(ask):
    assert len(ask(["red", "blue"] * 1024).data) == 2048


@pytest.mark.parametrize("dimensions", [2, 4, 5, 7])
def test_short_vectors_of_another_basis_are_refused_and_the_other_encoder_is_named(ask, dimensions):
    with pytest.raises(openai.BadRequestError, match="another basis; use turned-folded") as caught:
        ask(model="turned", dimensions=dimensions)
    assert (caught.value.code, caught.value.param) == ("unsupported_size", "dimensions")
    assert ask(model="turned", dimensions=8).data[0].embedding == axis(0)
    # A model without such a twin: nothing is named that is not there.
    with pytest.raises(openai.BadRequestError, match="leave dimensions out, or send 8"):
        ask(model="turned-folded", dimensions=dimensions)


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("POST", "/v1/embeddings", b"{", 400, "invalid_json"),
        ("POST", "/v1/embeddings", b"[]", 400, "invalid_request"),
        ("POST", "/v1/embeddings", b'{"input": "red"}', 400, "invalid_request"),
        ("POST", "/v1/embeddings", b'{"model": "default"}', 400, "invalid_request"),
        ("POST", "/v1/embeddings", b'{"model": "default", "input": "\\ud800"}', 400, "invalid_json"),
        ("GET", "/v1/embeddings", b"", 405, "no_method"),
        ("POST", "/v1/completions", b"{}", 404, "no_route"),
        ("GET", "/v1/models?limit=1", b"", 400, "unknown_key"),
    ],
)
def test_errors_below_v1_have_openai_s_shape(server, method, path, body, status, code):
    response = server.http.request(method, path, content=body)
    assert response.status_code == status
    assert response.json()["error"]["code"] == code
    assert set(response.json()) == {"error"}


def test_errors_elsewhere_keep_their_shape(server):
    refused(server.http.get("/v1"), 404, "no_route")
    refused(server.http.get("/v2/embeddings"), 404, "no_route")


def test_a_compressed_body_is_refused(server):
    response = server.http.post("/v1/embeddings", content=b"x", headers={"Content-Encoding": "gzip"})
    assert response.status_code == 415
    assert response.json()["error"]["code"] == "unsupported_encoding"


def test_an_unexpected_error_is_a_500_without_its_details(tmp_path):
    class Broken(FakeEncoder):
        def count_tokens(self, *_, **__):
            raise RuntimeError("a secret")

    with running(tmp_path, Broken()) as server, client(server) as made:
        loaded(server, "default")
        with pytest.raises(openai.InternalServerError) as caught:
            made.embeddings.create(model="default", input="red")
    assert (caught.value.type, caught.value.code) == ("server_error", "internal_error")
    assert "secret" not in str(caught.value.body)
