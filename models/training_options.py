"""What a training of a binarizer can be told, and what it tells. Knows no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from models.errors import InvalidSize
from models.grid import check_bits
from models.recurrent import MOST_SWEEPS
from models.training_data import Distance


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """Settings of a training; the defaults are what did best on real embeddings.

    Attributes
    ----------
    bits : planes of a code, 1 to 8.
    dimensions : code dimensions m; None for as many as the vectors have.
    seed : of the split, the rotation that training starts from, the order of batches.
    distance : how vectors will be compared.
    epochs, batch : passes over the anchors, anchors a step.
    anchors : most queries to train with.
    neighbours : mined for each anchor; a batch is scored against the neighbours of all its anchors.
    sweeps : with 1 or more, levels are polished for a linear decoder (`models/decoding.py`), codes and decoder are
        fitted to each other before the first epoch, and epochs train the query tower for them. With 0, levels are those
        of the recurrence alone, and epochs train it and the tower together, with straight-through gradients (BEBR).
    rounds : turns in which codes and decoder are fitted to each other.
    evenness : how the tower starts from the decoder, see `decoding.query_matrix`.
    hidden, blocks : width and number of the hidden layers of every block of the recurrence, where there are no sweeps;
        hidden 0: linear.
    query_hidden : the same of the query tower; 0: linear, so that it reads cut queries.
    optimizer, learning_rate, weight_decay, clip : AdamW, or SGD with Nesterov momentum 0.9; the rate falls to 0 along a
        cosine; decay pulls back to the start; gradients are cut to the norm `clip`.
    temperature : of distillation and contrast, in units of scores.
    distillation, contrast, reconstruction, compatible : weights of the terms; the last one counts only
        when an older binarizer is given.
    negatives : hardest ones that count in the contrast.
    queue : codes of earlier batches among which they are looked for, from epoch 1; 0 for none.
    momentum : of the slow copy of the network that makes those codes.
    interpolation : anchors are moved towards one of their neighbours by up to this share of the way.
    patience : epochs without a better validation after which training ends.
    checkpoint_steps : steps between checkpoints, besides one after every epoch.
    threads : of torch, None leaves them as they are.
    """

    bits: int = 2
    dimensions: int | None = None
    seed: int = 0
    distance: Distance = "Cosine"
    epochs: int = 20
    batch: int = 128
    anchors: int = 20_000
    neighbours: int = 16
    sweeps: int = 4
    rounds: int = 12
    evenness: float = 0.5
    hidden: int = 0
    blocks: int = 1
    query_hidden: int = 0
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = 5e-4
    weight_decay: float = 1e-2
    clip: float = 5.0
    temperature: float = 0.05
    distillation: float = 1.0
    contrast: float = 0.0
    reconstruction: float = 0.0
    compatible: float = 1.0
    negatives: int = 5
    queue: int = 4096
    momentum: float = 0.99
    interpolation: float = 0.0
    patience: int = 5
    checkpoint_steps: int = 500
    threads: int | None = None

    def __post_init__(self) -> None:
        """Refuse what is not possible."""
        check_bits(self.bits)
        if self.dimensions is not None and self.dimensions < 1:
            raise InvalidSize(f"{self.dimensions} code dimensions are not possible", hint="choose 1 or more")
        if not 0 <= self.sweeps <= MOST_SWEEPS:
            raise InvalidSize(f"{self.sweeps} sweeps are not possible", hint=f"choose 0 to {MOST_SWEEPS}")
        if self.sweeps and self.hidden:
            raise InvalidSize("polished codes come from a linear recurrence", hint="set sweeps or hidden to 0")
        if self.batch < 2 or self.neighbours < 2:
            raise InvalidSize("a batch and the neighbours of an anchor are 2 or more each")


Stage = Literal["neighbours", "codes", "training"]


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a training is.

    Attributes
    ----------
    stage : "neighbours" are mined and "codes" fitted before the first epoch; steps are hundredths there.
    loss : mean of the epoch so far, None before the first step.
    recall : validation r10@100 after the last epoch, that of the start at first; None before it is known.
    rate : anchors a second in this run.
    seconds_left : of all epochs that may follow; None when it is not known yet.
    """

    stage: Stage
    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float | None = None
    recall: float | None = None
    rate: float | None = None
    seconds_left: float | None = None
