"""Where does the time of a search over HTTP go: the search, the engine, the application, the transport?

    python benchmarks/bench_http.py --points 100000

A collection of 384-d synthetic vectors (common.TextLike), each with a payload of about 100 bytes. The same queries,
limit 10, by one client, are asked of four layers, each of which contains the one before: `Collection.search`;
`Engine.search`, with payloads; the ASGI application called in this process, which reads JSON, checks it, changes
threads and writes JSON; `bitfold serve` over a kept connection of `http.client`. The first three take turns query by
query; the server runs before them, over the same directory. The last column is what a layer adds to the one before.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from common import TextLike, bodies, machine, server, spread, table
from numpy.typing import NDArray

BLOCK = 10_000
NAME = "bench"
PATH = f"/collections/{NAME}"
WARM = 50


def lines(first: int, vectors: NDArray[np.float32]) -> bytes:
    """Return NDJSON with a payload such as documents of a retrieval set have."""
    rows = [
        {"id": first + i, "vector": vector.tolist(), "payload": {"title": f"document {first + i}", "source": "x" * 64}}
        for i, vector in enumerate(vectors)
    ]
    return "\n".join(map(json.dumps, rows)).encode()


def over_http(data_dir: Path, points: int, requests: list[bytes], source: TextLike) -> list[float]:
    """Fill a collection by a server and ask it; return milliseconds."""
    with server(data_dir, BITFOLD_ENCODER="none") as running:
        client = running.client()
        client.call("PUT", PATH, {"vectors": {"size": source.dimension, "distance": "Cosine"}})
        for start in range(0, points, BLOCK):
            body = lines(start, source.draw(min(BLOCK, points - start)))
            client.call("POST", f"{PATH}/points/bulk", body, "application/x-ndjson")
        running.wait_indexed(NAME, segments=1)
        time.sleep(5)
        times = [client.timed(f"{PATH}/search", body) for body in requests[:WARM] + requests]
    return times[WARM:]


async def inside(data_dir: Path, queries: NDArray[np.float32], requests: list[bytes]) -> dict[str, list[float]]:
    """Ask the layers within this process in turn; return the milliseconds of each."""
    from index.points import SearchParams
    from service.app import create_app
    from service.queries import Query
    from service.settings import Settings

    app = create_app(Settings(data_dir=data_dir, encoder="none", log_level="warning"))
    async with app.router.lifespan_context(app) as state:
        engine = state["services"].engine
        params = SearchParams(exact=False)

        async def application(at: int) -> None:
            status = await _post(app, dict(state), f"{PATH}/search", requests[at])
            if status != 200:
                raise RuntimeError(f"{PATH}/search: {status}")

        def search(at: int) -> None:
            with engine.catalog.using(NAME) as collection:
                collection.search(queries[at][None], 10, params=params, with_payload=False)

        def asked(at: int) -> None:
            engine.search(NAME, [Query(limit=10, vector=queries[at], params=params)])

        times: dict[str, list[float]] = {"search": [], "engine": [], "application": []}
        for number in range(-WARM, len(requests)):
            at = number % len(requests)
            for layer, call in _turned({"search": search, "engine": asked, "application": application}, number):
                began = time.perf_counter()
                waiting = call(at)
                if waiting is not None:
                    await waiting
                if number >= 0:
                    times[layer].append((time.perf_counter() - began) * 1e3)
        return times


def _turned(layers: dict[str, Callable[[int], Any]], by: int) -> list[tuple[str, Callable[[int], Any]]]:
    """Return the layers, another one first each time: whoever comes later finds the query's rows in the caches."""
    items = list(layers.items())
    return items[by % len(items) :] + items[: by % len(items)]


async def _post(app: Any, state: dict[str, Any], path: str, body: bytes) -> int:  # noqa: ANN401
    sent: list[dict[str, Any]] = []
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
        "path": path, "raw_path": path.encode(), "root_path": "", "query_string": b"", "state": state,
        "headers": [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())],
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2),
    }  # fmt: skip

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return int(sent[0]["status"])


def main() -> None:
    """Print the table."""
    import uvloop

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=100_000)
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--queries", type=int, default=1000)
    a = parser.parse_args()
    source = TextLike(a.points, a.dimension)
    queries = TextLike(a.points, a.dimension).draw(a.queries)
    requests = bodies(queries)
    print(f"{machine()}; {a.points:,} points, {a.queries} queries of {len(requests[0]):,} bytes", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        outside = over_http(Path(folder), a.points, requests, source)
        times = uvloop.run(inside(Path(folder), queries, requests)) | {"HTTP": outside}
    rows, before = [], 0.0
    for layer, milliseconds in times.items():
        median = float(np.median(milliseconds))
        rows.append([layer, spread(milliseconds), f"{np.percentile(milliseconds, 99):.2f}", f"{median - before:.2f}"])
        before = median
    print(table(["layer", "ms, median (least to greatest)", "p99", "adds"], rows))


if __name__ == "__main__":
    main()
