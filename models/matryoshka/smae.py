"""SMAE pre-training (Starbucks, arXiv 2410.13230): a masked autoencoder that works from every size of a list.

At a size (l, k), the first k coordinates of the token states after layer l give the hidden tokens back through a head
whose first weight is cut to k columns; and the first k of the text's vector, put where [CLS] was, are all that a
one-layer decoder is told of words hidden from it. Knows no optimizer, no epochs and no files.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.errors import InvalidTraining
from models.matryoshka.losses import masked_tokens, smae_part
from models.matryoshka.masking import Vocabulary, hidden_words, masked
from models.matryoshka.network import SizedEncoder
from models.matryoshka.options import EncoderTrainingOptions
from models.matryoshka.pairs import Rows
from models.matryoshka.recipe import Step, Validation
from models.matryoshka.seeds import seeded
from models.matryoshka.size_list import Size, written

_ENCODER, _DECODER, _DROPOUT = 1, 2, 3  # what a seed is for


class SlicedHead(nn.Module):
    """States of any length k <= d to scores of all tokens, which share their vectors with the encoder.

    Parameters
    ----------
    width : d.
    vocabulary : tokens.
    """

    def __init__(self, width: int, vocabulary: int, deviation: float) -> None:
        super().__init__()
        self.inner = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.bias = nn.Parameter(torch.zeros(vocabulary))
        nn.init.normal_(self.inner.weight, std=deviation)
        nn.init.zeros_(self.inner.bias)

    def forward(self, states: Tensor, table: Tensor) -> Tensor:
        """Return (m, vocabulary) scores of (m, k) states; `table` is (vocabulary, d)."""
        inner = F.linear(states, self.inner.weight[:, : states.shape[1]], self.inner.bias)
        scores: Tensor = F.linear(self.norm(F.gelu(inner)), table, self.bias)
        return scores


class Heads(nn.Module):
    """What is trained beside the encoder, and left out of what is saved: head, way into the decoder, decoder.

    Parameters
    ----------
    config : of the transformer; the decoder is one layer of its kind, with weights of its own.
    """

    def __init__(self, config: Any) -> None:  # noqa: ANN401  (a class of a library without types)
        super().__init__()
        width, deviation = config.hidden_size, config.initializer_range
        self.head = SlicedHead(width, config.vocab_size, deviation)
        self.bottleneck = nn.Linear(width, width)
        self.decoder = nn.TransformerEncoderLayer(
            width,
            config.num_attention_heads,
            config.intermediate_size,
            dropout=config.hidden_dropout_prob,
            activation="gelu",
            layer_norm_eps=config.layer_norm_eps,
            batch_first=True,
        )
        nn.init.normal_(self.bottleneck.weight, std=deviation)
        nn.init.zeros_(self.bottleneck.bias)

    def rebuilt(self, embedded: Tensor, vectors: Tensor, there: Tensor, hidden: Tensor) -> Tensor:
        """Return the decoder's (m, d) states of hidden tokens.

        Parameters
        ----------
        embedded : (n, t, d) token vectors of the decoder's input.
        vectors : (n, k) beginnings of the texts' vectors, which take the place of the first token.
        there, hidden : (n, t) bool, tokens that are no padding, and the m hidden ones.
        """
        first = F.linear(vectors, self.bottleneck.weight[:, : vectors.shape[1]], self.bottleneck.bias)
        read = torch.cat([first[:, None].to(embedded.dtype), embedded[:, 1:]], dim=1)
        states: Tensor = self.decoder(read, src_key_padding_mask=~there)
        return states[hidden]


@dataclass(frozen=True)
class Masked:
    """Texts of one piece with words hidden; all (n, t), on the device.

    Attributes
    ----------
    features : for the encoder.
    tokens : as they were.
    hidden : from the encoder.
    read, unseen : the decoder's input, and what is hidden in it.
    """

    features: dict[str, Any]
    tokens: Tensor
    hidden: Tensor
    read: Tensor
    unseen: Tensor


class SmaeRecipe:
    """Pre-training on texts.

    Parameters
    ----------
    sizes : as `size_list.check_sizes` returns them.
    """

    def __init__(
        self, encoder: SizedEncoder, texts: Sequence[str], sizes: Sequence[Size], options: EncoderTrainingOptions
    ) -> None:
        config: Any = encoder.transformer.config
        if not encoder.tokenizer.is_fast or encoder.tokenizer.mask_token_id is None:
            raise InvalidTraining(
                "its tokenizer is not a fast one with a mask token, which SMAE needs",
                hint="take a model of the masked kind, with tokenizer.json",
            )
        if not encoder.dimension == config.hidden_size == encoder.table.shape[1]:
            raise InvalidTraining(
                "its vectors, its layers and its token table do not have one width, which SMAE needs",
                hint="take a model without a dense layer behind its pooling",
            )
        self._encoder, self._texts, self._sizes, self._options = encoder, texts, tuple(sizes), options
        self._vocabulary = Vocabulary(encoder.table.shape[0], encoder.tokenizer.mask_token_id)
        with seeded((options.seed, 0), torch.device("cpu")):
            self._heads = Heads(config).to(encoder.device)
        self.network: nn.Module = nn.ModuleDict({"encoder": encoder.model, "heads": self._heads})
        order = np.random.default_rng((options.seed, 0)).permutation(len(texts))
        held = min(options.held_out, len(texts) // 10)
        self.training, self._held = np.sort(order[held:]), np.sort(order[:held])

    def step(self, rows: Rows, seed: Sequence[int]) -> Step:
        """See `Recipe.step`; rows are numbers of texts."""
        self.network.train()
        sums: dict[str, float] = {}
        with seeded((*seed, _DROPOUT), self._encoder.device):
            for share, piece in self._pieces(rows, seed):
                for size, (words, rebuilt) in self._terms(piece, backward=share).items():
                    name = written(size)
                    sums[name] = sums.get(name, 0.0) + share * (words + rebuilt) / (2 * len(self._sizes))
        return Step(sum(sums.values()), sums, len(rows))

    def validate(self) -> Validation | None:
        """See `Recipe.validate`; the quality is the loss, negative."""
        if not len(self._held):
            return None
        self.network.eval()
        figures = {written(size): {"masked": 0.0, "rebuilt": 0.0} for size in self._sizes}
        with torch.no_grad():
            for share, piece in self._pieces(self._held, (self._options.seed, 0)):
                for size, terms in self._terms(piece, backward=None).items():
                    for name, value in zip(("masked", "rebuilt"), terms, strict=True):
                        figures[written(size)][name] += share * value
        quality = -float(np.mean([list(terms.values()) for terms in figures.values()]))
        return Validation(quality, figures)

    def _pieces(self, rows: Rows, seed: Sequence[int]) -> Iterator[tuple[float, Masked]]:
        """Yield pieces of the texts with words hidden, and which share of the texts each is."""
        texts = [self._texts[row] for row in rows.tolist()]
        for number, piece in enumerate(self._encoder.pieces(texts, self._options.piece)):
            yield len(piece) / len(texts), self._masked([texts[i] for i in piece], (*seed, number))

    def _masked(self, texts: list[str], seed: Sequence[int]) -> Masked:
        options = self._options
        limit = self._encoder.window(options.document_tokens)
        found = self._encoder.tokenizer(
            texts, padding=True, truncation=True, max_length=limit, return_tensors="np", return_token_type_ids=False
        )
        words = [found.word_ids(row) for row in range(len(texts))]
        tokens = found["input_ids"].astype(np.int64)

        def side(share: float, what: int) -> tuple[Tensor, Tensor]:
            rng = np.random.default_rng((*seed, what))
            hidden = hidden_words(words, share, rng)
            read = masked(tokens, hidden, self._vocabulary, rng)
            return torch.from_numpy(read), torch.from_numpy(hidden)

        seen, hidden = side(options.encoder_mask, _ENCODER)
        read, unseen = side(options.decoder_mask, _DECODER)
        moved = self._encoder.to_device(
            {
                "input_ids": seen,
                "attention_mask": torch.from_numpy(found["attention_mask"].astype(np.int64)),
                "tokens": torch.from_numpy(tokens),
                "hidden": hidden,
                "read": read,
                "unseen": unseen,
            }
        )
        features = {name: moved.pop(name) for name in ("input_ids", "attention_mask")}
        return Masked(features, **moved)

    def _terms(self, piece: Masked, *, backward: float | None) -> dict[Size, tuple[float, float]]:
        """Return both losses of every size; with `backward`, a share, add the gradients of their mean times it.

        Scores of all tokens for every hidden one are what takes memory, so one size is done with before the next, and
        the encoder gets the gradients of all of them at once.
        """
        terms, encoder, heads = {}, self._encoder, self._heads
        there = piece.features["attention_mask"].bool()
        with encoder.autocast():
            states = encoder.states(piece.features)
            exits = sorted({layers for layers, _ in self._sizes})
            roots = [states[layers][piece.hidden] for layers in exits]
            roots += [encoder.pooled(piece.features, states[layers]) for layers in exits]
            roots.append(encoder.embedded(piece.read))
        leaves = [root.detach().requires_grad_() for root in roots]
        hidden = dict(zip(exits, leaves, strict=False))
        vectors = dict(zip(exits, leaves[len(exits) :], strict=False))
        for layers, k in self._sizes:
            with encoder.autocast():
                told = heads.rebuilt(leaves[-1], vectors[layers][:, :k], there, piece.unseen)
                words = masked_tokens(heads.head(hidden[layers][:, :k], encoder.table), piece.tokens[piece.hidden])
                rebuilt = masked_tokens(heads.head(told, encoder.table), piece.tokens[piece.unseen])
            terms[layers, k] = words.item(), rebuilt.item()
            if backward is not None:
                torch.autograd.backward(backward * smae_part(words, rebuilt, len(self._sizes)))
        if backward is not None:
            torch.autograd.backward(roots, [leaf.grad for leaf in leaves])
        return terms
