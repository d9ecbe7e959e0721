"""Tokens of many texts in one array, and batches of them as networks read them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]
CHUNK = 16_384
PAD = 0


@dataclass(frozen=True, eq=False)
class Tokens:
    """Tokens of n texts.

    Attributes
    ----------
    flat : (t,) int32, one text after the other, without what the tokenizer puts around them.
    offsets : (n + 1,) int64, where each text begins.
    first, last : what is put around a text that layers read ([CLS] and [SEP]).
    """

    flat: NDArray[np.int32]
    offsets: NDArray[np.int64]
    first: int
    last: int

    @classmethod
    def of(cls, texts: Sequence[str], tokenizer: Any, unknown: int) -> Self:  # noqa: ANN401 - tokenizers.Tokenizer
        """Tokenise; a text without any token becomes the unknown one."""
        lengths: list[int] = []
        parts: list[NDArray[np.int32]] = []
        for start in range(0, len(texts), CHUNK):
            for encoding in tokenizer.encode_batch_fast(list(texts[start : start + CHUNK]), add_special_tokens=False):
                ids = encoding.ids or [unknown]
                lengths.append(len(ids))
                parts.append(np.array(ids, dtype=np.int32))
        first, last = tokenizer.encode("", add_special_tokens=True).ids
        return cls(np.concatenate(parts), np.concatenate([[0], np.cumsum(lengths)]), first, last)

    def __len__(self) -> int:
        """Return n."""
        return len(self.offsets) - 1

    def lengths(self) -> Rows:
        """Return the tokens of each text, (n,)."""
        return np.diff(self.offsets)

    def bag(self, rows: Rows, window: int) -> tuple[Rows, Rows]:
        """Return the tokens of some texts one after the other, and where each text begins in them."""
        lengths = np.minimum(self.offsets[rows + 1] - self.offsets[rows], window)
        starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
        places = np.repeat(self.offsets[rows] - starts, lengths) + np.arange(lengths.sum())
        return self.flat[places].astype(np.int64), starts

    def padded(self, rows: Rows, window: int) -> Rows:
        """Return (len(rows), t) int64: each text between first and last, 0 behind it; t is at most the window."""
        lengths = np.minimum(self.offsets[rows + 1] - self.offsets[rows], window - 2)
        out = np.full((len(rows), int(lengths.max()) + 2), PAD, dtype=np.int64)
        out[:, 0] = self.first
        for i, (row, length) in enumerate(zip(rows, lengths, strict=True)):
            start = self.offsets[row]
            out[i, 1 : 1 + length] = self.flat[start : start + length]
            out[i, 1 + length] = self.last
        return out


def batches_by_length(lengths: Rows, batch: int, rng: np.random.Generator, *, group: int = 64) -> list[Rows]:
    """Return a random order of texts in batches whose texts are of like length; the rest that fills none is left out.

    Parameters
    ----------
    lengths : (n,) of the texts.
    group : batches' worth of random texts that are sorted by length together.
    """
    order = rng.permutation(len(lengths))
    out: list[Rows] = []
    for start in range(0, len(order), batch * group):
        part = order[start : start + batch * group]
        part = part[np.argsort(lengths[part], kind="stable")]
        out += [part[i : i + batch] for i in range(0, len(part) - batch + 1, batch)]
    return [out[i] for i in rng.permutation(len(out))]
