"""Measures search quality on a BEIR data set: pure metrics, and a run of them against a server.

Knows the server only through its client.
"""

from __future__ import annotations

import gzip
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from index.ids import PointId, parse_id
from service.client import Client, ClientError, encoder_name
from service.documents import estimate_count, read_documents
from service.upload import Tally, upload

Judgements = Mapping[PointId, int]

DEPTH: Final = 100
TOP: Final = 10
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


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What was measured; quality figures are means over the queries, 0 to 1.

    Parameters
    ----------
    mode : how the searches with codes were done, as the server says; `exact` if it has no codes yet.
    ndcg_at_10, recall_at_100 : of searches with codes, against the judgements.
    exact_ndcg_at_10, exact_recall_at_100 : the same of exact search.
    recall_at_10_of_exact : of the ten points that exact search finds.
    code_bytes_per_point : bytes of codes in memory.
    queries_per_second : texts searched with codes, one after the other, encoding and HTTP included.
    load_seconds : for loading the corpus; little when it was loaded before.
    """

    data_set: str
    split: str
    encoder: str
    documents: int
    queries: int
    mode: str
    ndcg_at_10: float
    recall_at_100: float
    exact_ndcg_at_10: float
    exact_recall_at_100: float
    recall_at_10_of_exact: float
    code_bytes_per_point: float
    queries_per_second: float
    load_seconds: float
    truncated: int


def load_corpus(
    client: Client,
    directory: Path,
    collection: str,
    *,
    encoder: str,
    on_progress: Callable[[str, int, int], None],
) -> Tally:
    """Load the corpus into a collection, which is made if there is none.

    Parameters
    ----------
    on_progress : called with what is done, how far, of how much.

    Raises
    ------
    EvaluationError : lines were refused.
    ClientError, DocumentError : the server failed, the file cannot be read.
    """
    corpus = corpus_of(directory)
    if not client.exists(collection):
        client.create_texts(collection, encoder)
    total = estimate_count(corpus)
    tally = Tally()
    with closing(read_documents(corpus)) as documents:
        upload(
            client,
            collection,
            documents,
            tally=tally,
            on_progress=lambda tally: on_progress("load", tally.sent, total),
        )
    # A document without a word cannot be found, and some data sets have such documents.
    others = [error for error in tally.errors if error["type"] != "invalid_text"]
    if others:
        first = others[0]
        raise EvaluationError(
            f"{corpus}:{first['line']}: the server refused the document: {first['message']} "
            f"({tally.rejected} refused in all)"
        )
    return tally


def evaluate(
    client: Client,
    directory: Path,
    *,
    split: str,
    collection: str,
    encoder: str,
    on_progress: Callable[[str, int, int], None],
) -> Evaluation:
    """Load a data set and measure search with codes against exact search and against its judgements.

    Each query is searched with codes for 10 points (timed) and for 100, and exactly for 100.
    Parameters and errors are those of `load_corpus` and `read_data_set`.
    """
    data = read_data_set(directory, split)
    started = time.monotonic()
    tally = load_corpus(client, directory, collection, encoder=encoder, on_progress=on_progress)
    load_seconds = time.monotonic() - started
    sums = [0.0] * 5
    seconds, mode = 0.0, "codes"
    _search(client, collection, next(iter(data.queries.values())), TOP, exact=False)  # makes codes if need be
    for done, (name, text) in enumerate(data.queries.items(), 1):
        started = time.perf_counter()
        top, stages = _search(client, collection, text, TOP, exact=False)
        seconds += time.perf_counter() - started
        mode = str(stages.get("mode", mode))
        deep, _ = _search(client, collection, text, DEPTH, exact=False)
        exact, _ = _search(client, collection, text, DEPTH, exact=True)
        judged, truth = data.judgements[name], [point for point, _ in exact]
        found = [point for point, _ in top]
        figures = (
            ndcg(found, judged, TOP),
            recall([point for point, _ in deep], judged, DEPTH),
            ndcg(truth, judged, TOP),
            recall(truth, judged, DEPTH),
            recall_of_exact(found, exact, TOP),
        )
        sums = [total + figure for total, figure in zip(sums, figures, strict=True)]
        on_progress("search", done, len(data.queries))
    count = len(data.queries)
    info = client.info(collection)
    return Evaluation(
        data_set=directory.resolve().name,
        split=split,
        encoder=encoder_name(info),
        documents=int(info["points_count"]),
        queries=count,
        mode=mode,
        ndcg_at_10=sums[0] / count,
        recall_at_100=sums[1] / count,
        exact_ndcg_at_10=sums[2] / count,
        exact_recall_at_100=sums[3] / count,
        recall_at_10_of_exact=sums[4] / count,
        code_bytes_per_point=float(info["codes"]["bytes_per_point"]),
        queries_per_second=count / seconds if seconds else 0.0,
        load_seconds=load_seconds,
        truncated=tally.truncated,
    )


def _search(
    client: Client, collection: str, text: str, limit: int, *, exact: bool
) -> tuple[list[tuple[PointId, float]], Mapping[str, Any]]:
    for _ in range(3):
        try:
            result = client.search(
                collection, text, limit=limit, params={"exact": exact}, with_payload=False, with_text=False
            )
        except ClientError as error:
            if error.retry_after is None:
                raise
            time.sleep(min(error.retry_after, 30.0))
        else:
            return [(point["id"], point["score"]) for point in result["points"]], result["stages"]
    raise ClientError("the server has had no room for a search three times", hint="try again when it is idle")


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
