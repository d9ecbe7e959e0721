"""Quality of every query encoder at every size against documents of every encoder, by exact search, query by query.

The same figures come out of `bitfold eval` with exact search (`tests/test_encoder_benchmark.py` compares them); here
vectors of documents are kept in the work folder, so nothing is encoded twice.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from benchmarks.compression.results import Results, Row
from benchmarks.compression.sets import exact
from benchmarks.embeddings import JudgedTexts, encode, judged_texts
from benchmarks.encoders.contestants import DIMENSIONS, FULL, PEER, STATIC, STUDENT, TEACHER, Contestants, Floats
from models.fold import Fold
from models.presets import MINILM_SPACE, shipped_fold
from service.evaluation import ndcg, recall

SETS = ("scifact", "cosqa", "covidqa")
# A warning about single vectors: hardly any encoder can tell these documents apart (arXiv 2508.21038).
WARNING = ("limit-small", "limit-50k")
DOCUMENTS = {"limit-50k": 16_384}  # the judged ones and the first others, as in docs/compression.md
TOP, DEPTH = 10, 100
PREFIX = "minilm, own prefix"  # the teacher cut without the fold
KEYS = ("version", "set", "documents", "queries", "layers", "dimensions")


def run(names: list[str], data: Path, work: Path, results: Results, contestants: Contestants, *, threads: int) -> None:
    """Measure what is not in the results yet."""
    version, loaded = contestants.version, {}

    def load(name):  # noqa: ANN001, ANN202
        if name not in loaded:
            loaded[name] = contestants.load(name, threads)
        return loaded[name]

    for set_name in names:
        texts = judged_texts(data / set_name, documents=DOCUMENTS.get(set_name))
        todo = [key for key in grid(contestants) if (version, set_name, *key) not in results]
        print(f"{set_name}: {len(texts.documents)} documents, {len(texts.queries)} queries, {len(todo)} to measure")
        stored: dict[str, Floats] = {}
        short: dict[tuple[str, int, bool], Floats] = {}
        asked: dict[tuple[str, int, int], Floats] = {}
        for key in todo:
            documents, queries, layers, dimensions = key
            if documents not in stored:
                stored[documents] = document_vectors(texts, documents, work, version, load)
            if (queries, layers, dimensions) not in asked:
                asked[queries, layers, dimensions] = query_vectors(texts.queries, queries, layers, dimensions, load)
            part = (documents, dimensions, queries != PREFIX)
            if part not in short:
                short[part] = cut(stored[documents], dimensions, folded=queries != PREFIX)
            row = measure(texts, asked[queries, layers, dimensions], short[part])
            results.add({"version": version, "set": set_name, **dict(zip(KEYS[2:], key, strict=True)), **row})
            print(f"{set_name}: {key}: nDCG@10 {np.mean(row['ndcg']):.4f}, recall@100 {np.mean(row['recall']):.4f}")


def grid(contestants: Contestants) -> list[tuple[str, str, int, int]]:
    """Return (documents, queries, layers, dimensions) of all rows."""
    sizes = [(one.name, one.layers, k) for one in contestants.exits() for k in DIMENSIONS]
    out = [(documents, *size) for documents in (TEACHER, STUDENT, STATIC) for size in sizes]
    out += [(TEACHER, PREFIX, 6, k) for k in DIMENSIONS[:-1]]
    return [*out, (TEACHER, PEER, 6, FULL)]


def document_vectors(texts: JudgedTexts, name: str, work: Path, version: str, load) -> Floats:  # noqa: ANN001
    """Return (n, d) vectors out of the work folder, or encode them into it."""
    if name == TEACHER:
        return encode(texts.documents, work / texts.name / "documents")
    path = work / texts.name / f"documents-{name}-{version}.npy"
    if not path.exists():
        began = time.perf_counter()
        vectors = load(name).encode_documents(texts.documents)
        print(f"{texts.name}: documents by {name} in {time.perf_counter() - began:.1f} s")
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, vectors)
    return np.load(path)


def query_vectors(texts: list[str], name: str, layers: int, dimensions: int, load) -> Floats:  # noqa: ANN001
    """Return (n, d) vectors in the native basis."""
    if name == PREFIX:
        whole = load(TEACHER).encode_queries(texts, layers=None, dimensions=None)
        return unit(whole * (np.arange(whole.shape[1]) < dimensions))
    if name == PEER:
        return load(PEER).encode_queries(texts, layers=None, dimensions=None)
    return load(name).encode_queries(texts, layers=layers, dimensions=dimensions)


def measure(texts: JudgedTexts, queries: Floats, documents: Floats) -> Row:
    """Return nDCG@10 and recall@100 by query: (n, d) vectors of documents, (nq, d) of queries."""
    pairs = list(zip(exact(queries, documents, DEPTH).tolist(), texts.relevant, strict=True))
    return {
        "ndcg": [round(ndcg(ranked, judged, TOP), 5) for ranked, judged in pairs],
        "recall": [round(recall(ranked, judged, DEPTH), 5) for ranked, judged in pairs],
    }


def cut(vectors: Floats, dimensions: int, *, folded: bool) -> Floats:
    """Return what is left of (n, d) vectors of the default space at a length, in the native basis, of length 1.

    A search with `params.dimensions` compares with the same, of whole vectors that it reads.
    """
    fold = shipped_fold(MINILM_SPACE) if folded else None
    if dimensions == vectors.shape[1]:
        return vectors
    if isinstance(fold, Fold):
        return unit(fold.widen(fold.project(vectors, dimensions)))
    return unit(vectors * (np.arange(vectors.shape[1]) < dimensions))


def unit(vectors: Floats) -> Floats:
    """Scale rows to length 1, but for zeros."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(norms > 0, norms, 1), np.float32)
