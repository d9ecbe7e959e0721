"""The sizes that an encoder can be cut to: layers that are run, dimensions that are kept. Knows no model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from models.errors import CorruptModel, UnsupportedSize

SIZES_FILE = "bitfold_sizes.json"
CONFIGURED = (("config_sentence_transformers.json", "matryoshka_dims"), ("config.json", "matryoshka_dimensions"))
# What a folded space offers: the best linear prefixes, so every length works; a list keeps collections comparable.
FOLD_DIMENSIONS = (32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)


@dataclass(frozen=True, slots=True)
class Sizes:
    """What an encoder was trained to be cut to.

    Attributes
    ----------
    layers : exits, ascending; 0 is the static table alone, k is after k transformer layers, the last is all of them.
    dimensions : lengths of a vector's prefix, ascending; the last is the whole vector.
    pairs : the only (layers, dimensions) that were trained, the full size among them, as in Starbucks
        (arXiv 2410.13230); None where any combination was.

    Raises
    ------
    ValueError
        Not ascending, or pairs of other numbers.
    """

    layers: tuple[int, ...]
    dimensions: tuple[int, ...]
    pairs: tuple[tuple[int, int], ...] | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        for what, values, least in (("layers", self.layers, 0), ("dimensions", self.dimensions, 1)):
            whole = all(isinstance(value, int) and not isinstance(value, bool) for value in values)
            if not values or not whole or min(values) < least or list(values) != sorted(set(values)):
                raise ValueError(f"{what} must be ascending whole numbers from {least} on, not {list(values)}")
        for pair in self.pairs or ():
            if len(pair) != 2 or pair[0] not in self.layers or pair[1] not in self.dimensions:
                raise ValueError(f"pair {list(pair)} is not made of the listed layers and dimensions")
        if self.pairs is not None and self.full not in self.pairs:
            raise ValueError(f"the pairs lack the full size {list(self.full)}")

    @classmethod
    def only(cls, layers: int, dimension: int) -> Self:
        """Return the sizes of a model that cannot be cut."""
        return cls((layers,), (dimension,))

    @property
    def full(self) -> tuple[int, int]:
        """The uncut (layers, dimensions)."""
        return self.layers[-1], self.dimensions[-1]

    def resolve(self, layers: int | None, dimensions: int | None, *, untrained: bool = False) -> tuple[int, int]:
        """Return the (layers, dimensions) that are meant.

        Parameters
        ----------
        layers, dimensions : None means all of them; with `pairs`, whatever the pair of the other one says (the
            largest, where several have it).
        untrained : allow 0 <= layers and 1 <= dimensions up to the full size, trained or not.

        Raises
        ------
        UnsupportedSize
            The message names the valid sizes.
        """
        full_layers, full_dimensions = self.full
        if self.pairs is not None and not untrained and (layers is None) != (dimensions is None):
            return self._paired(layers, dimensions)
        size = (full_layers if layers is None else layers, full_dimensions if dimensions is None else dimensions)
        if untrained:
            valid = 0 <= size[0] <= full_layers and 1 <= size[1] <= full_dimensions
        elif self.pairs is not None:
            valid = size in self.pairs
        else:
            valid = size[0] in self.layers and size[1] in self.dimensions
        if not valid:
            raise self._refusal(*size, untrained=untrained)
        return size

    def describe(self) -> str:
        """Say in words which sizes are valid."""
        if self.pairs is not None:
            return "(layers, dimensions) " + ", ".join(f"({a}, {b})" for a, b in self.pairs)
        return f"layers {_listed(self.layers)} and dimensions {_listed(self.dimensions)}"

    def as_json(self) -> dict[str, Any]:
        """Return what `from_json` reads."""
        pairs = None if self.pairs is None else [list(pair) for pair in self.pairs]
        return {"layers": list(self.layers), "dimensions": list(self.dimensions), "pairs": pairs}

    @classmethod
    def from_json(cls, value: object) -> Self:
        """Read `as_json`; raises ValueError."""
        if not isinstance(value, dict) or set(value) - {"layers", "dimensions", "pairs"}:
            raise ValueError("not an object with layers, dimensions and pairs")
        lists = [value.get("layers"), value.get("dimensions")]
        pairs = value.get("pairs")
        paired = pairs is None or (isinstance(pairs, list) and all(isinstance(pair, list) for pair in pairs))
        if not all(isinstance(one, list) for one in lists) or not paired:
            raise ValueError("layers, dimensions and pairs must be lists")
        layers, dimensions = (tuple(one or ()) for one in lists)
        return cls(layers, dimensions, None if pairs is None else tuple((*pair,) for pair in pairs))

    def _paired(self, layers: int | None, dimensions: int | None) -> tuple[int, int]:
        found = [pair for pair in self.pairs or () if layers in (None, pair[0]) and dimensions in (None, pair[1])]
        if not found:
            raise self._refusal(layers, dimensions, untrained=False)
        return max(found)

    def _refusal(self, layers: int | None, dimensions: int | None, *, untrained: bool) -> UnsupportedSize:
        named = {"layers": layers, "dimensions": dimensions}
        asked = ", ".join(f"{name} {value}" for name, value in named.items() if value is not None)
        if untrained:
            bounds = f"layers 0 to {self.full[0]} and dimensions 1 to {self.full[1]}"
            return UnsupportedSize(f"{asked}: the model has {bounds}", hint="ask for a size within it")
        return UnsupportedSize(f"{asked}: the model is trained for {self.describe()}", hint="use one of these sizes")


def fold_dimensions(dimension: int) -> tuple[int, ...]:
    """Return the lengths that a folded space of this dimension offers, itself the last."""
    return (*(length for length in FOLD_DIMENSIONS if length < dimension), dimension)


def declared_exits(folder: Path) -> tuple[int, ...] | None:
    """Return the exits that a folder's `bitfold_sizes.json` names, or None; raises CorruptModel."""
    own = folder / SIZES_FILE
    return _own_sizes(own).layers if own.is_file() else None


def read_sizes(folder: Path, *, layers: int, dimension: int) -> Sizes | None:
    """Return the sizes that a model folder says it was trained for, or None.

    Looks for `bitfold_sizes.json`, then for `matryoshka_dims` in `config_sentence_transformers.json`, then for
    `matryoshka_dimensions` in `config.json`.

    Parameters
    ----------
    layers, dimension : the model's full size, which is always valid.

    Raises
    ------
    CorruptModel
        The file cannot be read, or names sizes that the model does not have.
    """
    own = folder / SIZES_FILE
    if own.is_file():
        sizes = _own_sizes(own)
        if sizes.full != (layers, dimension):
            raise _corrupt(own, f"its full size is {list(sizes.full)}, the model's is {[layers, dimension]}")
        return sizes
    for name, key in CONFIGURED:
        file = folder / name
        try:
            config = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
            found = config.get(key) if isinstance(config, dict) else None
            if found is not None:
                return Sizes((layers,), _prefixes(found, dimension))
        except (OSError, ValueError) as error:
            raise _corrupt(file, error) from error
    return None


def _own_sizes(file: Path) -> Sizes:
    try:
        return Sizes.from_json(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, TypeError, ValueError) as error:
        raise _corrupt(file, error) from error


def _corrupt(file: Path, reason: object) -> CorruptModel:
    return CorruptModel(f"{file} does not name sizes: {reason}", hint="restore the file, or remove it")


def _prefixes(found: object, dimension: int) -> tuple[int, ...]:
    if not isinstance(found, list) or not all(isinstance(one, int) for one in found):
        raise ValueError("dimensions must be a list of whole numbers")
    if found and max(found) > dimension:
        raise ValueError(f"{max(found)} dimensions are more than the model's {dimension}")
    return tuple(sorted({*found, dimension}))


def _listed(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))
