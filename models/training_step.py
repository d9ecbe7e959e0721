"""One step of training: which documents a batch is scored against, and the loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models import losses
from models.grid import Floats
from models.momentum_queue import MomentumQueue
from models.neighbours import Rows
from models.recurrent_network import RecurrentNetwork
from models.training_data import TrainingData
from models.training_older import OlderCodes
from models.training_options import TrainingOptions


@dataclass(frozen=True)
class Batch:
    """Anchors and the documents that they are scored against, the neighbours of all of them.

    Attributes
    ----------
    anchors : (b,) positions among the anchors; rows : (p,) document rows of the pool, ascending.
    queries : (b, d); centred : (p, d); shifts : (p,).
    target : (b, p) exact scores; positive : (b,) a column of each anchor, one of its own neighbours.
    allowed : (b, p) bool, false where the pool holds the anchor itself.
    """

    anchors: Rows
    rows: Rows
    queries: Tensor
    centred: Tensor
    shifts: Tensor
    target: Tensor
    positive: Tensor
    allowed: Tensor


def make_batch(data: TrainingData, mean: Floats, anchors: Rows, options: TrainingOptions, key: Sequence[int]) -> Batch:
    """Return the batch of some anchors; the same key draws the same positives and interpolations."""
    rng = np.random.default_rng(key)
    near = data.anchors.rows[anchors]
    rows = np.unique(near[near >= 0])
    picked = near[np.arange(len(anchors)), rng.integers(0, (near >= 0).sum(axis=1))]
    queries = data.anchors.vectors[anchors]
    if options.interpolation:
        share = rng.random((len(anchors), 1), dtype=np.float32) * np.float32(options.interpolation)
        lengths = np.linalg.norm(queries, axis=1, keepdims=True)
        queries = queries + share * (data.documents[picked] - queries)
        queries *= lengths / np.maximum(np.linalg.norm(queries, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    documents, shifts = data.documents[rows], data.shifts[rows]
    return Batch(
        anchors=anchors,
        rows=rows,
        queries=torch.from_numpy(queries),
        centred=torch.from_numpy(documents - mean),
        shifts=torch.from_numpy(shifts),
        target=torch.from_numpy(queries @ documents.T + shifts),
        positive=torch.from_numpy(np.searchsorted(rows, picked)),
        allowed=torch.from_numpy(data.anchors.own[anchors][:, None] != rows),
    )


def step_loss(
    network: RecurrentNetwork,
    values: Sequence[Tensor],
    batch: Batch,
    data: TrainingData,
    mean: Floats,
    options: TrainingOptions,
    *,
    queue: MomentumQueue,
    older: OlderCodes | None,
) -> Tensor:
    """Return the weighted sum of the terms; distillation is the mean over the prefixes of planes.

    Parameters
    ----------
    values : v_1, ..., v_bits of the batch's documents, (p, m) each.
    mean : (d,) float32, of the new code.
    """
    queries = network.queries(batch.queries)
    codes = network.codes(batch.centred, values)
    total = torch.zeros(())
    if options.distillation:
        for prefix in codes:
            term = _distillation(queries @ prefix.T + batch.shifts, batch, options)
            total = total + options.distillation / len(codes) * term
    if options.contrast:
        total = total + options.contrast * _contrast(queries, codes[-1], batch, data, options, queue)
    if options.reconstruction:
        decoder = network.tower.straight_weight()
        total = total + options.reconstruction * losses.reconstruction(codes[-1] @ decoder, batch.centred)
    if older is not None and options.compatible:
        total = total + options.compatible * _compatible(
            queries, codes[-1], torch.from_numpy(mean), batch, options, older
        )
    return total


def _distillation(scores: Tensor, batch: Batch, options: TrainingOptions) -> Tensor:
    return losses.ranking_distillation(scores, batch.target, batch.allowed, temperature=options.temperature)


def _contrast(
    queries: Tensor, codes: Tensor, batch: Batch, data: TrainingData, options: TrainingOptions, queue: MomentumQueue
) -> Tensor:
    """Return the contrastive term; a negative is what exact search ranks behind the positive."""
    scores = queries @ codes.T + batch.shifts
    target, allowed = batch.target, batch.allowed
    if len(queue):
        rows = queue.rows.numpy()
        shifts = torch.from_numpy(data.shifts[rows])
        scores = torch.cat([scores, queries @ queue.codes.T + shifts], dim=1)
        target = torch.cat([target, batch.queries @ torch.from_numpy(data.documents[rows]).T + shifts], dim=1)
        own = torch.from_numpy(data.anchors.own[batch.anchors])
        allowed = torch.cat([allowed, own[:, None] != queue.rows], dim=1)
    allowed = allowed & (target < target.gather(1, batch.positive[:, None]))
    return losses.top_k_info_nce(scores, batch.positive, allowed, k=options.negatives, temperature=options.temperature)


def _compatible(
    queries: Tensor, codes: Tensor, mean: Tensor, batch: Batch, options: TrainingOptions, older: OlderCodes
) -> Tensor:
    """Return the mean of new queries over older codes and, where there are any, older queries over new codes.

    Both codes of a document stand in one ranking if they are of one space, as they will in a half-upgraded collection.
    """
    keys = torch.from_numpy(older.codes(batch.rows))
    scores = losses.prefix_scores(queries, keys) + batch.shifts
    if older.mean is None:
        term = _distillation(scores, batch, options)
    else:
        older_mean = torch.from_numpy(older.mean)
        new = queries @ codes.T + batch.shifts + (batch.queries @ mean)[:, None]
        both = torch.cat([new, scores + (batch.queries @ older_mean)[:, None]], dim=1)
        term = losses.ranking_distillation(
            both, batch.target.repeat(1, 2), batch.allowed.repeat(1, 2), temperature=options.temperature
        )
    if older.queries is None or options.interpolation:
        return term
    asked = torch.from_numpy(older.queries[batch.anchors])
    return (term + _distillation(asked @ codes[:, : asked.shape[1]].T + batch.shifts, batch, options)) / 2
