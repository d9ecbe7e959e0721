"""The steps of one phase of a training: optimizer, rate, checkpoints, going on from one, a log of metrics."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models import metrics_log
from models.distill.options import StudentProgress
from models.errors import TrainingCancelled
from models.learning_rate import rate_at
from models.training_checkpoint import Checkpoint, State

RECENT = 50  # steps whose mean loss is shown


@dataclass(frozen=True, kw_only=True)
class Phase:
    """What is trained and how.

    Attributes
    ----------
    name : of the phase, for progress and log.
    module : whose parameters change.
    optimizer : of these; its groups' rates are the greatest ones.
    steps : of all of it.
    batch : texts a step.
    loss : step number to its loss; whatever is random in it is drawn from the number.
    judge : measures the module as it is, for the log.
    judge_steps : steps between two measurements.
    warm_up : share of the steps in which the rate rises.
    clip : norm to which gradients are cut.
    checkpoint_steps : steps between two checkpoints.
    """

    name: str
    module: nn.Module
    optimizer: torch.optim.Optimizer
    steps: int
    batch: int
    loss: Callable[[int], Tensor]
    judge: Callable[[], dict[str, float]]
    judge_steps: int
    warm_up: float
    clip: float
    checkpoint_steps: int


def run_phase(
    phase: Phase,
    *,
    checkpoint: Checkpoint,
    log: Path,
    on_progress: Callable[[StudentProgress], None],
    cancelled: Callable[[], bool],
) -> dict[str, float]:
    """Make the steps that are left; return what `judge` says at the end.

    Raises
    ------
    TrainingCancelled
        `cancelled` said so; the checkpoint holds every step made.
    """
    state, greatest = State(), [group["lr"] for group in phase.optimizer.param_groups]
    if (saved := checkpoint.load()) is not None:
        state, tensors = saved
        phase.module.load_state_dict(tensors["module"])
        phase.optimizer.load_state_dict(tensors["optimizer"])
    first, began, recent = state.step, time.monotonic(), [state.loss_sum] if state.step else []
    parameters = [p for group in phase.optimizer.param_groups for p in group["params"]]
    while state.step < phase.steps:
        if cancelled():
            _save(phase, checkpoint, state, recent)
            raise TrainingCancelled(f"training was cancelled at step {state.step} of {phase.steps}")
        share = rate_at(state.step, phase.steps, phase.warm_up)
        for group, rate in zip(phase.optimizer.param_groups, greatest, strict=True):
            group["lr"] = rate * share
        phase.module.train()
        loss = phase.loss(state.step)
        phase.optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(parameters, phase.clip)
        phase.optimizer.step()
        state.step += 1
        recent = [*recent[-RECENT + 1 :], loss.item()]
        speed = (state.step - first) / (time.monotonic() - began)
        left = (phase.steps - state.step) / speed
        mean = sum(recent) / len(recent)
        on_progress(StudentProgress(phase.name, state.step, phase.steps, mean, speed * phase.batch, left))
        if state.step % phase.judge_steps == 0 or state.step == phase.steps:
            _write(log, phase, state.step, mean, speed)
        if state.step % phase.checkpoint_steps == 0 or state.step == phase.steps:
            _save(phase, checkpoint, state, recent)
    phase.module.eval()
    return phase.judge()


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a log, of steps that were made twice the later ones, in order."""
    lines = metrics_log.read_log(path) if path.exists() else []
    latest = {(line["phase"], line["step"]): line for line in lines}
    return sorted(latest.values(), key=lambda line: (line["phase"] != "static", line["step"]))


def parameter_groups(module: nn.Module, rate: float, gate_rate: float, decay: float) -> Sequence[dict[str, Any]]:
    """Return groups for AdamW: biases, gates and normalisation do not decay, and gates have a rate of their own."""
    trained = [p for p in module.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim > 1], "lr": rate, "weight_decay": decay},
        {"params": [p for p in trained if p.ndim == 1], "lr": rate, "weight_decay": 0.0},
        {"params": [p for p in trained if p.ndim == 0], "lr": gate_rate, "weight_decay": 0.0},
    ]


def _write(log: Path, phase: Phase, step: int, loss: float, speed: float) -> None:
    phase.module.eval()
    line = {
        "phase": phase.name,
        "step": step,
        "loss": round(loss, 6),
        "texts_per_second": round(speed * phase.batch, 1),
        **{name: round(value, 6) for name, value in phase.judge().items()},
    }
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file:
        file.write(json.dumps(line) + "\n")


def _save(phase: Phase, checkpoint: Checkpoint, state: State, recent: list[float]) -> None:
    state.loss_sum = sum(recent) / max(1, len(recent))
    tensors = {"module": phase.module.state_dict(), "optimizer": phase.optimizer.state_dict()}
    checkpoint.save(state, tensors)
