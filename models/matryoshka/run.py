"""The steps of a training of an encoder: optimizer, rate, validations, checkpoints, and going on from one."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from models.errors import InvalidTraining, TrainingCancelled
from models.learning_rate import rate_at
from models.matryoshka.options import EncoderProgress, EncoderTrainingOptions
from models.matryoshka.pairs import Rows
from models.matryoshka.recipe import Figures, Recipe, Step
from models.metrics_log import MetricsLog
from models.training_checkpoint import Checkpoint, State

_ORDER, _STEP = 1, 2  # what a seed is for


class EncoderRun:
    """Weights, optimizer and state of one training.

    Training goes in rounds, each ended by a validation: `State.epoch` counts rounds, `State.step` steps of the round
    under way. The weights of the best round are kept; without validation those of the last.

    Parameters
    ----------
    log : given the last step whose lines stay, returns the log.

    Raises
    ------
    InvalidTraining
        The checkpoint is of another training, or there is too little to train on.
    """

    def __init__(
        self,
        recipe: Recipe,
        options: EncoderTrainingOptions,
        checkpoint: Checkpoint,
        log: Callable[[int], MetricsLog],
    ) -> None:
        self._recipe, self._options, self._checkpoint = recipe, options, checkpoint
        examples = len(recipe.training)
        if examples < 2:
            raise InvalidTraining(f"{examples} examples are left to train on", hint="give more pairs or texts")
        self._each_epoch = max(1, examples // options.batch)
        self._total = min(options.epochs * self._each_epoch, options.steps or options.epochs * self._each_epoch)
        self._round = options.validate_steps or self._each_epoch
        self._optimizer = _optimizer(recipe.network, options)
        self._began, self._spent_before = time.monotonic(), 0.0
        saved = checkpoint.load()
        if saved is None and checkpoint.path.exists():
            raise InvalidTraining(
                f"{checkpoint.path} is the checkpoint of another training, or damaged",
                hint="repeat the command that it belongs to, name another folder, or delete it",
            )
        if saved is None:
            self._state, self.figures = State(), list[Figures]()
            self._log = log(-1)
            self._validate()
            self._save()
        else:
            self._state, tensors = saved
            self._spent_before = self._state.seconds
            recipe.network.load_state_dict(tensors["network"])
            self._optimizer.load_state_dict(tensors["optimizer"])
            self.figures = tensors["figures"]
            self._log = log(self._done)

    @property
    def _done(self) -> int:
        return min(self._state.epoch * self._round + self._state.step, self._total)

    def steps(self, on_progress: Callable[[EncoderProgress], None], cancelled: Callable[[], bool]) -> None:
        """Make the steps that are left, until the last one or until patience ends."""
        state, texts, first, began = self._state, 0, self._done, time.monotonic()
        while self._done < self._total and state.epoch - state.best_epoch < self._options.patience:
            if cancelled():
                self._save()
                raise TrainingCancelled(f"training was cancelled after {self._done} of {self._total} steps")
            made = self._step()
            texts += made.texts
            seconds = time.monotonic() - began
            left = (self._total - self._done) * seconds / (self._done - first)
            self._tell(made, texts / seconds, left, on_progress)
            if state.step == self._round or self._done == self._total:
                state.epoch, state.step = state.epoch + 1, 0
                self._validate()
                self._save()
            elif self._done % self._options.checkpoint_steps == 0:
                self._save()

    def finish(self) -> dict[str, Any]:
        """Put the best weights into the network, and return what the record says of the training."""
        if self._state.best:
            self._recipe.network.load_state_dict(self._state.best)
        best = self._state.best_epoch
        return {
            "steps": self._done,
            "examples": len(self._recipe.training),
            "kept_step": min(best * self._round, self._total) if self.figures else self._done,
            "seconds": round(self._seconds(), 1),
            "quality": self._state.history,
            "before": self.figures[0] if self.figures else None,
            "after": self.figures[best] if self.figures else None,
        }

    def _step(self) -> Step:
        number, options = self._done, self._options
        epoch, place = divmod(number, self._each_epoch)
        rate = options.rate * rate_at(number, self._total, options.warm_up)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.zero_grad()
        made = self._recipe.step(self._rows(epoch, place), (options.seed, _STEP, number))
        if not np.isfinite(made.loss):
            raise InvalidTraining(
                f"the loss of step {number + 1} is {made.loss}",
                hint="take a smaller learning rate, or --precision float32",
            )
        torch.nn.utils.clip_grad_norm_(self._recipe.network.parameters(), options.clip)
        self._optimizer.step()
        self._state.step += 1
        return made

    def _rows(self, epoch: int, place: int) -> Rows:
        training, options = self._recipe.training, self._options
        order = np.random.default_rng((options.seed, _ORDER, epoch)).permutation(len(training))
        return training[order[place * options.batch :][: options.batch]]

    def _tell(
        self, made: Step, rate: float, seconds_left: float, on_progress: Callable[[EncoderProgress], None]
    ) -> None:
        done = self._done
        if done % self._options.log_steps == 0 or done in (1, self._total):
            self._log.write(
                {
                    "step": done,
                    "loss": round(made.loss, 6),
                    "losses": {name: round(value, 6) for name, value in made.parts.items()},
                    "learning_rate": self._optimizer.param_groups[0]["lr"],
                    "texts_per_s": round(rate, 2),
                }
            )
        on_progress(
            EncoderProgress(
                step=done,
                steps=self._total,
                epoch=(done - 1) // self._each_epoch + 1,
                epochs=-(-self._total // self._each_epoch),
                loss=made.loss,
                quality=self._state.history[-1] if self._state.history else None,
                rate=rate,
                seconds_left=seconds_left,
            )
        )

    def _validate(self) -> None:
        """Judge the weights and keep them if they are the best so far."""
        found = self._recipe.validate()
        if found is None:
            self._state.best_epoch = self._state.epoch  # patience has nothing to go by
            return
        self._state.history.append(round(found.quality, 6))
        self.figures.append(found.figures)
        self._log.write({"step": self._done, "quality": self._state.history[-1], "validation": found.figures})
        if len(self._state.history) == 1 or self._state.history[-1] > max(self._state.history[:-1]):
            self._state.best_epoch = len(self._state.history) - 1
            self._state.best = _on_cpu(self._recipe.network.state_dict())

    def _seconds(self) -> float:
        return self._spent_before + time.monotonic() - self._began

    def _save(self) -> None:
        self._state.seconds = self._seconds()
        self._checkpoint.save(
            self._state,
            {
                "network": _on_cpu(self._recipe.network.state_dict()),
                "optimizer": _on_cpu(self._optimizer.state_dict()),
                "figures": self.figures,
            },
        )


def _on_cpu(value: Any) -> Any:  # noqa: ANN401  (any tree of tensors)
    """Return a copy in main memory: a checkpoint then loads on any machine."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _on_cpu(each) for key, each in value.items()}
    return [_on_cpu(each) for each in value] if isinstance(value, list) else value


def _optimizer(network: nn.Module, options: EncoderTrainingOptions) -> torch.optim.Optimizer:
    """Return AdamW; biases and normalisation do not decay."""
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": options.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=options.rate)
