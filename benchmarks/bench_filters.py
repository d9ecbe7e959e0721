"""What do filters cost, and what do they do to recall? Payload indexes: rate, bytes a point, saving, loading.

    python benchmarks/bench_filters.py --points 200000

Synthetic text-like vectors in process, one thread, distance Cosine. A filter lets through a share of the points that
has nothing to do with the query ("none"), the part of the space where the query lies ("near"), or the opposite one
("far"). recall@10 of `exact: false` with default parameters, against exact search with the same filter.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from common import TextLike, anonymous_bytes, machine, spread, table

from index.collection import Collection
from index.fields.field import FieldKind
from index.filters import Filter, parse_filter
from index.indexing import drop_field, fill, index_field, save_fields
from index.maintenance import optimize
from index.paths import parse_path
from index.points import Batch, CollectionConfig, SearchParams
from index.store import Store, StoreOptions
from models.binarizer import TrainingFreeFactory

BATCH = 10_000
SHARES = (0.5, 0.1, 0.01, 0.001, 0.0001)
FIELDS: dict[str, FieldKind] = {
    "colour": "keyword",  # one of 16
    "name": "keyword",  # another for every point
    "number": "integer",
    "place": "float",
    "random": "float",
    "flag": "bool",
    "at": "datetime",
    "title": "text",  # eight words of 10,000
}


def payloads(first: int, place: np.ndarray, rng: np.random.Generator) -> list[bytes]:
    """Return JSON of points; `place` is where each lies along the direction of the queries."""
    words = rng.zipf(1.3, (len(place), 8)) % 10_000
    random = rng.random(len(place))
    return [
        json.dumps(
            {
                "colour": f"colour {i % 16}",
                "name": f"name-{i}",
                "number": i * 7919 % 1_000_003,
                "place": float(place[row]),
                "random": float(random[row]),
                "flag": i % 3 == 0,
                "at": f"20{i % 24:02d}-{1 + i % 12:02d}-{1 + i % 28:02d}T{i % 24:02d}:00:00Z",
                "title": " ".join(f"w{word}" for word in words[row]),
            }
        ).encode()
        for row, i in enumerate(range(first, first + len(place)))
    ]


def filled(store: Store, n: int, texts: TextLike, direction: np.ndarray) -> tuple[Collection, np.ndarray]:
    """Return a collection of n points with codes, and where each lies along a direction."""
    collection, rng, places = (
        store.create("filters", CollectionConfig(texts.dimension, "Cosine")),
        np.random.default_rng(0),
        [],
    )
    for start in range(0, n, BATCH):
        vectors = texts.draw(min(BATCH, n - start))
        places.append(vectors @ direction)
        ids = list(range(start, start + len(vectors)))
        empty = [None] * len(ids)
        collection.upsert(Batch(ids, vectors, payloads(start, places[-1], rng), empty, [b""] * len(ids)))
    optimize(collection)
    return collection, np.concatenate(places)


def within(key: str, **bounds: float) -> Filter:
    """Return a filter on the range of a field."""
    return parse_filter({"must": [{"key": key, "range": bounds}]})


def filters(places: np.ndarray) -> list[tuple[str, float, Filter]]:
    """Return correlation, share and filter."""
    out = []
    for share in SHARES:
        out.append(("none", share, within("random", lt=share)))
        out.append(("near", share, within("place", gte=float(np.quantile(places, 1 - share)))))
        out.append(("far", share, within("place", lte=float(np.quantile(places, share)))))
    return out


def searched(collection: Collection, queries: np.ndarray, tree: Filter | None) -> list[object]:
    """Return recall@10 of the funnel, and milliseconds in all and for the filter, p50 with spread."""
    recalls, times, filtering, last = [], [], [], None
    for query in queries:
        truth = collection.search(query[None], 10, filter=tree, params=SearchParams(exact=True))[0].hits
        began = time.perf_counter()
        last = collection.search(query[None], 10, filter=tree, params=SearchParams(exact=False), with_payload=False)[0]
        times.append((time.perf_counter() - began) * 1e3)
        filtering.append(last.stages.milliseconds.get("filter", 0.0))
        recalls.append(len({hit.id for hit in truth} & {hit.id for hit in last.hits}) / max(1, len(truth)))
    stages = last.stages
    return [
        f"{np.mean(recalls):.4f}",
        spread(times),
        f"{np.median(filtering):.2f}",
        stages.mode,
        stages.scanned,
        stages.reranked,
    ]


def timed(work: Callable[[], object]) -> float:
    """Return the seconds that something took."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def index_costs(collection: Collection, n: int) -> list[list[object]]:
    """Return kind, rows a second, bytes a point in memory, bytes a point in a file, seconds to load it again."""
    rows = []
    for name, kind in FIELDS.items():
        path, before = parse_path(name), anonymous_bytes(os.getpid())
        index_field(collection, path, kind)
        seconds = timed(lambda: fill(collection))
        memory = anonymous_bytes(os.getpid()) - before
        save_fields(collection)
        size = max(file.stat().st_size for file in (collection.folder / "fields").iterdir())
        collection.fields.drop(path)

        def load(path=path, kind=kind) -> None:  # noqa: ANN001
            index_field(collection, path, kind)
            fill(collection)

        again = timed(load)
        drop_field(collection, path)
        rows.append([name, kind, f"{n / seconds:,.0f}", f"{memory / n:.1f}", f"{size / n:.1f}", f"{again:.2f}"])
    return rows


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=200_000)
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--queries", type=int, default=50)
    a = parser.parse_args()
    print(machine(), f"{a.points:,} points", flush=True)
    texts = TextLike(a.points, a.dimension)
    direction = texts.draw(1)[0]
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder), TrainingFreeFactory(), StoreOptions(background=False))
        collection, places = filled(store, a.points, texts, direction)
        costs = index_costs(collection, a.points)
        print(table(["field", "kind", "rows/s", "bytes a point", "file", "load s"], costs), flush=True)
        queries = texts.draw(20 * a.queries)
        queries = queries[np.argsort(-(queries @ direction))[: a.queries]]
        tree = within("random", lt=0.01)
        slow = timed(lambda: collection.count(tree))
        for name in ("random", "place"):
            index_field(collection, parse_path(name), FIELDS[name])
        fill(collection)
        fast = [timed(lambda: collection.count(tree)) * 1e3 for _ in range(9)]
        print(f"\na count without an index {slow:.2f} s, with one {spread(fast)} ms\n")
        rows = [["", "no filter", *searched(collection, queries, None)]]
        for kind, share, one in filters(places):
            rows.append([kind, f"{share:.2%}", *searched(collection, queries, one)])
        head = ["correlation", "share", "recall@10", "ms", "of it filter", "mode", "scanned", "vectors read"]
        print(table(head, rows))
        store.close()


if __name__ == "__main__":
    main()
