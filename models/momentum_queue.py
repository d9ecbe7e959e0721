"""A first-in first-out queue of codes made by a slowly moving copy of the network, and that copy."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)


class MomentumQueue:
    """The last `size` codes, with the rows that they are codes of: negatives from earlier batches (MoCo, BEBR).

    Parameters
    ----------
    size : most codes held; more at once keep the last.
    dimension : m.
    """

    def __init__(self, size: int, dimension: int) -> None:
        self.size = size
        self.codes = torch.zeros(0, dimension)
        self.rows = torch.zeros(0, dtype=torch.int64)

    def __len__(self) -> int:
        """Return how many codes are held."""
        return len(self.rows)

    def push(self, codes: Tensor, rows: Tensor) -> None:
        """Append (n, m) codes of (n,) int64 rows, oldest first; what is over the size leaves at the front."""
        self.codes = torch.cat([self.codes, codes.detach()])[-self.size :] if self.size else self.codes
        self.rows = torch.cat([self.rows, rows])[-self.size :] if self.size else self.rows

    def clear(self) -> None:
        """Forget everything."""
        self.codes, self.rows = self.codes[:0], self.rows[:0]


def momentum_copy(network: Module) -> Module:
    """Return a copy that no optimizer moves, in eval mode."""
    twin = copy.deepcopy(network).eval()
    for parameter in twin.parameters():
        parameter.requires_grad_(False)
    return twin


@torch.no_grad()
def follow(twin: nn.Module, network: nn.Module, momentum: float) -> None:
    """Move the copy: `momentum` of itself plus the rest of the network; buffers are taken over."""
    for slow, fast in zip(twin.parameters(), network.parameters(), strict=True):
        slow.lerp_(fast, 1 - momentum)
    for kept, taken in zip(twin.buffers(), network.buffers(), strict=True):
        kept.copy_(taken)
