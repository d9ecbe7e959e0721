"""How long does a search by vector take, where, and what does a point cost in memory?

    python benchmarks/bench_search.py --points 10000 100000 1000000

For each size: a collection of 384-d vectors (synthetic with a text-like spectrum, see common.TextLike) is loaded
over HTTP into a server without a model. Then, in one run: over HTTP by 1 and by 8 clients (a process each), idle and
while a bulk load runs into a second collection; then the search in process, stage by stage, over the same directory:
first with none of its files in memory (each query once, so the first ones find least), then once more.
Every figure is of `--queries` distinct queries, limit 10, `exact: false`. The loader stands for a client on another
machine: it has its lines ready and runs at the lowest priority.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from common import (
    Client,
    Server,
    TextLike,
    anonymous_bytes,
    bodies,
    machine,
    ndjson,
    percentiles,
    server,
    table,
)
from numpy.typing import NDArray

BLOCK = 10_000
NAME = "bench"


def load(client: Client, name: str, source: TextLike, n: int) -> float:
    """Load n points in bulk requests; return the seconds that the server took."""
    seconds = 0.0
    for start in range(0, n, BLOCK):
        body = ndjson(start, source.draw(min(BLOCK, n - start)))
        began = time.perf_counter()
        answer = client.call("POST", f"/collections/{name}/points/bulk", body, "application/x-ndjson")
        seconds += time.perf_counter() - began
        if answer["result"]["rejected"]:
            raise RuntimeError(answer)
    return seconds


def keep_loading(port: int, source: TextLike) -> None:
    """Load points into the other collection for ever."""
    os.nice(19)
    client = Server(0, port).client()
    client.call("PUT", "/collections/busy", {"vectors": {"size": source.dimension, "distance": "Cosine"}})
    lines = ndjson(0, source.draw(BLOCK)).split(b"\n")[:-1]
    tails = [line.partition(b",")[2] for line in lines]
    for block in itertools.count():
        body = b"".join(b'{"id":%d,%s\n' % (block * BLOCK + i, tail) for i, tail in enumerate(tails))
        client.call("POST", "/collections/busy/points/bulk", body, "application/x-ndjson")


def ask(port: int, name: str, requests: list[bytes], out: multiprocessing.Queue) -> None:
    """Send requests one after another over one connection; report their milliseconds."""
    client = Server(0, port).client()
    for body in requests[:20]:
        client.timed(f"/collections/{name}/search", body)
    out.put([client.timed(f"/collections/{name}/search", body) for body in requests])


def clients(port: int, requests: list[bytes], count: int) -> tuple[list[float], float]:
    """Ask from `count` processes at once; return all milliseconds and the queries per second."""
    out: multiprocessing.Queue = multiprocessing.Queue()
    parts = [requests[i::count] if count > 1 else requests for i in range(count)]
    began = time.perf_counter()
    workers = [multiprocessing.Process(target=ask, args=(port, NAME, part, out)) for part in parts]
    for worker in workers:
        worker.start()
    times = [t for _ in workers for t in out.get()]
    for worker in workers:
        worker.join()
    return times, len(requests) / (time.perf_counter() - began)


def forget(data_dir: Path) -> None:
    """Put all files of a directory out of the page cache; nobody may have them mapped."""
    for path in data_dir.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@dataclass(frozen=True, slots=True)
class Pass:
    """All queries asked once: milliseconds, and the median of each stage."""

    times: list[float]
    stages: dict[str, float]

    def row(self, n: int, label: str) -> list[object]:
        """Return the table's row."""
        p50, p99 = percentiles(self.times)
        parts = ", ".join(f"{name} {value:.2f}" for name, value in self.stages.items())
        return [f"{n:,}", label, f"{p50:.2f}", f"{p99:.2f}", f"{1e3 / float(np.mean(self.times)):.0f}", parts]


def in_process(data_dir: Path, queries: NDArray[np.float32]) -> tuple[list[Pass], float]:
    """Search the same directory with the index in this process, cold and warm; return recall@10 against exact too."""
    from index.points import SearchParams
    from index.store import Store, StoreOptions
    from models.binarizer import TrainingFreeFactory

    forget(data_dir)
    store = Store(data_dir, TrainingFreeFactory(), StoreOptions(background=False))
    collection = store.get(NAME)
    passes = []
    for _ in range(2):
        stages: dict[str, list[float]] = {}
        times, found = [], []
        for query in queries:
            began = time.perf_counter()
            result = collection.search(query[None, :], 10, params=SearchParams(exact=False))[0]
            times.append((time.perf_counter() - began) * 1e3)
            found.append({hit.id for hit in result.hits})
            for name, value in result.stages.milliseconds.items():
                stages.setdefault(name, []).append(value)
        passes.append(Pass(times, {name: float(np.median(values)) for name, values in stages.items()}))
    truth = [
        {hit.id for hit in collection.search(query[None, :], 10, params=SearchParams(exact=True))[0].hits}
        for query in queries[:100]
    ]
    recall = float(np.mean([len(a & b) / 10 for a, b in zip(found, truth, strict=False)]))
    store.close()
    return passes, recall


def measure(n: int, d: int, asked: int) -> list[list[object]]:
    """Return the table's rows for one size."""
    rows: list[list[object]] = []
    source = TextLike(n, d)
    with tempfile.TemporaryDirectory() as folder:
        data_dir = Path(folder)
        with server(data_dir, BITFOLD_ENCODER="none") as running:
            client = running.client()
            client.call("PUT", f"/collections/{NAME}", {"vectors": {"size": d, "distance": "Cosine"}})
            client.call("PUT", "/collections/other", {"vectors": {"size": d, "distance": "Cosine"}})
            load(client, "other", source, 10_000)  # the parser and its buffers are there before memory is read
            time.sleep(3)
            empty = anonymous_bytes(running.pid)
            seconds = load(client, NAME, source, n)
            info = running.wait_indexed(NAME, segments=1)
            time.sleep(12)
            queries = source.draw(asked)
            requests = bodies(queries)
            idle1, rate1 = clients(running.port, requests, 1)
            memory = (anonymous_bytes(running.pid) - empty) / n
            idle8, rate8 = clients(running.port, requests, 8)
            loader = multiprocessing.Process(target=keep_loading, args=(running.port, source), daemon=True)
            loader.start()
            time.sleep(3)
            busy1, _ = clients(running.port, requests, 1)
            busy8, _ = clients(running.port, requests, 8)
            loader.kill()
        (cold, warm), recall = in_process(data_dir, queries)
    rows += [warm.row(n, "in process"), cold.row(n, "in process, files not in memory")]
    for label, measured, rate in (
        ("HTTP, 1 client", idle1, f"{rate1:.0f}"),
        ("HTTP, 8 clients", idle8, f"{rate8:.0f}"),
        ("HTTP, 1 client, during a bulk load", busy1, ""),
        ("HTTP, 8 clients, during a bulk load", busy8, ""),
    ):
        a, b = percentiles(measured)
        rows.append([f"{n:,}", label, f"{a:.2f}", f"{b:.2f}", rate, ""])
    ratio1 = percentiles(busy1)[1] / percentiles(idle1)[1]
    ratio8 = percentiles(busy8)[1] / percentiles(idle8)[1]
    added = percentiles(idle1)[0] - percentiles(warm.times)[0]
    print(
        f"{n:,}: loaded in {seconds:.1f} s ({n / seconds:,.0f} points/s), {info['segments_count']} segments, "
        f"recall@10 {recall:.4f}, {memory:.1f} bytes of anonymous memory a point "
        f"(codes {info['codes']['bytes_per_point']}), HTTP adds {added:.2f} ms to the p50, "
        f"p99 during load / idle: {ratio1:.2f} (1 client), {ratio8:.2f} (8 clients)",
        flush=True,
    )
    return rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--queries", type=int, default=1000)
    arguments = parser.parse_args()
    print(machine(), flush=True)
    rows = [row for n in arguments.points for row in measure(n, arguments.dimension, arguments.queries)]
    print(table(["points", "how", "p50 ms", "p99 ms", "queries/s", "stages, median ms"], rows))


if __name__ == "__main__":
    main()
