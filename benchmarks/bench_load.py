"""How fast do points load, where does the time go, and how does that compare with building a graph?

    python benchmarks/bench_load.py --points 1000000 --graph-points 100000 --texts 3000

Vectors: NDJSON with base64 float32 (and with JSON lists, for a tenth of the points) posted to a server, against
`faiss.IndexHNSWFlat` (M 32, efConstruction 100) built in this process on all cores from the same vectors. A graph's
cost per point grows with its size, so the rate of a smaller graph flatters the graph.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import faiss
import numpy as np
from bench_search import load
from common import TextLike, anonymous_bytes, machine, ndjson, server, spread, table

SAMPLE = Path(__file__).parent.parent / "service" / "sample" / "corpus.jsonl"


def over_http(n: int, d: int, repeats: int) -> tuple[list[float], list[float], dict[str, float]]:
    """Return seconds to durable, seconds to indexed (few segments), and the parts of one load in process."""
    durable, indexed = [], []
    for _ in range(repeats):
        source = TextLike(n, d)
        with tempfile.TemporaryDirectory() as folder, server(Path(folder), BITFOLD_ENCODER="none") as running:
            client = running.client()
            client.call("PUT", "/collections/bench", {"vectors": {"size": d, "distance": "Cosine"}})
            began = time.perf_counter()
            seconds = load(client, "bench", source, n)
            waiting = time.perf_counter()
            running.wait_indexed("bench", segments=24)
            durable.append(seconds)
            indexed.append(seconds + time.perf_counter() - waiting)
            print(
                f"loaded {n:,} in {seconds:.1f} s; wall with drawing and encoding of bodies "
                f"{time.perf_counter() - began:.1f} s; {anonymous_bytes(running.pid) / 2**20:.0f} MiB",
                flush=True,
            )
    return durable, indexed, parts(d)


def parts(d: int, n: int = 20_000) -> dict[str, float]:
    """Time the steps of a load one by one, in microseconds a point, on one thread each."""
    from index.points import Batch, CollectionConfig, content_hash
    from index.store import Store
    from models.binarizer import TrainingFreeFactory
    from service.ndjson import LineSpec, parse_block

    vectors = TextLike(n, d).draw(n)
    body = ndjson(0, vectors)
    spec = LineSpec(kind="vector", dimension=d, distance="Cosine", max_line_bytes=1 << 22, max_text_bytes=1 << 20)
    found: dict[str, float] = {}

    def timed(name: str, work):  # noqa: ANN001, ANN202
        began = time.perf_counter()
        result = work()
        found[name] = (time.perf_counter() - began) / n * 1e6
        return result

    parsed = timed("parse (worker process)", lambda: parse_block(body, 1, spec))
    binarizer = TrainingFreeFactory().fit(vectors, 0)
    timed("encode to codes", lambda: binarizer.encode(vectors))
    timed("hash", lambda: [content_hash(v.tobytes()) for v in vectors])
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder), TrainingFreeFactory())
        collection = store.create("bench", CollectionConfig(dimension=d, distance="Cosine"))

        def write() -> None:
            for start in range(0, n, 1000):
                stop = start + 1000
                collection.upsert(
                    Batch(
                        parsed.ids[start:stop],
                        parsed.vectors[start:stop],
                        parsed.payloads[start:stop],
                        [None] * 1000,
                        parsed.hashes[start:stop],
                    )
                )

        timed("commit, codes included", write)
        store.close()
    return found


def graph(n: int, d: int) -> float:
    """Return the seconds that FAISS takes for a graph over n vectors on all cores."""
    vectors = TextLike(n, d).draw(n)
    index = faiss.IndexHNSWFlat(d, 32, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = 100
    began = time.perf_counter()
    index.add(vectors)
    return time.perf_counter() - began


def texts(n: int) -> list[list[object]]:
    """Return rows for loading n texts (the sample corpus, repeated with a number), new and sent again."""
    lines = [json.loads(line) for line in SAMPLE.read_text().splitlines()]
    body = b"".join(
        json.dumps({"id": i, "text": f"{lines[i % len(lines)]['text']} ({i // len(lines)})"}).encode() + b"\n"
        for i in range(n)
    )
    rows: list[list[object]] = []
    with tempfile.TemporaryDirectory() as folder, server(Path(folder)) as running:
        client = running.client()
        client.call("PUT", "/collections/texts", {"encoder": "default"})
        for label in ("texts, new", "texts, sent again unchanged"):
            began = time.perf_counter()
            answer = client.call("POST", "/collections/texts/points/bulk", body, "application/x-ndjson")["result"]
            seconds = time.perf_counter() - began
            rows.append([label, f"{n:,}", f"{seconds:.2f}", f"{n / seconds:,.0f}", f"unchanged {answer['unchanged']}"])
    return rows


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=1_000_000)
    parser.add_argument("--graph-points", type=int, default=100_000)
    parser.add_argument("--texts", type=int, default=3000)
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--repeats", type=int, default=1)
    arguments = parser.parse_args()
    print(machine(), flush=True)
    n, d = arguments.points, arguments.dimension
    durable, indexed, steps = over_http(n, d, arguments.repeats)
    built = graph(arguments.graph_points, d)
    loaded_rate = n / float(np.median(durable))
    graph_rate = arguments.graph_points / built
    rows = [
        ["vectors over HTTP, durable", f"{n:,}", spread(durable, 1), f"{loaded_rate:,.0f}", ""],
        [
            "vectors over HTTP, in at most 24 segments",
            f"{n:,}",
            spread(indexed, 1),
            f"{n / float(np.median(indexed)):,.0f}",
            "",
        ],
        [
            "FAISS HNSWFlat M 32 efC 100, in process",
            f"{arguments.graph_points:,}",
            f"{built:.1f}",
            f"{graph_rate:,.0f}",
            f"{loaded_rate / graph_rate:.1f} times slower than Bitfold",
        ],
        *texts(arguments.texts),
    ]
    print(table(["what", "points", "seconds", "points/s", "note"], rows))
    print(table(["step of a vector load", "microseconds a point"], [[k, f"{v:.1f}"] for k, v in steps.items()]))


if __name__ == "__main__":
    main()
