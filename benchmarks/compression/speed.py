"""How fast the real indexes scan a million codes, and how fast each method encodes: one thread, rounds interleaved.

CPU time of the process is what counts: on one thread it is the time that passes, less what other programs took.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.compression import faiss_peers
from benchmarks.compression.catalogue import DIMENSION, TRAINING_FREE, peers
from benchmarks.compression.coders import FACTOR_BYTES, Coder, training_free
from benchmarks.compression.sets import Floats, Positions
from benchmarks.embeddings import retrieval_set
from index.code_index import CodeIndex
from index.codes import Planes, pack
from index.kernels import plane_products

Fit = Callable[[Floats, int], Coder]

BASE_SETS = ("scifact", "cosqa", "covidqa")
FIT_ROWS = 8_192  # what is fitted does not change the speed
NOISE = 0.02  # of the length of a vector, so that copies of a row differ in a few levels
K = 100
CANDIDATES = 400  # what the index takes from the scan of plane 0, by default
TIMED_ROWS = 2_048
QDRANT_PART = 5  # Qdrant's engine scans a fifth of the rows: it keeps the vectors too


class ScannedCoder:
    """Plane 0 in the index's fast-scan lists, further planes of what it proposes scored after it: Bitfold's two stages.

    Parameters
    ----------
    binarizer : implements `index.binarizer.Binarizer`.
    """

    rescores = False

    def __init__(self, binarizer: Any) -> None:  # noqa: ANN401
        self._binarizer = binarizer
        self._planes: list[Planes] = []
        self._factors: list[Floats] = []
        self._built: tuple[CodeIndex, Planes, Floats] | None = None
        self.bytes_a_vector = float(binarizer.bits * (binarizer.code_dimension / 8 + FACTOR_BYTES))

    def add(self, vectors: Floats) -> None:
        """Encode, pack and keep."""
        levels, factors = self._binarizer.encode(vectors)
        self._planes.append(pack(levels, self._binarizer.bits))
        self._factors.append(factors[:, -1])

    def search(self, queries: Floats, n: int) -> Positions:
        """Search one query; the first search lays out all that was added."""
        if self._built is None:
            planes = np.concatenate(self._planes)
            index = CodeIndex(planes[:, 0], [np.arange(len(planes), dtype=np.int64)])
            self._built = index, np.ascontiguousarray(planes[:, 1:]), np.concatenate(self._factors)
            self._planes, self._factors = [], []
        index, rest, factors = self._built
        mapped = self._binarizer.queries(queries)[0]
        [(positions, scores)] = index.scan(mapped[None], CANDIDATES, None)
        bits = self._binarizer.bits
        if bits > 1:
            scores = scores + 0.5 * plane_products(rest, bits - 1, positions, mapped)
        estimates = scores * factors[positions]
        return np.asarray(positions[np.argsort(-estimates)[:n]])[None, :]


class Speeds:
    """What `run` measured, for tables; empty where it has not run."""

    def __init__(self, path: Path) -> None:
        self._found = json.loads(path.read_text()) if path.exists() else {"scan": {}, "encode": {}}

    @property
    def machine(self) -> str:
        """Where and on how many codes it was measured."""
        return str(self._found.get("machine", "not measured"))

    def names(self) -> list[str]:
        """Return what was timed."""
        return list(self._found["encode"])

    def scan(self, method: str) -> str:
        """Return microseconds per million codes as `median (least to greatest)`."""
        values = self._found["scan"].get(method)
        if not values:
            return ""
        low, middle, high = (f"{f(values):,.0f}" for f in (np.min, np.median, np.max))
        return f"{middle} ({low} to {high})"

    def encode(self, method: str) -> str:
        """Return milliseconds per thousand vectors."""
        values = self._found["encode"].get(method)
        return f"{np.median(values):.1f}" if values else ""


def subjects() -> dict[str, Fit]:
    """Return what is timed: sizes that differ in speed, under the names of the catalogue."""
    out: dict[str, Fit] = {}
    for bits, m in ((1, 112), (1, 240), (1, 368), (1, DIMENSION), (2, DIMENSION), (4, DIMENSION)):
        out[f"{TRAINING_FREE}, {bits} x {m}"] = partial(_scanned, bits, m)
    for method in peers():
        if " x " not in method.name or method.name.endswith(f" x {DIMENSION}"):
            out[method.name] = method.fit
    for bits in (1, 2, 4):  # its fast form
        out[f"FAISS RaBitQ {bits} bit, {bits} x {DIMENSION}"] = partial(faiss_peers.rabitq_fast, bits, DIMENSION)
    return out


def _scanned(bits: int, m: int, documents: Floats, seed: int) -> ScannedCoder:
    return ScannedCoder(training_free(bits, None if m == DIMENSION else m, seed, documents))


def chunks(base: Floats, rows: int, seed: int = 0) -> Iterator[Floats]:
    """Yield real vectors, then copies of them with noise, until there are `rows`."""
    rng = np.random.default_rng(seed)
    for start in range(0, rows, len(base)):
        part = base[: min(len(base), rows - start)]
        if start:
            part = part + NOISE / np.sqrt(part.shape[1]) * rng.standard_normal(part.shape, dtype=np.float32)
            part /= np.linalg.norm(part, axis=1, keepdims=True)
        yield np.asarray(part, dtype=np.float32)


def run(data: Path, cache: Path, out: Path, *, rows: int, rounds: int, asked: int, machine: str) -> None:
    """Build every index, time encoding and then scans round by round; write JSON."""
    sets = [retrieval_set(data / name, cache, only_cached=True) for name in BASE_SETS]
    base = np.concatenate([found.documents for found in sets])
    base = base[np.random.default_rng(0).permutation(len(base))]
    queries = sets[0].queries[:asked]
    fits = subjects()
    coders: dict[str, Coder] = {}
    for name, fit in fits.items():
        coders[name] = fit(base[:FIT_ROWS], 0)
    print("fitted", flush=True)
    encode = encode_times(base, coders, fits, rounds)
    print("encoding timed", flush=True)
    faiss.omp_set_num_threads(os.cpu_count() or 1)
    counts = {name: rows // QDRANT_PART if name.startswith("Qdrant") else rows for name in coders if "OPQ" not in name}
    for name, count in counts.items():
        start = time.perf_counter()
        already = 0 if name.startswith("Qdrant") else rounds * TIMED_ROWS
        for part in chunks(base, count - already):
            coders[name].add(part)
        coders[name].search(queries[:1], K)
        print(f"built {name}: {time.perf_counter() - start:.0f} s", flush=True)
    faiss.omp_set_num_threads(1)
    scan: dict[str, list[float]] = {name: [] for name in counts}
    with threadpool_limits(1):
        for number in range(rounds):
            for name, count in counts.items():
                start = time.process_time()
                for i in range(asked):
                    coders[name].search(queries[i : i + 1], K)
                scan[name].append((time.process_time() - start) / asked / count * 1e12)
            print(f"round {number + 1} of {rounds}", flush=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"machine": machine, "rows": rows, "scan": scan, "encode": encode}))


def encode_times(
    vectors: Floats, coders: dict[str, Coder], fits: dict[str, Fit], rounds: int
) -> dict[str, list[float]]:
    """Return milliseconds of CPU time per thousand vectors encoded on one core, for every method, rounds interleaved.

    Qdrant's time is that of a whole shard: upsert, and the pass that makes codes.
    """
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    faiss.omp_set_num_threads(1)
    out: dict[str, list[float]] = {name: [] for name in coders}
    with threadpool_limits(1):
        for number in range(rounds):
            part = vectors[number * TIMED_ROWS :][:TIMED_ROWS]
            for name, kept in coders.items():
                start = time.process_time()
                coder = fits[name](part, 0) if name.startswith("Qdrant") else kept
                coder.add(part)
                if coder is not kept:
                    _ = coder.bytes_a_vector  # makes the codes
                out[name].append((time.process_time() - start) / len(part) * 1e6)
    os.sched_setaffinity(0, cores)
    return out
