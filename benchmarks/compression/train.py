"""Trains Bitfold's recurrent binarizers for the comparison, one folder for each collection, size and seed.

    python -m benchmarks.compression.train --cache DIR --out DIR --sets scifact cosqa+distill --seeds 0 1 2

Vectors of the collection itself are trained on, never its queries; what is there already is not trained again. A
collection with distractors is trained on all of the set's documents and a sample of the distractors.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.compression.coders import dimensions_for
from benchmarks.compression.sets import SETS, Corpus, Floats, corpora
from models import binarizer_folder
from models.binarizer_training import train
from models.training_options import TrainingOptions

ROWS = 20_000
RECIPES = {
    "polished": {},
    "gradient": {"sweeps": 0, "hidden": 256, "contrast": 0.1},
}


def sample(corpus: Corpus, documents: int, rows: int, seed: int) -> Floats:
    """Return the first `documents` rows, the set's own, and distractors drawn evenly, `rows` together at most."""
    if len(corpus.documents) <= rows:
        return corpus.documents
    rest = np.random.default_rng(seed).choice(
        np.arange(documents, len(corpus.documents)), rows - documents, replace=False
    )
    return corpus.documents[np.concatenate([np.arange(documents), np.sort(rest)])]


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
        own = len(corpus.documents) - (a.distractors if "+" in corpus.name else 0)
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
                    trained = train(sample(corpus, own, a.rows, seed), options, folder=Path(scratch))
                binarizer_folder.save_binarizer(folder, trained.binarizer, trained.report)
                report = trained.report
                print(
                    f"{folder}: {time.perf_counter() - started:.0f} s, held out: {report.learned}, training-free "
                    f"{report.training_free}, {report.verdict}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
