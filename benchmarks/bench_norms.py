"""Do the default stage sizes keep their recall when norms are spread, and what do they read for it?

    python benchmarks/bench_norms.py --points 100000

Synthetic vectors (variance of component i falls as 1/i) with lognormal norms, distances Dot and Euclid; recall@10 of
`exact: false` with default parameters against exact search, and milliseconds of each in process.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from common import machine, table

from index.maintenance import optimize
from index.points import Batch, CollectionConfig, SearchParams
from index.store import Store, StoreOptions
from models.binarizer import TrainingFreeFactory


def measure(distance: str, d: int, sigma: float, n: int, queries: int) -> list[object]:
    """Return one row of the table."""
    rng = np.random.default_rng(0)
    scale = (np.arange(1, d + 1) ** -0.5).astype(np.float32)

    def draw(count: int) -> np.ndarray:
        vectors = rng.standard_normal((count, d), dtype=np.float32) * scale
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    asked = draw(queries)
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder), TrainingFreeFactory(), StoreOptions(background=False))
        collection = store.create("norms", CollectionConfig(dimension=d, distance=distance))
        for start in range(0, n, 5000):
            norms = np.exp(sigma * rng.standard_normal((5000, 1))).astype(np.float32)
            collection.upsert(
                Batch(list(range(start, start + 5000)), draw(5000) * norms, [b"{}"] * 5000, [None] * 5000, [b""] * 5000)
            )
        optimize(collection)
        recalls, times = [], []
        for query in asked:
            truth = collection.search(query[None, :], 10, params=SearchParams(exact=True))[0]
            began = time.perf_counter()
            found = collection.search(query[None, :], 10, params=SearchParams(exact=False))[0]
            times.append((time.perf_counter() - began) * 1e3)
            recalls.append(len({h.id for h in truth.hits} & {h.id for h in found.hits}) / 10)
        stages, bands = found.stages, collection.view.segments[0].index.bands
        store.close()
    return [
        distance,
        d,
        sigma,
        f"{n:,}",
        bands,
        f"{np.mean(recalls):.4f}",
        stages.candidates,
        stages.reranked,
        stages.bytes_read,
        f"{np.median(times):.2f}",
    ]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=100)
    arguments = parser.parse_args()
    print(machine(), flush=True)
    rows = [
        measure(distance, d, sigma, arguments.points, arguments.queries)
        for distance in ("Dot", "Euclid")
        for d in (128, 384)
        for sigma in (0.0, 0.3, 1.0)
    ]
    head = ["distance", "d", "sigma", "points", "bands", "recall@10", "candidates", "vectors read", "bytes read", "ms"]
    print(table(head, rows))


if __name__ == "__main__":
    main()
