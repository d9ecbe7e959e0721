"""How many tokens of a text an encoder reads, counted by hand: what is billed is what the model saw."""

from __future__ import annotations

import numpy as np
import pytest

from models import InvalidText, UnsupportedSize, load_encoder
from models.fold import Fold
from models.folded_model import FoldedModel
from tests.tiny_models import HIDDEN, VOCABULARY, Tiny, write_json, write_tokenizer

TEXTS = ["the cat sat", "", "unknown words too", "red " * 5, "red " * 50, "x" * 5000]


@pytest.mark.parametrize("prompts", [{}, {"query": "query: ", "passage": "passage: the "}])
@pytest.mark.parametrize("task", ["query", "document"])
def test_special_tokens_and_prompts_count_up_to_the_window(tmp_path, prompts, task):
    tiny = Tiny(tmp_path / "tiny", prompts=prompts).write()
    encoder = load_encoder("tiny", folder=tiny.folder, allow_untrained=True)
    prompt = {"query": 2, "document": 3}[task] if prompts else 0
    counted = [min(2 + prompt + words, tiny.window) for words in (3, 0, 3, 5, 50, 1)]
    assert encoder.count_tokens(TEXTS, task) == counted
    assert [encoder.count_tokens([text], task)[0] for text in TEXTS] == counted
    assert encoder.count_tokens(TEXTS, task, layers=1) == counted
    assert encoder.count_tokens([], task) == []
    many = [f"{'cat ' * (i % 9)}" for i in range(600)]
    assert encoder.count_tokens(many, task) == [min(2 + prompt + i % 9, tiny.window) for i in range(600)]


def test_bad_texts_and_sizes_are_refused_as_in_encoding(tmp_path):
    encoder = load_encoder("tiny", folder=Tiny(tmp_path / "tiny").write().folder)
    with pytest.raises(InvalidText, match="text 1 is not valid Unicode"):
        encoder.count_tokens(["cat", "\ud800"], "query")
    with pytest.raises(UnsupportedSize, match="layers 9"):
        encoder.count_tokens(["cat"], "query", layers=9)


def test_a_bag_of_tokens_has_neither_window_nor_special_tokens(tmp_path):
    import torch
    from safetensors.torch import save_file

    folder = tmp_path / "static"
    kind = "sentence_transformers.models.StaticEmbedding"
    write_json(folder / "modules.json", [{"idx": 0, "name": "0", "path": "", "type": kind}])
    write_tokenizer(folder)
    save_file({"embedding.weight": torch.ones(len(VOCABULARY), 8)}, folder / "model.safetensors")
    encoder = load_encoder("bag", folder=folder)
    assert encoder.count_tokens(["the cat sat", "", "red " * 50], "document") == [3, 0, 50]


def test_a_folded_model_counts_as_the_model_itself(tmp_path):
    from models.folder import check_folder
    from models.sentence_model import SentenceModel

    model = SentenceModel(check_folder(Tiny(tmp_path / "tiny").write().folder))
    folded = FoldedModel(model, Fold(np.eye(HIDDEN, dtype=np.float32)))
    assert folded.count_tokens(TEXTS, "query", 2) == model.count_tokens(TEXTS, "query", 2) == [5, 2, 5, 7, 12, 3]
