"""Losses of truncatable encoders: by hand, their gradients, and beside those of sentence-transformers."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import losses as theirs

from models.matryoshka import losses
from models.matryoshka.losses import Scoring, Targets
from tests.tiny_models import HIDDEN, Tiny

COSINE, DOT = Scoring(0.05), Scoring(0.5, cosine=False)
SIZES = ((1, 2), (2, 3), (3, 5))


def targets(n, columns, forbidden=()):
    allowed = torch.ones((n, columns), dtype=torch.bool)
    for row, column in forbidden:
        allowed[row, column] = False
    return Targets(torch.arange(n), allowed)


def sides(n=4, columns=6, d=5, layers=(1, 2, 3), seed=0):
    made = torch.Generator().manual_seed(seed)
    return tuple({k: torch.randn(rows, d, generator=made, requires_grad=True) for k in layers} for rows in (n, columns))


def slow_contrast(queries, documents, k, wanted, scoring):
    """One query and one document at a time."""
    terms = []
    for i, query in enumerate(queries.detach().double().numpy()[:, :k]):
        scores = {}
        for j, document in enumerate(documents.detach().double().numpy()[:, :k]):
            if wanted.allowed[i, j]:
                lengths = np.linalg.norm(query) * np.linalg.norm(document) if scoring.cosine else 1
                scores[j] = query @ document / lengths / scoring.temperature
        terms.append(math.log(sum(map(math.exp, scores.values()))) - scores[int(wanted.positive[i])])
    return np.mean(terms)


def test_contrast_by_hand():
    scores = torch.tensor([[1.0, 0.0, 2.0], [0.0, 3.0, 1.0]])
    wanted = targets(2, 3, forbidden=[(0, 2)])
    first = math.log(math.exp(2) + math.exp(0)) - 2  # the third document is another positive of the first query
    second = math.log(math.exp(0) + math.exp(6) + math.exp(2)) - 6
    assert losses.contrastive(scores, wanted, 0.5).item() == pytest.approx((first + second) / 2, rel=1e-5)


def test_coordinate_divergence_by_hand():
    final, earlier = torch.tensor([[0.0, math.log(3.0)]]), torch.tensor([[0.0, 0.0]])
    # At temperature 1 they are (1/4, 3/4) and (1/2, 1/2).
    divergence = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    assert losses.coordinate_divergence(earlier, final, 1.0).item() == pytest.approx(divergence, rel=1e-5)
    at_half = losses.coordinate_divergence(earlier, final, 0.5).item()  # (1/10, 9/10), times the temperature
    assert at_half == pytest.approx(0.5 * (0.1 * math.log(0.2) + 0.9 * math.log(1.8)), rel=1e-5)
    assert losses.coordinate_divergence(final, final, 0.3).item() == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("scoring", [COSINE, DOT])
def test_one_size_is_plain_contrast(scoring):
    queries, documents = sides()
    wanted = targets(4, 6, forbidden=[(0, 5), (2, 1)])
    parts = losses.starbucks(queries, documents, ((3, 5),), wanted, scoring, divergence=1.0)
    assert list(parts) == ["3x5"]
    expected = slow_contrast(queries[3], documents[3], 5, wanted, scoring)
    assert losses.total(parts).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("scoring", [COSINE, DOT])
def test_starbucks_is_the_sum_of_its_formula(scoring):
    queries, documents = sides()
    wanted = targets(4, 6, forbidden=[(0, 5), (2, 1)])
    parts = losses.starbucks(queries, documents, SIZES, wanted, scoring, divergence=0.7)

    def distribution(layers, k):
        scores = losses.sized_scores(queries[layers], documents[layers], k, cosine=scoring.cosine).detach().double()
        raised = torch.where(wanted.allowed, torch.exp(scores / scoring.temperature), 0.0)
        return (raised / raised.sum(1, keepdim=True)).numpy()

    full = distribution(3, 5)
    for layers, k in SIZES:
        expected = slow_contrast(queries[layers], documents[layers], k, wanted, scoring)
        if (layers, k) != (3, 5):
            own, there = distribution(layers, k), wanted.allowed.numpy()
            expected += 0.7 * (full[there] * np.log(full[there] / own[there])).sum() / 4
        assert parts[f"{layers}x{k}"].item() == pytest.approx(expected, rel=1e-4)
    alone = losses.starbucks(queries, documents, SIZES, wanted, scoring, divergence=0.0)
    assert alone["1x2"] < parts["1x2"]
    assert alone["3x5"] == parts["3x5"]


def gradients(parts, *sides_):
    leaves = [vectors for side in sides_ for vectors in side.values()]
    return torch.autograd.grad(losses.total(parts), leaves, allow_unused=True)


def test_the_full_size_learns_nothing_from_the_divergence_of_small_ones():
    queries, documents = sides()
    wanted = targets(4, 6)
    with_it = gradients(losses.starbucks(queries, documents, SIZES, wanted, COSINE, divergence=5.0), queries, documents)
    without = gradients(losses.starbucks(queries, documents, SIZES, wanted, COSINE, divergence=0.0), queries, documents)
    layers = [*queries, *documents]
    for layer, a, b in zip(layers, with_it, without, strict=True):
        assert torch.equal(a, b) == (layer == 3)
    drawn = {"weighting": "linear", "coordinate_temperature": 0.3}
    with_it, without = (
        gradients(
            losses.two_dimensional(queries, documents, (3, 5), (1, 2), wanted, COSINE, divergence=weight, **drawn),
            queries,
            documents,
        )
        for weight in (5.0, 0.0)
    )
    for layer, a, b in zip(layers, with_it, without, strict=True):
        if layer == 2:
            assert a is None
            assert b is None
        else:
            assert torch.equal(a, b) == (layer == 3)


def test_small_sizes_leave_later_coordinates_alone():
    queries, documents = sides()
    first, *_ = gradients(
        losses.starbucks(queries, documents, SIZES, targets(4, 6), COSINE, divergence=1.0), queries, documents
    )
    assert first[:, :2].abs().min() > 0
    assert not first[:, 2:].any()


def test_forbidden_columns_have_no_part():
    queries, documents = sides()
    wanted = targets(4, 6, forbidden=[(row, 5) for row in range(4)])
    parts = losses.starbucks(queries, documents, SIZES, wanted, COSINE, divergence=1.0)
    without = {layers: vectors[:5] for layers, vectors in documents.items()}
    fewer = losses.starbucks(queries, without, SIZES, targets(4, 5), COSINE, divergence=1.0)
    for name, part in parts.items():
        assert part.item() == pytest.approx(fewer[name].item(), rel=1e-5)
    grads = gradients(parts, documents)
    assert not any(grad[5].any() for grad in grads)


def test_random_draws_average_to_the_whole_sum():
    """Over all draws, every layer and every length counts as often as the others."""
    queries, documents = sides()
    wanted, lengths = targets(4, 6), (2, 3)
    draws = [(layer, k) for layer in (1, 2) for k in lengths]
    seen = [
        losses.total(
            losses.two_dimensional(
                queries, documents, (3, 5), drawn, wanted, COSINE, divergence=0.5, coordinate_temperature=0.3
            )
        ).item()
        for drawn in draws
    ]

    def contrast(layer, k):
        return slow_contrast(queries[layer], documents[layer], k, wanted, COSINE)

    whole = {
        layer: torch.nn.functional.normalize(torch.cat([queries[layer], documents[layer]]), dim=1) for layer in queries
    }
    expected = contrast(3, 5) + np.mean([contrast(3, k) for k in lengths])
    for layer in (1, 2):
        weighted = (contrast(layer, 5) + np.mean([contrast(layer, k) for k in lengths])) / (1 + layer)
        divergence = losses.coordinate_divergence(whole[layer], whole[3], 0.3).item()
        expected += (weighted + 0.5 * divergence) / 2
    assert np.mean(seen) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("weighting", ["linear", "uniform"])
def test_two_dimensional_loss_is_that_of_sentence_transformers(tmp_path, monkeypatch, weighting):
    """Given the same draw, and the full length beside the drawn one."""
    folder = Tiny(folder=tmp_path).write().folder
    model = SentenceTransformer(str(folder), device="cpu").eval()
    model.append(theirs_normalize())
    queries, documents = ["a cat", "the dog ran", "red road"], ["the cat sat", "a dog", "blue mat on road"]
    contrast = theirs.MultipleNegativesRankingLoss(model, scale=20)
    reference = theirs.Matryoshka2dLoss(
        model, contrast, [HIDDEN, 4], n_dims_per_step=-1, n_layers_per_step=1, layer_weighting=weighting
    )
    # Its only draw is then that of the layer, among the states before, between and behind the two layers.
    monkeypatch.setattr(random, "sample", lambda *_: [1])
    features = [model.preprocess(texts) for texts in (queries, documents)]
    expected = reference(features, None)

    with torch.no_grad():
        found = []
        for texts in (queries, documents):
            read = model.preprocess(texts)
            output = model[0].model(read["input_ids"], read["attention_mask"], output_hidden_states=True)
            states = output.hidden_states
            there = read["attention_mask"][..., None]
            found.append({k: (states[k] * there).sum(1) / there.sum(1) for k in (1, 2)})
    ours = losses.two_dimensional(
        *found,
        (2, HIDDEN),
        (1, 4),
        targets(3, 3),
        COSINE,
        weighting=weighting,
        divergence=1.0,
        coordinate_temperature=0.3,
    )
    assert sorted(ours) == ["1x16", "1x4", "2x16", "2x4", "divergence"]
    assert losses.total(ours).item() == pytest.approx(expected.item(), rel=1e-5)


def theirs_normalize():
    from sentence_transformers.base.modules import Normalize

    return Normalize()


def test_degenerate_draws_leave_their_terms_out():
    queries, documents = sides()
    rest = {"divergence": 1.0, "coordinate_temperature": 0.3}
    only = losses.two_dimensional(queries, documents, (3, 5), (3, 5), targets(4, 6), COSINE, **rest)
    assert list(only) == ["3x5"]


def test_masked_tokens():
    logits = torch.tensor([[0.0, math.log(3.0)], [0.0, 0.0]], requires_grad=True)
    loss = losses.masked_tokens(logits, torch.tensor([1, 0]))
    assert loss.item() == pytest.approx((-math.log(0.75) - math.log(0.5)) / 2, rel=1e-5)
    nothing = losses.masked_tokens(logits[:0], torch.tensor([], dtype=torch.int64))
    assert nothing.item() == 0
    torch.autograd.backward(nothing)


def test_smae_parts_are_the_mean_over_sizes_of_half_of_both():
    terms = [(1.0, 3.0), (2.0, 6.0), (0.5, 0.5)]
    parts = [losses.smae_part(torch.tensor(a), torch.tensor(b), 3).item() for a, b in terms]
    assert sum(parts) == pytest.approx(np.mean([(a + b) / 2 for a, b in terms]))
