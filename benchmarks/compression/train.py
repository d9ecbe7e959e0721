"""Trains Bitfold's recurrent binarizers for the comparison, one folder for each collection, size and seed.

    python -m benchmarks.compression.train --cache DIR --out DIR --sets scifact cosqa+distill --seeds 0 1 2

Vectors of the collection itself are trained on, never its queries; what is there already is not trained again. A
large collection is trained on an even sample.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.compression.coders import dimensions_for
from benchmarks.compression.sets import SETS, Floats, corpora
from models import binarizer_folder
from models.binarizer_training import train
from models.training_options import TrainingOptions

ROWS = 20_000
RECIPES = {
    "polished": {},
    "gradient": {"sweeps": 0, "hidden": 256, "contrast": 0.1},
}


def sample(documents: Floats, rows: int, seed: int) -> Floats:
    """Return an even sample of documents, as a training of a live collection draws it."""
    if len(documents) <= rows:
        return documents
    return documents[np.sort(np.random.default_rng(seed).choice(len(documents), rows, replace=False))]


def main() -> None:
    """Train what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--sets", nargs="+", default=list(SETS))
    parser.add_argument("--distractors", type=int, default=204_800)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--sizes", nargs="+", default=["1x16", "1x32"], help="bits x bytes, such as 2x96")
    parser.add_argument("--recipe", choices=list(RECIPES), default="polished")
    parser.add_argument("--rows", type=int, default=ROWS, help="of a collection that are trained on, at most")
    parser.add_argument("--epochs", type=int)
    a = parser.parse_args()
    for corpus in corpora(a.sets, a.data, a.cache, a.distractors):
        for size in a.sizes:
            bits, budget = map(int, size.split("x"))
            dimensions = min(dimensions_for(budget, bits), corpus.documents.shape[1])
            for seed in a.seeds:
                folder = a.out / corpus.name / f"{a.recipe}-{bits}x{dimensions}-seed{seed}"
                if (folder / "binarizer.json").exists():
                    continue
                chosen = {**RECIPES[a.recipe], **({} if a.epochs is None else {"epochs": a.epochs})}
                options = TrainingOptions(bits=bits, dimensions=dimensions, seed=seed, threads=1, **chosen)
                started = time.perf_counter()
                with tempfile.TemporaryDirectory() as scratch:
                    trained = train(sample(corpus.documents, a.rows, seed), options, folder=Path(scratch))
                binarizer_folder.save_binarizer(folder, trained.binarizer, trained.report)
                report = trained.report
                print(
                    f"{folder}: {time.perf_counter() - started:.0f} s, held out: {report.learned}, training-free "
                    f"{report.training_free}, {report.verdict}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
