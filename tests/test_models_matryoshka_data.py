"""What truncatable encoders are trained on and for: pairs, batches, sizes, hidden words, options, devices."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest
import torch

from models.errors import InvalidSize, InvalidTraining, InvalidTrainingData
from models.matryoshka.batches import make_batch
from models.matryoshka.losses import Targets
from models.matryoshka.masking import Vocabulary, hidden_words, masked
from models.matryoshka.network import choose_device, choose_precision
from models.matryoshka.options import EncoderTrainingOptions
from models.matryoshka.pairs import read_pairs
from models.matryoshka.size_list import STARBUCKS, check_sizes, parse_sizes, propose_sizes, trained_sizes
from models.matryoshka.validation import judge, ranks


def lines(path, *rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def pair(query, positive, *negatives):
    return {"query": query, "positive": positive, "negatives": list(negatives)}


def beir(folder, qrels=("q1\td1\t1", "q1\td2\t0", "q2\td3\t2", "q2\td1\t1")):
    (folder / "qrels").mkdir(parents=True)
    lines(folder / "queries.jsonl", *({"_id": f"q{i}", "text": f"question {i}"} for i in (1, 2, 3)))
    documents = [{"_id": f"d{i}", "title": "Title" * (i == 1), "text": f"text {i}"} for i in (1, 2, 3, 4)]
    with gzip.open(folder / "corpus.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in documents)
    (folder / "qrels" / "train.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *qrels]) + "\n")
    return folder


def told(pairs):
    return [
        (pairs.texts[q], pairs.texts[p], [pairs.texts[i] for i in hard])
        for q, p, hard in zip(pairs.queries, pairs.positives, pairs.negatives, strict=True)
    ]


def test_pairs_of_files_and_folders_together(tmp_path):
    plain = lines(tmp_path / "p.jsonl", pair("a", "b", "c", "d"), "", {"query": "a", "positive": "e"})
    with gzip.open(tmp_path / "p.jsonl.gz", "wt") as file:
        file.write(json.dumps({"query": "b", "positive": "a", "negatives": None}))
    found = read_pairs([plain, tmp_path / "p.jsonl.gz", beir(tmp_path / "set")])
    assert told(found) == [
        ("a", "b", ["c", "d"]),
        ("a", "e", []),
        ("b", "a", []),
        ("question 1", "Title text 1", ["text 2"]),
        ("question 2", "text 3", []),
        ("question 2", "Title text 1", []),
    ]
    assert len(set(found.texts)) == len(found.texts)
    assert "text 4" not in found.texts
    assert sorted(found.texts[i] for i in found.answers[found.texts.index("a")]) == ["b", "e"]


def test_the_digest_of_pairs_tells_them_apart(tmp_path):
    rows = [pair("a", "b", "c"), pair("d", "e")]
    variants = [rows, rows[::-1], [pair("a", "b"), rows[1]], [pair("a", "c", "b"), rows[1]]]
    digests = [read_pairs([lines(tmp_path / "p.jsonl", *variant)]).digest for variant in variants]
    assert len(set(digests)) == len(variants)
    assert read_pairs([lines(tmp_path / "again.jsonl", *rows)]).digest == digests[0]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{", r"p\.jsonl:2: not JSON"),
        ("[1]", r"p\.jsonl:2: not a JSON object"),
        ({"query": "a"}, r"p\.jsonl:2: query or positive is missing"),
        ({"query": "a", "positive": "b", "negative": "c"}, r"p\.jsonl:2: there is no key 'negative'"),
        ({"query": "a", "positive": "b", "negatives": "c"}, r"p\.jsonl:2: negatives are not a list"),
        ({"query": "a", "positive": ""}, r"p\.jsonl:2: the positive is empty"),
        ({"query": 3, "positive": "b"}, r"p\.jsonl:2: the query is no text"),
        ({"query": "a", "positive": "b", "negatives": [None]}, r"p\.jsonl:2: the negative is no text"),
        ('{"query": "a", "positive": "\\ud800"}', r"p\.jsonl:2: the positive is not valid Unicode"),
        (pair("a", "b", "b"), r"p\.jsonl:2: a negative is also a positive"),
        (pair("x", "b", "y"), r"p\.jsonl:2: a negative is also a positive"),
    ],
)
def test_bad_pairs_are_named(tmp_path, row, message):
    path = lines(tmp_path / "p.jsonl", {"query": "x", "positive": "y"}, row)
    with pytest.raises(InvalidTrainingData, match=message):
        read_pairs([path])


def test_files_without_pairs(tmp_path):
    with pytest.raises(InvalidTrainingData, match="there are no pairs"):
        read_pairs([lines(tmp_path / "p.jsonl", "")])
    with pytest.raises(InvalidTrainingData, match=r"none\.jsonl: there is no such file"):
        read_pairs([tmp_path / "none.jsonl"])
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b"{}" * 1000)[:-9])
    with pytest.raises(InvalidTrainingData, match=r"cut\.jsonl\.gz"):
        read_pairs([tmp_path / "cut.jsonl.gz"])
    (tmp_path / "latin.jsonl").write_bytes(b"\xff\n")
    with pytest.raises(InvalidTrainingData, match=r"latin\.jsonl"):
        read_pairs([tmp_path / "latin.jsonl"])


@pytest.mark.parametrize(
    ("qrels", "message"),
    [
        (("q9\td1\t1",), r"train\.tsv:2: there is no query 'q9'"),
        (("q1\td1\t1", "q1\td9\t1"), r"train\.tsv:3: there is no document 'd9'"),
        (("q1\td1",), r"train\.tsv:2: not 'query-id, corpus-id, score'"),
        (("q1\td1\t0",), "there are no pairs"),
    ],
)
def test_bad_folders_are_named(tmp_path, qrels, message):
    with pytest.raises(InvalidTrainingData, match=message):
        read_pairs([beir(tmp_path / "set", qrels)])


def test_a_folder_without_the_split(tmp_path):
    with pytest.raises(InvalidTrainingData, match=r"dev\.tsv: there is no such file"):
        read_pairs([beir(tmp_path / "set")], split="dev")


def many(tmp_path, n=60):
    rows = [pair(f"q{i // 2}", f"p{i}", *(f"n{i}-{j}" for j in range(i % 5))) for i in range(n)]
    return read_pairs([lines(tmp_path / "many.jsonl", *rows)])


def test_no_query_is_in_both_parts(tmp_path):
    pairs = many(tmp_path)
    training, held = pairs.split(500, seed=1)
    assert sorted([*training, *held]) == list(range(60))
    assert len(set(pairs.queries[held].tolist())) == 3, "a tenth of 30 queries"
    assert not set(pairs.queries[training].tolist()) & set(pairs.queries[held].tolist())
    assert len(set(pairs.queries[pairs.split(2, seed=1)[1]].tolist())) == 2
    assert not len(pairs.split(0, seed=1)[1])
    assert pairs.split(500, seed=2)[1].tolist() != held.tolist()


def test_a_batch_against_the_obvious_one(tmp_path):
    pairs = many(tmp_path)
    rows = np.array([8, 9, 4, 33])
    batch = make_batch(pairs, rows, negatives=2, seed=(0, 1))
    assert batch.queries == ["q4", "q4", "q2", "q16"]
    assert len(set(batch.documents)) == len(batch.documents)
    assert [batch.documents[column] for column in batch.positive] == ["p8", "p9", "p4", "p33"]
    hard = [text for text in batch.documents if text.startswith("n")]
    assert sorted({text.split("-")[0] for text in hard}) == ["n33", "n4", "n8", "n9"]
    assert all(sum(text.startswith(f"n{row}-") for text in hard) == 2 for row in rows.tolist())
    for query, row, own in zip(batch.queries, batch.allowed, batch.positive, strict=True):
        others = {f"p{i}" for i in range(60) if f"q{i // 2}" == query} - {batch.documents[own]}
        assert row.tolist() == [document not in others for document in batch.documents]
    assert not batch.allowed.all()
    again = make_batch(pairs, rows, negatives=2, seed=(0, 1))
    assert again.documents == batch.documents
    assert make_batch(pairs, rows, negatives=2, seed=(0, 2)).documents != batch.documents


def test_a_document_that_several_queries_share_is_one_column(tmp_path):
    pairs = read_pairs([lines(tmp_path / "p.jsonl", pair("a", "same"), pair("b", "same"), pair("c", "other", "same"))])
    batch = make_batch(pairs, np.arange(3), negatives=7, seed=(0,))
    assert sorted(batch.documents) == ["other", "same"]
    assert [batch.documents[column] for column in batch.positive] == ["same", "same", "other"]
    assert batch.allowed.all()


def test_sizes_are_parsed_and_checked():
    assert parse_sizes("1x32, 2 x 64,6x384") == ((1, 32), (2, 64), (6, 384))
    assert check_sizes(((6, 384), (1, 32), (1, 64)), 6, 384) == ((1, 32), (1, 64), (6, 384))
    for text in ("", "1x", "1x2;3x4", "ax2", "1x2,", "-1x4"):
        with pytest.raises(InvalidSize, match="is not a size"):
            parse_sizes(text)
    for sizes, message in (
        (((7, 384), (6, 384)), "size 7x384: the model has 1 to 6 layers and 1 to 384 dimensions"),
        (((0, 384), (6, 384)), "size 0x384"),
        (((6, 385), (6, 384)), "size 6x385"),
        (((2, 64), (2, 64), (6, 384)), "size 2x64 is in the list twice"),
        (((2, 64),), "lacks the full size 6x384"),
    ):
        with pytest.raises(InvalidSize, match=message) as refused:
            check_sizes(sizes, 6, 384)
        assert "1x32,2x64,3x96,4x128,5x256,6x384" in refused.value.hint


def test_proposed_sizes():
    assert propose_sizes(6, 384) == ((1, 32), (2, 64), (3, 96), (4, 128), (5, 256), (6, 384))
    assert propose_sizes(12, 768) == STARBUCKS
    for layers in range(1, 30):
        for dimension in (1, 8, 16, 100, 384, 768, 1024):
            sizes = propose_sizes(layers, dimension)
            assert check_sizes(sizes, layers, dimension) == sizes
            assert len(sizes) == min(6, layers)


def test_what_a_training_makes_valid():
    sizes = ((1, 32), (3, 64), (3, 96), (6, 384))
    fixed = trained_sizes(sizes, fixed=True)
    assert fixed.as_json() == {
        "layers": [1, 3, 6],
        "dimensions": [32, 64, 96, 384],
        "pairs": [[1, 32], [3, 64], [3, 96], [6, 384]],
    }
    free = trained_sizes(sizes, fixed=False)
    assert free.as_json() == {"layers": [1, 2, 3, 4, 5, 6], "dimensions": [32, 64, 96, 384], "pairs": None}


def test_words_are_hidden_whole():
    words = [[None, 0, 1, 1, 1, 2, 3, 4, None, None], [None, 0, 0, None, None, None, None, None, None, None]]
    hidden = hidden_words(words, 0.4, np.random.default_rng(0))
    for row, numbers in zip(hidden, words, strict=True):
        assert not any(hide for hide, number in zip(row, numbers, strict=True) if number is None)
        for word in {number for number in numbers if number is not None}:
            assert len({hide for hide, number in zip(row, numbers, strict=True) if number == word}) == 1
    assert [
        len({n for n, hide in zip(numbers, row, strict=True) if hide})
        for numbers, row in zip(words, hidden, strict=True)
    ] == [2, 1]
    assert not hidden_words([[None, None]], 0.4, np.random.default_rng(0)).any()


def test_hidden_tokens_are_masked_kept_or_replaced():
    rng = np.random.default_rng(0)
    tokens = rng.integers(5, 1000, (200, 50))
    hidden = rng.random(tokens.shape) < 0.3
    out = masked(tokens, hidden, Vocabulary(1000, 4), rng)
    assert np.array_equal(out[~hidden], tokens[~hidden])
    share = {
        "masked": (out[hidden] == 4).mean(),
        "kept": (out[hidden] == tokens[hidden]).mean(),
    }
    assert share == {"masked": pytest.approx(0.8, abs=0.03), "kept": pytest.approx(0.1, abs=0.03)}


def test_ranks_and_figures_by_hand():
    scores = torch.tensor([[0.9, 0.5, 0.9], [0.7, 0.2, 0.1], [0.0, 0.5, 0.4]])
    allowed = torch.ones((3, 3), dtype=torch.bool)
    allowed[2, 1] = False
    wanted = Targets(torch.arange(3), allowed)
    assert ranks(scores, wanted).tolist() == [2, 2, 1], "a tie is no win; another positive does not count"
    queries = {1: torch.eye(3), 2: torch.eye(3)}
    documents = {1: 2 * torch.eye(3)[[0, 1, 1]], 2: torch.eye(3)}
    plain = Targets(torch.arange(3), torch.ones((3, 3), dtype=torch.bool))
    figures = judge(queries, documents, ((1, 3), (2, 3)), plain, cosine=True)
    assert figures["2x3"] == {"mrr": 1.0, "recall@1": 1.0, "length": 1.0}
    # The second query ties with the third document; the third query has the product 0 with all.
    assert figures["1x3"] == {
        "mrr": pytest.approx((1 + 1 / 2 + 1 / 3) / 3, abs=1e-4),
        "recall@1": 0.33333,
        "length": 2.0,
    }


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"batch": 1}, "batch is 1"),
        ({"epochs": 0}, "epochs is 0"),
        ({"learning_rate": 0.0}, "learning_rate is 0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"temperature": -1.0}, "temperature is -1"),
        ({"warm_up": 1.0}, "warm_up is 1"),
        ({"divergence": -0.1}, "cannot be negative"),
        ({"recipe": "smae", "cache_gradients": True}, "no batch-wide loss"),
        ({"query_tokens": 2}, "query_tokens is 2"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_options_that_cannot_be(option, message):
    with pytest.raises(InvalidTraining, match=message):
        EncoderTrainingOptions(**option)


def test_defaults_follow_recipe_and_scores():
    assert EncoderTrainingOptions().rate == 5e-5
    assert EncoderTrainingOptions(recipe="smae", batch=1).rate == 1e-4
    assert EncoderTrainingOptions(learning_rate=1e-3).rate == 1e-3
    assert [EncoderTrainingOptions(scores=scores).scale for scores in ("cosine", "dot")] == [0.05, 1.0]
    assert EncoderTrainingOptions(scores="dot", temperature=0.1).scale == 0.1


def test_devices(monkeypatch):
    """What would be chosen where there is an accelerator, and where there is none."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto").type == choose_device("cpu").type == "cpu"
    with pytest.raises(InvalidTraining, match="no CUDA device"):
        choose_device("cuda")
    assert choose_precision("auto", torch.device("cpu")) is torch.float32
    assert choose_precision("bf16", torch.device("cpu")) is torch.bfloat16
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [choose_device(wanted).type for wanted in ("auto", "cuda", "cpu")] == ["cuda", "cuda", "cpu"]
    for able, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda able=able: able)
        assert choose_precision("auto", torch.device("cuda")) is expected
    assert choose_precision("float32", torch.device("cuda")) is torch.float32
