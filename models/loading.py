"""From the name of an encoder to a loaded one: which files, which runtime, which space.

Imports a runtime only when a model is loaded, and torch only for models that ONNX Runtime does not serve.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from models.backend import PROMPT_NAMES, Backend, Task
from models.encoder import Encoder
from models.errors import ModelMismatch, UnknownEncoder, UnsupportedRuntime
from models.fold import FOLD_FILE, Fold
from models.folded_model import FoldedModel
from models.folder import ModelFolder, check_folder, check_hub_id, check_pins, fingerprint, hub_folder, package_folder
from models.presets import Preset, find_preset, shipped_fold
from models.sizes import Sizes, declared_exits, fold_dimensions, read_sizes
from models.student_folder import describe_student, is_student

RuntimeChoice = Literal["auto", "torch", "onnx"]
QueryWeights = Literal["float32", "int8"]


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How an encoder is loaded, whatever its files are.

    Attributes
    ----------
    threads : batches that are computed at once, each by one thread; None takes the cores there are. One thread for
        each batch wastes nothing on waiting for its siblings: on two busy cores torch encoded 1.2 to 1.5 times as
        many documents, and single queries in less than half the time (docs/log.md).
    runtime : "onnx" is fast on a CPU, "torch" runs everything; "auto" takes the first that can.
    query_weights : of models in ONNX Runtime: "int8" reads queries by a second graph, with weights of 8 bits. The space
        stays that of the documents, which are read as ever; queries come close to it, as a student's do (docs/log.md:
        mean cosine .998, nDCG@10 less by 0.1 % at most).
    temperature : of attention (TempScale, arXiv 2410.24200); any but 1 makes another space.
    allow_untrained : take sizes that the model was not trained for.
    prompts : what is put before texts, in place of what the files say; for what it leaves out they are asked.
    space : the name of its space, in place of one made from the files; a temperature is still added.
    """

    threads: int | None = None
    runtime: RuntimeChoice = "auto"
    temperature: float = 1.0
    allow_untrained: bool = False
    query_weights: QueryWeights = "float32"
    prompts: Mapping[Task, str] | None = None
    space: str | None = None

    def __post_init__(self) -> None:
        """Check ranges; ValueError."""
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"threads must be at least 1, not {self.threads}")
        if self.runtime not in ("auto", "torch", "onnx"):
            raise ValueError(f"runtime must be auto, torch or onnx, not {self.runtime!r}")
        if self.query_weights not in ("float32", "int8"):
            raise ValueError(f"query_weights must be float32 or int8, not {self.query_weights!r}")
        if self.query_weights == "int8" and self.runtime == "torch":
            raise ValueError("only ONNX Runtime has weights of 8 bits: query_weights int8 does not go with torch")
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise ValueError(f"temperature must be above 0, not {self.temperature}")


def load_encoder(
    name: str,
    *,
    folder: Path | None = None,
    threads: int | None = None,
    runtime: RuntimeChoice = "auto",
    temperature: float = 1.0,
    allow_untrained: bool = False,
    query_weights: QueryWeights = "float32",
) -> Encoder:
    """Load a preset, a local folder or a model hub repository.

    Parameters
    ----------
    name : a preset or its alias; with `folder`, any name; else a hub repository `owner/name`. Never a path.
    folder : sentence-transformers or student folder. A preset's pinned files are checked wherever they come from.
    threads, runtime, temperature, allow_untrained, query_weights : see `LoadOptions`.

    Raises
    ------
    UnknownEncoder
        No preset, no folder and no hub id.
    ModelNotFound, UnsafeModel, ModelMismatch, CorruptModel, UnsupportedRuntime, ModelError
        See `models.errors`.
    """
    options = LoadOptions(threads, runtime, temperature, allow_untrained, query_weights)
    if not name:
        raise UnknownEncoder("the encoder has no name")
    preset = find_preset(name)
    if preset is not None:
        return _load_preset(preset, folder or preset_folder(preset), options)
    if folder is not None:
        return load_folder(name, folder, options, label=folder.resolve().name)
    return load_hub(name, name, None, options)


def load_hub(name: str, repository: str, revision: str | None, options: LoadOptions) -> Encoder:
    """Load a model hub repository under a name; raises as `load_encoder`."""
    check_hub_id(repository)
    path = hub_folder(repository, revision, "check the name and the connection, or give a local folder")
    return load_folder(name, path, options, label=repository.rpartition("/")[2])


def load_folder(name: str, path: Path, options: LoadOptions, *, label: str) -> Encoder:
    """Load a folder that is no preset; its space is made of `label` and the files, unless they or options say it."""
    if is_student(path):
        described = describe_student(path)
        model = _student(path, None, options)
        fold = _fold_of(path, described.meta.space)
        _check_student_fold(path, described.meta.fold, fold)
        return _encoder(name, options.space or described.meta.space, model, described.sizes(), fold, options)
    checked = check_folder(path)
    own: dict[str, str] = {task: checked.prompt(names) for task, names in PROMPT_NAMES.items()}
    if options.prompts is not None:
        checked = replace(checked, prompts=own | {**options.prompts}, default_prompt=None)
    model = _open(checked, declared_exits(path), options)
    space = f"{label}@{fingerprint(checked)}/{model.dimension}/{model.pooling}"
    if dict(model.prompts) != own:
        space += f"/prompts-{hashlib.sha256(repr(sorted(model.prompts.items())).encode()).hexdigest()[:8]}"
    fold = _fold_of(path, space)
    full = model.exits[-1]
    sizes = read_sizes(path, layers=full, dimension=model.dimension)
    if sizes is None:
        dimensions = (model.dimension,) if fold is None else fold_dimensions(model.dimension)
        sizes = Sizes((full,), dimensions)
    return _encoder(name, options.space or space, model, sizes, fold, options)


def _load_preset(preset: Preset, path: Path, options: LoadOptions) -> Encoder:
    info = preset.info
    fold = shipped_fold(info.space)
    if preset.exits is not None:
        described = describe_student(path)
        if described.meta.space != info.space:
            raise ModelMismatch(
                f"{path} is a student of the space {described.meta.space}, the preset {info.name} is of {info.space}",
                hint="load the folder under a name that is no preset",
            )
        _check_student_fold(path, described.meta.fold, fold)
        return _encoder(info.name, info.space, _student(path, preset.exits, options), info.sizes, fold, options)
    checked = check_folder(path)
    check_pins(checked.path, preset.sha256)
    if preset.prompts is not None:
        prompts: dict[str, str] = {task: text for task, text in preset.prompts.items()}
        checked = replace(checked, prompts=prompts, default_prompt=None)
    model = _open(checked, info.sizes.layers, options)
    _check_preset(preset, model, checked)
    if preset.folded:
        folded = shipped_fold(info.space.rpartition("/")[0])
        if folded is None or not info.space.endswith(folded.identity):
            raise ModelMismatch(f"the fold of {info.name} is not that of {info.space}", hint="install the project anew")
        model = FoldedModel(model, folded)
    return _encoder(info.name, info.space, model, info.sizes, fold, options)


def _encoder(name: str, space: str, model: Backend, sizes: Sizes, fold: Fold | None, options: LoadOptions) -> Encoder:
    if options.temperature != 1:
        space += f"/tau{options.temperature:g}"
    return Encoder(
        name=name,
        space=space,
        model=model,
        sizes=sizes,
        fold=fold,
        threads=options.threads or _cores(),
        allow_untrained=options.allow_untrained,
    )


def _open(folder: ModelFolder, exits: tuple[int, ...] | None, options: LoadOptions) -> Backend:
    """Load a sentence-transformers folder in the runtime that is asked for, or the first that can.

    `exits` are those that requests may name; None is the whole model.
    """
    if options.runtime != "torch":
        reason = _cannot_export(folder)
        if reason is None:
            from models.onnx_model import load_onnx

            # Exits that nobody may ask for only make the graph larger.
            ends = None if options.allow_untrained else exits or ()
            return load_onnx(folder, exits=ends, query_weights=options.query_weights, temperature=options.temperature)
        if options.runtime == "onnx":
            raise UnsupportedRuntime(
                f"{folder.path} cannot be served by ONNX Runtime: {reason}", hint="use the runtime torch, or auto"
            )
    import torch

    from models.sentence_model import SentenceModel

    torch.set_num_threads(1)
    return SentenceModel(folder, temperature=options.temperature)


def _student(path: Path, exits: tuple[int, ...] | None, options: LoadOptions) -> Backend:
    if options.temperature != 1 or options.runtime == "torch" or options.prompts is not None:
        raise UnsupportedRuntime(
            f"{path} is a student: it has its own runtime and no prompts, and only as trained is it of its space",
            hint="leave out runtime, temperature and prompts",
        )
    if exits == (0,) or describe_student(path).shape.layers == 0:
        from models.static_model import StaticModel

        return StaticModel(path)
    from models.student_onnx import StudentModel

    # In whole numbers throughout: as near to the teacher as with float32, at two thirds of the time (docs/log.md).
    return StudentModel(path, weights="int8-all")


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def model_folder(name: str) -> Path:
    """Return the folder of a preset or of a model hub repository; raises UnknownEncoder or ModelNotFound."""
    preset = find_preset(name)
    if preset is not None:
        return preset_folder(preset)
    check_hub_id(name)
    return hub_folder(name, None, "check the name and the connection, or give a local folder")


def preset_folder(preset: Preset) -> Path:
    """Return the folder of a preset's files: this package's own, an installed package's, or one from the model hub."""
    if preset.folder is not None:
        return preset.folder
    packaged = package_folder(preset.package) if preset.package is not None else None
    hint = "give the model as a local folder"
    if preset.extra is not None:
        hint += f", or install this project with its extra '{preset.extra}', which brings the files"
    return packaged or hub_folder(preset.info.source, preset.revision, hint)


def _fold_of(path: Path, space: str) -> Fold | None:
    return Fold.read(path / FOLD_FILE) if (path / FOLD_FILE).is_file() else shipped_fold(space)


def _check_student_fold(path: Path, stated: str | None, fold: Fold | None) -> None:
    if stated is not None and (fold is None or fold.identity != stated):
        raise ModelMismatch(
            f"{path} was trained for prefixes of the fold {stated}, its space has {fold.identity if fold else 'none'}",
            hint=f"put that fold into the folder as {FOLD_FILE}",
        )


def _check_preset(preset: Preset, model: Backend, folder: ModelFolder) -> None:
    """Refuse configuration files that make another space out of the pinned weights."""
    for what, found, wanted in (
        ("dimension", model.dimension, preset.info.dimension),
        ("layers", model.exits[-1], preset.info.layers),
        ("pooling", model.pooling, preset.pooling),
        ("prompts", any(model.prompts.values()), preset.prompts is not None),
    ):
        if found != wanted:
            raise ModelMismatch(
                f"{folder.path}: {what} is {found}, the preset {preset.info.name} has {wanted}",
                hint="restore the original configuration, or load the folder under a name that is no preset",
            )


def _cannot_export(folder: ModelFolder) -> str | None:
    try:
        from models.onnx_model import can_export
    except ImportError as error:
        return f"{error.name} is missing"
    return can_export(folder)
