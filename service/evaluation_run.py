"""Measures search quality on a BEIR data set against a server, for one query encoder and size or for several.

Knows the server only through its client.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final, Self

from index.ids import PointId
from service.client import Client, ClientError
from service.documents import estimate_count, read_documents
from service.evaluation import DataSet, EvaluationError, corpus_of, ndcg, read_data_set, recall, recall_of_exact
from service.upload import Tally, upload

DEPTH: Final = 100
TOP: Final = 10
PATIENCE: Final = 120.0  # seconds for an encoder to load, or for room

OnProgress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class AskedBy:
    """Who encodes queries, and at which size; None leaves it to the collection and to the encoder."""

    encoder: str | None = None
    layers: int | None = None
    dimensions: int | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `NAME`, `NAME:LAYERS` or `NAME:LAYERS:DIMENSIONS`; each may be empty. ValueError for anything else."""
        name, *numbers = text.split(":")
        if len(numbers) > 2 or any(number and not number.isdecimal() for number in numbers):
            raise ValueError(f"{text!r} is not NAME[:LAYERS[:DIMENSIONS]]")
        layers, dimensions = [int(number) if number else None for number in (*numbers, "", "")[:2]]
        return cls(name or None, layers, dimensions)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What was measured; quality figures are means over the queries, 0 to 1.

    Parameters
    ----------
    encoder : of the documents.
    query_encoder, layers, dimensions : of the queries, as the server says.
    mode : how the searches with codes were done, as the server says; `exact` if it has no codes yet.
    ndcg_at_10, recall_at_100 : of searches with codes, against the judgements.
    exact_ndcg_at_10, exact_recall_at_100 : the same of exact search.
    recall_at_10_of_exact : of the ten points that exact search finds.
    encode_milliseconds : median of the server's own time for the vector of a query; None if it knew all of them.
    code_bytes_per_point : bytes of codes in memory.
    queries_per_second : texts searched with codes, one after the other, encoding and HTTP included.
    load_seconds : for loading the corpus; little when it was loaded before.
    """

    data_set: str
    split: str
    encoder: str
    query_encoder: str
    layers: int
    dimensions: int
    documents: int
    queries: int
    mode: str
    ndcg_at_10: float
    recall_at_100: float
    exact_ndcg_at_10: float
    exact_recall_at_100: float
    recall_at_10_of_exact: float
    encode_milliseconds: float | None
    code_bytes_per_point: float
    queries_per_second: float
    load_seconds: float
    truncated: int


def load_corpus(client: Client, directory: Path, collection: str, *, encoder: str, on_progress: OnProgress) -> Tally:
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
    asked_by: Sequence[AskedBy] = (AskedBy(),),
    on_progress: OnProgress,
) -> list[Evaluation]:
    """Load a data set, and measure search with codes against exact search and against its judgements.

    Each query is searched with codes for 10 points (timed) and for 100, and exactly for 100. Parameters and errors are
    those of `load_corpus` and `read_data_set`.

    Parameters
    ----------
    asked_by : encoders and sizes of the queries; there is an evaluation for each, in order.
    """
    data = read_data_set(directory, split)
    started = time.monotonic()
    tally = load_corpus(client, directory, collection, encoder=encoder, on_progress=on_progress)
    run = _Run(client, collection, directory.resolve().name, split, data, time.monotonic() - started, tally.truncated)
    count, found = len(data.queries), []
    for i, asked in enumerate(asked_by):

        def on_query(done: int, before: int = i * count) -> None:
            on_progress("search", before + done, count * len(asked_by))

        found.append(run.measure(asked, on_query))
    return found


@dataclass(frozen=True, slots=True)
class _Run:
    """A data set that is loaded, and what that took."""

    client: Client
    collection: str
    name: str
    split: str
    data: DataSet
    load_seconds: float
    truncated: int

    def measure(self, asked: AskedBy, on_progress: Callable[[int], None]) -> Evaluation:
        """Ask all queries by one encoder at one size."""
        sums, encodings = [0.0] * 5, []
        seconds, mode = 0.0, "codes"
        # Makes codes if need be, and begins to load an encoder.
        _, first = self._search(next(iter(self.data.queries.values())), asked, TOP, exact=False)
        for done, (name, text) in enumerate(self.data.queries.items(), 1):
            started = time.perf_counter()
            top, stages = self._search(text, asked, TOP, exact=False)
            seconds += time.perf_counter() - started
            mode = str(stages.get("mode", mode))
            if not stages.get("cached"):
                encodings.append(float(stages["milliseconds"]["encode"]))
            deep, _ = self._search(text, asked, DEPTH, exact=False)
            exact, _ = self._search(text, asked, DEPTH, exact=True)
            judged, truth = self.data.judgements[name], [point for point, _ in exact]
            found = [point for point, _ in top]
            figures = (
                ndcg(found, judged, TOP),
                recall([point for point, _ in deep], judged, DEPTH),
                ndcg(truth, judged, TOP),
                recall(truth, judged, DEPTH),
                recall_of_exact(found, exact, TOP),
            )
            sums = [total + figure for total, figure in zip(sums, figures, strict=True)]
            on_progress(done)
        count = len(self.data.queries)
        info = self.client.info(self.collection)
        stored = info["encoder"]
        return Evaluation(
            data_set=self.name,
            split=self.split,
            encoder=str(stored["document"] if isinstance(stored, dict) else stored),
            query_encoder=str(first["encoder"]),
            layers=int(first["layers"]),
            dimensions=int(first["dimensions"]),
            documents=int(info["points_count"]),
            queries=count,
            mode=mode,
            ndcg_at_10=sums[0] / count,
            recall_at_100=sums[1] / count,
            exact_ndcg_at_10=sums[2] / count,
            exact_recall_at_100=sums[3] / count,
            recall_at_10_of_exact=sums[4] / count,
            encode_milliseconds=median(encodings) if encodings else None,
            code_bytes_per_point=float(info["codes"]["bytes_per_point"]),
            queries_per_second=count / seconds if seconds else 0.0,
            load_seconds=self.load_seconds,
            truncated=self.truncated,
        )

    def _search(
        self, text: str, asked: AskedBy, limit: int, *, exact: bool
    ) -> tuple[list[tuple[PointId, float]], Mapping[str, Any]]:
        sizes = {"layers": asked.layers, "dimensions": asked.dimensions}
        params = {"exact": exact} | {key: value for key, value in sizes.items() if value is not None}
        end = time.monotonic() + PATIENCE
        while True:
            try:
                result = self.client.search(
                    self.collection,
                    text,
                    encoder=asked.encoder,
                    limit=limit,
                    params=params,
                    with_payload=False,
                    with_text=False,
                )
            except ClientError as error:
                if error.retry_after is None or time.monotonic() > end:
                    raise
                time.sleep(min(error.retry_after, 30.0))
            else:
                return [(point["id"], point["score"]) for point in result["points"]], result["stages"]
