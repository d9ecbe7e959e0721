"""Losses of encoders that can be cut: Starbucks, 2DMSE, SMAE. Pure functions of tensors; they know no network.

Vectors come as a tensor for each number of layers after which they were taken. A loss is returned in named parts,
whose sum it is, so that a log can show every size by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from models.losses import MASKED, ranking_distillation
from models.matryoshka.size_list import Size, written

Parts = dict[str, Tensor]
Weighting = Literal["linear", "uniform"]
DIVERGENCE = "divergence"


@dataclass(frozen=True)
class Targets:
    """Which documents of a batch belong to which query.

    Attributes
    ----------
    positive : (n,) int64, the column of each query's positive.
    allowed : (n, N) bool, columns that count: the own positive and the negatives, but no other positive of the query.
    """

    positive: Tensor
    allowed: Tensor


@dataclass(frozen=True)
class Scoring:
    """How vectors become scores, and scores a distribution.

    Attributes
    ----------
    temperature : scores are divided by it.
    cosine : prefixes are scaled to length 1 first.
    """

    temperature: float
    cosine: bool = True


def cut(vectors: Tensor, dimensions: int, *, cosine: bool) -> Tensor:
    """Return the first dimensions of (n, d) vectors, (n, dimensions), of length 1 under cosine."""
    prefix = vectors[:, :dimensions]
    return F.normalize(prefix, dim=1) if cosine else prefix


def sized_scores(queries: Tensor, documents: Tensor, dimensions: int, *, cosine: bool) -> Tensor:
    """Return (n, N) scores of (n, d) queries and (N, d) documents by their first dimensions."""
    return cut(queries, dimensions, cosine=cosine) @ cut(documents, dimensions, cosine=cosine).T


def contrastive(scores: Tensor, targets: Targets, temperature: float) -> Tensor:
    """Return the cross-entropy of the positives (InfoNCE): the mean over queries of -log softmax(scores / T).

    Parameters
    ----------
    scores : (n, N).
    """
    return F.cross_entropy(scores.masked_fill(~targets.allowed, MASKED) / temperature, targets.positive)


def coordinate_divergence(vectors: Tensor, final: Tensor, temperature: float) -> Tensor:
    """Return T * KL(softmax(final / T) || softmax(vectors / T)) over coordinates, mean over n; none flows into `final`.

    Parameters
    ----------
    vectors, final : (n, d), of an earlier layer and of the last one (2DMSE, arXiv 2402.14776).
    """
    goal = F.softmax(final.detach() / temperature, dim=1)
    return temperature * F.kl_div(F.log_softmax(vectors / temperature, dim=1), goal, reduction="batchmean")


def starbucks(
    queries: Mapping[int, Tensor],
    documents: Mapping[int, Tensor],
    sizes: Sequence[Size],
    targets: Targets,
    scoring: Scoring,
    *,
    divergence: float,
) -> Parts:
    """Return the loss of a fixed list of sizes (Starbucks, arXiv 2410.13230, SRL for retrieval).

    With s the scores at a size and S those at the full one:
    CE(S / T) + the sum over smaller sizes of CE(s / T) + w * KL(softmax(S / T) || softmax(s / T)).
    None of the divergence flows into S, and columns that are not allowed have no part in it.

    Parameters
    ----------
    queries, documents : number of layers -> (n, d), and (N, d).
    sizes : ascending; the last is the full one.
    divergence : w.

    Returns
    -------
    A part for each size, named like `2x64`.
    """
    table = {size: sized_scores(queries[size[0]], documents[size[0]], size[1], cosine=scoring.cosine) for size in sizes}
    full, parts = table[sizes[-1]], {}
    for size, scores in table.items():
        loss = contrastive(scores, targets, scoring.temperature)
        if size != sizes[-1] and divergence:
            loss = loss + divergence * ranking_distillation(
                scores, full.detach(), targets.allowed, temperature=scoring.temperature
            )
        parts[written(size)] = loss
    return parts


def layer_weight(layers: int, weighting: Weighting) -> float:
    """Return the weight of an earlier layer: 1 / (1 + layers), or 1."""
    return 1 / (1 + layers) if weighting == "linear" else 1.0


def two_dimensional(
    queries: Mapping[int, Tensor],
    documents: Mapping[int, Tensor],
    full: Size,
    drawn: Size,
    targets: Targets,
    scoring: Scoring,
    *,
    weighting: Weighting = "linear",
    divergence: float,
    coordinate_temperature: float,
) -> Parts:
    """Return the loss of one random layer and one random length (2DMSE, arXiv 2402.14776).

    L(last layer) + weight(l) * L(layer l) + w * `coordinate_divergence` of the whole vectors of layer l to the last
    one's, over the texts of both sides. L is the sum of the contrastive losses at the full and at the drawn length.

    Parameters
    ----------
    queries, documents : number of layers -> (n, d), and (N, d); of the last layer and the drawn one.
    drawn : an earlier layer and a shorter length; the last layer where there is no earlier one, the full length where
        there is no shorter one: their terms are left out.
    divergence : w.

    Returns
    -------
    Parts named like `2x64`, weighted as they count, and `divergence`.
    """
    layers, parts = dict.fromkeys((full[0], drawn[0])), {}
    for layer in layers:
        weight = 1.0 if layer == full[0] else layer_weight(layer, weighting)
        for length in dict.fromkeys((full[1], drawn[1])):
            scores = sized_scores(queries[layer], documents[layer], length, cosine=scoring.cosine)
            parts[written((layer, length))] = weight * contrastive(scores, targets, scoring.temperature)
    if drawn[0] != full[0] and divergence:
        whole = {
            layer: torch.cat([cut(side[layer], full[1], cosine=scoring.cosine) for side in (queries, documents)])
            for layer in layers
        }
        parts[DIVERGENCE] = divergence * coordinate_divergence(whole[drawn[0]], whole[full[0]], coordinate_temperature)
    return parts


def masked_tokens(logits: Tensor, tokens: Tensor) -> Tensor:
    """Return the mean cross-entropy of masked tokens; 0 where none is masked.

    Parameters
    ----------
    logits : (m, vocabulary); tokens : (m,) int64.
    """
    return F.cross_entropy(logits, tokens) if len(tokens) else logits.sum() * 0


def smae_part(masked: Tensor, rebuilt: Tensor, sizes: int) -> Tensor:
    """Return what one of several sizes adds to the loss of SMAE: half of both terms, over the number of sizes."""
    return (masked + rebuilt) / (2 * sizes)


def total(parts: Parts) -> Tensor:
    """Return the sum of all parts."""
    return torch.stack(list(parts.values())).sum()
