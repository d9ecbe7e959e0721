"""The OpenAI endpoints under keys, limits and loads, and with a real model."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import openai
import pytest

from service.encoders import Encoders
from service.open_encoders import open_encoders
from service.settings import Settings
from tests.conftest import FakeEncoder, Server
from tests.openai_calls import client, loaded, vectors
from tests.service_calls import axis, texts
from tests.tiny_models import HIDDEN, Tiny

# Keys, limits, loading


def test_the_api_key_is_the_bearer_token_that_the_client_sends(serve):
    server = serve(api_key="right")
    with client(server, api_key="wrong") as wrong, pytest.raises(openai.AuthenticationError) as caught:
        wrong.embeddings.create(model="default", input="red")
    assert (caught.value.type, caught.value.code) == ("invalid_request_error", "wrong_api_key")
    with client(server, api_key="wrong") as wrong, pytest.raises(openai.AuthenticationError):
        wrong.models.list()
    with client(server, api_key="right", max_retries=5) as right:
        assert right.embeddings.create(model="default", input="red").data[0].embedding == axis(0)


def test_too_much_at_once_is_413(serve):
    server = loaded(serve(max_text_bytes=20, max_body_bytes=2000), "default")
    with client(server) as made:
        with pytest.raises(openai.APIStatusError, match="has 24 bytes, at most 20") as caught:
            made.embeddings.create(model="default", input=["red", "red " * 6])
        assert (caught.value.status_code, caught.value.code) == (413, "text_too_large")
        assert caught.value.param == "input[1]"
        with pytest.raises(openai.APIStatusError, match="more than 2000 bytes") as caught:
            made.embeddings.create(model="default", input=["red"] * 400)
        assert (caught.value.status_code, caught.value.code) == (413, "body_too_large")


class Held(FakeEncoder):
    """Encodes the text `stone` only after `go` is set; `held` counts those that wait for it."""

    go: threading.Event
    held: threading.Semaphore

    def encode_documents(self, texts, **size):
        if "stone" in texts:
            self.held.release()
            assert self.go.wait(30)
        return super().encode_documents(texts, **size)


def test_a_server_without_room_says_429_and_searches_go_on(serve):
    encoder = Held()
    encoder.go, encoder.held = threading.Event(), threading.Semaphore(0)
    server = loaded(serve(encoder, max_queued=0), "default")
    path = texts(server.http, "others")
    with client(server) as made, ThreadPoolExecutor(8) as threads:
        waiting = [threads.submit(made.embeddings.create, model="default", input="stone") for _ in range(8)]
        try:
            for _ in waiting:
                assert encoder.held.acquire(timeout=30)
            with pytest.raises(openai.RateLimitError) as caught:
                made.embeddings.create(model="default", input="red")
            assert (caught.value.type, caught.value.code) == ("rate_limit_error", "over_capacity")
            assert caught.value.response.headers["retry-after"] == "1"
            assert server.http.post(f"{path}/search", json={"query": "red"}).status_code == 200
            assert server.http.put(f"{path}/points", json={"points": [{"id": 1, "text": "red"}]}).status_code == 200
        finally:
            encoder.go.set()
        assert {answer.result().data[0].embedding[7] for answer in waiting} == {1.0}


def test_queries_wait_for_those_of_others_only_so_long(serve):
    class Held(FakeEncoder):
        go, held = threading.Event(), threading.Event()

        def encode_queries(self, texts, **size):
            self.held.set()
            assert self.go.wait(30)
            return super().encode_queries(texts, **size)

    encoder = Held()
    server = loaded(serve(encoder, encoder_threads=1, search_timeout_ms=100), "default")
    query = {"model": "default", "input": "red", "extra_body": {"input_type": "query"}}
    with client(server) as made, ThreadPoolExecutor(1) as threads:
        first = threads.submit(made.embeddings.create, **query)
        try:
            assert encoder.held.wait(30)
            with pytest.raises(openai.APIStatusError, match="busy with other queries") as caught:
                made.embeddings.create(**query | {"input": "sun"})
            assert (caught.value.status_code, caught.value.code) == (408, "deadline_exceeded")
        finally:
            encoder.go.set()
        assert first.result().data[0].embedding == axis(0)


def test_while_an_encoder_loads_it_is_503_and_the_client_comes_back(tmp_path):
    go = threading.Event()

    def load(name):
        assert go.wait(30)
        return FakeEncoder(name=name)

    server = Server(
        Settings(data_dir=tmp_path, port=0, log_level="error"), Encoders(load=load, names={}, default="late"), None
    )
    try:
        with client(server) as made:
            with pytest.raises(openai.InternalServerError, match="still loading") as caught:
                made.embeddings.create(model="default", input="red")
            assert (caught.value.status_code, caught.value.code) == (503, "encoder_unavailable")
            assert caught.value.response.headers["retry-after"] == "2"
            assert [model.id for model in made.models.list()] == ["late"]
            timer = threading.Timer(0.3, go.set)
            timer.start()
            answer = made.with_options(max_retries=5).embeddings.create(model="default", input="red")
            assert answer.model == "late"
            timer.join()
    finally:
        go.set()
        server.stop()


def test_an_encoder_that_failed_to_load_says_why(tmp_path):
    def load(name):
        raise OSError(f"{name} is truncated")

    server = Server(
        Settings(data_dir=tmp_path, port=0, log_level="error"), Encoders(load=load, names={}, default="bad"), None
    )
    try:
        while server.http.get("/readyz").status_code == 503:
            time.sleep(0.01)
        with client(server) as made, pytest.raises(openai.InternalServerError, match="is truncated") as caught:
            made.embeddings.create(model="default", input="red")
        assert (caught.value.status_code, caught.value.code) == (503, "encoder_unavailable")
    finally:
        server.stop()


def test_a_server_without_encoders(tmp_path):
    server = Server(
        Settings(data_dir=tmp_path, port=0, log_level="error"), Encoders(load=FakeEncoder, names={}, default=None), None
    )
    try:
        with client(server) as made:
            with pytest.raises(openai.NotFoundError, match="encodes no texts"):
                made.embeddings.create(model="default", input="red")
            assert list(made.models.list()) == []
    finally:
        server.stop()


# A real model


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    prompts = {"query": "query: ", "document": "passage: "}
    return Tiny(tmp_path_factory.mktemp("models") / "tiny", prompts=prompts).write()


@pytest.fixture(scope="module")
def real(tiny, tmp_path_factory):
    encoders = open_encoders(default="tiny", model_dir=tiny.folder.parent, threads=2)
    settings = Settings(data_dir=tmp_path_factory.mktemp("real"), port=0, log_level="error")
    server = Server(settings, encoders, None)
    with httpx.Client(base_url=server.url) as http:
        while http.get("/readyz").status_code == 503:
            time.sleep(0.01)
    yield server
    server.stop()


TEXTS = ["the cat sat", "a dog ran on a road", "red", "the blue mat on the red mat", "cat " * 30]


@pytest.mark.parametrize("side", ["document", "query"])
def test_vectors_and_tokens_of_a_real_model(real, tiny, side):
    with client(real) as made:
        answer = made.embeddings.create(model="tiny", input=TEXTS, extra_body={"input_type": side})
        alone = made.embeddings.create(model="tiny", input=TEXTS[0], extra_body={"input_type": side})
    prompt = tiny.prompts[side]
    expected = [tiny.oracle(text, prompt) for text in TEXTS]
    np.testing.assert_allclose(vectors(answer), [vector for vector, _ in expected], atol=1e-5)
    assert answer.truncated == [i for i, (_, cut) in enumerate(expected) if cut] == [4]
    # [CLS], the prompt's two tokens, the words, [SEP]; of the long one what the window holds.
    counted = [min(4 + len(text.split()), tiny.window) for text in TEXTS]
    assert answer.usage.prompt_tokens == sum(counted)
    assert alone.usage.prompt_tokens == counted[0] == 7
    assert vectors(answer).shape == (5, HIDDEN)


@pytest.mark.parametrize("side", ["document", "query"])
def test_twenty_clients_at_once_get_what_one_gets(real, side):
    asked = [f"{first} {second} {third}" for first in ("the", "a") for second in ("cat", "dog") for third in TEXTS]
    assert len(set(asked)) == 20
    begin = threading.Barrier(len(asked))

    def embed(texts):
        with client(real) as made:
            begin.wait(30)
            return [
                vectors(made.embeddings.create(model="default", input=text, extra_body={"input_type": side}))[0]
                for text in texts
            ]

    with ThreadPoolExecutor(len(asked)) as threads:
        # Each asks for all texts, and begins with another one.
        together = list(threads.map(embed, [asked[i:] + asked[:i] for i in range(len(asked))]))
    with client(real) as made:
        alone = vectors(made.embeddings.create(model="tiny", input=asked, extra_body={"input_type": side}))
    for i, found in enumerate(together):
        np.testing.assert_allclose(found, np.roll(alone, -i, axis=0), atol=1e-6)
    assert np.abs(alone[0] - alone[1]).max() > 1e-3
