"""How long one short query takes, and how many documents a second are encoded: in process, one and two threads.

Each number of threads has a process of its own. All contestants are loaded there; a round goes through all of them in
random order, so that what else the machine does meets everyone alike. A query is encoded alone, as a search does it.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.compression.results import Results
from benchmarks.embeddings import judged_texts
from benchmarks.encoders.contestants import DIMENSIONS, FULL, PEER, Contestants, Ours
from benchmarks.encoders.quality import SETS

KEYS = ("version", "what", "threads", "name", "layers", "dimensions")
QUERY, DOCUMENTS = "query ms", "documents/s"
WORDS = 12  # of a short query, at most
BUDGET = 0.3  # seconds of documents in one measurement, at least


def run(data: Path, results: Results, contestants: Contestants, *, rounds: int, asked: int, machine: str) -> None:
    """Measure with one thread and with two what is not in the results yet."""
    for threads in (1, 2):
        if any(key[:3] == (contestants.version, QUERY, threads) for key in _keys(results)):
            print(f"{threads} threads: measured before")
            continue
        limits = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
        command = [sys.executable, "-m", "benchmarks.encoders.speed", str(data), str(threads), str(rounds), str(asked)]
        command += [] if contestants.student is None else [str(contestants.student)]
        out = subprocess.run(command, env={**os.environ, **limits}, stdout=subprocess.PIPE, text=True, check=True)
        for row in json.loads(out.stdout):
            results.add({"version": contestants.version, "threads": threads, "machine": machine, **row})
            size = f"{row['name']} {row['layers']}x{row['dimensions']}"
            print(f"{threads} threads, {size}: {row['median']:.3f} {row['what']}")


def _keys(results: Results) -> list[tuple[object, ...]]:
    return [tuple(row[key] for key in KEYS) for row in results]


def child(data: Path, threads: int, rounds: int, asked: int, contestants: Contestants) -> list[dict]:
    """Measure all contestants in this process."""
    queries, documents = texts(data, asked)
    loaded = {name: contestants.load(name, threads) for name in dict.fromkeys(one.name for one in contestants.exits())}
    peer = contestants.load(PEER, threads)  # last: it sets how many threads torch takes
    sizes = [(one.name, one.layers, k) for one in contestants.exits() for k in DIMENSIONS]
    ask: dict[tuple[str, int, int], Callable[[list[str]], object]] = {
        (PEER, 6, FULL): lambda one: peer.encode_queries(one, layers=None, dimensions=None)
    }
    ask |= {size: _asking(loaded[size[0]], size[1], size[2]) for size in sizes}
    times: dict[tuple[str, int, int], list[float]] = {size: [] for size in ask}
    rng = np.random.default_rng(0)
    gc.disable()
    for number in range(rounds + 1):  # the first one warms up
        for i in rng.permutation(len(ask)).tolist():
            size = list(ask)[i]
            found = [_milliseconds(ask[size], text) for text in queries]
            if number:
                times[size].append(float(np.median(found)))
    rows = [_row(QUERY, size, values) for size, values in times.items()]
    load: dict[tuple[str, int, int], Callable[[list[str]], object]] = {(PEER, 6, FULL): peer.encode_documents}
    for one in contestants.exits():
        load[one.name, one.layers, FULL] = _loading(loaded[one.name], one.layers)
    rates: dict[tuple[str, int, int], list[float]] = {size: [] for size in load}
    for _ in range(max(2, rounds // 2)):
        for i in rng.permutation(len(load)).tolist():
            size = list(load)[i]
            rates[size].append(_rate(load[size], documents))
    return rows + [_row(DOCUMENTS, size, values) for size, values in rates.items()]


def texts(data: Path, asked: int) -> tuple[list[str], list[str]]:
    """Return short queries, and documents, as many of each set."""
    rng = np.random.default_rng(0)
    queries, documents = [], []
    for name in SETS:
        found = judged_texts(data / name)
        short = [text for text in found.queries if len(text.split()) <= WORDS]
        queries += [short[i] for i in rng.permutation(len(short))[:asked]]
        documents += [found.documents[i] for i in rng.permutation(len(found.documents))[: 2 * asked]]
    return queries, documents


def _asking(encoder: Ours, layers: int, dimensions: int) -> Callable[[list[str]], object]:
    return lambda texts: encoder.ask(texts, layers, dimensions)


def _loading(encoder: Ours, layers: int) -> Callable[[list[str]], object]:
    return lambda texts: encoder.encoder.encode_documents(texts, layers=layers)


def _milliseconds(ask: Callable[[list[str]], object], text: str) -> float:
    start = time.perf_counter()
    ask([text])
    return (time.perf_counter() - start) * 1e3


def _rate(load: Callable[[list[str]], object], documents: list[str]) -> float:
    done, start = 0, time.perf_counter()
    while not done or time.perf_counter() - start < BUDGET:
        load(documents)
        done += len(documents)
    return done / (time.perf_counter() - start)


def _row(what: str, size: tuple[str, int, int], values: list[float]) -> dict:
    name, layers, dimensions = size
    median = float(np.median(values))
    rounded = [float(f"{value:.5g}") for value in values]
    return {"what": what, "name": name, "layers": layers, "dimensions": dimensions, "median": median, "rounds": rounded}


if __name__ == "__main__":
    chosen = Contestants(Path(sys.argv[5]) if len(sys.argv) > 5 else None)
    print(json.dumps(child(Path(sys.argv[1]), *map(int, sys.argv[2:5]), chosen)))
