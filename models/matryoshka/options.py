"""What a training of a truncatable encoder can be told, and what it tells. Knows no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from models.errors import InvalidTraining
from models.matryoshka.size_list import Size

Recipe = Literal["starbucks", "2dmse", "smae"]
Scores = Literal["cosine", "dot"]
Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "float32", "bf16"]

_RATES: Final = {"starbucks": 5e-5, "2dmse": 5e-5, "smae": 1e-4}
_TEMPERATURES: Final = {"cosine": 0.05, "dot": 1.0}


@dataclass(frozen=True, kw_only=True)
class EncoderTrainingOptions:
    """Settings of a training.

    Attributes
    ----------
    recipe : "starbucks" trains a fixed list of sizes, all of them every step; "2dmse" a random layer and a random
        length every step; "smae" pre-trains on texts alone (masked tokens from every size).
    sizes : the list; None for one that `size_list.propose_sizes` makes for the model. 2DMSE draws from its lengths, and
        is judged at these sizes.
    epochs, steps : passes over the data; steps at most, None for no limit.
    batch : pairs (SMAE: texts) a step.
    negatives : most hard negatives of a pair in one step, drawn anew each time; all of them serve the whole batch.
    learning_rate : at its height; None for 5e-5, 1e-4 for SMAE. It rises from 0 over `warm_up` of the steps and falls
        to 0 in a line. AdamW, whose decay spares biases and normalisation; gradients are cut to the norm `clip`.
    scores : how vectors are compared while training. Bitfold serves unit vectors: cosine.
    documents : "same" scores queries against documents of their own size, as the papers do; "full" against documents
        after all layers, cut to the queries' length: then one stored copy of the documents serves every size.
    temperature : scores are divided by it; None for 0.05 (cosine), 1 (dot).
    divergence : weight of the term that pulls small sizes to the full one (Starbucks: score distributions; 2DMSE:
        coordinates, at `coordinate_temperature`).
    layer_weighting : 2DMSE: "linear" counts an earlier layer l by 1 / (1 + l), "uniform" by 1.
    query_tokens, document_tokens : longer texts are cut there, or at the model's own window.
    piece : texts of like length that go through the model together.
    cache_gradients : encode twice, first without gradients, so that memory holds the layers of one piece instead of the
        whole batch (GradCache, arXiv 2101.06983); the result is the same.
    encoder_mask, decoder_mask : SMAE: shares of words that are hidden from the encoder, and from the decoder.
    held_out : most pairs (texts) that are kept for validation, never more than a tenth.
    validate_steps : steps between validations; None for one after each epoch.
    patience : validations without a better one after which training ends.
    checkpoint_steps, log_steps : steps between checkpoints, and between lines of the log.
    device, precision : "auto" takes an accelerator if there is one, and bfloat16 there if it can; weights stay float32.
    threads : of torch, None leaves them as they are.
    """

    recipe: Recipe = "starbucks"
    sizes: tuple[Size, ...] | None = None
    epochs: int = 1
    steps: int | None = None
    batch: int = 64
    negatives: int = 7
    learning_rate: float | None = None
    warm_up: float = 0.1
    weight_decay: float = 0.01
    clip: float = 1.0
    scores: Scores = "cosine"
    documents: Literal["same", "full"] = "same"
    temperature: float | None = None
    divergence: float = 1.0
    coordinate_temperature: float = 0.3
    layer_weighting: Literal["linear", "uniform"] = "linear"
    query_tokens: int = 64
    document_tokens: int = 196
    piece: int = 32
    cache_gradients: bool = False
    encoder_mask: float = 0.2
    decoder_mask: float = 0.4
    held_out: int = 500
    validate_steps: int | None = None
    patience: int = 5
    checkpoint_steps: int = 200
    log_steps: int = 10
    seed: int = 0
    device: Device = "auto"
    precision: Precision = "auto"
    threads: int | None = None

    def __post_init__(self) -> None:
        """Refuse what is not possible."""
        counts = {"epochs": 1, "batch": 1 if self.recipe == "smae" else 2, "negatives": 0, "piece": 1, "held_out": 0}
        counts |= {"query_tokens": 3, "document_tokens": 3, "patience": 1, "checkpoint_steps": 1, "log_steps": 1}
        counts |= dict.fromkeys(("steps", "validate_steps", "threads"), 1) | {"seed": 0}
        for name, least in counts.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise InvalidTraining(f"{name} is {value}", hint=f"it has to be at least {least}")
        for name in ("learning_rate", "clip", "temperature", "coordinate_temperature"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise InvalidTraining(f"{name} is {value}", hint="it has to be above 0")
        for name in ("warm_up", "encoder_mask", "decoder_mask"):
            if not 0 <= getattr(self, name) < 1:
                raise InvalidTraining(f"{name} is {getattr(self, name)}", hint="it is a share, from 0 to below 1")
        if self.divergence < 0 or self.weight_decay < 0:
            raise InvalidTraining("divergence and weight_decay cannot be negative")
        if self.recipe == "smae" and self.cache_gradients:
            raise InvalidTraining("SMAE has no batch-wide loss", hint="leave cache_gradients out")

    @property
    def rate(self) -> float:
        """The highest learning rate."""
        return _RATES[self.recipe] if self.learning_rate is None else self.learning_rate

    @property
    def scale(self) -> float:
        """The temperature of scores."""
        return _TEMPERATURES[self.scores] if self.temperature is None else self.temperature


@dataclass(frozen=True, slots=True)
class EncoderProgress:
    """Where a training is.

    Attributes
    ----------
    step, steps : done, of all that may follow.
    epoch, epochs : the pass over the data, from 1.
    loss : of the last step.
    quality : of the last validation: mean MRR over the sizes (SMAE: the loss, negative); None without one.
    rate : texts a second in this run.
    seconds_left : of all steps.
    """

    step: int
    steps: int
    epoch: int
    epochs: int
    loss: float
    quality: float | None
    rate: float
    seconds_left: float
