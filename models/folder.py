"""Model folders: where they are, whether they are whole and safe, what identifies them.

Works on files only. Knows no torch: everything here happens before a library is given the folder.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from models.errors import ModelError, ModelMismatch, ModelNotFound, UnknownEncoder, UnsafeModel

PICKLE_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"})
WEIGHTS = "model.safetensors"
WEIGHTS_IN_PARTS = "model.safetensors.index.json"  # read by Transformer alone
ROUTERS = frozenset({"Router", "Asym"})
ROUTER_CONFIGS = ("router_config.json", "config.json")  # in the order in which the library looks
TOKENIZER_NAMES = ("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model", "sentencepiece.bpe.model")
IDENTITY_SUFFIXES = frozenset({".json", ".safetensors", ".txt", ".model", ".jinja"})
# Written beside a model for serving it; none of them changes its whole vectors.
NO_IDENTITY = frozenset({"bitfold_fold.safetensors", "bitfold_onnx.json", "bitfold_sizes.json", "training.json"})
DOWNLOAD_PATTERNS = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")
OTHER_BACKENDS = ("onnx/*", "openvino/*")
HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A checked folder.

    Attributes
    ----------
    path : the folder.
    modules : folders of its modules in the order of `modules.json`, the root among them; a router is followed by
        the modules that it routes to.
    prompts : prompts that the model's own configuration names, empty ones included.
    default_prompt : name of the prompt for texts of no other kind, or None.
    """

    path: Path
    modules: tuple[Path, ...]
    prompts: Mapping[str, str]
    default_prompt: str | None

    def prompt(self, names: Iterable[str]) -> str:
        """Prompt for one kind of text, "" if the model has none.

        The first of `names` with a text wins. The default prompt stands in only if the model names none of
        them: an empty prompt that it names is a statement.
        """
        named = [self.prompts[name] for name in names if name in self.prompts]
        if not named and self.default_prompt is not None:
            return self.prompts[self.default_prompt]
        return next((prompt for prompt in named if prompt), "")


def package_folder(package: str) -> Path | None:
    """Return the `model` folder of an installed package, found without importing it, or None."""
    spec = importlib.util.find_spec(package)
    for location in (spec.submodule_search_locations or ()) if spec is not None else ():
        folder = Path(location) / "model"
        if folder.is_dir():
            return folder
    return None


def check_hub_id(name: str) -> None:
    """Refuse a name that the model hub could not have, above all paths.

    Raises
    ------
    UnknownEncoder
    """
    if HUB_ID.fullmatch(name) is None or ".." in name or Path(name).exists():
        raise UnknownEncoder(
            f"encoder {name!r} is not known",
            hint="name a preset or a model hub repository ('owner/name'); a local model is given as a folder",
        )


def hub_folder(repository: str, revision: str | None, hint: str) -> Path:
    """Download a repository's configuration, tokenizer and safetensors files (never pickles or code).

    Parameters
    ----------
    repository : `owner/name`.
    revision : commit, branch or tag; None is the main branch.
    hint : what the user can do when the hub does not answer.

    Raises
    ------
    ModelNotFound
        No such repository, or the hub cannot be reached and the local cache has no copy.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    bars = not are_progress_bars_disabled()
    try:
        disable_progress_bars()
        path = snapshot_download(
            repository,
            revision=revision,
            allow_patterns=list(DOWNLOAD_PATTERNS),
            ignore_patterns=list(OTHER_BACKENDS),
        )
    except Exception as error:  # the client raises its own, the HTTP library's and OSError
        raise ModelNotFound(
            f"{repository}, revision {revision or 'main'}, did not come from the hub: {type(error).__name__}",
            hint=hint,
        ) from error
    finally:
        if bars:
            enable_progress_bars()
    return Path(path)


def check_folder(path: Path) -> ModelFolder:
    """Check that a sentence-transformers folder is whole and that loading it runs no code of its own.

    Raises
    ------
    ModelNotFound
        The folder or one of its files is missing.
    UnsafeModel
        A module has only pickle weights, or is not one of the library's own.
    ModelError
        A configuration file cannot be read.
    """
    if not path.is_dir():
        raise ModelNotFound(f"no model folder at {path}", hint="give the folder that holds modules.json")
    entries = _read_json(path, "modules.json")
    if not isinstance(entries, list) or not entries:
        raise ModelError(f"{path / 'modules.json'} is not a list of modules")
    modules = tuple(module for entry in entries for module in _check_entry(path, entry))
    prompts, default = _read_prompts(path)
    return ModelFolder(path=path, modules=modules, prompts=prompts, default_prompt=default)


def check_pins(path: Path, pins: Mapping[str, str]) -> None:
    """Compare files with their pinned SHA-256.

    Raises
    ------
    ModelNotFound
        A pinned file is missing.
    ModelMismatch
        A file is not the pinned one.
    """
    for name, wanted in pins.items():
        found = _digest(_existing(path, name))
        if found != wanted:
            raise ModelMismatch(
                f"{path / name} is not the preset's file: SHA-256 {found[:12]}..., pinned {wanted[:12]}...",
                hint="restore the original file, or load the folder under a name that is no preset",
            )


def fingerprint(folder: ModelFolder) -> str:
    """First 12 hex digits of a SHA-256 over names and contents of configuration, tokenizer and weight files.

    Files that no module reads (model card, other backends, training leftovers in subfolders) do not count, nor what
    this project puts beside a model.
    """
    files = {file for file in folder.path.iterdir() if file.is_file()}
    for module in folder.modules:
        if module != folder.path and module.is_dir():
            files.update(file for file in module.rglob("*") if file.is_file())
    total = hashlib.sha256()
    for file in sorted(files, key=lambda file: file.relative_to(folder.path).as_posix()):
        if file.suffix in IDENTITY_SUFFIXES and file.name not in NO_IDENTITY:
            total.update(f"{file.relative_to(folder.path).as_posix()}\0{_digest(file)}\n".encode())
    return total.hexdigest()[:12]


def _check_entry(root: Path, entry: object) -> list[Path]:
    kind, relative = (entry.get("type"), entry.get("path")) if isinstance(entry, dict) else (None, None)
    if not isinstance(kind, str) or not isinstance(relative, str):
        raise ModelError(f"{root / 'modules.json'} has a module without type or path")
    return _check_module(root / "modules.json", kind, relative)


def _check_module(config: Path, kind: str, relative: str) -> list[Path]:
    """Check a module that `config` names, and all that it routes to; return their folders, its own first."""
    if not kind.startswith("sentence_transformers."):
        raise UnsafeModel(
            f"{config.parent} needs the module {kind!r}, which is code outside the sentence-transformers library",
            hint="use a model that is made of the library's own modules",
        )
    parts = PurePosixPath(relative)
    if parts.is_absolute() or ".." in parts.parts or "\\" in relative:
        raise UnsafeModel(f"{config} names a module outside the folder: {relative!r}")
    module = config.parent / parts
    name = kind.rpartition(".")[2]
    if name in ROUTERS:
        return [module, *_check_routes(module)]
    weights = (WEIGHTS, WEIGHTS_IN_PARTS) if name == "Transformer" else (WEIGHTS,)
    _check_weights(module, weights)
    if name in {"Transformer", "Pooling", "Dense"}:
        _existing(module, "config.json")
    if name in {"Transformer", "Dense", "StaticEmbedding"}:
        _existing(module, *weights)
    if name in {"Transformer", "StaticEmbedding"}:
        _existing(module, *TOKENIZER_NAMES)
    return [module]


def _check_routes(router: Path) -> list[Path]:
    """Check the modules of all routes: they lie in folders of the router's own, which `modules.json` leaves out."""
    file = _existing(router, *ROUTER_CONFIGS)
    config = _read_json(router, file.name)
    types = config.get("types") if isinstance(config, dict) else None
    if not isinstance(types, dict) or not types or not all(isinstance(kind, str) for kind in types.values()):
        raise ModelError(f"{file}: types is not an object that names a type for each module")
    if not all(PurePosixPath(name).parts for name in types):
        raise ModelError(f"{file} names the router's own folder as that of a module behind it")
    return [module for name, kind in types.items() for module in _check_module(file, kind, name)]


def _check_weights(module: Path, weights: tuple[str, ...]) -> None:
    if not module.is_dir() or any((module / name).is_file() for name in weights):
        return
    pickles = sorted(file.name for file in module.iterdir() if file.suffix in PICKLE_SUFFIXES)
    if pickles:
        raise UnsafeModel(
            f"{module} has its weights only as a pickle ({pickles[0]}), which can run code when it is read",
            hint="convert the weights to model.safetensors",
        )


def _read_prompts(path: Path) -> tuple[dict[str, str], str | None]:
    name = "config_sentence_transformers.json"
    if not (path / name).is_file():
        return {}, None
    config = _read_json(path, name)
    prompts = config.get("prompts") if isinstance(config, dict) else None
    default = config.get("default_prompt_name") if isinstance(config, dict) else None
    cleaned = {} if prompts is None else prompts
    if not isinstance(cleaned, dict) or not all(isinstance(text, str | None) for text in cleaned.values()):
        raise ModelError(f"{path / name}: prompts is not an object of texts")
    if default is not None and default not in cleaned:
        raise ModelError(f"{path / name}: default_prompt_name {default!r} is not one of the prompts")
    return {key: text or "" for key, text in cleaned.items()}, default


def _read_json(path: Path, name: str) -> object:
    file = _existing(path, name)
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{file} cannot be read as JSON: {error}") from error


def _existing(path: Path, *names: str) -> Path:
    for name in names:
        if (path / name).is_file():
            return path / name
    raise ModelNotFound(
        f"{path} has no {' or '.join(names)}",
        hint="give a complete sentence-transformers folder with safetensors weights (no pickles)",
    )


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
