"""Hiding words of texts, all tokens of a word together. Pure functions; they know no network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

# BERT (arXiv 1810.04805): of the hidden tokens a tenth stays as it is, and a tenth becomes any other one, so that
# states of tokens that are not hidden mean something too.
KEPT: Final = 0.1
REPLACED: Final = 0.1


@dataclass(frozen=True)
class Vocabulary:
    """What masking knows of a tokenizer.

    Attributes
    ----------
    size : tokens.
    mask : number of the token that stands for a hidden one.
    """

    size: int
    mask: int


def hidden_words(words: Sequence[Sequence[int | None]], share: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Return which tokens are hidden, (n, t) bool.

    Parameters
    ----------
    words : for n texts, the number of the word that each of t tokens belongs to; None for special tokens and padding.
    share : of the words of a text that are hidden, rounded, but one at least where there is a word.
    """
    hidden = np.zeros((len(words), len(words[0])), dtype=np.bool_)
    for row, numbers in enumerate(words):
        own = np.array([-1 if number is None else number for number in numbers])
        there = np.unique(own[own >= 0])
        if len(there):
            chosen = rng.choice(there, max(1, round(share * len(there))), replace=False)
            hidden[row] = np.isin(own, chosen)
    return hidden


def masked(
    tokens: NDArray[np.int64], hidden: NDArray[np.bool_], vocabulary: Vocabulary, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Return (n, t) tokens in which the hidden ones are hidden: most masked, a tenth kept, a tenth replaced."""
    draw = rng.random(tokens.shape)
    out = np.where(hidden & (draw >= KEPT + REPLACED), vocabulary.mask, tokens)
    others = rng.integers(0, vocabulary.size, tokens.shape)
    return np.where(hidden & (draw < REPLACED), others, out)
