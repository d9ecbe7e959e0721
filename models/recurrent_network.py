"""The trained side of recurrent binary codes: MLP blocks, straight-through signs, the query tower, export to NumPy.

The forward pass is that of `models/recurrent_forward.py`. Knows no losses, no data and no files.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models.recurrent import LEAST_COSINE
from models.recurrent_forward import Affine, Block, Forward
from models.training_start import LinearStart, Start


class _ClippedSign(torch.autograd.Function):
    """Sign with sign(0) = +1; the gradient passes unchanged where |x| <= 1 and not at all elsewhere."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(x)
        return torch.where(x >= 0, 1.0, -1.0)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ANN401
        (x,) = ctx.saved_tensors
        return torch.where(x.abs() <= 1, gradient, 0.0)


def clipped_sign(x: Tensor) -> Tensor:
    """Return +1 where x >= 0 and -1 elsewhere, with a clipped straight-through gradient."""
    signs: Tensor = _ClippedSign.apply(x)  # type: ignore[no-untyped-call]
    return signs


class HiddenLayer(nn.Module):
    """Linear, batch normalisation, ReLU; Xavier-normal weights, no bias at first."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        self.norm = nn.BatchNorm1d(outputs)
        nn.init.xavier_normal_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, rows: Tensor) -> Tensor:
        """Map (n, inputs) to (n, outputs)."""
        return torch.relu(self.norm(self.linear(rows)))

    @torch.no_grad()
    def export(self) -> Affine:
        """Return what comes before the ReLU in eval mode, as one linear layer."""
        mean, variance = self.norm.running_mean, self.norm.running_var
        if mean is None or variance is None:
            raise TypeError("batch normalisation keeps no statistics")
        gain = self.norm.weight / torch.sqrt(variance + self.norm.eps)
        bias = (self.linear.bias - mean) * gain + self.norm.bias
        return Affine((self.linear.weight * gain[:, None]).numpy(), bias.numpy())


class MlpBlock(nn.Module):
    """`transform_blocks` times Linear, BatchNorm and ReLU, then Linear; beside it a straight linear path.

    The straight path is the start plus a learned change; changes begin at zero, so weight decay pulls a block back to
    where it started from. Every output has the size of its start, so that one learning rate suits all blocks.

    Parameters
    ----------
    start : the linear map at the beginning of training.
    hidden : width of the hidden layers; 0 leaves the straight path alone.
    blocks : how many hidden layers.
    bias : whether the straight path may learn a bias.
    """

    start: Tensor
    start_bias: Tensor
    scale: Tensor

    def __init__(self, start: LinearStart, *, hidden: int = 0, blocks: int = 1, bias: bool = True) -> None:
        super().__init__()
        norms = np.linalg.norm(start.weight, axis=1)
        scale = np.where(norms > 0, norms, norms.mean() or 1.0).astype(np.float32)
        self.register_buffer("start", torch.from_numpy(start.weight / scale[:, None]))
        self.register_buffer("start_bias", torch.from_numpy(start.bias / scale))
        self.register_buffer("scale", torch.from_numpy(scale))
        outputs, inputs = start.weight.shape
        self.change = nn.Parameter(torch.zeros(outputs, inputs))
        self.bias_change = nn.Parameter(torch.zeros(outputs), requires_grad=bias)
        widths = [inputs, *[hidden] * (blocks if hidden else 0)]
        self.hidden = nn.ModuleList(HiddenLayer(a, b) for a, b in itertools.pairwise(widths))
        self.out = nn.Linear(hidden, outputs) if hidden else None
        if self.out is not None:
            nn.init.zeros_(self.out.weight)
            nn.init.zeros_(self.out.bias)

    def forward(self, rows: Tensor) -> Tensor:
        """Map (n, inputs) to (n, outputs)."""
        mapped = nn.functional.linear(rows, self.start + self.change, self.start_bias + self.bias_change)
        if self.out is not None:
            for layer in self.hidden:
                rows = layer(rows)
            mapped = mapped + self.out(rows)
        return mapped * self.scale

    def straight_weight(self) -> Tensor:
        """Return the (outputs, inputs) weight of the straight path."""
        return (self.start + self.change) * self.scale[:, None]

    @torch.no_grad()
    def export(self) -> Block:
        """Return the same map in eval mode, batch normalisation folded into the linear layers."""
        straight = self._scaled(self.start + self.change, self.start_bias + self.bias_change)
        layers = [layer.export() for layer in self.hidden if isinstance(layer, HiddenLayer)]
        if self.out is not None:
            layers.append(self._scaled(self.out.weight, self.out.bias))
        return Block(straight, tuple(layers))

    def _scaled(self, weight: Tensor, bias: Tensor) -> Affine:
        return Affine((weight * self.scale[:, None]).numpy(), (bias * self.scale).numpy())


class RecurrentNetwork(nn.Module):
    """Document side and query tower, trained together.

    Parameters
    ----------
    start : the linear blocks that training starts from; their sizes are those of the network.
    hidden, blocks : of every block of the document side; hidden 0 makes it linear.
    query_hidden : of the query tower; 0 makes it linear, and able to read cut queries.
    """

    def __init__(self, start: Start, *, hidden: int = 0, blocks: int = 1, query_hidden: int = 0) -> None:
        super().__init__()

        def block(linear: LinearStart) -> MlpBlock:
            return MlpBlock(linear, hidden=hidden, blocks=blocks)

        self.first = block(start.forward.first)
        self.reconstruct = nn.ModuleList(block(linear) for linear in start.forward.reconstruct)
        self.refine = nn.ModuleList(block(linear) for linear in start.forward.refine)
        self.tower = MlpBlock(start.tower, hidden=query_hidden, blocks=blocks, bias=query_hidden > 0)

    def forward(self, inputs: Tensor) -> list[Tensor]:
        """Return b_0, ..., b_u, (n, m) each, of (n, d + 1) rows of `unit_inputs`."""
        value = clipped_sign(self.first(inputs))
        values = [value]
        for i, (reconstruct, refine) in enumerate(zip(self.reconstruct, self.refine, strict=True)):
            rebuilt = nn.functional.normalize(reconstruct(value), dim=1)
            value = value + 2.0 ** -(i + 1) * clipped_sign(refine(inputs - rebuilt))
            values.append(value)
        return values

    def queries(self, vectors: Tensor) -> Tensor:
        """Return (nq, m) queries in code space."""
        mapped: Tensor = self.tower(vectors)
        return mapped

    def codes(self, centred: Tensor, values: Sequence[Tensor]) -> list[Tensor]:
        """Return `factor_p * v_p`, (n, m) each, with the factors that `Recurrent.encode` gives.

        Their inner products with `queries(q)` estimate `<q, v - mean>`.

        Parameters
        ----------
        centred : (n, d), documents minus the mean.
        values : v_1, ..., v_bits of each document, (n, m).
        """
        mapped = self.queries(centred)
        squares = (centred * centred).sum(1, keepdim=True)
        lengths = mapped.norm(dim=1, keepdim=True)
        codes = []
        for value in values:
            least = float(LEAST_COSINE) * lengths * value.norm(dim=1, keepdim=True)
            products = torch.maximum((mapped * value).sum(1, keepdim=True), least)
            codes.append(value * (squares / products.clamp(min=torch.finfo(products.dtype).tiny)))
        return codes

    def export_forward(self) -> Forward:
        """Return the document side that serves, in eval mode whatever mode the network is in."""
        return Forward(
            first=self.first.export(),
            reconstruct=tuple(_exported(self.reconstruct)),
            refine=tuple(_exported(self.refine)),
        )


def _exported(modules: nn.ModuleList) -> list[Block]:
    return [module.export() for module in modules if isinstance(module, MlpBlock)]
