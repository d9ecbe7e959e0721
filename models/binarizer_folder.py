"""A trained binarizer in a folder: `binarizer.safetensors`, and `binarizer.json` that people read."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from models.errors import CorruptBinarizer, ModelNotFound
from models.recurrent import Recurrent, load_recurrent
from models.safe_files import write_safely
from models.training_report import TrainingReport

WEIGHTS: Final = "binarizer.safetensors"
DESCRIPTION: Final = "binarizer.json"


def save_binarizer(
    folder: Path, binarizer: Recurrent, report: TrainingReport | None = None, *, space: str | None = None
) -> None:
    """Write both files; the description last, so that a folder with one is whole.

    Parameters
    ----------
    folder : made if it is not there; an older binarizer in it is replaced.
    report : what the training found.
    space : name of the vector space that the binarizer codes, where it is known.
    """
    (folder / DESCRIPTION).unlink(missing_ok=True)
    with write_safely(folder / WEIGHTS) as file:
        file.write(binarizer.to_bytes())
    description = {
        "identity": binarizer.identity,
        "dimension": binarizer.dimension,
        "code_dimension": binarizer.code_dimension,
        "bits": binarizer.bits,
        "compatible_with": list(binarizer.compatible_with),
        "space": space,
        "report": None if report is None else asdict(report),
    }
    with write_safely(folder / DESCRIPTION) as file:
        file.write((json.dumps(description, indent=2) + "\n").encode())


def load_binarizer(folder: Path) -> tuple[Recurrent, dict[str, Any]]:
    """Return the binarizer and its description.

    Raises
    ------
    ModelNotFound
        A file is missing; the message names it.
    CorruptBinarizer
        Damaged, or the two files are not of one binarizer.
    """
    try:
        data, text = (folder / WEIGHTS).read_bytes(), (folder / DESCRIPTION).read_bytes()
    except OSError as error:
        raise ModelNotFound(
            f"no binarizer in {folder}: {error.filename} cannot be read", hint="name the folder that a training wrote"
        ) from error
    binarizer = load_recurrent(data)
    try:
        description = json.loads(text)
        identity = description["identity"]
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptBinarizer(f"{folder / DESCRIPTION} is not a binarizer's description: {error}") from error
    if identity != binarizer.identity:
        raise CorruptBinarizer(f"{folder}: the description is of {identity}, the weights are {binarizer.identity}")
    return binarizer, description
