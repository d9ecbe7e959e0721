"""Texts to train on: out of files, each once, short enough to be read whole, shuffled so that any part is fair."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from models.errors import InvalidText, ModelNotFound

MOST_CHARACTERS = 256  # about 60 tokens: queries are shorter, and encoding costs by the token


def read_texts(paths: Iterable[Path], *, most_characters: int = MOST_CHARACTERS, seed: int = 0) -> list[str]:
    """Return the distinct texts of files, shuffled.

    Parameters
    ----------
    paths : `.jsonl` (rows with `text` and perhaps `title`, which goes before it) or plain text with a text a line;
        either may end in `.gz`.
    most_characters : longer texts are cut at the last blank before it, and what is left is the text: teacher and
        student read the same.
    seed : of the order.

    Raises
    ------
    ModelNotFound
        A file does not exist.
    InvalidText
        A row is no JSON object with a text; the message names file and line. Or there are no texts at all.
    """
    found = dict.fromkeys(cut(text, most_characters) for path in paths for text in _texts(path))
    found.pop("", None)
    if not found:
        raise InvalidText("there are no texts in the files", index=0, hint="give files with a text a line")
    texts = list(found)
    return [texts[i] for i in np.random.default_rng(seed).permutation(len(texts))]


def cut(text: str, most: int) -> str:
    """Return a text of at most `most` characters, cut behind a word where there is one to cut behind."""
    text = text.strip()
    if len(text) <= most:
        return text
    head = text[: most + 1]
    place = max(head.rfind(" "), head.rfind("\n"))
    return head[: place if place > 0 else most].strip()


def _texts(path: Path) -> Iterator[str]:
    if not path.is_file():
        raise ModelNotFound(f"there is no file {path}", hint="name files with texts")
    rows = ".jsonl" in path.suffixes
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield _row(line, f"{path}:{number}", number) if rows else line


def _row(line: str, where: str, number: int) -> str:
    try:
        row = json.loads(line)
        title, text = row.get("title") or "", row["text"]
    except (ValueError, AttributeError, KeyError) as error:
        raise InvalidText(f"{where}: not an object with a text: {error}", index=number) from None
    if not isinstance(text, str) or not isinstance(title, str):
        raise InvalidText(f"{where}: text or title is not a string", index=number)
    return f"{title} {text}" if title else text
