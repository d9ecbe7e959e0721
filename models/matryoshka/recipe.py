"""What a recipe is to the loop that runs it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import nn

from models.matryoshka.pairs import Rows

Figures = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Step:
    """What one step came to.

    Attributes
    ----------
    loss : the sum of the parts.
    parts : by name; most are sizes.
    texts : texts that were encoded.
    """

    loss: float
    parts: dict[str, float]
    texts: int


@dataclass(frozen=True)
class Validation:
    """How good the weights are on what was held out.

    Attributes
    ----------
    quality : one number, the higher the better.
    figures : size -> measure -> value.
    """

    quality: float
    figures: Figures


class Recipe(Protocol):
    """Makes gradients and judges weights; knows no optimizer, no epochs and no files."""

    @property
    def network(self) -> nn.Module:
        """Everything that is trained."""
        ...

    @property
    def training(self) -> Rows:
        """Numbers of the examples that are trained on."""
        ...

    def step(self, rows: Rows, seed: Sequence[int]) -> Step:
        """Add the gradients of some examples to the weights'; everything random comes from the seed."""
        ...

    def validate(self) -> Validation | None:
        """Judge the weights as they are; None if nothing was held out."""
        ...
