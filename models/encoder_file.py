"""Encoders and pairs that an operator names in a TOML file, beside the presets.

    [encoders.house]
    folder = "models/house"              # relative to this file; or source = "owner/name" with revision = "..."
    space = "house-1"                    # without it, the space follows from the files when they are loaded
    query_prompt = "query: "             # prompts stand in for those that the files name
    document_prompt = "passage: "

    [encoders.house-small]
    source = "owner/house-small"
    revision = "0123456789abcdef0123456789abcdef01234567"
    space = {same-as = "house"}          # it was trained to read that space: a preset's, or one that is named here
    runtime = "torch"                    # auto, onnx, torch
    allow_untrained = true               # sizes that it was not trained for

    [pairs.house-fast]
    document = "house"
    query = "house-small"

Reads the file and checks it; loads nothing.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from models.backend import Task
from models.encoder import Encoder
from models.errors import InvalidEncoderFile, UnknownEncoder
from models.folder import HUB_ID
from models.loading import LoadOptions, load_folder, load_hub
from models.presets import find_preset

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
RESERVED = frozenset({"none"})
SAME_AS = "same-as"
KINDS: dict[str, tuple[type, ...]] = {
    "source": (str,),
    "folder": (str,),
    "revision": (str,),
    "space": (str, dict),
    "temperature": (float, int),
    "query_prompt": (str,),
    "document_prompt": (str,),
    "runtime": (str,),
    "allow_untrained": (bool,),
}
PROMPT_KEYS: dict[Task, str] = {"query": "query_prompt", "document": "document_prompt"}
WORDS = {str: "a text", dict: "a table", float: "a number", int: "a whole number", bool: "true or false"}


@dataclass(frozen=True, slots=True)
class DefinedEncoder:
    """One encoder of the file.

    Attributes
    ----------
    name : the name it is given.
    source : model hub repository, or None.
    folder : local folder, absolute, or None; one of the two is given.
    revision : commit, branch or tag of the repository; None is the main branch.
    options : how it is loaded, but for the threads. `options.space` is the name that is given to its space, without
        the temperature; None: it follows from the files.
    """

    name: str
    source: str | None
    folder: Path | None
    revision: str | None
    options: LoadOptions

    @property
    def space(self) -> str | None:
        """The space that it is going to have, where that is known without its files."""
        tau = self.options.temperature
        return None if self.options.space is None else self.options.space + ("" if tau == 1 else f"/tau{tau:g}")

    def load(self, *, threads: int | None = None) -> Encoder:
        """Load it; raises as `models.load_encoder`."""
        options = replace(self.options, threads=threads)
        if self.folder is not None:
            return load_folder(self.name, self.folder, options, label=self.folder.resolve().name)
        if self.source is None:
            raise UnknownEncoder(f"encoder {self.name} has neither source nor folder")
        return load_hub(self.name, self.source, self.revision, options)


@dataclass(frozen=True, slots=True)
class EncoderFile:
    """What a file defines: encoders by name, and pairs by name as (document, query) encoders."""

    encoders: Mapping[str, DefinedEncoder]
    pairs: Mapping[str, tuple[str, str]]


def read_encoder_file(path: Path) -> EncoderFile:
    """Read and check a file of encoder definitions.

    Raises
    ------
    InvalidEncoderFile
        It cannot be read, or a key is unknown, missing, of the wrong type or at odds with another; the message names
        the file and the key.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidEncoderFile(f"{path} cannot be read: {error}", hint="give a TOML file") from error
    reader = _Reader(path)
    reader.check_keys("", tables, {"encoders": (dict,), "pairs": (dict,)})
    drafts = {name: reader.draft(name, table) for name, table in reader.tables(tables, "encoders")}
    encoders = {name: reader.encoder(name, drafts) for name in drafts}
    pairs = {name: reader.pair(name, table, encoders) for name, table in reader.tables(tables, "pairs")}
    return EncoderFile(encoders, pairs)


@dataclass(frozen=True, slots=True)
class _Reader:
    """Checks the tables of one file; every refusal names it and the key."""

    path: Path

    def refusal(self, key: str, message: str, hint: str = "correct the file") -> InvalidEncoderFile:
        return InvalidEncoderFile(f"{self.path}: {key}: {message}", hint=hint)

    def check_keys(self, where: str, table: Mapping[str, Any], kinds: Mapping[str, tuple[type, ...]]) -> None:
        for key, value in table.items():
            full = f"{where}.{key}" if where else key
            if key not in kinds:
                raise self.refusal(full, "there is no such key", f"use {', '.join(kinds)}")
            if not isinstance(value, kinds[key]) or (isinstance(value, bool) and bool not in kinds[key]):
                raise self.refusal(full, f"{value!r} is not {' or '.join(WORDS[kind] for kind in kinds[key])}")

    def tables(self, tables: Mapping[str, Any], kind: str) -> Iterator[tuple[str, dict[str, Any]]]:
        for name, table in tables.get(kind, {}).items():
            key = f"{kind}.{name}"
            if not isinstance(table, dict):
                raise self.refusal(key, "not a table")
            if NAME.fullmatch(name) is None:
                raise self.refusal(key, "a name is made of letters, digits, '.', '_' and '-', the first no sign")
            if name in RESERVED or find_preset(name) is not None:
                raise self.refusal(key, "the name is taken", "take a name that is no preset's")
            yield name, table

    def draft(self, name: str, table: Mapping[str, Any]) -> tuple[Mapping[str, Any], DefinedEncoder]:
        """Read one encoder, but for a space that is another one's."""
        where = f"encoders.{name}"
        self.check_keys(where, table, KINDS)
        source, folder = table.get("source"), table.get("folder")
        if (source is None) == (folder is None):
            raise self.refusal(where, "give either source or folder")
        if source is not None and (HUB_ID.fullmatch(source) is None or ".." in source):
            raise self.refusal(f"{where}.source", f"{source!r} is no model hub repository", "write 'owner/name'")
        if "revision" in table and source is None:
            raise self.refusal(f"{where}.revision", "a folder has no revisions")
        try:
            options = LoadOptions(
                runtime=table.get("runtime", "auto"),
                temperature=float(table.get("temperature", 1.0)),
                allow_untrained=table.get("allow_untrained", False),
                prompts={task: table[key] for task, key in PROMPT_KEYS.items() if key in table} or None,
            )
        except ValueError as error:
            raise self.refusal(where, str(error)) from error
        path = None if folder is None else (self.path.parent / folder).absolute()
        return table, DefinedEncoder(name, source, path, table.get("revision"), options)

    def encoder(self, name: str, drafts: Mapping[str, tuple[Mapping[str, Any], DefinedEncoder]]) -> DefinedEncoder:
        """Give an encoder its space."""
        encoder = drafts[name][1]
        space = self._space(name, drafts, ())
        return encoder if space is None else replace(encoder, options=replace(encoder.options, space=space))

    def _space(
        self, name: str, drafts: Mapping[str, tuple[Mapping[str, Any], DefinedEncoder]], behind: tuple[str, ...]
    ) -> str | None:
        table, encoder = drafts[name]
        key, space = f"encoders.{name}.space", table.get("space")
        if isinstance(space, str) and not space.strip():
            raise self.refusal(key, "a space has a name")
        if not isinstance(space, dict):
            return space
        other = space.get(SAME_AS)
        if set(space) != {SAME_AS} or not isinstance(other, str):
            raise self.refusal(key, f"{space!r} is neither a name nor {{{SAME_AS} = 'NAME'}}")
        if encoder.options.temperature != 1:
            raise self.refusal(key, "a temperature makes another space than that of an encoder without it")
        preset = find_preset(other)
        if preset is not None:
            return preset.info.space
        if other not in drafts or other in (*behind, name):
            raise self.refusal(key, f"{other!r} is no preset, and no other encoder of this file that leads to a space")
        found = self._space(other, drafts, (*behind, name))
        if found is None:
            raise self.refusal(key, f"{other} does not say its space", f"name it: encoders.{other}.space")
        return replace(drafts[other][1], options=replace(drafts[other][1].options, space=found)).space

    def pair(self, name: str, table: Mapping[str, Any], encoders: Mapping[str, DefinedEncoder]) -> tuple[str, str]:
        """Read one pair."""
        where = f"pairs.{name}"
        self.check_keys(where, table, {"document": (str,), "query": (str,)})
        found, spaces = [], []
        for key in ("document", "query"):
            if key not in table:
                raise self.refusal(where, f"{key} is missing")
            preset = find_preset(table[key])
            if preset is None and table[key] not in encoders:
                raise self.refusal(f"{where}.{key}", f"{table[key]!r} is neither a preset nor an encoder of this file")
            found.append(table[key] if preset is None else preset.info.name)
            spaces.append(encoders[table[key]].space if preset is None else preset.info.space)
        if name in encoders and name not in found:
            raise self.refusal(where, "the name is that of an encoder outside of the pair")
        if None not in spaces and spaces[0] != spaces[1]:
            raise self.refusal(where, f"documents are of the space {spaces[0]}, queries of {spaces[1]}")
        return found[0], found[1]
