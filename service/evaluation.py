"""What search quality is measured with: pure metrics, and the files of a BEIR data set. Knows no server."""

from __future__ import annotations

import gzip
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import orjson

from index.ids import PointId, parse_id

Judgements = Mapping[PointId, int]

# Two float32 computations of one score differ by rounding; what is that close to the k-th ties with it.
_TIE: Final = 1e-5


class EvaluationError(Exception):
    """The data set cannot be read, or it cannot be loaded."""


def ndcg(ranked: Sequence[PointId], judged: Judgements, k: int) -> float:
    """Return the normalised discounted cumulative gain of a ranking, 0 to 1.

    As trec_eval's `ndcg_cut`: the gain is the grade, the discount log2(rank + 1). Negative grades count as 0.
    The ideal ranking is that of all judged documents.

    Parameters
    ----------
    ranked : ids, best first, each once.
    judged : id -> grade; what is not in it has grade 0.
    k : depth.
    """
    grades = [max(judged.get(point, 0), 0) for point in ranked[:k]]
    ideal = sorted((grade for grade in judged.values() if grade > 0), reverse=True)[:k]
    best = _gain(ideal)
    return _gain(grades) / best if best > 0 else 0.0


def recall(ranked: Sequence[PointId], judged: Judgements, k: int) -> float:
    """Return the share of relevant documents (grade above 0) among the first `k`; 0 if none is relevant."""
    relevant = {point for point, grade in judged.items() if grade > 0}
    return len(relevant & set(ranked[:k])) / len(relevant) if relevant else 0.0


def recall_of_exact(
    found: Sequence[PointId], exact: Sequence[tuple[PointId, float]], k: int, *, ascending: bool = False
) -> float:
    """Return the share of the true top `k` that a search found; documents that tie with the k-th all count.

    Parameters
    ----------
    found : ids of the search under test.
    exact : ids and scores of the exact search, best first, deeper than `k` so that ties show.
    ascending : lower scores are better (distances).
    """
    wanted = min(k, len(exact))
    if not wanted:
        return 1.0
    sign = -1.0 if ascending else 1.0
    last = sign * exact[wanted - 1][1]
    slack = _TIE * max(1.0, abs(last))
    good = {point for point, score in exact if sign * score >= last - slack}
    return min(len(good & set(found[:k])), wanted) / wanted


def _gain(grades: Sequence[int]) -> float:
    return sum(grade / math.log2(rank + 1) for rank, grade in enumerate(grades, 1))


@dataclass(frozen=True, slots=True)
class DataSet:
    """A BEIR data set's queries and judgements of one split."""

    queries: dict[str, str]
    judgements: dict[str, dict[PointId, int]]


def read_data_set(directory: Path, split: str) -> DataSet:
    """Read `queries.jsonl` and `qrels/SPLIT.tsv`; only queries with a judgement above 0 are kept.

    Raises
    ------
    EvaluationError : a file is missing or cannot be read; the message names it and the line.
    """
    judgements: dict[str, dict[PointId, int]] = {}
    path = directory / "qrels" / f"{split}.tsv"
    for number, line in _lines(path):
        parts = line.decode("utf-8", "replace").rstrip("\r\n").split("\t")
        if number == 1 and not parts[-1].lstrip("-").isdigit():
            continue  # the header
        try:
            query, document, grade = parts
            judgements.setdefault(query, {})[parse_id(document)] = int(grade)
        except Exception as error:
            raise EvaluationError(f"{path}:{number}: not 'query-id, corpus-id, score': {error}") from None
    judgements = {query: judged for query, judged in judgements.items() if max(judged.values()) > 0}
    path = _file(directory, "queries.jsonl")
    queries: dict[str, str] = {}
    for number, line in _lines(path):
        try:
            record = orjson.loads(line)
            name, text = record["_id"], record["text"]
        except (orjson.JSONDecodeError, KeyError, TypeError) as error:
            raise EvaluationError(f"{path}:{number}: not a query with _id and text: {error}") from None
        if name in judgements:
            queries[name] = text
    if not queries:
        raise EvaluationError(f"{directory}: no query of split {split!r} has a relevant document")
    return DataSet(queries, judgements)


def corpus_of(directory: Path) -> Path:
    """Return the corpus file of a data set; raises EvaluationError."""
    return _file(directory, "corpus.jsonl")


def _file(directory: Path, name: str) -> Path:
    for path in (directory / name, directory / f"{name}.gz"):
        if path.is_file():
            return path
    raise EvaluationError(f"{directory}: there is no {name} or {name}.gz, so this is no BEIR data set")


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the lines that are not blank, with their numbers."""
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, line
    except (OSError, EOFError) as error:
        raise EvaluationError(f"{path}: {error}") from error
