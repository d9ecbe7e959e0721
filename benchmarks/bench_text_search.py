"""How much longer does a search by text take than one by vector?

    python benchmarks/bench_text_search.py --points 100000

A collection of the default space is filled with synthetic vectors (see common.TextLike). Then each query is asked over
HTTP twice in turn, as a text and as the vector of that text, by one client in one run: the search is the same, what
differs is the encoding. No vector is remembered (`BITFOLD_QUERY_CACHE=0`). Queries are the first words of sentences of
the sample corpus; limit 10, `exact: false`. `encode` is what the server says of itself, `around it` the median of
what each pair differs by beside that.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
import time
from pathlib import Path

import numpy as np
from common import Client, Server, TextLike, machine, ndjson, server, table

from service.demo import CORPUS

BLOCK = 10_000
PATH = "/collections/bench"
WORDS = 8


def questions(count: int) -> list[str]:
    """Return distinct short texts."""
    documents = [json.loads(line)["text"] for line in CORPUS.read_text().splitlines()]
    sentences = [sentence.split() for text in documents for sentence in re.split(r"(?<=[.!?])\s+", text)]
    found = dict.fromkeys(" ".join(words[:WORDS]) for words in sentences if len(words) >= WORDS)
    if len(found) < count:
        raise SystemExit(f"the sample has {len(found)} sentences: --queries must not be more")
    return list(found)[:count]


def load(client: Client, n: int) -> None:
    """Fill a collection of the default space."""
    client.call("PUT", PATH, {"encoder": "default"})
    dimension = client.call("GET", PATH)["result"]["config"]["params"]["vectors"]["size"]
    source = TextLike(n, dimension)
    for start in range(0, n, BLOCK):
        body = ndjson(start, source.draw(min(BLOCK, n - start)))
        client.call("POST", f"{PATH}/points/bulk", body, "application/x-ndjson")


def readers(client: Client) -> list[str]:
    """Return the encoders of the collection's space."""
    space = client.call("GET", PATH)["result"]["space"]
    return [one["name"] for one in client.call("GET", "/encoders")["result"]["encoders"] if one["space"] == space]


def embedded(client: Client, encoder: str, texts: list[str]) -> list[list[float]]:
    """Return the vectors of queries; an encoder that is not loaded yet is waited for."""
    body = {"model": encoder, "input": texts, "input_type": "query", "encoding_format": "float"}
    for _ in range(600):
        try:
            return [item["embedding"] for item in client.call("POST", "/v1/embeddings", body)["data"]]
        except RuntimeError as error:
            if "still loading" not in str(error):
                raise
            time.sleep(0.2)
    raise RuntimeError(f"{encoder} does not load")


def measure(running: Server, encoder: str, texts: list[str]) -> list[object]:
    """Return the table's row of an encoder."""
    client = running.client()
    params = {"limit": 10, "params": {"exact": False}}
    pairs = [
        (json.dumps({"query": text, "encoder": encoder, **params}), json.dumps({"query": vector, **params}))
        for text, vector in zip(texts, embedded(client, encoder, texts), strict=True)
    ]
    for text, vector in pairs[:30]:
        client.timed(f"{PATH}/search", text.encode())
        client.timed(f"{PATH}/search", vector.encode())
    times, encode = np.empty((len(pairs), 2)), np.empty(len(pairs))
    for i, pair in enumerate(pairs):
        for side in (i % 2, 1 - i % 2):  # whoever comes second finds the caches warm
            began = time.perf_counter()
            answer = client.call("POST", f"{PATH}/search", pair[side].encode())
            times[i, side] = (time.perf_counter() - began) * 1e3
            if side == 0:
                encode[i] = answer["result"]["stages"]["milliseconds"]["encode"]
    cells = [" / ".join(f"{value:.2f}" for value in np.percentile(times[:, side], (50, 10, 90))) for side in (0, 1)]
    apart = np.median(times[:, 0]) - np.median(times[:, 1])
    around = np.median(times[:, 0] - times[:, 1] - encode)
    return [encoder, *cells, f"{apart:.2f}", f"{np.median(encode):.2f}", f"{around:.2f}"]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--encoder", nargs="+", help="who reads queries; else all encoders of the default space")
    parser.add_argument("--threads", type=int, default=0, help="threads that encode; 0: one per core")
    arguments = parser.parse_args()
    texts = questions(arguments.queries)
    print(f"{machine()}; {arguments.points:,} points, {len(texts)} queries", flush=True)
    settings = {"BITFOLD_QUERY_CACHE": "0", "BITFOLD_ENCODER_THREADS": str(arguments.threads)}
    with tempfile.TemporaryDirectory() as folder, server(Path(folder), **settings) as running:
        load(running.client(), arguments.points)
        running.wait_indexed("bench", segments=1)
        time.sleep(2)
        encoders = arguments.encoder or readers(running.client())
        rows = [measure(running, encoder, texts) for encoder in encoders]
    head = ["encoder", "by text, ms p50 / p10 / p90", "by vector", "difference of p50", "encode, p50", "around it"]
    print(table(head, rows))


if __name__ == "__main__":
    main()
