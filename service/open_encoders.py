"""The encoders that a server offers: presets, folders of a directory, definitions of a file, and the default."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from models import EncoderInfo, ModelNotFound, default_pair, describe_encoders, load_encoder
from models.encoder_file import DefinedEncoder, EncoderFile, read_encoder_file
from models.loading import QueryWeights, RuntimeChoice
from models.student_folder import is_student
from service.encoders import DEFAULT, NONE, Encoders, Known, Pair
from service.text_encoder import TextEncoder


def open_encoders(
    *,
    default: str,
    model_dir: Path | None,
    threads: int,
    file: Path | None = None,
    runtime: RuntimeChoice = "auto",
    allow_untrained: bool = False,
    query_weights: QueryWeights = "float32",
) -> Encoders:
    """Return the encoders that a server offers; nothing is loaded yet.

    Parameters
    ----------
    default : a preset, a pair or an alias, a folder's name, a model hub id, or `none` for no encoder at all.
    model_dir : a directory of model folders; a folder of an encoder's name is used for it.
    threads : threads that encode; 0 takes one per core.
    file : TOML definitions of more encoders and pairs, see `models.encoder_file`.
    runtime : what computes encoders, where neither their kind nor the file says it.
    allow_untrained : allow sizes that an encoder has, but was not trained for.
    query_weights : weights by which encoders in ONNX Runtime read queries.

    Raises
    ------
    ModelNotFound
        `model_dir` is no directory.
    InvalidEncoderFile
        The definitions cannot be read.
    """
    if default == NONE:
        return Encoders(load=load_encoder, names={}, default=None)
    presets = {info.name: info for info in describe_encoders()}
    folders = {} if model_dir is None else _folders(model_dir)
    defined = EncoderFile({}, {}) if file is None else read_encoder_file(file)
    names = {name: _of_preset(info, list(presets.values())) for name, info in presets.items()}
    names |= {name: _of_folder(names.get(name, Known())) for name in folders}
    names |= {name: _of_file(encoder) for name, encoder in defined.encoders.items()}
    pairs = {name: Pair(*default_pair(name)) for name in presets}
    pairs |= {name: Pair(*pair) for name, pair in defined.pairs.items()}
    aliases = {alias: info.name for info in presets.values() for alias in info.aliases}
    aliases = {alias: name for alias, name in aliases.items() if alias not in names and alias not in pairs}

    def load(name: str) -> TextEncoder:
        if name in defined.encoders:
            own = _with(defined.encoders[name], runtime, allow_untrained, query_weights)
            return own.load(threads=threads or None)
        folder = folders.get(name)
        fixed = name in presets and presets[name].runtime != "auto"
        return load_encoder(
            name,
            folder=folder,
            threads=threads or None,
            runtime="auto" if fixed else _runtime(folder, runtime),
            allow_untrained=allow_untrained,
            query_weights=query_weights,
        )

    return Encoders(
        load=load,
        names=names,
        default=aliases.get(default, default),
        pairs={name: pair for name, pair in pairs.items() if pair != (name, name)},
        aliases={alias: name for alias, name in aliases.items() if alias != DEFAULT},
    )


def _folders(model_dir: Path) -> dict[str, Path]:
    if not model_dir.is_dir():
        raise ModelNotFound(f"there is no directory {model_dir}", hint="correct BITFOLD_MODEL_DIR, or leave it out")
    return {path.name: path for path in sorted(model_dir.iterdir()) if path.is_dir()}


def _with(
    encoder: DefinedEncoder, runtime: RuntimeChoice, allow_untrained: bool, query_weights: QueryWeights
) -> DefinedEncoder:
    """Return a defined encoder with the server's settings, where it has none of its own."""
    options = encoder.options
    chosen = _runtime(encoder.folder, runtime) if options.runtime == "auto" else options.runtime
    return replace(
        encoder,
        options=replace(
            options,
            runtime=chosen,
            allow_untrained=options.allow_untrained or allow_untrained,
            query_weights="float32" if chosen == "torch" else query_weights,
        ),
    )


def _runtime(folder: Path | None, wanted: RuntimeChoice) -> RuntimeChoice:
    """Return the server's choice, but for a student, which runs in one way only."""
    return "auto" if folder is not None and is_student(folder) else wanted


def _of_preset(info: EncoderInfo, presets: Sequence[EncoderInfo]) -> Known:
    return Known(
        space=info.space,
        dimension=info.dimension,
        max_tokens=info.max_tokens,
        sizes=info.sizes,
        runtime=None if info.runtime == "auto" else info.runtime,
        role=_role(info, presets),
        details={"source": info.source, "license": info.license, "aliases": list(info.aliases)},
    )


def _role(info: EncoderInfo, presets: Sequence[EncoderInfo]) -> str:
    """Say what an encoder is among those of its space: one of them is what the others were trained to read."""
    others = [other for other in presets if other.space == info.space and other.name != info.name]
    if any(other.family == info.name for other in others):
        return "teacher"
    if any(info.family == other.name for other in others):
        return "student" if info.layers else "static"
    return "plain"


def _of_folder(known: Known) -> Known:
    return replace(known, details={**(known.details or {}), "source": "folder"})


def _of_file(encoder: DefinedEncoder) -> Known:
    return Known(space=encoder.space, details={"source": encoder.source or "folder"})
