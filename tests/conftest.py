"""What several test files share: a fake encoder with vectors to work out by hand, servers on free ports."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import uvicorn

from index import calibrating
from index.options import StoreOptions
from models import InvalidText
from models.encoder import Encoded
from models.sizes import Sizes
from service.app import create_app, server_config
from service.encoders import Encoders, Known
from service.settings import Settings

WORDS = ("red", "green", "blue", "sun", "moon", "rain", "tree", "stone")
WINDOW = 8


@dataclass
class FakeEncoder:
    """One axis a word: a text's vector counts its known words among its first eight, scaled to length 1.

    After 0 layers only the first of them counts. Its fold turns the axes round: the first k dimensions of a short
    vector are the last k words, backwards. `encoded` lists every document text in the order in which it was
    encoded, `asked` every call for queries, as (texts, layers, dimensions).
    """

    name: str = "fake"
    space: str = "words/8"
    dimension: int = len(WORDS)
    max_tokens: int = WINDOW
    runtime: str = "numpy"
    sizes: Sizes = field(default_factory=lambda: Sizes((0, 1), (2, 4, len(WORDS))))
    fold: str | None = "backwards"
    encoded: list[str] = field(default_factory=list)
    asked: list[tuple[list[str], int, int]] = field(default_factory=list)

    def resolve(self, layers: int | None, dimensions: int | None) -> tuple[int, int]:
        return self.sizes.resolve(layers, dimensions)

    def encode_documents(
        self, texts: Sequence[str], *, layers: int | None = None, dimensions: int | None = None
    ) -> Encoded:
        answer = self._encode(texts, *self.resolve(layers, dimensions))
        self.encoded += texts
        return answer

    def encode_queries(
        self, texts: Sequence[str], *, layers: int | None = None, dimensions: int | None = None
    ) -> Encoded:
        size = self.resolve(layers, dimensions)
        self.asked.append((list(texts), *size))
        return self._encode(texts, *size)

    def count_tokens(self, texts: Sequence[str], task: str, *, layers: int | None = None) -> list[int]:  # noqa: ARG002
        return [min(len(text.split()), WINDOW) for text in texts]

    def axes(self, dimensions: int) -> np.ndarray:
        first = np.eye(dimensions, self.dimension, dtype=np.float32)
        return first[:, ::-1] if self.fold else first

    def _encode(self, texts: Sequence[str], layers: int, dimensions: int) -> Encoded:
        vectors = np.zeros((len(texts), self.dimension), np.float32)
        for row, text in enumerate(texts):
            known = [word for word in text.split()[:WINDOW] if word in WORDS]
            for word in known[:1] if layers == 0 else known:
                vectors[row, WORDS.index(word)] += 1
        if dimensions < self.dimension:
            vectors = (vectors[:, ::-1] if self.fold else vectors)[:, :dimensions]
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        for row in np.flatnonzero(norms == 0):
            raise InvalidText(f"text {row} has no known word", index=int(row))
        truncated = np.array([len(text.split()) > WINDOW for text in texts], bool)
        return Encoded(vectors=np.ascontiguousarray(vectors / norms), truncated=truncated)


def fake_encoders(*encoders: FakeEncoder) -> Encoders:
    """A registry of fakes; the first is the default."""
    known = {encoder.name: encoder for encoder in encoders}
    return Encoders(load=known.__getitem__, names={name: Known() for name in known}, default=encoders[0].name)


class Server:
    """A live uvicorn in a thread, and a client for it."""

    def __init__(self, settings: Settings, encoders: Encoders, options: StoreOptions | None) -> None:
        self.app = create_app(settings, encoders=encoders, options=options)
        self.uvicorn = uvicorn.Server(server_config(self.app, settings))
        self._thread = threading.Thread(target=self.uvicorn.run, name="uvicorn")
        self._thread.start()
        while not self.uvicorn.started:
            if not self._thread.is_alive():
                raise RuntimeError("the server did not start; its log says why")
            time.sleep(0.01)
        port = self.uvicorn.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.http = httpx.Client(base_url=self.url, timeout=60)

    def stop(self) -> None:
        """Let requests finish and shut down, as on SIGTERM."""
        self.http.close()
        self.uvicorn.should_exit = True
        self._thread.join()


@contextmanager
def running(
    data_dir: Path, *encoders: FakeEncoder, options: StoreOptions | None = None, **settings: Any
) -> Iterator[Server]:
    """Serve a data directory until the block ends."""
    configured = Settings(data_dir=data_dir, port=0, log_level="error", **settings)
    server = Server(configured, fake_encoders(*(encoders or (FakeEncoder(),))), options)
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def serve(tmp_path):
    """Start servers: `serve(*encoders, max_limit=5, ...)`; all of them stop when the test ends."""
    with ExitStack() as stack:

        def start(*encoders: FakeEncoder, data_dir: Path | None = None, **settings: Any) -> Server:
            return stack.enter_context(running(data_dir or tmp_path / "data", *encoders, **settings))

        yield start


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory):
    """One server for all tests that need no settings of their own; each takes collections of its own."""
    with running(tmp_path_factory.mktemp("shared")) as server:
        yield server


@pytest.fixture
def http(shared_server):
    """A client of the shared server."""
    return shared_server.http


@pytest.fixture
def name(request):
    """A collection name that no other test uses."""
    return "".join(c if c.isalnum() else "-" for c in request.node.name)[:100]


@pytest.fixture(scope="module")
def no_plot():
    """Without matplotlib, which takes seconds to come."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "matplotlib.figure", None)
        yield


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """An encoder of a few numbers, for trainings."""
    from tests.toy_encoders import write_toy

    return write_toy(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def lively(tmp_path_factory):
    """The toy with dropout: then every step draws random numbers."""
    from tests.toy_encoders import write_toy

    return write_toy(tmp_path_factory.mktemp("lively"), dropout=0.1)


@pytest.fixture(autouse=True, scope="session")
def few_calibrating_queries():
    """Calibrating with a thousand takes most of the time of whatever optimizes a collection."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibrating, "SAMPLE", 100)
        patch.setattr(calibrating, "WALKED_SAMPLE", 100)
        yield
