"""Who is measured: encoders of the default space at their exits, and sentence-transformers beside them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from models import Encoder, load_encoder
from models.errors import InvalidText
from models.loading import model_folder
from models.presets import find_preset
from models.student_folder import WEIGHTS

Floats = NDArray[np.float32]

TEACHER, STUDENT, STATIC, PEER = "minilm", "student", "static", "sentence-transformers"
INT8 = "minilm, int8"  # reads queries with weights of 8 bits
DIMENSIONS = (64, 128, 192, 256, 384)
FULL = DIMENSIONS[-1]


@dataclass(frozen=True, slots=True, order=True)
class Exit:
    """An encoder ended after some layers."""

    name: str
    layers: int

    @property
    def title(self) -> str:
        """How tables and plots call it."""
        layers = "1 layer" if self.layers == 1 else f"{self.layers} layers"
        return f"{self.name}, {layers}" if self.name == STUDENT else self.name


class Encodes(Protocol):
    """What an encoder and its peer have in common; arguments as `models.Encoder`'s."""

    def encode_queries(self, texts: Sequence[str], *, layers: int | None, dimensions: int | None) -> Floats:
        """Return (n, d) vectors in the native basis: what is cut off is zero in the basis that it was cut in."""
        ...

    def encode_documents(self, texts: Sequence[str]) -> Floats:
        """Return (n, d) unit vectors."""
        ...


class Ours:
    """An encoder of this project. Texts without a direction, which a server refuses, get zeros: they find nothing."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder

    def encode_queries(self, texts: Sequence[str], *, layers: int | None, dimensions: int | None) -> Floats:
        """See `Encodes`."""
        return self._all(texts, lambda kept: self.ask(kept, layers, dimensions))

    def ask(self, texts: Sequence[str], layers: int | None, dimensions: int | None) -> Floats:
        """Do what a server does for texts that all have a direction."""
        vectors = self.encoder.encode_queries(texts, layers=layers, dimensions=dimensions).vectors
        k = vectors.shape[1]
        return vectors if k == self.encoder.dimension else vectors @ self.encoder.axes(k)

    def encode_documents(self, texts: Sequence[str]) -> Floats:
        """See `Encodes`."""
        return self._all(texts, lambda kept: self.encoder.encode_documents(kept).vectors)

    def _all(self, texts, encode) -> Floats:  # noqa: ANN001
        out, kept = np.zeros((len(texts), self.encoder.dimension), np.float32), list(range(len(texts)))
        while kept:
            try:
                out[kept] = encode([texts[i] for i in kept])
                break
            except InvalidText as error:
                del kept[error.index]
        return out


class Peer:
    """sentence-transformers in float32, in this process: what users have without a service."""

    def __init__(self, threads: int) -> None:
        import torch
        from sentence_transformers import SentenceTransformer

        self._model = SentenceTransformer(str(model_folder(TEACHER)), device="cpu", local_files_only=True)
        torch.set_num_threads(threads)

    def encode_queries(self, texts: Sequence[str], *, layers: int | None, dimensions: int | None) -> Floats:
        """See `Encodes`; it has one size."""
        if layers is not None or dimensions not in (None, FULL):
            raise ValueError("sentence-transformers is measured whole")
        return self.encode_documents(texts)

    def encode_documents(self, texts: Sequence[str]) -> Floats:
        """See `Encodes`."""
        vectors: Floats = self._model.encode(
            list(texts), batch_size=32, normalize_embeddings=True, show_progress_bar=False
        )
        return vectors


@dataclass(frozen=True, slots=True)
class Contestants:
    """Where the encoders come from.

    Attributes
    ----------
    student : folder of a student that is measured in place of the one that ships; its exit 0 stands for `static`.
    """

    student: Path | None = None

    @property
    def folder(self) -> Path:
        """The student's folder."""
        preset = find_preset(STUDENT)
        found = self.student or (preset.folder if preset else None)
        if found is None:
            raise SystemExit("no student ships with this checkout: give one with --student FOLDER")
        return found

    @property
    def version(self) -> str:
        """Eight hex digits of the student's weights: measurements of different students never mix."""
        return hashlib.sha256((self.folder / WEIGHTS).read_bytes()).hexdigest()[:8]

    def load(self, name: str, threads: int) -> Ours | Peer:
        """Load one by name."""
        if name == PEER:
            return Peer(threads)
        if name in (TEACHER, INT8):
            weights: Literal["float32", "int8"] = "int8" if name == INT8 else "float32"
            return Ours(load_encoder(TEACHER, threads=threads, query_weights=weights))
        if find_preset(name) is not None and self.student is None:
            return Ours(load_encoder(name, threads=threads))
        if name == STATIC:
            return Ours(_only_table(self.folder, threads))
        return Ours(load_encoder("measured", folder=self.folder, threads=threads))

    def exits(self) -> list[Exit]:
        """Return who encodes queries: the teacher with either weights, each exit of the student, the table alone."""
        from models.student_folder import describe_student

        layers = [k for k in describe_student(self.folder).shape.exits if k]
        return [Exit(TEACHER, 6), Exit(INT8, 6), *(Exit(STUDENT, k) for k in reversed(layers)), Exit(STATIC, 0)]


def _only_table(folder: Path, threads: int) -> Encoder:
    """Return exit 0 of a student by itself, as the preset of the shipped one is loaded."""
    from models.presets import shipped_fold
    from models.static_model import StaticModel
    from models.student_folder import describe_student

    described = describe_student(folder)
    return Encoder(
        name=STATIC,
        space=described.meta.space,
        model=StaticModel(folder),
        sizes=described.sizes((0,)),
        fold=shipped_fold(described.meta.space),
        threads=threads,
    )
