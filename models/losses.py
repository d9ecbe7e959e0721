"""Losses over matrices of scores, higher is better. Pure functions; they know nothing of codes or of networks."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

MASKED = -1e9


def top_k_info_nce(scores: Tensor, positive: Tensor, allowed: Tensor, *, k: int, temperature: float) -> Tensor:
    """Return the contrastive loss of a positive against its k hardest negatives (BEBR, arXiv 2302.08714).

    Parameters
    ----------
    scores : (n, N) of n queries and N candidates.
    positive : (n,) int64, the column of each query's positive.
    allowed : (n, N) bool, which columns may be negatives; the positive's own never is.
    k : negatives that count, those with the best scores; fewer where fewer are allowed.
    temperature : scores are divided by it.

    Returns
    -------
    Mean over queries of the cross-entropy of the positive among itself and its negatives.
    """
    columns = positive[:, None]
    own = torch.zeros_like(allowed).scatter_(1, columns, True)
    negatives = scores.masked_fill(~allowed | own, MASKED)
    hardest = negatives.topk(min(k, scores.shape[1]), dim=1).values
    logits = torch.cat([scores.gather(1, columns), hardest], dim=1) / temperature
    return F.cross_entropy(logits, torch.zeros_like(positive))


def ranking_distillation(scores: Tensor, target: Tensor, allowed: Tensor, *, temperature: float) -> Tensor:
    """Return the divergence KL(target || scores) of the two softmax distributions over allowed columns.

    Parameters
    ----------
    scores, target : (n, N); any constant per row may be missing from either.
    allowed : (n, N) bool.
    temperature : both are divided by it; the smaller, the more the first places count.
    """
    student = F.log_softmax(scores.masked_fill(~allowed, MASKED) / temperature, dim=1)
    teacher = F.log_softmax(target.masked_fill(~allowed, MASKED) / temperature, dim=1)
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True)


def reconstruction(rebuilt: Tensor, vectors: Tensor) -> Tensor:
    """Return 1 minus the mean cosine of (n, d) reconstructions and vectors."""
    return 1 - F.cosine_similarity(rebuilt, vectors, dim=1).mean()


def prefix_scores(queries: Tensor, older_codes: Tensor) -> Tensor:
    """Return (nq, n) scores of queries, cut to the older dimensions, against frozen older codes.

    With it the other losses become backward-compatible ones (BEBR, section on compatible training): a new code begins
    with dimensions that an older code can be compared with.

    Parameters
    ----------
    queries : (nq, m) with m >= m_old.
    older_codes : (n, m_old); no gradient goes into them.
    """
    return queries[:, : older_codes.shape[1]] @ older_codes.detach().T
