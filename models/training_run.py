"""The epochs of a training: steps, validation, checkpoints and going on from one. Knows no other files."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.errors import TrainingCancelled
from models.grid import Floats, Levels, prefix_of, values_of
from models.momentum_queue import MomentumQueue, follow, momentum_copy
from models.neighbours import Rows
from models.recurrent import Recurrent
from models.recurrent_forward import unit_inputs
from models.recurrent_network import RecurrentNetwork
from models.training_checkpoint import Checkpoint, State
from models.training_data import TrainingData
from models.training_older import OlderCodes
from models.training_options import Progress, TrainingOptions
from models.training_report import Coded, codes_of, measure, quality
from models.training_start import Start, empty_start
from models.training_step import Batch, make_batch, step_loss


class TrainingRun:
    """Network, slow copy, optimizer and state of one training.

    Parameters
    ----------
    began : when this run began, by `time.monotonic`.
    fitted : given the mean of the training documents, returns what to start from; called if there is no checkpoint.
    """

    def __init__(
        self,
        data: TrainingData,
        options: TrainingOptions,
        older: OlderCodes | None,
        checkpoint: Checkpoint,
        began: float,
        fitted: Callable[[Floats], Start],
    ) -> None:
        self._data, self._options, self._older = data, options, older
        self._checkpoint, self._began = checkpoint, began
        self._mean: Floats = data.documents[data.training].mean(axis=0, dtype=np.float64).astype(np.float32)
        saved = checkpoint.load()
        start = fitted(self._mean) if saved is None else empty_start(data.documents.shape[1], options)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            self._network = RecurrentNetwork(
                start, hidden=options.hidden, blocks=options.blocks, query_hidden=options.query_hidden
            )
        self._decoder = start.decoder
        self._twin: RecurrentNetwork | None = None
        self._queue = MomentumQueue(options.queue if options.contrast else 0, len(start.tower.weight))
        self._optimizer = _optimizer(self._network, options)
        self._steps = max(1, len(data.anchors.own) // options.batch)
        if saved is None:
            self._state, self._spent_before = State(), 0.0
            self._levels = self._fixed_levels()
            self._judge()
        else:
            self._state, self._spent_before = saved[0], saved[0].seconds
            self._restore(saved[1])
            self._levels = self._fixed_levels()

    def epochs(self, on_progress: Callable[[Progress], None], cancelled: Callable[[], bool]) -> None:
        """Make the steps that are left, until the last epoch or until patience ends."""
        state, options = self._state, self._options
        first, began = state.epoch * self._steps + state.step, time.monotonic()
        self._save()
        while state.epoch < options.epochs and state.epoch - state.best_epoch < options.patience:
            if state.step == 0:
                self._begin_epoch()
            order = np.random.default_rng((options.seed, 1, state.epoch)).permutation(len(self._data.anchors.own))
            while state.step < self._steps:
                if cancelled():
                    self._save()
                    raise TrainingCancelled(f"training was cancelled in epoch {state.epoch + 1}")
                self._step(order[state.step * options.batch :][: options.batch])
                done = state.epoch * self._steps + state.step
                rate = (done - first) / (time.monotonic() - began)
                on_progress(
                    Progress(
                        stage="training",
                        epoch=state.epoch + 1,
                        epochs=options.epochs,
                        step=state.step,
                        steps=self._steps,
                        loss=state.loss_sum / state.step,
                        recall=state.recall,
                        rate=rate * options.batch,
                        seconds_left=(options.epochs * self._steps - done) / rate,
                    )
                )
                if state.step % options.checkpoint_steps == 0:
                    self._save()
            state.epoch, state.step, state.loss_sum = state.epoch + 1, 0, 0.0
            self._judge()
            self._save()

    def best(self) -> tuple[Recurrent, Coded]:
        """Return the best epoch, for vectors in the units of the data, and its codes of the documents."""
        self._network.load_state_dict(self._state.best)
        return self._exported()

    def summary(self) -> dict[str, Any]:
        """Return what the report says of the training itself."""
        return {"epoch": self._state.best_epoch, "history": self._state.history, "seconds": round(self._seconds(), 1)}

    def _begin_epoch(self) -> None:
        """From epoch 1 on, a slow copy fills the queue anew."""
        self._queue.clear()
        if self._state.epoch == 1 and self._queue.size:
            self._twin = momentum_copy(self._network)

    def _step(self, anchors: Rows) -> None:
        state, options = self._state, self._options
        share = (state.epoch + state.step / self._steps) / options.epochs
        for group in self._optimizer.param_groups:
            group["lr"] = options.learning_rate * (1 + math.cos(math.pi * share)) / 2
        batch = make_batch(self._data, self._mean, anchors, options, (options.seed, 2, state.epoch, state.step))
        self._network.train()
        values = self._values(self._network, batch)
        loss = step_loss(
            self._network, values, batch, self._data, self._mean, options, queue=self._queue, older=self._older
        )
        self._optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self._network.parameters(), options.clip)
        self._optimizer.step()
        if self._twin is not None:
            follow(self._twin, self._network, options.momentum)
            with torch.no_grad():
                codes = self._twin.codes(batch.centred, self._values(self._twin, batch)[-1:])
            self._queue.push(codes[0], torch.from_numpy(batch.rows))
        state.loss_sum += loss.item()
        state.step += 1

    def _values(self, network: RecurrentNetwork, batch: Batch) -> list[Tensor]:
        """Return v_1, ..., v_bits of a batch's documents."""
        if self._levels is None:
            inputs: list[Tensor] = network(torch.from_numpy(unit_inputs(batch.centred.numpy())))
            return inputs
        levels, bits = self._levels[batch.rows], self._options.bits
        return [torch.from_numpy(values_of(prefix_of(levels, bits, p), p)) for p in range(1, bits + 1)]

    def _fixed_levels(self) -> Levels | None:
        """Return the polished levels of all documents, which no step changes; None where steps train the levels."""
        if self._decoder is None:
            return None
        binarizer = self._exported()[0]
        return binarizer.encode(self._data.documents)[0][:, : binarizer.dimensions]

    def _exported(self) -> tuple[Recurrent, Coded]:
        """Return the binarizer of the weights as they are, and its codes of the documents."""
        binarizer = Recurrent(
            mean=self._mean,
            forward=self._network.export_forward(),
            tower=self._network.tower.export(),
            decoder=self._decoder,
            sweeps=self._options.sweeps,
        )

        def coded(rows: slice | Rows) -> Floats:
            documents = self._data.documents[rows]
            if self._levels is None:
                levels, factors = binarizer.encode(documents)
            else:
                levels, factors = self._levels[rows], binarizer.factors(documents, self._levels[rows])
            return codes_of(levels[:, : binarizer.dimensions], factors)

        return binarizer, coded

    def _judge(self) -> None:
        """Measure the epoch on the validation queries and keep the weights if they are the best so far."""
        state, asked = self._state, self._data.validation
        binarizer, coded = self._exported()
        queries = binarizer.queries(asked.vectors)[:, : binarizer.dimensions]
        measured = measure(queries, coded, self._data, asked)
        judged = float(quality(measured).mean())
        if self._older is not None:
            backward = measure(queries[:, : len(self._older.tower)], self._older.codes, self._data, asked)
            judged = (judged + float(quality(backward).mean())) / 2
        state.history.append(round(judged, 6))
        state.recall = round(float(measured["r10@100"].mean()), 6)
        if state.history[-1] > max(state.history[:-1], default=-1.0):
            state.best_epoch = len(state.history) - 1
            state.best = copy.deepcopy(self._network.state_dict())

    def _seconds(self) -> float:
        return self._spent_before + time.monotonic() - self._began

    def _save(self) -> None:
        self._state.seconds = self._seconds()
        self._checkpoint.save(
            self._state,
            {
                "network": self._network.state_dict(),
                "decoder": None if self._decoder is None else torch.from_numpy(self._decoder),
                "optimizer": self._optimizer.state_dict(),
                "twin": None if self._twin is None else self._twin.state_dict(),
                "queue": (self._queue.codes, self._queue.rows),
            },
        )

    def _restore(self, tensors: dict[str, Any]) -> None:
        self._network.load_state_dict(tensors["network"])
        self._decoder = None if tensors["decoder"] is None else tensors["decoder"].numpy()
        self._optimizer.load_state_dict(tensors["optimizer"])
        if tensors["twin"] is not None:
            self._twin = momentum_copy(self._network)
            self._twin.load_state_dict(tensors["twin"])
        self._queue.codes, self._queue.rows = tensors["queue"]


def _optimizer(network: RecurrentNetwork, options: TrainingOptions) -> torch.optim.Optimizer:
    """Return AdamW or SGD; biases and normalisation do not decay."""
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": options.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if options.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=options.learning_rate, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(groups, lr=options.learning_rate)
