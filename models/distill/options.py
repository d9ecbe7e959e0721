"""What a training of a student can be told, and what it tells. Knows no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class StudentOptions:
    """Settings of a training; the defaults are what made the student that ships (docs/log.md).

    Attributes
    ----------
    seed : of the order of texts and of what starts at random.
    window : tokens that layers read, [CLS] and [SEP] included.
    long_share : share of the texts above 32 tokens that the layers see in each pass, others every time; exit 0 sees
        all. Queries are short, and a text costs by its tokens.
    static_window : tokens that the static exit reads.
    mix : width of the static exit's hidden layer over the pooled vector; 0 leaves it out.
    static_epochs, static_batch, static_rate : passes, texts a step and learning rate (Adam) of the static exit.
    layers : numbers of the teacher's layers that the student starts from, such as (0, 5); none for a static student.
    exits : layers after which a vector can be taken, besides 0; the last is all of them.
    ffn : inner width of the feed-forward parts; where the teacher's is wider, its strongest units are kept.
    epochs, batch, rate, weight_decay : of the layers (AdamW).
    gate_rate : learning rate of the share of exit 0 in later exits; one that grows slowly makes the layers fall silent.
    warm_up : share of all steps in which the rate rises; then it falls to 0 along a line.
    clip : norm to which gradients are cut.
    held_out : texts that are not trained on, to measure with.
    checkpoint_steps : steps between checkpoints.
    threads : of torch; None leaves them as they are.
    """

    seed: int = 0
    window: int = 256
    long_share: float = 0.03125
    static_window: int = 512
    mix: int = 256
    static_epochs: int = 6
    static_batch: int = 1024
    static_rate: float = 4e-3
    layers: tuple[int, ...] = (0, 5)
    exits: tuple[int, ...] = (2,)
    ffn: int = 1536
    epochs: int = 3
    batch: int = 32
    rate: float = 1e-3
    gate_rate: float = 3e-2
    weight_decay: float = 0.01
    warm_up: float = 0.05
    clip: float = 1.0
    held_out: int = 4096
    checkpoint_steps: int = 500
    threads: int | None = None


@dataclass(frozen=True, slots=True)
class StudentProgress:
    """How far a training is.

    Attributes
    ----------
    phase : "static" or "layers".
    step, steps : done, of all.
    loss : mean of the last steps.
    rate : texts a second.
    seconds_left : of this phase.
    """

    phase: str
    step: int
    steps: int
    loss: float
    rate: float
    seconds_left: float
