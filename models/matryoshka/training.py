"""Trains a truncatable encoder: a model folder and data in, a sentence-transformers folder with its sizes out.

Importing this imports torch and sentence-transformers.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import torch

from models.errors import InvalidTraining, InvalidTrainingData
from models.folder import ModelFolder, check_folder, fingerprint
from models.matryoshka import plot
from models.matryoshka.network import SizedEncoder, choose_device, choose_precision
from models.matryoshka.options import EncoderProgress, EncoderTrainingOptions
from models.matryoshka.pair_recipe import PairRecipe
from models.matryoshka.pairs import Pairs
from models.matryoshka.recipe import Recipe
from models.matryoshka.run import EncoderRun
from models.matryoshka.size_list import Size, check_sizes, propose_sizes, trained_sizes, written
from models.matryoshka.smae import SmaeRecipe
from models.metrics_log import NAME as LOG
from models.metrics_log import MetricsLog
from models.safe_files import write_safely
from models.sizes import SIZES_FILE
from models.torch_threads import torch_threads
from models.training_checkpoint import Checkpoint
from models.training_checkpoint import fingerprint as mark_of
from models.training_plot import NAME as PICTURE

RECORD: Final = "training.json"
UNFINISHED: Final = "unfinished"
_MODULES: Final = "modules.json"
_LIBRARIES: Final = ("torch", "transformers", "sentence-transformers", "tokenizers", "bitfold")
# What may differ between the runs of one training: it changes nothing in the result but its rounding.
_FREE: Final = ("checkpoint_steps", "log_steps", "threads", "device", "precision", "cache_gradients")


@dataclass(frozen=True)
class TrainedEncoder:
    """What came out.

    Attributes
    ----------
    folder : a sentence-transformers folder that `load_encoder` takes.
    record : what `training.json` holds.
    plot : the picture of the log, None where matplotlib is missing.
    """

    folder: Path
    record: dict[str, Any]
    plot: Path | None


def train_encoder(
    folder: Path,
    data: Pairs | Sequence[str],
    options: EncoderTrainingOptions,
    *,
    out: Path,
    sources: Sequence[dict[str, Any]] = (),
    on_progress: Callable[[EncoderProgress], None] = lambda _: None,
    cancelled: Callable[[], bool] = bool,
) -> TrainedEncoder:
    """Train an encoder, or go on with a training that stopped.

    Parameters
    ----------
    folder : sentence-transformers folder to start from; it is not changed.
    data : pairs for the recipes "starbucks" and "2dmse", texts for "smae".
    out : folder for the encoder; `unfinished` in it holds the checkpoint until the end. A training of the same data
        and options goes on from there, and on one machine, device and number of threads ends with the weights of an
        uninterrupted one (on an accelerator as far as its library repeats itself).
    sources : what the record says of where the data came from.
    on_progress : called after each step; cancelled : asked before each step.

    Raises
    ------
    InvalidTraining, InvalidTrainingData, InvalidSize
        What was asked for cannot be, and why.
    ModelError
        The folder cannot be loaded.
    TrainingCancelled
        After a checkpoint.
    """
    checked = check_folder(folder)
    if (out / _MODULES).exists():
        raise InvalidTraining(f"{out} holds an encoder already", hint="name another folder")
    with torch_threads(options.threads):
        device = choose_device(options.device)
        encoder = SizedEncoder(checked, device, choose_precision(options.precision, device))
        sizes = _sizes(encoder, options)
        recipe = _recipe(encoder, data, sizes, options)
        work = out / UNFINISHED
        run = EncoderRun(
            recipe,
            options,
            Checkpoint(work / "checkpoint.pt", _mark(checked, data, sizes, options)),
            lambda kept: MetricsLog(out / LOG, kept),
        )
        run.steps(on_progress, cancelled)
        figures = run.finish()
    record = {
        "recipe": options.recipe,
        "sizes": [written(size) for size in sizes],
        "start": {"folder": folder.resolve().name, "fingerprint": fingerprint(checked)},
        "data": {"sha256": _digest(data), "count": len(data), "sources": list(sources)},
        "options": asdict(options),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "precision": str(encoder.precision).removeprefix("torch."),
        "versions": _versions(),
        **figures,
    }
    _write(encoder, sizes, options, record, out)
    shutil.rmtree(work)
    return TrainedEncoder(out, record, _drawn(out))


def _sizes(encoder: SizedEncoder, options: EncoderTrainingOptions) -> tuple[Size, ...]:
    sizes = options.sizes or propose_sizes(encoder.layers, encoder.dimension)
    return check_sizes(sizes, encoder.layers, encoder.dimension)


def _recipe(
    encoder: SizedEncoder, data: Pairs | Sequence[str], sizes: tuple[Size, ...], options: EncoderTrainingOptions
) -> Recipe:
    if options.recipe == "smae":
        if isinstance(data, Pairs):
            raise InvalidTrainingData("SMAE trains on texts, not on pairs", hint="give --texts")
        return SmaeRecipe(encoder, data, sizes, options)
    if not isinstance(data, Pairs):
        raise InvalidTrainingData(f"{options.recipe} trains on pairs, not on texts alone", hint="give --pairs")
    if options.scores == "dot" and encoder.unit_length:
        raise InvalidTraining(
            "the model scales its vectors to length 1, so their dot products are cosines", hint="use cosine scores"
        )
    return PairRecipe(encoder, data, sizes, options)


def _mark(
    folder: ModelFolder, data: Pairs | Sequence[str], sizes: tuple[Size, ...], options: EncoderTrainingOptions
) -> str:
    settings = {name: value for name, value in asdict(options).items() if name not in _FREE}
    return mark_of({**settings, "sizes": sizes, "start": fingerprint(folder), "data": _digest(data)}, {})


def _digest(data: Pairs | Sequence[str]) -> str:
    if isinstance(data, Pairs):
        return data.digest
    total = hashlib.sha256()
    for text in data:
        total.update(text.encode() + b"\0")
    return total.hexdigest()


def _versions() -> dict[str, str]:
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _write(
    encoder: SizedEncoder, sizes: tuple[Size, ...], options: EncoderTrainingOptions, record: dict[str, Any], out: Path
) -> None:
    """Write the folder; `modules.json`, without which it is none, comes last."""
    made = out / UNFINISHED / "encoder"
    encoder.save(made)
    files: dict[str, Any] = {RECORD: record}
    if options.recipe != "smae":  # which is only a start: no size of it was trained to find anything
        files[SIZES_FILE] = trained_sizes(sizes, fixed=options.recipe == "starbucks").as_json()
    for name, value in files.items():
        with write_safely(made / name) as file:
            file.write(json.dumps(value, indent=2).encode() + b"\n")
    for path in sorted(made.iterdir(), key=lambda path: path.name == _MODULES):
        target = out / path.name
        if target.is_dir():
            shutil.rmtree(target)
        path.replace(target)


def _drawn(out: Path) -> Path | None:
    try:
        plot.draw(out / LOG, out / PICTURE)
    except InvalidTraining:
        return None
    return out / PICTURE
