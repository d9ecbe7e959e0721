"""Toy models and toy pairs that training of truncatable encoders is tested with."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from models.matryoshka.options import EncoderTrainingOptions
from tests.tiny_models import write_json, write_tokenizer

TOPICS, HIDDEN = 40, 32
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [f"{kind}{i}" for kind in "qdn" for i in range(TOPICS)]
SIZES = ((1, 4), (2, HIDDEN))
TOY = EncoderTrainingOptions(
    sizes=SIZES, epochs=100, steps=70, batch=32, learning_rate=4e-3, held_out=0, piece=64, threads=1, device="cpu"
)
SHORT = replace(TOY, steps=9, batch=8, held_out=20, validate_steps=4, checkpoint_steps=3, log_steps=2)


def write_toy(folder, *, dropout=0.0, pooling="mean", layers=2):
    """A random model whose vocabulary has a word of questions and one of documents for each of 40 topics, and noise."""
    from transformers import BertConfig, BertModel

    vocabulary = {word: i for i, word in enumerate([*SPECIAL, *WORDS])}
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=HIDDEN,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=32,
        initializer_range=0.1,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertModel(config).save_pretrained(folder)
    write_tokenizer(folder, vocabulary)
    kinds = ("Transformer", "Pooling")
    modules = [
        {"idx": i, "name": str(i), "path": ["", "1_Pooling"][i], "type": f"sentence_transformers.models.{kind}"}
        for i, kind in enumerate(kinds)
    ]
    write_json(folder / "modules.json", modules)
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 16})
    modes = {f"pooling_mode_{mode}": mode.startswith(pooling) for mode in ("mean_tokens", "cls_token")}
    write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": HIDDEN, **modes})
    return folder


def write_pairs(path, n, seed=0, negatives=0):
    """A question names three topics in its words, its answer the same ones in others, between two words of noise."""
    rng = np.random.default_rng(seed)

    def answer(topics):
        return " ".join([*(f"d{i}" for i in rng.permutation(topics)), *(f"n{i}" for i in rng.choice(TOPICS, 2))])

    with path.open("w") as file:
        for _ in range(n):
            topics = rng.choice(TOPICS, 3, replace=False)
            hard = [answer([*topics[:2], int(rng.integers(0, TOPICS))]) for _ in range(negatives)]
            row = {"query": " ".join(f"q{i}" for i in topics), "positive": answer(topics), "negatives": hard}
            file.write(json.dumps(row) + "\n")
    return path


def weights(folder):
    return load_file(Path(folder) / "model.safetensors")


def equal(a, b):
    assert a.keys() == b.keys()
    return all(torch.equal(a[name], b[name]) for name in a)
