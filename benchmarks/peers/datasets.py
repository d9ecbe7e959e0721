"""The points that everybody gets: real embeddings from files, synthetic ones, and what exact search finds in them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import TextLike
from benchmarks.peers.engine import Floats, Points

DIMENSION = 384
BUCKETS = 10_000
SHARES = (1.0, 0.5, 0.1, 0.01, 0.001)  # of the points, that filters let through; 1: no filter
DEPTH = 10
QUERIES = 500
ROWS = 16_384  # that are scored at once
CHECKED = 1_000
FORM = "set.json"


@dataclass(frozen=True, slots=True)
class DataSet:
    """Points, queries and true answers.

    Attributes
    ----------
    queries : (nq, d) float32 of unit length.
    truth : share of points that a filter lets through -> (nq, 10) ids, best first, -1 where there are fewer.
    """

    name: str
    points: Points
    queries: Floats
    truth: dict[float, NDArray[np.int64]]

    def first_queries(self, n: int) -> DataSet:
        """Return the same points with the first n queries."""
        truth = {share: ids[:n] for share, ids in self.truth.items()}
        return DataSet(self.name, self.points, self.queries[:n], truth)


def below(share: float) -> int | None:
    """Return the bucket below which a share of the points is; None where all are."""
    return None if share == 1 else round(share * BUCKETS)


def real(work: Path, vectors: Path, queries: Path, limit: int | None) -> str:
    """Note where vectors (.npy, (n, d) float32) and queries are; return the name of the set of the first `limit`."""
    n = min(len(np.load(vectors, mmap_mode="r")), limit or 1 << 62)
    return _noted(work, f"real-{n}", vectors.resolve(), queries.resolve(), n)


def synthetic(work: Path, n: int) -> str:
    """Draw n text-like vectors and queries into files unless they are there; return the set's name."""
    name = f"synthetic-{n}"
    vectors, queries = work / "sets" / name / "vectors.npy", work / "sets" / name / "queries.npy"
    if not queries.exists():
        vectors.parent.mkdir(parents=True, exist_ok=True)
        texts = TextLike(n, DIMENSION)
        partial = vectors.with_suffix(".partial")
        into = np.lib.format.open_memmap(partial, "w+", np.float32, (n, DIMENSION))
        for start in range(0, n, 100_000):
            into[start : start + 100_000] = texts.draw(min(100_000, n - start))
            print(f"{name}: {min(start + 100_000, n):,} points drawn", flush=True)
        into.flush()
        partial.rename(vectors)
        np.save(queries, texts.draw(QUERIES))
    return _noted(work, name, vectors.resolve(), queries.resolve(), n)


def _noted(work: Path, name: str, vectors: Path, queries: Path, n: int) -> str:
    folder = work / "sets" / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FORM).write_text(json.dumps({"vectors": str(vectors), "queries": str(queries), "points": n}))
    return name


def load(work: Path, name: str) -> DataSet:
    """Open a set; its true answers are found if that was not done yet."""
    folder = work / "sets" / name
    form = json.loads((folder / FORM).read_text())
    vectors = np.load(form["vectors"], mmap_mode="r")[: form["points"]]
    queries = np.ascontiguousarray(np.load(form["queries"]), dtype=np.float32)
    for rows in (queries, vectors[:CHECKED]):
        if rows.dtype != np.float32 or np.abs(np.linalg.norm(rows, axis=1) - 1).max() > 1e-3:
            raise SystemExit(f"{name}: float32 vectors of unit length are needed")
    buckets = np.random.default_rng(1).integers(0, BUCKETS, len(vectors))
    points = Points(Path(form["vectors"]), vectors, buckets)
    return DataSet(name, points, queries, _kept(folder / "truth.npz", queries, lambda: truths(points, queries)))


def _kept(
    path: Path, queries: Floats, find: Callable[[], dict[float, NDArray[np.int64]]]
) -> dict[float, NDArray[np.int64]]:
    """Return what a file holds for these queries, else find it and write it there."""
    if path.exists():
        with np.load(path) as file:
            if np.array_equal(file["queries"], queries):
                return {float(name): file[name] for name in file.files if name != "queries"}
    found = find()
    np.savez(path, queries=queries, **{f"{share:g}": ids for share, ids in found.items()})
    return found


def truths(points: Points, queries: Floats) -> dict[float, NDArray[np.int64]]:
    """Score every point for every query; return the ten best of all and of those that each filter lets through."""
    shape = (len(queries), DEPTH)
    best = {share: (np.full(shape, -1), np.full(shape, -np.inf, np.float32)) for share in SHARES}
    for start, vectors in points.blocks(ROWS):
        scores = queries @ vectors.T
        buckets = points.buckets[start : start + len(vectors)]
        for share, (ids, highest) in best.items():
            allowed = np.flatnonzero(buckets < round(share * BUCKETS))
            both = np.concatenate([highest, scores[:, allowed]], axis=1)
            rows = np.concatenate([ids, np.broadcast_to(allowed + start, (len(queries), len(allowed)))], axis=1)
            chosen = np.argsort(-both, axis=1, kind="stable")[:, :DEPTH] if len(allowed) < DEPTH else _top(both)
            best[share] = np.take_along_axis(rows, chosen, 1), np.take_along_axis(both, chosen, 1)
    return {share: ids for share, (ids, _) in best.items()}


def _top(scores: Floats) -> NDArray[np.int64]:
    """Return the columns of the ten highest scores of each row, highest first."""
    part = np.argpartition(-scores, DEPTH - 1, axis=1)[:, :DEPTH]
    order = np.argsort(-np.take_along_axis(scores, part, 1), axis=1, kind="stable")
    return np.take_along_axis(part, order, 1)


def recall(found: NDArray[np.int64], truth: NDArray[np.int64]) -> float:
    """Return the share of the true answers that were found, the mean over queries.

    found, truth : (nq, 10) ids, -1 where there are fewer.
    """
    hit = ((truth[:, :, None] == found[:, None, :]) & (truth[:, :, None] >= 0)).any(2)
    return float((hit.sum(1) / np.maximum(1, (truth >= 0).sum(1))).mean())
