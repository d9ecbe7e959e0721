"""What a student is trained on: how far its vectors are from the teacher's. Pure functions."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def cosine_loss(vectors: Tensor, teacher: Tensor) -> Tensor:
    """Return 1 minus the mean cosine of (n, d) vectors and the teacher's (n, d) unit vectors."""
    return 1 - (F.normalize(vectors, dim=1) * teacher).sum(1).mean()


def alignment_loss(vectors: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean length of the difference of directions, 0 to 2 (LEAF, arXiv 2509.12539).

    Parameters
    ----------
    vectors : (n, d) of the student, of any length but 0.
    teacher : (n, d) unit vectors.
    """
    lengths: Tensor = torch.linalg.vector_norm(F.normalize(vectors, dim=1) - teacher, dim=1)
    return lengths.mean()
