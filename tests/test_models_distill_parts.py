"""Parts of student training: texts, the teacher's vectors on disk, tokens, losses, rates."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest

from models.distill.teacher_vectors import SHARD, TeacherVectors
from models.distill.texts import cut, read_texts
from models.distill.tokens import Tokens, batches_by_length
from models.errors import InvalidText, ModelNotFound, TrainingCancelled
from models.learning_rate import rate_at


def lines(path, rows):
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


def test_texts_are_read_once_each_with_titles_cut_and_shuffled(tmp_path):
    one = lines(tmp_path / "a.jsonl.gz", [{"text": "b c", "title": "a"}, {"text": "x" * 9 + " yyyy"}, {"text": "same"}])
    two = tmp_path / "b.txt"
    two.write_text("same\n\n  plain  \n")
    found = read_texts([one, two], most_characters=11)
    assert sorted(found) == ["a b c", "plain", "same", "xxxxxxxxx"]
    assert found == read_texts([one, two], most_characters=11)
    assert {tuple(read_texts([one, two], seed=seed)) for seed in range(8)} != {tuple(found)}


@pytest.mark.parametrize(
    ("text", "most", "short"),
    [("one two", 7, "one two"), ("one two", 6, "one"), ("one two", 3, "one"), ("onetwo", 3, "one"), (" a\nb ", 2, "a")],
)
def test_cut_ends_behind_a_word(text, most, short):
    assert cut(text, most) == short


def test_texts_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(ModelNotFound, match="nothing.jsonl"):
        read_texts([tmp_path / "nothing.jsonl"])
    with pytest.raises(InvalidText, match=r"bad.jsonl:2: not an object with a text"):
        read_texts([lines(tmp_path / "bad.jsonl", [{"text": "a"}, {"body": "b"}])])
    with pytest.raises(InvalidText, match="is not a string"):
        read_texts([lines(tmp_path / "bad.jsonl", [{"text": 3}])])
    with pytest.raises(InvalidText, match="no texts"):
        read_texts([lines(tmp_path / "empty.jsonl", [])])


def vectors_of(texts):
    return np.array([[len(text), int(text[1:])] for text in texts], np.float32)


def test_teacher_vectors_are_made_once_in_any_number_of_sittings(tmp_path):
    texts = [f"t{i}" for i in range(2 * SHARD + 10)]
    asked = []

    def encode(piece):
        asked.append(len(piece))
        return vectors_of(piece)

    cache = TeacherVectors(tmp_path, "space")
    with pytest.raises(ModelNotFound, match="lacks 3 of 3 shards"):
        cache.read(texts)
    seen = []
    with pytest.raises(TrainingCancelled, match=f"after {SHARD} of {len(texts)}"):
        cache.fill(texts, encode, on_progress=seen.append, cancelled=lambda: len(asked) == 1)
    assert cache.done(texts) == SHARD
    cache.fill(texts, encode, on_progress=seen.append)
    assert asked == [SHARD, SHARD, 10]
    assert [one.done for one in seen] == [SHARD, 2 * SHARD, len(texts)]
    np.testing.assert_array_equal(cache.read(texts), vectors_of(texts).astype(np.float16))
    # Another list that begins alike shares shards; another teacher shares none.
    assert cache.done([*texts[:SHARD], "t0"]) == SHARD
    assert TeacherVectors(tmp_path, "other").done(texts) == 0


class OneLetter:
    """A tokenizer of letters: a is 10, b is 11, ..."""

    def encode_batch_fast(self, texts, add_special_tokens):
        assert not add_special_tokens
        return [type("E", (), {"ids": [ord(c) - 87 for c in text if c.isalpha()]}) for text in texts]

    def encode(self, text, add_special_tokens):
        assert (text, add_special_tokens) == ("", True)
        return type("E", (), {"ids": [2, 3]})


def test_tokens_give_bags_and_padded_batches():
    tokens = Tokens.of(["abc", "", "d", "efghij"], OneLetter(), unknown=1)
    assert len(tokens) == 4
    assert tokens.lengths().tolist() == [3, 1, 1, 6]
    rows = np.array([3, 0, 1])
    flat, starts = tokens.bag(rows, 4)
    assert flat.tolist() == [14, 15, 16, 17, 10, 11, 12, 1]
    assert starts.tolist() == [0, 4, 7]
    assert tokens.padded(rows, 6).tolist() == [[2, 14, 15, 16, 17, 3], [2, 10, 11, 12, 3, 0], [2, 1, 3, 0, 0, 0]]


def test_batches_hold_every_text_once_and_like_lengths_together():
    lengths = np.random.default_rng(0).integers(1, 60, 1000)
    batches = batches_by_length(lengths, 16, np.random.default_rng(1), group=20)
    flat = np.concatenate(batches)
    assert len(set(flat)) == len(flat) == 1000 // 16 * 16
    assert all(len(batch) == 16 for batch in batches)
    spread = np.mean([np.ptp(lengths[batch]) for batch in batches])
    assert spread < np.mean([np.ptp(lengths[flat[i : i + 16]]) for i in range(0, 900, 37)]) / 3
    again = batches_by_length(lengths, 16, np.random.default_rng(1), group=20)
    assert all((a == b).all() for a, b in zip(batches, again, strict=True))


def test_the_rate_rises_then_falls_to_nothing():
    rates = [rate_at(step, 100, 0.1) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == 1
    assert rates[100] == 0
    assert all(a <= b for a, b in zip(rates[:9], rates[1:10], strict=True))
    assert all(a >= b for a, b in zip(rates[9:], rates[10:], strict=False))
    assert rate_at(0, 1, 0.0) == 1
