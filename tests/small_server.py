"""The real server with small numbers, so that sealing, merging and compaction happen within a second of load.

Start it with `python -c "from tests.small_server import main; main()"`; it reads the same variables as
`bitfold serve`. Its default encoder needs no model: the vector of a text is drawn from the text's hash.
"""

from __future__ import annotations

import hashlib
import signal
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import uvicorn
from numpy.typing import NDArray

from index.options import StoreOptions
from models.sizes import Sizes
from service.app import create_app, server_config
from service.encoders import Encoders
from service.settings import load_settings

DIMENSION = 24
OPTIONS = StoreOptions(
    exact_below=500,
    first_fit=64,
    tail_rows=64,
    fan_out=3,
    save_rows=64,
    list_rows=200,
    file_bytes=100 * DIMENSION * 4,
    dead_share=0.3,
    idle_seconds=0.2,
)


@dataclass(frozen=True)
class Encoded:
    """Unit vectors (n, d) float32; nothing is ever cut."""

    vectors: NDArray[np.float32]
    truncated: NDArray[np.bool_]


class HashEncoder:
    """Encodes a text as a random direction that depends on nothing but the text."""

    name = space = "hashed"
    dimension = DIMENSION
    max_tokens = 1_000_000
    runtime = "numpy"
    sizes = Sizes.only(0, DIMENSION)
    fold = None

    def resolve(self, layers: int | None, dimensions: int | None) -> tuple[int, int]:
        return self.sizes.resolve(layers, dimensions)

    def count_tokens(self, texts: Sequence[str], task: str, *, layers: int | None = None) -> list[int]:  # noqa: ARG002
        return [len(text.split()) for text in texts]

    def axes(self, dimensions: int) -> NDArray[np.float32]:
        return np.eye(dimensions, DIMENSION, dtype=np.float32)

    def encode_documents(
        self, texts: Sequence[str], *, layers: int | None = None, dimensions: int | None = None
    ) -> Encoded:
        self.resolve(layers, dimensions)
        vectors = np.array([direction(text) for text in texts], dtype=np.float32).reshape(-1, DIMENSION)
        return Encoded(vectors, np.zeros(len(texts), dtype=np.bool_))

    encode_queries = encode_documents


def direction(text: str) -> NDArray[np.float32]:
    """Return the (d,) float32 unit vector of a text."""
    seed = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
    vector = np.random.default_rng(seed).normal(size=DIMENSION)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def main() -> None:
    """Serve until a signal comes."""
    settings = load_settings()
    encoders = Encoders(load=lambda _: HashEncoder(), names={}, default="hashed")
    app = create_app(settings, encoders=encoders, options=OPTIONS)
    server = uvicorn.Server(server_config(app, settings))
    # As in `bitfold serve`: uvicorn raises the signal again after a clean stop.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    server.run()
