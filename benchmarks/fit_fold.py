"""Which rotation lets all-MiniLM-L6-v2 be cut to fewer dimensions? Fits it, judges it, writes it.

    python benchmarks/fit_fold.py VECTORS... --out models/data/minilm.fold.safetensors \
        --cache CACHE --judge ../shared/data/scifact ../shared/data/cosqa ../shared/data/covidqa

VECTORS are .npy files of teacher vectors, (n, 384) floats, or folders of them: what `bitfold train student` caches, or
`benchmarks/embeddings.py`. They must be of training text, never of the sets that are judged on. CACHE holds the judged
sets' vectors, as `benchmarks/embeddings.py` leaves them. Without --out nothing is written. Expected: at full length
what the model has by itself; below, folded prefixes far above its own. nDCG@10, queries cut, documents not normalised
again, as a search cuts them:

    dimensions   scifact own / folded   cosqa own / folded   ...
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from embeddings import RetrievalSet, retrieval_set
from numpy.typing import NDArray

from models.fold import Fold
from models.sizes import fold_dimensions

CUT = 10


def read_vectors(paths: Iterable[Path]) -> NDArray[np.float32]:
    """Return all rows of .npy files and of folders of them, as float32."""
    files = [file for path in paths for file in (sorted(path.rglob("*.npy")) if path.is_dir() else [path])]
    if not files:
        raise SystemExit("there are no .npy files")
    return np.concatenate([np.load(file).astype(np.float32) for file in files])


def ndcg(queries: NDArray[np.float32], documents: NDArray[np.float32], relevant: list[dict[int, int]]) -> float:
    """Return the mean nDCG@10 of a ranking by products."""
    best = np.argsort(-(queries @ documents.T), axis=1, kind="stable")[:, :CUT]
    discounts = 1 / np.log2(np.arange(2, CUT + 2))
    found = []
    for rows, judged in zip(best, relevant, strict=True):
        gains = np.array([judged.get(int(row), 0) for row in rows], dtype=float)
        ideal = np.sort(np.array([*judged.values(), *[0] * CUT], dtype=float))[::-1][:CUT]
        found.append(((2**gains - 1) @ discounts) / ((2**ideal - 1) @ discounts))
    return float(np.mean(found))


def judge(fold: Fold, sets: list[RetrievalSet]) -> None:
    """Print nDCG@10 of the model's own prefixes and of folded ones."""
    print(f"{'dimensions':>10}" + "".join(f"  {one.name + ' own / folded':>24}" for one in sets) + "      mean")
    for k in fold_dimensions(fold.dimension):
        pairs = [
            (
                ndcg(one.queries[:, :k], one.documents[:, :k], one.relevant),
                ndcg(fold.project(one.queries, k), fold.project(one.documents, k), one.relevant),
            )
            for one in sets
        ]
        means = np.mean(pairs, axis=0)
        cells = "".join(f"  {f'{own:.4f} / {folded:.4f}':>24}" for own, folded in pairs)
        print(f"{k:>10}{cells}      {means[0]:.4f} / {means[1]:.4f}")


def main() -> None:
    """Fit, write, judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("vectors", type=Path, nargs="+")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--groups", type=int, default=256, help="groups of similar texts; 1 takes all of them together")
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--judge", type=Path, nargs="*", default=[])
    arguments = parser.parse_args()
    vectors = read_vectors(arguments.vectors)
    fold = Fold.fit(vectors, groups=arguments.groups)
    print(f"{fold.identity}, fitted to {len(vectors):,} vectors of {fold.dimension} dimensions")
    if arguments.out is not None:
        fold.save(arguments.out)
        print(f"written to {arguments.out}")
    if arguments.judge:
        if arguments.cache is None:
            parser.error("--judge needs --cache")
        judge(fold, [retrieval_set(folder, arguments.cache, only_cached=True) for folder in arguments.judge])


if __name__ == "__main__":
    main()
