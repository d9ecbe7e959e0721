"""Losses, the clipped sign and the momentum queue, against slow loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from models.losses import prefix_scores, ranking_distillation, reconstruction, top_k_info_nce
from models.momentum_queue import MomentumQueue, follow, momentum_copy
from models.recurrent_network import clipped_sign


def drawn(n, columns, seed=0):
    rng = np.random.default_rng(seed)
    scores = rng.standard_normal((n, columns)).astype(np.float32)
    return scores, rng.integers(0, columns, n), rng.random((n, columns)) < 0.6


@pytest.mark.parametrize("k", [1, 5, 40])
def test_top_k_info_nce_is_the_loop(k):
    scores, positive, allowed = drawn(9, 20)
    losses = []
    for row, own, may in zip(scores.astype(np.float64), positive, allowed, strict=True):
        negatives = sorted((row[j] for j in range(20) if may[j] and j != own), reverse=True)[:k]
        logits = np.array([row[own], *negatives]) / 0.05
        losses.append(np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[0])
    found = top_k_info_nce(
        torch.from_numpy(scores), torch.from_numpy(positive), torch.from_numpy(allowed), k=k, temperature=0.05
    )
    assert found.item() == pytest.approx(np.mean(losses), rel=1e-5)


def test_top_k_info_nce_moves_only_the_positive_and_the_hardest():
    scores = torch.tensor([[0.5, 0.9, 0.8, 0.1, 0.7]], requires_grad=True)
    allowed = torch.tensor([[True, False, True, True, True]])
    top_k_info_nce(scores, torch.tensor([0]), allowed, k=2, temperature=1.0).backward()
    gradient = scores.grad[0].tolist()
    assert gradient[0] < 0 < min(gradient[2], gradient[4])
    assert gradient[1] == gradient[3] == 0


def test_top_k_info_nce_without_negatives_is_zero():
    loss = top_k_info_nce(
        torch.randn(3, 4), torch.tensor([0, 1, 2]), torch.zeros(3, 4, dtype=torch.bool), k=2, temperature=0.05
    )
    assert loss.item() == 0


def test_ranking_distillation_is_the_loop():
    scores, _, allowed = drawn(6, 12)
    target = drawn(6, 12, seed=1)[0]
    allowed[:, 0] = True
    losses = []
    for a, b, may in zip(scores.astype(np.float64), target.astype(np.float64), allowed, strict=True):
        q = np.exp(a[may] / 0.3) / np.exp(a[may] / 0.3).sum()
        p = np.exp(b[may] / 0.3) / np.exp(b[may] / 0.3).sum()
        losses.append((p * np.log(p / q)).sum())
    tensors = [torch.from_numpy(array) for array in (scores, target, allowed)]
    assert ranking_distillation(*tensors, temperature=0.3).item() == pytest.approx(np.mean(losses), rel=1e-4)


def test_ranking_distillation_ignores_constants_and_is_zero_for_the_target():
    target = torch.randn(4, 7, generator=torch.Generator().manual_seed(0))
    allowed = torch.ones(4, 7, dtype=torch.bool)
    assert ranking_distillation(target + 3, target, allowed, temperature=0.1).item() == pytest.approx(0, abs=1e-5)
    assert ranking_distillation(-target, target, allowed, temperature=0.1).item() > 1


def test_reconstruction_ignores_length():
    vectors = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    assert reconstruction(vectors * 5, vectors).item() == pytest.approx(0)
    assert reconstruction(torch.tensor([[0.0, 1.0], [0.0, 1.0]]), vectors).item() == pytest.approx(0.5)


def test_prefix_scores_leave_older_codes_alone():
    queries = torch.randn(2, 6, requires_grad=True)
    older = torch.randn(3, 4, requires_grad=True)
    scores = prefix_scores(queries, older)
    np.testing.assert_allclose(scores.detach(), (queries[:, :4] @ older.T).detach(), rtol=1e-6)
    scores.sum().backward()
    assert older.grad is None
    assert queries.grad[:, 4:].abs().sum() == 0 < queries.grad[:, :4].abs().sum()


def test_clipped_sign_passes_gradients_inside_only():
    x = torch.tensor([-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5], requires_grad=True)
    signs = clipped_sign(x)
    assert signs.tolist() == [-1, -1, -1, 1, 1, 1, 1]
    (signs * torch.arange(1.0, 8.0)).sum().backward()
    assert x.grad.tolist() == [0, 2, 3, 4, 5, 6, 0]


def test_queue_is_first_in_first_out():
    queue = MomentumQueue(5, 2)
    pushed = [(torch.full((n, 2), float(i)), torch.full((n,), i)) for i, n in enumerate([2, 2, 2, 1])]
    for i, (codes, rows) in enumerate(pushed):
        queue.push(codes, rows)
        assert len(queue) == [2, 4, 5, 5][i]
    assert queue.rows.tolist() == [1, 1, 2, 2, 3]
    assert queue.codes[:, 0].tolist() == [1, 1, 2, 2, 3]
    queue.push(torch.arange(16.0).reshape(8, 2), torch.arange(8))
    assert queue.rows.tolist() == [3, 4, 5, 6, 7]
    queue.clear()
    assert len(queue) == 0
    assert queue.codes.shape == (0, 2)


def test_queue_of_size_zero_holds_nothing_and_keeps_no_gradient():
    none, some = MomentumQueue(0, 3), MomentumQueue(4, 3)
    codes = torch.randn(2, 3, requires_grad=True)
    for queue in (none, some):
        queue.push(codes, torch.arange(2))
    assert len(none) == 0
    assert not some.codes.requires_grad


def test_momentum_copy_follows():
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    twin = momentum_copy(network)
    before = network[0].weight.detach().clone()
    with torch.no_grad():
        network[0].weight += 1
    network(torch.randn(8, 2))
    follow(twin, network, 0.9)
    np.testing.assert_allclose(twin[0].weight, before + 0.1, rtol=1e-5)
    assert torch.equal(twin[1].running_mean, network[1].running_mean)
    assert not any(parameter.requires_grad for parameter in twin.parameters())
    assert not twin.training
