"""Is the scan of plane 0 as fast as FAISS's own scans, and does refining cost less than the reads that it saves?

    python benchmarks/bench_scan.py scan
    python benchmarks/bench_scan.py refine --points 200000 1000000

`scan`: one thread, codes of synthetic vectors with a text-like spectrum (common.TextLike), every round asks each index
the same queries one at a time, rounds interleaved; CPU time, so that other work on the machine counts less; the ratio
to Bitfold is taken within a round. `refine`: a collection of 4 planes, searched in process with one plane and many
reads and with more planes and few reads, vectors in the page cache and not.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import mmap
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from common import TextLike, machine, spread, table
from numpy.typing import NDArray

Scan = Callable[[NDArray[np.float32], int], Any]
BLOCK = 50_000
DIMENSION = 384


def cut(matrix: NDArray[np.float32], vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return vectors in the first dimensions of a rotated space."""
    return np.ascontiguousarray(vectors @ matrix.T)


def indexes(points: int, code_bytes: int, source: TextLike) -> dict[str, Scan]:
    """Build every index over the same vectors at the same bytes a vector."""
    from index.code_index import CodeIndex
    from index.codes import pack

    bits = 8 * code_bytes
    rabitq_bits = bits - 64  # its two float factors are part of a vector's bytes
    rotation = np.linalg.qr(np.random.default_rng(0).standard_normal((DIMENSION, DIMENSION)))[0].astype(np.float32)
    codes = np.empty((points, code_bytes), dtype=np.uint8)
    binary = faiss.IndexBinaryFlat(bits)
    rabitq = faiss.IndexRaBitQFastScan(rabitq_bits, faiss.METRIC_INNER_PRODUCT)
    sample = source.draw(BLOCK)
    mean = sample.mean(axis=0)
    rabitq.train(cut(rotation[:rabitq_bits], sample))
    for start in range(0, points, BLOCK):
        vectors = source.draw(min(BLOCK, points - start))
        signs = (cut(rotation[:bits], vectors - mean) >= 0).astype(np.uint8)
        codes[start : start + len(signs)] = pack(signs, 1)[:, 0]
        binary.add(np.packbits(signs, axis=1))
        rabitq.add(cut(rotation[:rabitq_bits], vectors))
    ours = CodeIndex(codes, [np.arange(points, dtype=np.int64)])
    packed: dict[str, Scan] = {
        f"Bitfold plane 0, {bits} bits": lambda q, k: ours.scan(cut(rotation[:bits], q)[:1], k, None)[0],
        f"FAISS RaBitQ fast-scan, {rabitq_bits} bits and factors": lambda q, k: rabitq.search(
            cut(rotation[:rabitq_bits], q), k
        ),
        f"FAISS Hamming flat, {bits} bits": lambda q, k: binary.search(
            np.packbits(cut(rotation[:bits], q - mean) >= 0, axis=1), k
        ),
    }
    return packed


def scan(points: int, code_bytes: int, candidates: list[int], rounds: int, asked: int) -> list[dict[str, Any]]:
    """Return for each index and k the milliseconds of CPU time a query of every round."""
    source = TextLike(points, DIMENSION)
    built = indexes(points, code_bytes, source)
    queries = source.draw(asked)
    out: dict[tuple[str, int], list[float]] = {}
    for number in range(rounds + 1):
        for k in candidates:
            for name, search in built.items():
                start = time.process_time()
                for i in range(asked):
                    search(queries[i : i + 1], k)
                if number:  # the first round warms up
                    out.setdefault((name, k), []).append((time.process_time() - start) / asked * 1e3)
    return [
        {"bytes": code_bytes, "points": points, "k": k, "index": name, "ms": times} for (name, k), times in out.items()
    ]


def scan_table(rows: list[dict[str, Any]]) -> str:
    """Write times, and how many times Bitfold's they are."""
    ours = {(row["bytes"], row["k"]): row["ms"] for row in rows if row["index"].startswith("Bitfold")}
    lines = []
    for row in rows:
        ratios = np.array(row["ms"]) / np.array(ours[row["bytes"], row["k"]])
        per_million = [1e3 * ms * 1e6 / row["points"] for ms in row["ms"]]
        lines.append([row["bytes"], row["k"], row["index"], spread(per_million, 0), spread(list(ratios))])
    return table(["bytes a vector", "k", "index", "microseconds per million codes", "times Bitfold's"], lines)


# label, planes used, full-precision vectors read
FUNNELS = (("1 plane, 200 reads", 1, 200), ("2 planes, 40 reads", 2, 40), ("4 planes, 20 reads", 4, 20))
MADV_DONTNEED = 4


class PageCache:
    """Pages of a folder's vector files: how many are in memory, and how to put them out."""

    def __init__(self, folder: Path) -> None:
        self._paths = sorted(folder.rglob("*.vec"))
        self._libc = ctypes.CDLL(None, use_errno=True)

    def _mapped(self) -> list[tuple[int, int]]:
        names = {str(path) for path in self._paths}
        lines = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
        ranges = [line[0].split("-") for line in lines if line[-1] in names]
        return [(int(low, 16), int(high, 16)) for low, high in ranges]

    def drop(self) -> None:
        """Unmap the pages from this process, then ask the kernel to forget them (posix_fadvise DONTNEED)."""
        for low, high in self._mapped():
            self._libc.madvise(ctypes.c_void_p(low), ctypes.c_size_t(high - low), MADV_DONTNEED)
        for path in self._paths:
            fd = os.open(path, os.O_RDONLY)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)

    def resident(self) -> float:
        """Return the share of mapped pages that lie in the page cache (mincore)."""
        pages = resident = 0
        for low, high in self._mapped():
            flags = (ctypes.c_ubyte * (-(-(high - low) // mmap.PAGESIZE)))()
            if self._libc.mincore(ctypes.c_void_p(low), ctypes.c_size_t(high - low), flags):
                raise OSError(ctypes.get_errno(), "mincore")
            pages += len(flags)
            resident += int((np.frombuffer(flags, dtype=np.uint8) & 1).sum())
        return resident / max(pages, 1)


def storage_bytes() -> int:
    """Return what this process has caused to be read from storage."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes"))


def collection(folder: Path, source: TextLike, points: int) -> Any:  # noqa: ANN401
    """Make a collection of 4 planes in one segment."""
    from index import maintenance
    from index.points import Batch, CollectionConfig
    from index.store import Store, StoreOptions
    from models.binarizer import TrainingFreeFactory

    store = Store(folder, TrainingFreeFactory(), StoreOptions(background=False))
    store.create("bench", CollectionConfig(dimension=source.dimension, distance="Cosine", bits=4))
    made = store.get("bench")
    for start in range(0, points, BLOCK):
        n = min(BLOCK, points - start)
        ids = list(range(start, start + n))
        made.upsert(Batch(ids, source.draw(n), [b"{}"] * n, [None] * n, [b"-" * 16] * n))
    maintenance.optimize(made)
    return store


def refine(points: int, rounds: int, asked: int) -> list[dict[str, Any]]:
    """Return milliseconds and bytes of every funnel, vectors in the page cache and not."""
    from index.points import SearchParams

    source = TextLike(points, DIMENSION)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        store = collection(Path(folder), source, points)
        made, cache, queries = store.get("bench"), PageCache(Path(folder)), source.draw(asked)
        print(f"{points:,} points, {made.info().segments} segments", flush=True)

        def search(query: NDArray[np.float32], **params: Any) -> Any:  # noqa: ANN401
            return made.search(query[None, :], 10, params=SearchParams(**params))[0]

        truth = [{hit.id for hit in search(query, exact=True).hits} for query in queries]
        for cold in (False, True):
            measured: dict[str, dict[str, Any]] = {}
            for number in range(rounds + (not cold)):
                for label, bits, reads in FUNNELS:
                    row = measured.setdefault(label, _empty(points, label, cold))
                    for i, query in enumerate(queries):
                        if cold:
                            cache.drop()
                            row["resident"] = max(row["resident"], cache.resident())
                        before, start, cpu = storage_bytes(), time.perf_counter(), time.process_time()
                        found = search(query, exact=False, bits=bits, rerank=reads)
                        took, cpu = (time.perf_counter() - start) * 1e3, (time.process_time() - cpu) * 1e3
                        if not cold and number == 0:  # the first round warms up
                            continue
                        row["ms"].append(took)
                        row["cpu"].append(cpu)
                        row["storage"].append(storage_bytes() - before)
                        row["asked"] = found.stages.bytes_read
                        row["recall"].append(len({hit.id for hit in found.hits} & truth[i]) / 10)
                        for stage, value in found.stages.milliseconds.items():
                            row["stages"].setdefault(stage, []).append(value)
            rows += measured.values()
        store.close()
    return rows


def _empty(points: int, label: str, cold: bool) -> dict[str, Any]:
    lists: dict[str, Any] = {"ms": [], "cpu": [], "storage": [], "recall": [], "stages": {}}
    return {"points": points, "funnel": label, "cold": cold, "resident": 0.0, **lists}


def refine_table(rows: list[dict[str, Any]]) -> str:
    """Write medians with quartiles, and where the time went."""
    lines = []
    for row in rows:
        low, middle, high = np.percentile(row["ms"], [25, 50, 75])
        stages = {stage: float(np.median(row["stages"][stage])) for stage in ("scan", "refine", "rerank")}
        lines.append(
            [
                f"{row['points']:,}",
                f"cold (at most {100 * row['resident']:.2f} % of pages resident)" if row["cold"] else "warm",
                row["funnel"],
                f"{np.mean(row['recall']):.4f}",
                f"{row['asked'] / 1e3:.0f}",
                f"{np.median(row['storage']) / 1e3:,.0f}",
                f"{middle:.2f} ({low:.2f} to {high:.2f})",
                f"{np.median(row['cpu']):.2f}",
                ", ".join(f"{stage} {value:.2f}" for stage, value in stages.items()),
            ]
        )
    head = [
        "points",
        "page cache",
        "funnel",
        "recall@10",
        "kB of vectors",
        "kB from storage",
        "ms",
        "of which, medians",
    ]
    return table(head, lines)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=["scan", "refine"])
    parser.add_argument("--points", type=int, nargs="+", default=[1_000_000])
    parser.add_argument("--bytes", type=int, nargs="+", default=[48, 32])
    parser.add_argument("--candidates", type=int, nargs="+", default=[10, 400])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--queries", type=int, default=20)
    parser.add_argument("--out", type=Path, help="also write the measurements there as JSON")
    a = parser.parse_args()
    print(machine())
    faiss.omp_set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for points in a.points:
        if a.what == "refine":
            rows += refine(points, a.rounds, a.queries)
            continue
        for code_bytes in a.bytes:
            rows += scan(points, code_bytes, a.candidates, a.rounds, a.queries)
    print((refine_table if a.what == "refine" else scan_table)(rows))
    if a.out:
        a.out.write_text(json.dumps(rows))


if __name__ == "__main__":
    main()
