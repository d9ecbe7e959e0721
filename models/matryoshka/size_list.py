"""The list of sizes that an encoder is trained for: written, proposed, checked against a model. Knows no torch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from models.errors import InvalidSize
from models.sizes import Sizes

Size = tuple[int, int]

# Starbucks (arXiv 2410.13230) for BERT-base: Demi, Short, Tall, Grande, Venti, Trenta.
STARBUCKS: Final[tuple[Size, ...]] = ((2, 32), (4, 64), (6, 128), (8, 256), (10, 512), (12, 768))
# Shares of a vector for other models; of 384 dimensions 32, 64, 96, 128, 256, 384.
_SHARES: Final = (1 / 12, 1 / 6, 1 / 4, 1 / 3, 2 / 3, 1.0)
_WRITTEN: Final = re.compile(r"\s*(\d{1,6})\s*x\s*(\d{1,6})\s*", re.ASCII)


def parse_sizes(text: str) -> tuple[Size, ...]:
    """Read `1x32,2x64,...`: layers x dimensions; raises InvalidSize."""
    found = [_WRITTEN.fullmatch(part) for part in text.split(",")]
    for part, match in zip(text.split(","), found, strict=True):
        if match is None:
            raise InvalidSize(f"{part.strip()!r} is not a size", hint="write layers x dimensions, such as 2x64,6x384")
    return tuple((int(match[1]), int(match[2])) for match in found if match)


def written(size: Size) -> str:
    """Return a size as `parse_sizes` reads it."""
    return f"{size[0]}x{size[1]}"


def propose_sizes(layers: int, dimension: int) -> tuple[Size, ...]:
    """Return up to six sizes of a model, evenly spread over its layers, the full one last."""
    if (layers, dimension) == STARBUCKS[-1]:
        return STARBUCKS
    count = min(len(_SHARES), layers)
    steps = range(1, count + 1)
    shares = [_SHARES[round(step * len(_SHARES) / count) - 1] for step in steps]
    return tuple(
        (round(layers * step / count), max(1, round(dimension * share)))
        for step, share in zip(steps, shares, strict=True)
    )


def check_sizes(sizes: Sequence[Size], layers: int, dimension: int) -> tuple[Size, ...]:
    """Return the sizes in ascending order.

    Parameters
    ----------
    layers, dimension : the model's own; a list has to hold this full size, which the others learn from.

    Raises
    ------
    InvalidSize
        The model has no such size, one is named twice, or the full one is missing. The hint names a list that works.
    """
    full = (layers, dimension)
    hint = f"for this model for instance {','.join(map(written, propose_sizes(layers, dimension)))}"
    for size in sizes:
        if not (1 <= size[0] <= layers and 1 <= size[1] <= dimension):
            raise InvalidSize(
                f"size {written(size)}: the model has 1 to {layers} layers and 1 to {dimension} dimensions", hint=hint
            )
        if list(sizes).count(size) > 1:
            raise InvalidSize(f"size {written(size)} is in the list twice", hint=hint)
    if full not in sizes:
        raise InvalidSize(f"the list lacks the full size {written(full)}, which the others learn from", hint=hint)
    return tuple(sorted(sizes))


def trained_sizes(sizes: Sequence[Size], *, fixed: bool) -> Sizes:
    """Return what an encoder is valid for after training.

    Parameters
    ----------
    sizes : as `check_sizes` returns them.
    fixed : only these pairs were trained; else every number of layers with every length in the list.
    """
    lengths = tuple(sorted({size[1] for size in sizes}))
    if fixed:
        return Sizes(tuple(sorted({size[0] for size in sizes})), lengths, tuple(sizes))
    return Sizes(tuple(range(1, sizes[-1][0] + 1)), lengths)
