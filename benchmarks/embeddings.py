"""Real embeddings for the benchmarks: texts of a BEIR folder or of a JSONL file, encoded once and cached on disk.

    python benchmarks/embeddings.py --cache DIR ../shared/data/scifact ../shared/data/distill-open.jsonl.gz

Encoding is interruptible: shards of 8,192 texts are written as they are done, and a second call goes on behind
the last one. A JSONL file is shuffled with a fixed seed first, so that any number of its shards is a fair sample.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SHARD = 8192
FAIR = 5 * SHARD  # texts of any length come first
SHORT = 160  # characters
Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class RetrievalSet:
    """Documents and judged queries of one evaluation set, as unit vectors.

    `relevant[i]` maps document positions to grades for query i.
    """

    name: str
    documents: Floats
    queries: Floats
    relevant: list[dict[int, int]]


def _lines(path: Path) -> list[dict]:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def _text(row: dict) -> str:
    title, text = row.get("title", ""), row["text"]
    return f"{title} {text}" if title else text


def _find(folder: Path, name: str) -> Path:
    plain = folder / name
    return plain if plain.exists() else plain.with_name(name + ".gz")


def cached(folder: Path, rows: int) -> Floats:
    """Return the first vectors that `encode` left in a folder; FileNotFoundError where some are missing."""
    paths = [folder / f"{start:08d}.npy" for start in range(0, rows, SHARD)]
    missing = [path.name for path in paths if not path.exists()]
    if missing:
        raise FileNotFoundError(f"{folder} lacks {len(missing)} of {len(paths)} shards: run benchmarks/embeddings.py")
    return np.concatenate([np.load(path) for path in paths])[:rows]


def encode(texts: Sequence[str], folder: Path, *, limit: int | None = None, queries: bool = False) -> Floats:
    """Return unit vectors of texts by the default model, shard by shard from and to `folder`.

    limit : stop after so many texts (rounded up to shards).
    """
    folder.mkdir(parents=True, exist_ok=True)
    wanted = texts if limit is None else texts[: -(-limit // SHARD) * SHARD]
    encoder = None
    started, done = time.perf_counter(), 0
    for start in range(0, len(wanted), SHARD):
        path = folder / f"{start:08d}.npy"
        piece = wanted[start : start + SHARD]
        if not path.exists():
            if encoder is None:
                from models import load_encoder

                encoder = load_encoder("minilm")
            encoded = (encoder.encode_queries if queries else encoder.encode_documents)(piece)
            partial = path.with_suffix(f".{os.getpid()}.tmp.npy")
            np.save(partial, encoded.vectors)
            partial.rename(path)
            done += len(piece)
            rate = done / (time.perf_counter() - started)
            left = (len(wanted) - start - len(piece)) / rate
            print(
                f"{folder}: {start + len(piece):,} of {len(wanted):,}, {rate:.0f}/s, {left / 60:.1f} min left",
                flush=True,
            )
    return cached(folder, len(wanted))


@dataclass(frozen=True, slots=True)
class JudgedTexts:
    """Texts of one evaluation set; `relevant[i]` maps document positions to grades for query i."""

    name: str
    documents: list[str]
    queries: list[str]
    relevant: list[dict[int, int]]


def judged_texts(folder: Path, *, split: str = "test", documents: int | None = None) -> JudgedTexts:
    """Read a BEIR folder, judged documents first.

    documents : keep the judged documents and the first others up to that many.
    """
    corpus = _lines(_find(folder, "corpus.jsonl"))
    judged: dict[str, dict[str, int]] = {}
    with (folder / "qrels" / f"{split}.tsv").open(encoding="utf-8") as file:
        for query, document, grade in list(csv.reader(file, delimiter="\t"))[1:]:
            if int(grade) > 0:
                judged.setdefault(query, {})[document] = int(grade)
    needed = {document for found in judged.values() for document in found}
    # Judged documents first, so that a part of a large corpus can still be searched for all of them.
    corpus.sort(key=lambda row: row["_id"] not in needed)
    if documents is not None:
        corpus = corpus[:documents]
    place = {row["_id"]: i for i, row in enumerate(corpus)}
    asked = [row for row in _lines(_find(folder, "queries.jsonl")) if row["_id"] in judged]
    return JudgedTexts(
        name=folder.name,
        documents=[_text(row) for row in corpus],
        queries=[row["text"] for row in asked],
        relevant=[{place[d]: g for d, g in judged[row["_id"]].items() if d in place} for row in asked],
    )


def retrieval_set(
    folder: Path, cache: Path, *, split: str = "test", documents: int | None = None, only_cached: bool = False
) -> RetrievalSet:
    """Load a BEIR folder.

    documents : keep the judged documents and the first others up to that many.
    only_cached : encode nothing; FileNotFoundError where vectors are missing.
    """
    texts, own = judged_texts(folder, split=split, documents=documents), cache / folder.name
    if only_cached:
        vectors = cached(own / "documents", len(texts.documents))
        asking = cached(own / f"queries-{split}", len(texts.queries))
    else:
        vectors = encode(texts.documents, own / "documents")
        asking = encode(texts.queries, own / f"queries-{split}", queries=True)
    return RetrievalSet(name=folder.name, documents=vectors, queries=asking, relevant=texts.relevant)


def passages(path: Path, cache: Path, limit: int | None = None) -> Floats:
    """Return the vectors of a JSONL file's texts, the first `limit` (to whole shards) of a fixed random order.

    Behind the first five shards short texts come first: encoding costs by the token, and a quarter of the rows
    (passages) holds three quarters of the tokens.
    """
    rows = _lines(path)
    texts = [_text(rows[i]) for i in np.random.default_rng(0).permutation(len(rows))]
    head, rest = texts[:FAIR], texts[FAIR:]
    rest.sort(key=lambda text: len(text) > SHORT)
    return encode(head + rest, cache / path.name.split(".")[0], limit=limit)


def main() -> None:
    """Encode what is named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("paths", type=Path, nargs="+")
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--limit", type=int, help="texts of a JSONL file, documents of a folder")
    arguments = parser.parse_args()
    for path in arguments.paths:
        if path.is_dir():
            found = retrieval_set(path, arguments.cache, documents=arguments.limit)
            print(f"{path}: {found.documents.shape} documents, {found.queries.shape} queries")
        else:
            print(f"{path}: {passages(path, arguments.cache, arguments.limit).shape}")


if __name__ == "__main__":
    main()
