"""SMAE pre-training: what is learned, and its gradients against the whole loss in one graph."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from models import load_encoder
from models.folder import check_folder
from models.matryoshka.network import SizedEncoder
from models.matryoshka.pairs import read_pairs
from models.matryoshka.smae import SlicedHead, SmaeRecipe
from models.matryoshka.training import train_encoder
from tests.toy_encoders import SHORT, SIZES, TOY, write_pairs, write_toy

pytestmark = pytest.mark.usefixtures("no_plot")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return read_pairs([write_pairs(tmp_path_factory.mktemp("pairs") / "pairs.jsonl", 600)])


@pytest.fixture(scope="module")
def hard_pairs(tmp_path_factory):
    return read_pairs([write_pairs(tmp_path_factory.mktemp("pairs") / "hard.jsonl", 120, negatives=3)])


def test_smae_learns_and_is_a_start(toy, pairs, tmp_path):
    options = replace(TOY, recipe="smae", steps=40, held_out=40, learning_rate=5e-3)
    made = train_encoder(toy, pairs.texts, options, out=tmp_path / "smae")
    assert not (made.folder / "bitfold_sizes.json").exists(), "it finds nothing yet"
    for size in ("1x4", "2x32"):
        assert sum(made.record["after"][size].values()) < sum(made.record["before"][size].values()) - 0.2
    assert made.record["quality"][-1] == pytest.approx(
        -np.mean([list(figures.values()) for figures in made.record["after"].values()]), abs=1e-4
    )
    after = train_encoder(made.folder, pairs, replace(SHORT, held_out=0), out=tmp_path / "after")
    assert after.record["start"]["folder"] == "smae"
    assert load_encoder("after", folder=after.folder, threads=1).sizes.pairs == SIZES


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_smae_gradients_are_those_of_the_whole_loss(tmp_path, hard_pairs, pooling):
    """One size after the other, against everything in one graph."""
    folder = write_toy(tmp_path, pooling=pooling)
    options = replace(SHORT, recipe="smae", piece=100)

    def recipe():
        return SmaeRecipe(
            SizedEncoder(check_folder(folder), torch.device("cpu"), torch.float32), hard_pairs.texts, SIZES, options
        )

    ours = recipe()
    rows, seed = ours.training[:12], (0, 2, 1)
    step = ours.step(rows, seed)
    grads = {name: p.grad for name, p in ours.network.named_parameters() if p.grad is not None}

    slow = recipe()
    slow.network.train()
    ((share, piece),) = slow._pieces(rows, seed)
    assert share == 1.0
    network, heads = slow._encoder, slow._heads
    states = network.transformer(**piece.features, output_hidden_states=True).hidden_states
    there = piece.features["attention_mask"]
    table = network.transformer.embeddings.word_embeddings.weight
    loss = 0
    for layers, k in SIZES:
        mean = (states[layers] * there[..., None]).sum(1) / there.sum(1, keepdim=True)
        vectors = mean if pooling == "mean" else states[layers][:, 0]

        def head(x, k=k):
            inner = x[..., :k] @ heads.head.inner.weight[:, :k].T + heads.head.inner.bias
            return heads.head.norm(nn.functional.gelu(inner)) @ table.T + heads.head.bias

        words = nn.functional.cross_entropy(head(states[layers])[piece.hidden], piece.tokens[piece.hidden])
        read = network.transformer.embeddings(input_ids=piece.read)
        first = vectors[:, :k] @ heads.bottleneck.weight[:, :k].T + heads.bottleneck.bias
        read = torch.cat([first[:, None], read[:, 1:]], dim=1)
        told = heads.decoder(read, src_key_padding_mask=there == 0)
        scores = heads.head.norm(nn.functional.gelu(heads.head.inner(told))) @ table.T + heads.head.bias
        rebuilt = nn.functional.cross_entropy(scores[piece.unseen], piece.tokens[piece.unseen])
        loss = loss + (words + rebuilt) / 2 / len(SIZES)
    torch.autograd.backward(loss)
    assert step.loss == pytest.approx(loss.item(), rel=1e-5)
    expected = {name: p.grad for name, p in slow.network.named_parameters() if p.grad is not None}
    assert expected.keys() == grads.keys()
    for name, grad in grads.items():
        torch.testing.assert_close(grad, expected[name], rtol=1e-3, atol=1e-6)


def test_a_sliced_head_is_the_head_of_padded_states():
    torch.manual_seed(0)
    head, table = SlicedHead(8, 20, 0.02), torch.randn(20, 8)
    states = torch.randn(5, 3)
    padded = nn.functional.pad(states, (0, 5))
    assert torch.allclose(head(states, table), head(padded, table), atol=1e-6)
