"""Training of truncatable encoders on toy models: what is learned, refused, written and served."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from models import load_encoder
from models.errors import InvalidSize, InvalidTraining, InvalidTrainingData, ModelNotFound
from models.folder import check_folder
from models.learning_rate import rate_at
from models.matryoshka import plot
from models.matryoshka.network import SizedEncoder
from models.matryoshka.pair_recipe import PairRecipe
from models.matryoshka.pairs import read_pairs
from models.matryoshka.training import train_encoder
from models.metrics_log import MetricsLog, read_log
from tests.tiny_models import Tiny
from tests.toy_encoders import HIDDEN, SHORT, SIZES, TOY, equal, weights, write_json, write_pairs, write_toy

pytestmark = pytest.mark.usefixtures("no_plot")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return read_pairs([write_pairs(tmp_path_factory.mktemp("pairs") / "pairs.jsonl", 600)])


@pytest.fixture(scope="module")
def hard_pairs(tmp_path_factory):
    return read_pairs([write_pairs(tmp_path_factory.mktemp("pairs") / "hard.jsonl", 120, negatives=3)])


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """Questions and answers that no training has seen."""
    found = read_pairs([write_pairs(tmp_path_factory.mktemp("asked") / "asked.jsonl", 150, seed=7)])
    return [[found.texts[i] for i in side] for side in (found.queries, found.positives)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, toy, pairs):
    folder = tmp_path_factory.mktemp("trained")
    return {
        recipe: train_encoder(toy, pairs, replace(TOY, recipe=recipe), out=folder / recipe)
        for recipe in ("starbucks", "2dmse")
    }


def reciprocal_rank(folder, asked, layers, dimensions, document_layers=None):
    encoder = load_encoder("toy", folder=folder, allow_untrained=True, threads=1)
    queries = encoder.encode_queries(asked[0], layers=layers, dimensions=dimensions).vectors
    documents = encoder.encode_documents(asked[1], layers=document_layers or layers, dimensions=dimensions).vectors
    scores = queries @ documents.T
    return float((1 / (scores >= np.diag(scores)[:, None]).sum(axis=1)).mean())


def test_fixed_sizes_beat_sizes_off_the_list_and_random_ones(trained, toy, asked):
    found = {recipe: partial(reciprocal_rank, each.folder, asked) for recipe, each in trained.items()}
    for layers, dimensions in SIZES:
        before = reciprocal_rank(toy, asked, layers, dimensions)
        assert found["starbucks"](layers, dimensions) > before + 0.3
        assert found["2dmse"](layers, dimensions) > before + 0.3
    small = found["starbucks"](1, 4)
    assert small > found["starbucks"](2, 4) + 0.05, "one layer more, but never trained at this length"
    assert small > found["2dmse"](1, 4) + 0.03, "trained now and then"
    assert found["2dmse"](2, 4) > found["starbucks"](2, 4) + 0.05, "there this size is trained as well"


def test_queries_learn_to_read_documents_of_all_layers(trained, toy, pairs, asked, tmp_path):
    made = train_encoder(toy, pairs, replace(TOY, documents="full"), out=tmp_path / "full")
    against_full = reciprocal_rank(made.folder, asked, 1, 4, document_layers=2)
    assert against_full > reciprocal_rank(trained["starbucks"].folder, asked, 1, 4, document_layers=2) + 0.2
    assert against_full > 0.5


def test_losses_fall_and_are_logged(trained):
    lines = read_log(trained["starbucks"].folder / "metrics.jsonl")
    assert [line["step"] for line in lines] == [1, *range(10, 71, 10)]
    assert all(set(line["losses"]) == {"1x4", "2x32"} for line in lines)
    assert all(line["loss"] == pytest.approx(sum(line["losses"].values()), abs=1e-5) for line in lines)
    assert lines[-1]["losses"]["1x4"] < 0.7 * lines[0]["losses"]["1x4"]
    assert lines[-1]["losses"]["2x32"] < 0.5 * lines[0]["losses"]["2x32"]
    rates = [line["learning_rate"] for line in lines]
    assert rates[0] == pytest.approx(4e-3 / 7)
    assert sorted(rates[1:], reverse=True) == rates[1:]
    assert all(line["texts_per_s"] > 0 for line in lines)
    drawn = [set(line["losses"]) for line in read_log(trained["2dmse"].folder / "metrics.jsonl")]
    assert all(parts == {"2x32", "2x4", "1x32", "1x4", "divergence"} for parts in drawn)


def test_the_rate_rises_and_falls():
    shares = [rate_at(step, 20, 0.2) for step in range(20)]
    assert shares[:4] == [0.25, 0.5, 0.75, 1.0]
    assert shares[4:] == pytest.approx([k / 16 for k in range(16, 0, -1)])
    assert [rate_at(step, 1, 0.0) for step in range(1)] == [1.0]


@pytest.mark.parametrize("recipe", ["starbucks", "2dmse"])
def test_the_folder_is_an_encoder_of_its_sizes(trained, recipe):
    folder = trained[recipe].folder
    assert sorted(path.name for path in folder.iterdir()) == [
        "1_Pooling",
        "bitfold_sizes.json",
        "config.json",
        "config_sentence_transformers.json",
        "metrics.jsonl",
        "model.safetensors",
        "modules.json",
        "sentence_bert_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "training.json",
    ]
    encoder = load_encoder("toy", folder=folder, threads=1)
    assert encoder.sizes.full == (2, HIDDEN)
    assert encoder.sizes.pairs == (SIZES if recipe == "starbucks" else None)
    assert (encoder.sizes.layers, encoder.sizes.dimensions) == ((1, 2), (4, HIDDEN))
    assert encoder.encode_queries(["q1 q2"], layers=1, dimensions=4).vectors.shape == (1, 4)


def test_what_is_trained_is_what_is_served(toy):
    """Vectors at every size, and texts cut at the same place, are those of the loaded encoder."""
    network = SizedEncoder(check_folder(toy), torch.device("cpu"), torch.float32)
    texts = ["q1 q2 q3", "d1", "n1 n2 n3 n4 n5 n6 n7 n8 n9 n10 n11 n12 n13 n14 n15 n16 n17 n18"]
    with torch.no_grad():
        vectors = network.vectors(texts, "document", [1, 2], tokens=196)
        shorter = network.vectors(texts, "document", [2], tokens=5)
    encoder = load_encoder("toy", folder=toy, allow_untrained=True, threads=1)
    for layers in (1, 2):
        for dimensions in (4, HIDDEN):
            served = encoder.encode_documents(texts, layers=layers, dimensions=dimensions).vectors
            cut = nn.functional.normalize(vectors[layers][:, :dimensions], dim=1).numpy()
            np.testing.assert_allclose(served, cut, atol=1e-5)
    assert torch.equal(shorter[2][1], vectors[2][1]) or torch.allclose(shorter[2][1], vectors[2][1], atol=1e-5)
    assert not torch.allclose(shorter[2][2], vectors[2][2], atol=1e-3)


def test_prompts_are_put_before_texts(tmp_path):
    prompts = {"query": "query : ", "passage": "passage : "}
    plain = Tiny(folder=tmp_path / "plain").write().folder
    prompted = Tiny(folder=tmp_path / "prompted", prompts=prompts).write().folder
    networks = [SizedEncoder(check_folder(folder), torch.device("cpu"), torch.float32) for folder in (plain, prompted)]
    with torch.no_grad():
        for task, prompt in (("query", "query : "), ("document", "passage : ")):
            with_it = networks[1].vectors(["a cat"], task, [1], tokens=12)[1]
            by_hand = networks[0].vectors([prompt + "a cat"], task, [1], tokens=12)[1]
            assert torch.allclose(with_it, by_hand, atol=1e-6)


def test_the_record_says_what_was_done(toy, hard_pairs, tmp_path):
    made = train_encoder(toy, hard_pairs, SHORT, out=tmp_path / "out", sources=[{"name": "hard.jsonl"}])
    record = json.loads((made.folder / "training.json").read_text())
    assert record == json.loads(json.dumps(made.record))
    assert (record["recipe"], record["sizes"], record["steps"]) == ("starbucks", ["1x4", "2x32"], 9)
    assert record["data"] == {"sha256": hard_pairs.digest, "count": 120, "sources": [{"name": "hard.jsonl"}]}
    assert record["examples"] == 120 - 12
    assert record["options"]["batch"] == 8
    assert record["versions"]["torch"] == torch.__version__
    assert record["device"] == "cpu"
    assert len(record["quality"]) == 4, "before the first step, after steps 4 and 8, and at the end"
    best = int(np.argmax(record["quality"]))
    assert record["kept_step"] == [0, 4, 8, 9][best]
    validations = [line for line in read_log(made.folder / "metrics.jsonl") if "validation" in line]
    assert [line["step"] for line in validations] == [0, 4, 8, 9]
    assert [line["quality"] for line in validations] == record["quality"]
    assert record["before"] == validations[0]["validation"]
    assert record["after"] == validations[best]["validation"]
    assert record["quality"][0] == pytest.approx(np.mean([f["mrr"] for f in record["before"].values()]), abs=1e-5)
    first = load_encoder("a", folder=made.folder, threads=1).space
    (made.folder / "training.json").unlink()
    assert load_encoder("a", folder=made.folder, threads=1).space == first, "the record is no part of the space"


def test_patience_ends_a_training_and_the_best_weights_are_kept(toy, hard_pairs, tmp_path):
    """With a rate so high that nothing gets better."""
    options = replace(SHORT, steps=60, validate_steps=2, patience=2, learning_rate=1.0)
    made = train_encoder(toy, hard_pairs, options, out=tmp_path / "out")
    best = int(np.argmax(made.record["quality"]))
    assert len(made.record["quality"]) == best + 3
    assert made.record["steps"] == 2 * (best + 2) < 60
    assert made.record["kept_step"] == 2 * best
    found = weights(made.folder)
    if best == 0:
        assert equal(found, weights(toy))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"recipe": "2dmse"},
        {"scores": "dot", "temperature": 0.5},
        {"documents": "full"},
        {"documents": "full", "recipe": "2dmse"},
    ],
)
def test_cached_gradients_are_the_same(lively, hard_pairs, options):
    """Pieces and dropout included: one step of each kind from the same weights."""
    found = []
    for cache, piece in ((False, 5), (True, 5)):
        network = SizedEncoder(check_folder(lively), torch.device("cpu"), torch.float32)
        chosen = replace(SHORT, piece=piece, cache_gradients=cache, **options)
        recipe = PairRecipe(network, hard_pairs, SIZES, chosen)
        step = recipe.step(np.arange(9), (0, 2, 5))
        grads = {name: p.grad for name, p in recipe.network.named_parameters() if p.grad is not None}
        found.append((step, grads))
    (plain, expected), (cached, grads) = found
    assert cached.loss == pytest.approx(plain.loss, rel=1e-5)
    assert cached.texts == plain.texts > 9 + 9
    assert expected.keys() == grads.keys()
    assert max(float(grad.abs().max()) for grad in grads.values()) > 1e-3
    for name, grad in grads.items():
        torch.testing.assert_close(grad, expected[name], rtol=1e-3, atol=1e-6)


def test_pieces_change_nothing(toy, hard_pairs):
    grads = []
    for piece in (3, 64):
        network = SizedEncoder(check_folder(toy), torch.device("cpu"), torch.float32)
        recipe = PairRecipe(network, hard_pairs, SIZES, replace(SHORT, piece=piece))
        recipe.step(np.arange(9), (0, 2, 5))
        grads.append({name: p.grad for name, p in recipe.network.named_parameters() if p.grad is not None})
    for name, grad in grads[0].items():
        torch.testing.assert_close(grad, grads[1][name], rtol=1e-3, atol=1e-6)


def test_every_earlier_layer_and_length_is_drawn(tmp_path, hard_pairs):
    network = SizedEncoder(check_folder(write_toy(tmp_path, layers=3)), torch.device("cpu"), torch.float32)
    sizes = ((1, 4), (2, 8), (3, HIDDEN))
    recipe = PairRecipe(network, hard_pairs, sizes, replace(SHORT, recipe="2dmse", sizes=sizes))
    drawn = [recipe._drawn((0, 2, step)) for step in range(200)]
    counts = {size: drawn.count(size) for size in set(drawn)}
    assert set(counts) == {(1, 4), (1, 8), (2, 4), (2, 8)}
    assert min(counts.values()) > 30


def test_bf16_follows_float32(toy, hard_pairs):
    losses = []
    for precision in (torch.float32, torch.bfloat16):
        recipe = PairRecipe(SizedEncoder(check_folder(toy), torch.device("cpu"), precision), hard_pairs, SIZES, SHORT)
        losses.append(recipe.step(np.arange(16), (0,)).loss)
        assert all(parameter.dtype == torch.float32 for parameter in recipe.network.parameters())
    assert losses[1] == pytest.approx(losses[0], rel=0.05)
    assert losses[1] != losses[0]


def test_a_loss_that_is_no_number_ends_the_training(toy, hard_pairs, tmp_path, monkeypatch):
    monkeypatch.setattr("models.matryoshka.losses.contrastive", lambda scores, *_: scores.sum() * float("nan"))
    with pytest.raises(InvalidTraining, match="the loss of step 1 is nan"):
        train_encoder(toy, hard_pairs, SHORT, out=tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"sizes": ((1, 4), (3, HIDDEN))}, InvalidSize, "the model has 1 to 2 layers and 1 to 32 dimensions"),
        ({"sizes": ((1, 4),)}, InvalidSize, "lacks the full size 2x32"),
        ({"recipe": "smae"}, InvalidTrainingData, "SMAE trains on texts"),
    ],
)
def test_trainings_that_cannot_be(toy, hard_pairs, tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        train_encoder(toy, hard_pairs, replace(SHORT, **options), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_models_that_cannot_be_trained(toy, hard_pairs, tmp_path):
    with pytest.raises(ModelNotFound, match="no model folder"):
        train_encoder(tmp_path / "none", hard_pairs, SHORT, out=tmp_path / "out")
    with pytest.raises(InvalidTrainingData, match="starbucks trains on pairs"):
        train_encoder(toy, hard_pairs.texts, SHORT, out=tmp_path / "out")
    one_layer = write_toy(tmp_path / "one", layers=1)
    with pytest.raises(InvalidTraining, match="two layers or more"):
        train_encoder(one_layer, hard_pairs, replace(SHORT, sizes=None), out=tmp_path / "out")
    unit = write_toy(tmp_path / "unit")
    modules = json.loads((unit / "modules.json").read_text())
    modules.append({"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"})
    write_json(unit / "modules.json", modules)
    (unit / "2_Normalize").mkdir()
    with pytest.raises(InvalidTraining, match="dot products are cosines"):
        train_encoder(unit, hard_pairs, replace(SHORT, scores="dot"), out=tmp_path / "out")
    few = read_pairs([write_pairs(tmp_path / "few.jsonl", 1)])
    with pytest.raises(InvalidTraining, match="1 examples are left"):
        train_encoder(toy, few, SHORT, out=tmp_path / "out")


def test_a_dense_layer_is_trained_along(hard_pairs, tmp_path):
    """Vectors have the dense layer's length, and exits go through it."""
    folder = Tiny(folder=tmp_path / "dense", dense=True).write().folder
    options = replace(SHORT, sizes=None)
    made = train_encoder(folder, hard_pairs, options, out=tmp_path / "out")
    assert made.record["sizes"] == ["1x2", "2x6"]
    encoder = load_encoder("dense", folder=made.folder, threads=1)
    assert encoder.encode_queries(["a cat"], layers=1, dimensions=2).vectors.shape == (1, 2)
    with pytest.raises(InvalidTraining, match="do not have one width"):
        train_encoder(folder, hard_pairs.texts, replace(options, recipe="smae"), out=tmp_path / "smae")


def test_the_plot_shows_every_size(monkeypatch, tmp_path):
    pytest.importorskip("matplotlib")
    monkeypatch.delitem(sys.modules, "matplotlib.figure")
    log = MetricsLog(tmp_path / "metrics.jsonl", -1)
    figures = {"1x4": {"mrr": 0.2, "recall@1": 0.1}, "2x32": {"mrr": 0.3, "recall@1": 0.2}}
    log.write({"step": 0, "quality": 0.25, "validation": figures})
    log.write({"step": 1, "loss": 3.0, "losses": {"1x4": 2.0, "2x32": 1.0}})
    plot.draw(tmp_path / "metrics.jsonl", tmp_path / "training.svg")
    drawn = (tmp_path / "training.svg").read_text()
    assert drawn.count("<!-- 1x4 -->") == 2
    assert "mean reciprocal rank" in drawn


def test_no_plot_without_matplotlib(tmp_path):
    with pytest.raises(InvalidTraining, match="no plot without matplotlib") as refused:
        plot.draw(tmp_path / "metrics.jsonl", tmp_path / "training.svg")
    assert "extra 'bench'" in refused.value.hint
