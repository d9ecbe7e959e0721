"""How well every size finds the held-out answers among all held-out documents."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from models.matryoshka.losses import Targets, sized_scores
from models.matryoshka.network import Vectors
from models.matryoshka.recipe import Figures
from models.matryoshka.size_list import Size, written


def ranks(scores: Tensor, targets: Targets) -> Tensor:
    """Return (n,) ranks of the positives, from 1; what scores as high as the positive is before it.

    Parameters
    ----------
    scores : (n, N), higher is better; columns that are not allowed do not count.
    """
    own = scores.gather(1, targets.positive[:, None])
    return ((scores >= own) & targets.allowed).sum(dim=1)


def judge(queries: Vectors, documents: Vectors, sizes: Sequence[Size], targets: Targets, *, cosine: bool) -> Figures:
    """Return the figures of every size.

    Parameters
    ----------
    queries, documents : number of layers -> (n, d), and (N, d).

    Returns
    -------
    Size, written, -> `mrr` (mean of 1 / rank), `recall@1`, and `length`, the mean length of the documents' prefixes
    before they are scaled: where sizes differ much in it, dot products of several sizes do not compare.
    """
    found = {}
    for layers, dimensions in sizes:
        place = ranks(sized_scores(queries[layers], documents[layers], dimensions, cosine=cosine), targets)
        figures = {
            "mrr": (1 / place).mean(),
            "recall@1": (place == 1).float().mean(),
            "length": documents[layers][:, :dimensions].norm(dim=1).mean(),
        }
        found[written((layers, dimensions))] = {name: round(float(value), 5) for name, value in figures.items()}
    return found
