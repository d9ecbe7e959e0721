"""torch's random numbers from nothing but a seed: a training that goes on draws what it would have drawn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch


def number_of(seed: Sequence[int]) -> int:
    """Return one 63-bit number of a sequence of numbers."""
    return int(np.random.SeedSequence(list(seed)).generate_state(1, np.uint64)[0] >> np.uint64(1))


@contextmanager
def seeded(seed: Sequence[int], device: torch.device) -> Iterator[None]:
    """Let torch draw by this seed inside the block, and leave its generators as they were."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(number_of(seed))
        yield
