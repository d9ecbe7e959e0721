"""The student as torch trains it: a static exit, and a few transformer layers that add to it what context says.

    s   = W sum_t softplus(a_t) T_t                      a bag of tokens, no attention
    v_0 = s / |s| + D relu(U s / |s| + c) + e            exit 0: what a sum cannot say, tokens that change each other
    v_k = W_k mean_t h_k,t + b_k + g v_0 / |v_0|         exit k: h_k after k layers over other token embeddings

Vectors are compared by direction. The files of a student are `models.student_folder`'s; this module knows none.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PAD = 0
EPSILON = 1e-12  # of layer normalisation, as BERT has it


UNIT = 20.0  # entries of unit vectors of some hundred dimensions are brought to about 1


class StaticExit(nn.Module):
    """A weighted sum over a text's tokens, a linear map, and a small network over its direction.

    Parameters
    ----------
    table : (vocabulary, d) to start from: the teacher's vector of each token's text.
    weights : (vocabulary,) positive weights to start from: rare tokens count more.
    mix : width of the small network; 0 for none.
    """

    def __init__(self, table: Tensor, weights: Tensor, mix: int) -> None:
        super().__init__()
        self.table = nn.Embedding(len(table), table.shape[1], _weight=table.clone())
        # The inverse of softplus.
        self.weight = nn.Parameter(torch.log(torch.expm1(weights)))
        self.linear = nn.Linear(table.shape[1], table.shape[1], bias=False)
        nn.init.eye_(self.linear.weight)
        self.mix: nn.Sequential | None = None
        if mix:
            down = nn.Linear(mix, table.shape[1])
            nn.init.zeros_(down.weight)
            nn.init.zeros_(down.bias)
            self.mix = nn.Sequential(nn.Linear(table.shape[1], mix), nn.ReLU(), down)

    def forward(self, ids: Tensor, starts: Tensor) -> Tensor:
        """Map texts to (n, d); not normalised.

        Parameters
        ----------
        ids : (t,) int64, the tokens of all texts one after the other, without [CLS] and [SEP].
        starts : (n,) int64, where each text begins in them.
        """
        weights = F.softplus(self.weight)[ids]
        summed = F.embedding_bag(ids, self.table.weight, starts, mode="sum", per_sample_weights=weights)
        direction = F.normalize(self.linear(summed), dim=1)
        if self.mix is not None:
            direction = direction + self.mix(UNIT * direction)
        return direction

    @torch.no_grad()
    def folded(self) -> Tensor:
        """Return the (vocabulary, d) table in which weights and map are folded: s is the sum of its rows."""
        table: Tensor = (F.softplus(self.weight)[:, None] * self.table.weight) @ self.linear.weight.T
        return table


class Layer(nn.Module):
    """A post-norm transformer layer, as BERT has it (arXiv 1810.04805)."""

    def __init__(self, hidden: int, heads: int, ffn: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(hidden, 3 * hidden)
        self.out = nn.Linear(hidden, hidden)
        self.norm_1 = nn.LayerNorm(hidden, eps=EPSILON)
        self.up = nn.Linear(hidden, ffn)
        self.down = nn.Linear(ffn, hidden)
        self.norm_2 = nn.LayerNorm(hidden, eps=EPSILON)

    def attend(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return what the feed-forward part reads, (n, t, hidden); arguments as `forward`."""
        n, t, hidden = x.shape
        q, k, v = self.qkv(x).view(n, t, 3, self.heads, hidden // self.heads).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).reshape(n, t, hidden)
        out: Tensor = self.norm_1(x + self.out(attended))
        return out

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Map (n, t, hidden); `mask` is (n, 1, 1, t) bool, True where there is a token."""
        x = self.attend(x, mask)
        out: Tensor = self.norm_2(x + self.down(F.gelu(self.up(x))))
        return out


class ContextExits(nn.Module):
    """Token embeddings, layers, mean pooling, maps into the teacher's space, and a share of the static vector.

    The embeddings are the teacher's and stay as they are: they are most of the weights, and the teacher has
    trained them longer than any student will.

    Parameters
    ----------
    words : (vocabulary, hidden), the teacher's.
    positions : (window, hidden), the teacher's, with the embedding of its only token type added.
    dimension : d of the teacher's space.
    heads, ffn, layers : attention heads, inner width of feed-forward parts, number of layers.
    exits : layers after which a vector is taken, ascending from 1 on.
    """

    def __init__(
        self, words: Tensor, positions: Tensor, *, dimension: int, heads: int, ffn: int, layers: int,
        exits: tuple[int, ...],
    ) -> None:  # fmt: skip
        super().__init__()
        hidden = words.shape[1]
        self.words = nn.Embedding(len(words), hidden, _weight=words.clone())
        self.words.weight.requires_grad_(False)
        self.positions = nn.Parameter(positions.clone())
        self.norm = nn.LayerNorm(hidden, eps=EPSILON)
        self.layers = nn.ModuleList(Layer(hidden, heads, ffn) for _ in range(layers))
        self.maps = nn.ModuleDict({str(k): nn.Linear(hidden, dimension) for k in exits})
        self.gates = nn.ParameterDict({str(k): nn.Parameter(torch.zeros(())) for k in exits})

    def blocks(self) -> list[Layer]:
        """Return the layers, first to last."""
        return [layer for layer in self.layers if isinstance(layer, Layer)]

    def ends(self) -> dict[int, nn.Linear]:
        """Return exit -> map into the teacher's space."""
        return {int(k): one for k, one in self.maps.items() if isinstance(one, nn.Linear)}

    def embedded(self, ids: Tensor) -> Tensor:
        """Return what the first layer reads, (n, t, hidden)."""
        states: Tensor = self.norm(self.words(ids) + self.positions[: ids.shape[1]])
        return states

    def forward(self, ids: Tensor, static: Tensor) -> dict[int, Tensor]:
        """Return exit -> (n, d), not normalised.

        Parameters
        ----------
        ids : (n, t) int64 with [CLS] and [SEP], 0 behind the end.
        static : (n, d) unit vectors of exit 0.
        """
        there = ids != PAD
        share = there / there.sum(1, keepdim=True)
        x, ends = self.embedded(ids), self.ends()
        found: dict[int, Tensor] = {}
        for number, layer in enumerate(self.blocks(), 1):
            x = layer(x, there[:, None, None, :])
            if number in ends:
                pooled = torch.einsum("nth,nt->nh", x, share.to(x.dtype))
                found[number] = ends[number](pooled) + self.gates[str(number)] * static
        return found
