"""Starbucks and 2DMSE: encoders trained on pairs. Knows no optimizer, no epochs and no files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import nn

from models.backend import Task
from models.matryoshka import losses
from models.matryoshka.batches import Batch, make_batch
from models.matryoshka.losses import Parts, Scoring, Targets
from models.matryoshka.network import SizedEncoder, Vectors
from models.matryoshka.options import EncoderTrainingOptions
from models.matryoshka.pairs import Pairs, Rows
from models.matryoshka.recipe import Step, Validation
from models.matryoshka.seeds import seeded
from models.matryoshka.size_list import Size
from models.matryoshka.validation import judge

_BATCH, _DRAW, _DROPOUT = 1, 2, 3  # what a seed is for
_VALIDATION_PIECE: Final = 64

Loss = Callable[[Vectors, Vectors], Parts]


@dataclass(frozen=True)
class Side:
    """Texts of one kind, and the numbers of layers after which their vectors are needed, ascending."""

    texts: list[str]
    task: Task
    exits: list[int]


class PairRecipe:
    """Contrastive training of a size list.

    Parameters
    ----------
    sizes : as `size_list.check_sizes` returns them.
    """

    def __init__(
        self, encoder: SizedEncoder, pairs: Pairs, sizes: Sequence[Size], options: EncoderTrainingOptions
    ) -> None:
        self._encoder, self._pairs, self._sizes, self._options = encoder, pairs, tuple(sizes), options
        self.network: nn.Module = encoder.model
        self.training, held = pairs.split(options.held_out, options.seed)
        self._held = make_batch(pairs, held, negatives=options.negatives, seed=(options.seed, 0)) if len(held) else None
        self._scoring = Scoring(options.scale, cosine=options.scores == "cosine")

    def step(self, rows: Rows, seed: Sequence[int]) -> Step:
        """See `Recipe.step`; rows are numbers of pairs."""
        batch = make_batch(self._pairs, rows, negatives=self._options.negatives, seed=(*seed, _BATCH))
        self.network.train()
        if self._options.recipe == "starbucks":
            exits, loss = sorted({layers for layers, _ in self._sizes}), self._fixed(batch)
        else:
            drawn = self._drawn(seed)
            exits, loss = sorted({drawn[0], self._encoder.layers}), self._random(batch, drawn)
        backward = self._backward_twice if self._options.cache_gradients else self._backward
        parts = backward(self._sides(batch, exits), loss, seed)
        values = {name: part.item() for name, part in parts.items()}
        return Step(sum(values.values()), values, len(batch.queries) + len(batch.documents))

    def validate(self) -> Validation | None:
        """See `Recipe.validate`; the quality is the mean MRR over all sizes."""
        if self._held is None:
            return None
        self.network.eval()
        exits = sorted({layers for layers, _ in self._sizes})
        with torch.no_grad():
            queries, documents = (
                self._vectors(side, _VALIDATION_PIECE, None) for side in self._sides(self._held, exits)
            )
        figures = judge(
            queries,
            self._beside(queries, documents),
            self._sizes,
            self._targets(self._held),
            cosine=self._scoring.cosine,
        )
        return Validation(float(np.mean([figure["mrr"] for figure in figures.values()])), figures)

    def _sides(self, batch: Batch, exits: list[int]) -> tuple[Side, Side]:
        """Return both sides of a batch, with the exits at which each is needed."""
        full = [self._encoder.layers] if self._options.documents == "full" else exits
        return Side(batch.queries, "query", exits), Side(batch.documents, "document", full)

    def _beside(self, queries: Vectors, documents: Vectors) -> Vectors:
        """Return the document vectors that the query vectors of each exit are scored against."""
        if self._options.documents == "same":
            return documents
        return dict.fromkeys(queries, documents[self._encoder.layers])

    def _fixed(self, batch: Batch) -> Loss:
        targets, weight = self._targets(batch), self._options.divergence
        return lambda queries, documents: losses.starbucks(
            queries,
            self._beside(queries, documents),
            self._sizes,
            targets,
            self._scoring,
            divergence=weight,
        )

    def _random(self, batch: Batch, drawn: Size) -> Loss:
        options, targets = self._options, self._targets(batch)
        return lambda queries, documents: losses.two_dimensional(
            queries,
            self._beside(queries, documents),
            self._sizes[-1],
            drawn,
            targets,
            self._scoring,
            weighting=options.layer_weighting,
            divergence=options.divergence,
            coordinate_temperature=options.coordinate_temperature,
        )

    def _drawn(self, seed: Sequence[int]) -> Size:
        """Return an earlier layer and one of the shorter lengths, all alike."""
        rng = np.random.default_rng((*seed, _DRAW))
        layers, dimension = self._sizes[-1]
        lengths = sorted({length for _, length in self._sizes} - {dimension}) or [dimension]
        return int(rng.integers(1, layers)), int(rng.choice(lengths))

    def _backward(self, sides: tuple[Side, Side], loss: Loss, seed: Sequence[int]) -> Parts:
        """Make gradients of a batch that is held in memory as a whole."""
        queries, documents = (
            self._vectors(side, self._options.piece, (*seed, _DROPOUT, number)) for number, side in enumerate(sides)
        )
        parts = loss(queries, documents)
        torch.autograd.backward(losses.total(parts))
        return parts

    def _backward_twice(self, sides: tuple[Side, Side], loss: Loss, seed: Sequence[int]) -> Parts:
        """Make the same gradients with one piece in memory at a time."""
        with torch.no_grad():
            found = [
                self._vectors(side, self._options.piece, (*seed, _DROPOUT, number)) for number, side in enumerate(sides)
            ]
        leaves = [{layers: vectors.requires_grad_() for layers, vectors in each.items()} for each in found]
        parts = loss(*leaves)
        torch.autograd.backward(losses.total(parts))
        for number, side in enumerate(sides):
            for place, rows in enumerate(self._encoder.pieces(side.texts, self._options.piece)):
                piece = self._piece(side, rows, (*seed, _DROPOUT, number, place))
                gradients = [leaves[number][layers].grad for layers in piece]
                torch.autograd.backward(list(piece.values()), [grad[rows] for grad in gradients if grad is not None])
        return parts

    def _vectors(self, side: Side, size: int, seed: Sequence[int] | None) -> Vectors:
        """Return the vectors of all texts of one side, in their order."""
        pieces = self._encoder.pieces(side.texts, size)
        made = [self._piece(side, rows, None if seed is None else (*seed, place)) for place, rows in enumerate(pieces)]
        back = np.argsort(np.concatenate(pieces))
        return {layers: torch.cat([piece[layers] for piece in made])[back] for layers in side.exits}

    def _piece(self, side: Side, rows: list[int], seed: Sequence[int] | None) -> Vectors:
        """Return the vectors of some texts; with a seed, that is where dropout comes from."""
        tokens = self._options.query_tokens if side.task == "query" else self._options.document_tokens
        chosen = [side.texts[row] for row in rows]
        with nullcontext() if seed is None else seeded(seed, self._encoder.device):
            return self._encoder.vectors(chosen, side.task, side.exits, tokens=tokens)

    def _targets(self, batch: Batch) -> Targets:
        device = self._encoder.device
        return Targets(torch.from_numpy(batch.positive).to(device), torch.from_numpy(batch.allowed).to(device))
