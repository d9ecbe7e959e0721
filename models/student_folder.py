"""The files of a student: a small encoder of a teacher's space, one static table and perhaps a few transformer layers.

    student.json          space, shape, sizes, licence and how it was trained
    student.safetensors   tables with one scale a row, layer matrices with one scale an output, the rest as floats
    tokenizer.json        as the `tokenizers` library writes it

Arrays have the names of `student_weights.py`; one that is quantised has `NAME.scales` beside it, see
`quantised_rows.py`. Knows no runtime.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from models.errors import CorruptModel, ModelNotFound
from models.quantised_rows import Bits, QuantisedRows
from models.safe_files import write_safely
from models.sizes import Sizes, fold_dimensions
from models.student_weights import STATIC_TABLE, StudentShape, StudentWeights

DESCRIPTION = "student.json"
WEIGHTS = "student.safetensors"
TOKENIZER = "tokenizer.json"
FORMAT = 2  # 1 had GELU in the static mix
T = TypeVar("T")


class Tensors(Protocol):
    """An opened safetensors file."""

    def get_tensor(self, name: str) -> NDArray[Any]: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class StudentMeta:
    """What is said of a student beside its weights.

    Attributes
    ----------
    space : identity of the teacher's space, which the student declares to be its own.
    license : SPDX identifier.
    dimensions : prefixes that it may be cut to, the whole last; None takes those of a folded space.
    fold : identity of the fold that those prefixes are of; None says nothing about it.
    training : how it was made, as JSON; for readers.
    """

    space: str
    license: str = "Apache-2.0"
    dimensions: tuple[int, ...] | None = None
    fold: str | None = None
    training: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StudentFormat:
    """How weights are stored: bits of the two tables, and of the matrices of layers and exits."""

    static_bits: Bits = 4
    token_bits: Bits = 8
    layers: Literal["int8", "float16"] = "int8"


@dataclass(frozen=True, slots=True)
class StudentDescription:
    """What `student.json` says."""

    shape: StudentShape
    meta: StudentMeta

    def sizes(self, exits: tuple[int, ...] | None = None) -> Sizes:
        """Return what the student may be cut to, of some of its exits."""
        dimensions = self.meta.dimensions or fold_dimensions(self.shape.dimension)
        return Sizes(self.shape.exits if exits is None else exits, dimensions)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Read what `write_student` wrote; raises KeyError, TypeError or ValueError."""
        if value["format"] != FORMAT:
            raise ValueError(f"it has format {value['format']}, not {FORMAT}")
        shape = StudentShape(**(value["shape"] | {"exits": tuple(value["shape"]["exits"])}))
        said = value["meta"]
        dimensions = None if said["dimensions"] is None else tuple(said["dimensions"])
        read = cls(shape, StudentMeta(**(said | {"dimensions": dimensions})))
        if not isinstance(read.meta.space, str) or read.sizes().full[1] != shape.dimension:
            raise ValueError("its space is no name, or its dimensions do not end with the whole vector")
        return read


def is_student(folder: Path) -> bool:
    """Say whether a folder holds a student."""
    return (folder / DESCRIPTION).is_file()


def write_student(
    folder: Path,
    weights: StudentWeights,
    *,
    meta: StudentMeta,
    tokenizer: bytes,
    stored: StudentFormat = StudentFormat(),  # noqa: B008 - frozen
) -> None:
    """Write a student durably; what is read back is what was stored, quantised.

    Parameters
    ----------
    tokenizer : content of its `tokenizer.json`.

    Raises
    ------
    ValueError
        A special token has a row in the static table that is not zero, the tokenizer has more tokens than the
        student, or the dimensions do not end with the whole vector.
    """
    from safetensors.numpy import save

    _check_tokens(json.loads(tokenizer), weights)
    if StudentDescription(weights.shape, meta).sizes().full[1] != weights.shape.dimension:
        raise ValueError("the dimensions of a student must end with the whole vector")

    arrays: dict[str, NDArray[Any]] = {}
    for name, array in weights.arrays.items():
        if array.ndim != 2 or name == "positions":
            arrays[name] = array.astype(np.float16) if array.ndim == 2 else array
        elif name != STATIC_TABLE and name != "tokens" and stored.layers == "float16":
            arrays[name] = array.astype(np.float16)
        else:
            bits: Bits = {STATIC_TABLE: stored.static_bits, "tokens": stored.token_bits}.get(name, 8)
            rows = QuantisedRows.quantise(array, bits)
            arrays[name] = np.ascontiguousarray(rows.packed())
            arrays[f"{name}.scales"] = rows.scales
    told = {"format": FORMAT, "shape": asdict(weights.shape), "stored": asdict(stored), "meta": asdict(meta)}
    for name, content in (
        (TOKENIZER, tokenizer),
        (WEIGHTS, save(arrays)),
        (DESCRIPTION, (json.dumps(told, indent=2) + "\n").encode()),
    ):
        with write_safely(folder / name) as file:
            file.write(content)


def describe_student(folder: Path) -> StudentDescription:
    """Read `student.json`; raises ModelNotFound or CorruptModel."""
    path = _existing(folder, DESCRIPTION)
    try:
        return StudentDescription.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (AttributeError, KeyError, OSError, TypeError, ValueError) as error:
        raise CorruptModel(f"{path} does not describe a student: {error!r}", hint="restore the file") from error


def read_static_table(folder: Path) -> QuantisedRows:
    """Read the table of exit 0 and nothing else; raises as `read_student`."""
    description = describe_student(folder)
    return _reading(folder, lambda opened: _static_table(opened, description.shape))


def read_arrays(folder: Path, names: Sequence[str]) -> dict[str, NDArray[np.float32]]:
    """Read some arrays, as float32; raises as `read_student`."""
    return _reading(folder, lambda opened: {name: _array(opened, name) for name in names})


def read_student(folder: Path) -> StudentWeights:
    """Read all weights, as float32.

    Raises
    ------
    ModelNotFound
        A file is missing.
    CorruptModel
        A file is damaged, or does not fit the others.
    """
    shape = describe_student(folder).shape

    def weights(opened: Tensors) -> StudentWeights:
        arrays = {STATIC_TABLE: _static_table(opened, shape).values()}
        for name in shape.arrays():
            if name != STATIC_TABLE:
                arrays[name] = _array(opened, name)
        return StudentWeights(shape, arrays)

    return _reading(folder, weights)


def tokenizer_file(folder: Path) -> Path:
    """Return the path of its `tokenizer.json`; raises ModelNotFound."""
    return _existing(folder, TOKENIZER)


def _check_tokens(tokenizer: dict[str, Any], weights: StudentWeights) -> None:
    """Refuse special tokens that would count for something; [UNK] is none of them: it stands for a word."""
    added = tokenizer["added_tokens"]
    unknown = tokenizer["model"].get("unk_token")
    known = {*tokenizer["model"]["vocab"].values(), *(token["id"] for token in added)}
    if max(known) >= weights.shape.vocabulary:
        raise ValueError(f"token {max(known)} is beyond a vocabulary of {weights.shape.vocabulary}")
    special = [token["id"] for token in added if token["special"] and token["content"] != unknown]
    if weights.arrays[STATIC_TABLE][special].any():
        raise ValueError("rows of special tokens in the static table must be zero")


def _reading(folder: Path, read: Callable[[Tensors], T]) -> T:
    from safetensors import safe_open

    path = _existing(folder, WEIGHTS)
    try:
        with safe_open(path, framework="numpy") as opened:
            return read(opened)
    except Exception as error:  # the library raises its own
        raise CorruptModel(f"{path} is not the weights of a student: {error}", hint="restore the file") from error


def _static_table(opened: Tensors, shape: StudentShape) -> QuantisedRows:
    rows = QuantisedRows.from_packed(opened.get_tensor(STATIC_TABLE), opened.get_tensor(f"{STATIC_TABLE}.scales"))
    if rows.levels.shape != (shape.vocabulary, shape.dimension):
        raise ValueError(f"the static table has shape {rows.levels.shape}")
    return rows


def _array(opened: Tensors, name: str) -> NDArray[np.float32]:
    stored = opened.get_tensor(name)
    if stored.dtype in (np.int8, np.uint8):
        return QuantisedRows.from_packed(stored, opened.get_tensor(f"{name}.scales")).values()
    return np.asarray(stored, dtype=np.float32)


def _existing(folder: Path, name: str) -> Path:
    if not (folder / name).is_file():
        raise ModelNotFound(f"{folder} has no {name}", hint="give a whole student folder")
    return folder / name
