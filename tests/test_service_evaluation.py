"""Metrics against hand-computed values and slow oracles; the evaluation against a scripted client."""

import gzip
import math

import numpy as np
import pytest

from service.client import ClientError
from service.evaluation import EvaluationError, ndcg, read_data_set, recall, recall_of_exact
from service.evaluation_run import AskedBy, evaluate


def test_ndcg_by_hand():
    judged = {"a": 3, "b": 2, "c": 1}
    ideal = 3 / 1 + 2 / math.log2(3) + 1 / 2
    assert ndcg(["a", "b", "c"], judged, 10) == pytest.approx(1.0)
    assert ndcg(["c", "x", "a"], judged, 10) == pytest.approx((1 / 1 + 3 / 2) / ideal)
    assert ndcg(["x", "y"], judged, 10) == 0
    assert ndcg([], judged, 10) == 0
    assert ndcg(["a"], {}, 10) == 0
    assert ndcg(["a", "b"], {"a": 0, "b": 0}, 10) == 0


def test_ndcg_cuts_ranking_and_ideal_at_k():
    judged = dict.fromkeys("abcd", 1)
    assert ndcg(["x", "a", "b"], judged, 2) == pytest.approx((1 / math.log2(3)) / (1 + 1 / math.log2(3)))
    assert ndcg(["a", "b", "x"], judged, 2) == pytest.approx(1.0)


def test_ndcg_takes_negative_grades_as_zero():
    assert ndcg(["bad", "a"], {"bad": -2, "a": 1}, 10) == pytest.approx(1 / math.log2(3))


def slow_ndcg(ranked, judged, k):
    gain = 0.0
    for position in range(min(k, len(ranked))):
        gain += max(judged.get(ranked[position], 0), 0) / (math.log(position + 2) / math.log(2))
    best = 0.0
    for position, grade in enumerate(sorted(judged.values())[::-1]):
        if position < k and grade > 0:
            best += grade / (math.log(position + 2) / math.log(2))
    return gain / best if best else 0.0


def test_metrics_against_slow_oracles():
    rng = np.random.default_rng(11)
    seen = set()
    for _ in range(300):
        k = int(rng.integers(1, 12))
        ranked = rng.permutation(20)[: rng.integers(0, 15)].tolist()
        judged = {int(i): int(g) for i, g in zip(rng.permutation(20)[:8], rng.integers(-1, 4, 8), strict=True)}
        value = ndcg(ranked, judged, k)
        assert value == pytest.approx(slow_ndcg(ranked, judged, k))
        assert 0 <= value <= 1 + 1e-12
        relevant = [i for i in judged if judged[i] > 0]
        hits = sum(1 for i in ranked[:k] if i in relevant)
        assert recall(ranked, judged, k) == (pytest.approx(hits / len(relevant)) if relevant else 0)
        seen.add(round(value, 3))
    assert len(seen) > 50, "the cases must differ"


def test_recall_by_hand():
    assert recall(["a", "x", "b"], {"a": 1, "b": 2, "c": 1, "d": 0}, 2) == pytest.approx(1 / 3)
    assert recall(["a", "x", "b"], {"a": 1, "b": 2, "c": 1, "d": 0}, 3) == pytest.approx(2 / 3)
    assert recall(["d"], {"d": 0}, 10) == 0


def test_integer_and_string_ids_differ():
    assert recall([1], {"1": 1}, 10) == 0
    assert ndcg(["1"], {"1": 1}, 10) == 1


def test_recall_of_exact_counts_ties_and_nothing_else():
    exact = [("a", 0.9), ("b", 0.5), ("c", 0.5), ("d", 0.4)]
    assert recall_of_exact(["a", "b"], exact, 2) == 1
    assert recall_of_exact(["a", "c"], exact, 2) == 1, "c ties with b"
    assert recall_of_exact(["a", "d"], exact, 2) == 0.5
    assert recall_of_exact(["b", "c"], exact, 2) == 1, "two that are as good as the second best"
    assert recall_of_exact(["d", "x"], exact, 2) == 0
    assert recall_of_exact(["d", "c", "b", "a"], exact, 2) == 0.5, "only the first k count"


def test_recall_of_exact_with_few_points_and_with_distances():
    assert recall_of_exact(["a"], [("a", 0.1)], 10) == 1
    assert recall_of_exact([], [("a", 0.1)], 10) == 0
    assert recall_of_exact([], [], 10) == 1
    distances = [("a", 0.1), ("b", 0.2), ("c", 0.9)]
    assert recall_of_exact(["a", "c"], distances, 2, ascending=True) == 0.5
    assert recall_of_exact(["b", "a"], distances, 2, ascending=True) == 1


@pytest.fixture
def data_set(tmp_path):
    (tmp_path / "qrels").mkdir()
    (tmp_path / "corpus.jsonl").write_text(
        '{"_id": "1", "title": "t", "text": "one"}\n{"_id": "2", "title": "", "text": "two"}\n'
    )
    (tmp_path / "queries.jsonl").write_text('{"_id": "q1", "text": "first"}\n\n{"_id": "q9", "text": "other"}\n')
    (tmp_path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\t1\t2\nq1\t2\t0\nq7\t1\t0\n")
    return tmp_path


def test_data_set_keeps_judged_queries(data_set):
    data = read_data_set(data_set, "test")
    assert data.queries == {"q1": "first"}
    assert data.judgements == {"q1": {"1": 2, "2": 0}}


def test_data_set_without_header_and_compressed(data_set):
    (data_set / "qrels" / "dev.tsv").write_text("q9\t2\t1\n")
    plain = (data_set / "queries.jsonl").read_bytes()
    (data_set / "queries.jsonl").unlink()
    (data_set / "queries.jsonl.gz").write_bytes(gzip.compress(plain))
    assert read_data_set(data_set, "dev").queries == {"q9": "other"}


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("qrels/test.tsv", "query-id\tcorpus-id\tscore\nq1\t1\n", "test.tsv:2: not 'query-id"),
        ("qrels/test.tsv", "q1\t1\t1\nq1\t2\tx\n", "test.tsv:2: "),
        ("queries.jsonl", '{"_id": "q1"}\n', "queries.jsonl:1: not a query"),
        ("queries.jsonl", "nonsense\n", "queries.jsonl:1: not a query"),
        ("queries.jsonl", '{"_id": "z", "text": "a"}\n', "no query of split 'test'"),
    ],
)
def test_broken_data_set_names_file_and_line(data_set, file, content, message):
    (data_set / file).write_text(content)
    with pytest.raises(EvaluationError, match=message):
        read_data_set(data_set, "test")


def test_missing_files(data_set):
    with pytest.raises(EvaluationError, match=r"train\.tsv"):
        read_data_set(data_set, "train")
    (data_set / "queries.jsonl").unlink()
    with pytest.raises(EvaluationError, match=r"no queries\.jsonl"):
        read_data_set(data_set, "test")


class ScriptedClient:
    """Answers exact searches rightly and searches with codes as told."""

    def __init__(self, with_codes):
        self.points = {}
        self.with_codes = with_codes
        self.asked = []
        self.by = []

    def exists(self, collection):
        return collection != "c"

    def create_texts(self, collection, encoder):
        self.created = (collection, encoder)

    def bulk(self, collection, lines, points=None):  # noqa: ARG002
        assert collection == "c"
        lines = list(lines)
        self.points |= dict.fromkeys(lines)
        return {
            "accepted": len(lines),
            "rejected": 0,
            "unchanged": 0,
            "truncated": 1,
            "errors": [],
            "truncated_lines": [],
        }

    def search(self, collection, query, *, encoder, limit, params, with_payload, with_text):
        self.asked.append((query, limit, params["exact"]))
        self.by.append((encoder, params.get("layers"), params.get("dimensions")))
        assert collection == "c"
        assert not with_payload
        assert not with_text
        exact = [("1", 0.9), ("2", 0.3)]
        found = exact if params["exact"] else self.with_codes
        points = [{"id": i, "score": s} for i, s in found[:limit]]
        stages = {
            "mode": "exact" if params["exact"] else "codes",
            "encoder": encoder or "minilm",
            "layers": params.get("layers", 6),
            "dimensions": params.get("dimensions", 384),
            "cached": len(self.by) > 1 and self.by[-1] in self.by[:-1],
            "milliseconds": {"encode": 2.0 * len(self.by)},
        }
        return {"points": points, "stages": stages}

    def info(self, collection):
        assert collection == "c"
        return {"encoder": "minilm", "points_count": len(self.points), "codes": {"bytes_per_point": 50.5}}


def test_evaluate_with_a_scripted_client(data_set):
    client = ScriptedClient(with_codes=[("2", 0.3), ("3", 0.2), ("1", 0.1)])
    steps = []
    (report,) = evaluate(
        client,
        data_set,
        split="test",
        collection="c",
        encoder="default",
        on_progress=lambda *step: steps.append(step),
    )
    assert report.ndcg_at_10 == pytest.approx((2 / 2) / 2)
    assert (report.recall_at_100, report.exact_ndcg_at_10, report.exact_recall_at_100) == (1, 1, 1)
    assert report.recall_at_10_of_exact == 1
    assert (report.documents, report.queries, report.truncated, report.code_bytes_per_point) == (
        2,
        1,
        1,
        50.5,
    )
    assert (report.mode, report.encoder, client.created) == ("codes", "minilm", ("c", "default"))
    assert client.asked[1:] == [("first", 10, False), ("first", 100, False), ("first", 100, True)]
    assert steps == [("load", 2, 2), ("search", 1, 1)]


def test_several_encoders_and_sizes_are_compared_over_one_load(data_set):
    client = ScriptedClient(with_codes=[("1", 0.9)])
    steps = []
    reports = evaluate(
        client,
        data_set,
        split="test",
        collection="c",
        encoder="default",
        asked_by=[AskedBy.parse(text) for text in ("", "student:0", "student::128")],
        on_progress=lambda *step: steps.append(step),
    )
    assert [(report.query_encoder, report.layers, report.dimensions) for report in reports] == [
        ("minilm", 6, 384),
        ("student", 0, 384),
        ("student", 6, 128),
    ]
    assert {report.encoder for report in reports} == {"minilm"}
    assert client.by == [(None, None, None)] * 4 + [("student", 0, None)] * 4 + [("student", None, 128)] * 4
    assert steps == [("load", 2, 2), ("search", 1, 3), ("search", 2, 3), ("search", 3, 3)]


def test_only_vectors_that_were_not_known_count_as_encoded(data_set):
    client = ScriptedClient(with_codes=[("1", 0.9)])
    search = client.search
    known = iter([True, False, True, True])

    def answered(*arguments, **options):
        found = search(*arguments, **options)
        found["stages"]["cached"] = next(known)
        return found

    client.search = answered
    arguments = {"split": "test", "collection": "c", "encoder": "default", "on_progress": lambda *_: None}
    (report,) = evaluate(client, data_set, **arguments)
    assert report.encode_milliseconds == 4
    known = iter([True] * 4)
    (report,) = evaluate(client, data_set, **arguments)
    assert report.encode_milliseconds is None


def test_an_encoder_that_loads_is_waited_for(data_set):
    client = ScriptedClient(with_codes=[("1", 0.9)])
    search, refusals = client.search, [0.001, 0.001, 0.001, 0.001]

    def late(*arguments, **options):
        if refusals:
            raise ClientError("encoder student is still loading", retry_after=refusals.pop())
        return search(*arguments, **options)

    client.search = late
    arguments = {"split": "test", "collection": "c", "encoder": "default", "on_progress": lambda *_: None}
    assert evaluate(client, data_set, **arguments)[0].ndcg_at_10 == 1
    assert refusals == []
    client.search = lambda *_, **__: (_ for _ in ()).throw(ClientError("no such size"))
    with pytest.raises(ClientError, match="no such size"):
        evaluate(client, data_set, **arguments)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", (None, None, None)),
        ("student", ("student", None, None)),
        ("student:0", ("student", 0, None)),
        ("owner/name:2:64", ("owner/name", 2, 64)),
        ("::64", (None, None, 64)),
    ],
)
def test_who_asks(text, expected):
    assert AskedBy.parse(text) == AskedBy(*expected)


@pytest.mark.parametrize("text", ["a:b", "a:-1", "a:1:2:3", "a:1.5", "a:²"])
def test_who_asks_is_refused(text):
    with pytest.raises(ValueError, match="is not NAME"):
        AskedBy.parse(text)


def test_evaluate_refuses_a_corpus_that_does_not_load(data_set):
    client = ScriptedClient(with_codes=[])
    error = {"line": 2, "id": "2", "type": "text_too_large", "message": "text has 9 bytes"}

    def bulk(collection, lines, points=None):  # noqa: ARG001
        assert collection == "c"
        accepted = len(list(lines)) - 1
        return {
            "accepted": accepted,
            "rejected": 1,
            "unchanged": 0,
            "truncated": 0,
            "errors": [error],
            "truncated_lines": [],
        }

    client.bulk = bulk
    with pytest.raises(EvaluationError, match=r"corpus\.jsonl:2: the server refused the document: text has 9"):
        evaluate(client, data_set, split="test", collection="c", encoder="default", on_progress=lambda *_: None)
