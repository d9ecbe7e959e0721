"""Real embeddings for the comparison, out of what other steps left: training texts and evaluation sets, mixed."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.peers.engine import Floats

SETS = ("scifact", "cosqa", "covidqa")
QUERIES = 100  # of each set
DIGITS = 4  # vectors that agree so far are one


def collect(trained: Path, judged: Path, into: Path) -> tuple[Path, Path]:
    """Write `real.npy` and `real-queries.npy`; return where.

    Points are the texts that a student was trained on, none twice, and the documents of the evaluation sets, in random
    order; queries are some of each set's.

    Parameters
    ----------
    trained : folder of teacher vectors that `bitfold train student` keeps (`teacher/`), (n, d) shards.
    judged : work folder of `benchmarks/embeddings.py` with the sets' documents and test queries.
    """
    rng = np.random.default_rng(0)
    texts = np.concatenate([np.load(path).astype(np.float32) for path in sorted(trained.glob("*.npy"))])
    points = np.concatenate(
        [np.unique(_unit(texts).round(DIGITS), axis=0), *(_shards(judged / s / "documents") for s in SETS)]
    )
    asked = [_shards(judged / name / "queries-test") for name in SETS]
    queries = np.concatenate([part[rng.choice(len(part), QUERIES, replace=False)] for part in asked])
    into.mkdir(parents=True, exist_ok=True)
    paths = into / "real.npy", into / "real-queries.npy"
    np.save(paths[0], _unit(points[rng.permutation(len(points))]))
    np.save(paths[1], _unit(queries))
    return paths


def _shards(folder: Path) -> Floats:
    return np.concatenate([np.load(path).astype(np.float32) for path in sorted(folder.glob("*.npy"))])


def _unit(vectors: Floats) -> Floats:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32)
