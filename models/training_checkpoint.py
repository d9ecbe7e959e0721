"""The state of a training on disk, so that it goes on where it stopped and ends with the same weights."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from models.safe_files import write_safely

# Raise when a checkpoint's layout or the steps of training change: an old checkpoint then starts anew.
VERSION = 1


@dataclass
class State:
    """Where a training is; everything random is drawn anew from seed, epoch and step.

    Attributes
    ----------
    epoch, step : the next step to make, and its epoch, which counts from 0.
    loss_sum : over the steps of this epoch.
    history : validation quality of the start and after every epoch.
    recall : validation r10@100 of the last of them.
    best_epoch : index into `history`; 0 is the start.
    best : weights of that epoch.
    seconds : spent, over all runs.
    """

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    history: list[float] = field(default_factory=list)
    recall: float = 0.0
    best_epoch: int = 0
    best: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


def fingerprint(settings: Mapping[str, Any], arrays: Mapping[str, NDArray[Any] | None]) -> str:
    """Return a digest of settings and data: a checkpoint of another one is not gone on with."""
    digest = hashlib.sha256(json.dumps([VERSION, settings], sort_keys=True).encode())
    for name, array in arrays.items():
        if array is not None:
            digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


@dataclass(frozen=True)
class Checkpoint:
    """One file.

    Attributes
    ----------
    mark : `fingerprint` of what is trained.
    """

    path: Path
    mark: str

    def save(self, state: State, tensors: Mapping[str, Any]) -> None:
        """Write state and tensors; a crash leaves the last whole checkpoint."""
        with write_safely(self.path) as file:
            torch.save({"mark": self.mark, "state": vars(state), "tensors": dict(tensors)}, file)

    def load(self) -> tuple[State, dict[str, Any]] | None:
        """Return what was saved under this mark; None if there is nothing, something else, or something damaged."""
        if not self.path.exists():
            return None
        try:
            saved = torch.load(self.path, weights_only=True)
        except (RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError):
            return None
        if not isinstance(saved, dict) or saved.get("mark") != self.mark:
            return None
        return State(**saved["state"]), saved["tensors"]
