"""A student from nothing but a teacher and files of texts: the whole way, each part of it kept on disk.

Texts, then the teacher's vectors of them (a cache), then training (checkpoints), then a student folder with its record.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.distill.card import CARD, card
from models.distill.export import student_weights
from models.distill.options import StudentOptions, StudentProgress
from models.distill.start import TeacherParts, token_texts
from models.distill.teacher_vectors import Encoding, TeacherVectors
from models.distill.texts import read_texts
from models.distill.tokens import Tokens
from models.distill.training import DistillData, record, train_student
from models.encoder import Encoder
from models.errors import ModelError
from models.safe_files import write_safely
from models.static_model import load_tokenizer
from models.student_folder import StudentMeta, write_student

UNFINISHED = "unfinished"  # folder, in that of the student, for checkpoints
SHORT = 140  # characters of a text that is encoded among the first


@dataclass(frozen=True, kw_only=True)
class Sources:
    """What a student is made of.

    Attributes
    ----------
    teacher : loaded; its space is the student's.
    folder : the teacher's files; its tokenizer is the student's.
    texts : files to train on.
    most_texts : of them, chosen by the seed; None takes all.
    cache : folder for the teacher's vectors, which any number of students may share.
    license : SPDX identifier of the student.
    """

    teacher: Encoder
    folder: Path
    texts: Sequence[Path]
    most_texts: int | None
    cache: Path
    license: str = "Apache-2.0"


def make_student(
    sources: Sources,
    options: StudentOptions,
    out: Path,
    *,
    on_encoding: Callable[[Encoding], None] = lambda _: None,
    on_progress: Callable[[StudentProgress], None] = lambda _: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Make a student in a folder, or go on making it; return its training record.

    Raises
    ------
    ModelNotFound, InvalidText, InvalidSize, TooFewVectors, TrainingCancelled, ModelError
        See `models.errors`. What is done stays on disk.
    """
    texts = read_texts(sources.texts, seed=options.seed)[: sources.most_texts]
    # Short ones first: a cache that is still being filled serves as many texts as it can.
    texts.sort(key=lambda text: len(text) > SHORT)
    cache = TeacherVectors(sources.cache, sources.teacher.space)

    def encode(piece: Sequence[str]) -> NDArray[np.float32]:
        return sources.teacher.encode_documents(piece).vectors

    tokenizer_file = sources.folder / "tokenizer.json"
    content = _plain_tokenizer(tokenizer_file)
    vocabulary = _vocabulary(content)
    tokenizer = load_tokenizer(tokenizer_file, vocabulary)
    unknown = tokenizer.token_to_id("[UNK]")
    if unknown is None:
        raise ModelError(f"{tokenizer_file} has no [UNK]", hint="use a teacher with a WordPiece tokenizer")
    words = token_texts(tokenizer, vocabulary)
    for some in (words, texts):
        cache.fill(some, encode, on_progress=on_encoding, cancelled=cancelled)
    data = DistillData(
        tokens=Tokens.of(texts, tokenizer, unknown),
        vectors=cache.read(texts),
        token_vectors=cache.read(words).astype(np.float32),
        teacher=TeacherParts.read(sources.folder) if options.layers else None,
    )
    trained = train_student(data, options, folder=out / UNFINISHED, on_progress=on_progress, cancelled=cancelled)
    told = {
        "teacher": sources.teacher.name,
        "texts": [{"name": path.name, "sha256": _digest(path)} for path in sources.texts],
        **record(trained.report, options),
    }
    write_student(
        out,
        student_weights(trained.static, trained.context, options, special=_special(content, unknown)),
        meta=StudentMeta(space=sources.teacher.space, license=sources.license, training=told),
        tokenizer=content,
    )
    with write_safely(out / CARD) as file:
        file.write(card(told, space=sources.teacher.space, license=sources.license).encode())
    return told


def _plain_tokenizer(path: Path) -> bytes:
    """Return a tokenizer's file without settings that cut or pad."""
    said = json.loads(path.read_bytes())
    return json.dumps(said | {"truncation": None, "padding": None}, ensure_ascii=False, separators=(",", ":")).encode()


def _vocabulary(tokenizer: bytes) -> int:
    return int(max(json.loads(tokenizer)["model"]["vocab"].values())) + 1


def _special(tokenizer: bytes, unknown: int) -> list[int]:
    added = json.loads(tokenizer)["added_tokens"]
    return [token["id"] for token in added if token["special"] and token["id"] != unknown]


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
