"""Quality and encoding time of every method on every collection, one line of results each; goes on where it stopped."""

from __future__ import annotations

import re
import time
import warnings
from pathlib import Path

import faiss
import numpy as np

from benchmarks.compression.catalogue import learned, ours, peers
from benchmarks.compression.coders import Method
from benchmarks.compression.measures import measure
from benchmarks.compression.results import Results, Row
from benchmarks.compression.sets import Corpus, corpora, exact

KEYS = ("corpus", "method", "seed")
FLOAT = "float32"


def run(
    names: list[str],
    data: Path,
    cache: Path,
    results: Results,
    *,
    distractor_rows: int,
    trained: Path | None,
    only: str,
    again: str | None,
    threads: int,
) -> None:
    """Measure what is not in the results yet.

    only : regular expression over method names.
    again : regular expression over method names that are measured even if they are there.
    """
    faiss.omp_set_num_threads(threads)
    repeat = re.compile(again) if again else None
    for corpus in corpora(names, data, cache, distractor_rows):
        jobs = [job for job in _jobs(corpus, trained) if re.search(only, job[0].name)]
        todo = [
            (method, seed)
            for method, seed in jobs
            if (corpus.name, method.name, seed) not in results or (repeat and repeat.search(method.name))
        ]
        if (corpus.name, FLOAT, 0) not in results:
            results.add(_float(corpus))
        print(f"{corpus.name}: {corpus.documents.shape} documents, {len(corpus.queries)} queries, {len(todo)} to do")
        began = time.perf_counter()
        for done, (method, seed) in enumerate(todo, 1):
            row = one(corpus, method, seed)
            results.add(row)
            elapsed = time.perf_counter() - began
            print(
                f"{corpus.name} {done}/{len(todo)}, {elapsed / done * (len(todo) - done) / 60:.1f} min left: "
                f"{method.name} seed {seed}, {row['bytes']:.0f} B, "
                + ", ".join(f"{name} {np.mean(values):.4f}" for name, values in row["queries"].items()),
                flush=True,
            )


def _jobs(corpus: Corpus, trained: Path | None) -> list[tuple[Method, int]]:
    """Return (method, seed) pairs; among distractors only Bitfold's asymmetric codes run over several seeds."""
    out = learned(trained, corpus.name)
    for method in [*ours(), *peers()]:
        several = "+" not in corpus.name or (method.ours and "symmetric" not in method.family)
        out += [(method, seed) for seed in range(method.seeds if several else 1)]
    return out


def one(corpus: Corpus, method: Method, seed: int) -> Row:
    """Measure one method with one seed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        start = time.perf_counter()
        coder = method.fit(corpus.documents, seed)
        fitted = time.perf_counter()
        coder.add(corpus.documents)
        added = time.perf_counter()
        found = measure(corpus, lambda n: coder.search(corpus.queries, n), rescores=coder.rescores)
    searched = time.perf_counter()
    return {
        "corpus": corpus.name,
        "method": method.name,
        "family": method.family,
        "seed": seed,
        "bytes": coder.bytes_a_vector,
        "queries": found,
        "seconds": {"fit": fitted - start, "encode": added - fitted, "search": searched - added},
    }


def _float(corpus: Corpus) -> Row:
    """Return the row of the vectors themselves."""
    found = measure(corpus, lambda n: exact(corpus.queries, corpus.documents, n))
    size = 4 * corpus.documents.shape[1]
    return {"corpus": corpus.name, "method": FLOAT, "family": FLOAT, "seed": 0, "bytes": size, "queries": found}
