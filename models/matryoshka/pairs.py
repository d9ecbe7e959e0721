"""Questions and the texts that answer them, out of files. Knows no torch.

A file is JSON lines of `{"query": ..., "positive": ..., "negatives": [...]}`; a folder is a BEIR set (corpus, queries,
judgements of one split). Both may be gzipped. What is wrong is said with file and line: nothing is left out in silence.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.errors import InvalidTrainingData

Rows = NDArray[np.int64]
_KEYS: Final = frozenset({"query", "positive", "negatives"})
_FORM: Final = 'a line is {"query": "...", "positive": "...", "negatives": ["..."]}, the last one if there are any'


@dataclass(frozen=True)
class Pairs:
    """Training pairs; every text is kept once and named by its number.

    Attributes
    ----------
    texts : all texts, queries and documents, each once.
    queries, positives : (n,) int64, numbers of texts.
    negatives : n arrays of int64, hard negatives of each pair, perhaps empty.
    """

    texts: list[str]
    queries: Rows
    positives: Rows
    negatives: list[Rows]

    def __len__(self) -> int:
        """Return how many pairs there are."""
        return len(self.queries)

    @cached_property
    def answers(self) -> dict[int, Rows]:
        """All positives of each query, by the numbers of texts: none of them is ever a negative of it."""
        found: dict[int, list[int]] = {}
        for query, positive in zip(self.queries.tolist(), self.positives.tolist(), strict=True):
            found.setdefault(query, []).append(positive)
        return {query: np.unique(np.array(positives, np.int64)) for query, positives in found.items()}

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all pairs in their order."""
        total = hashlib.sha256()
        for text in self.texts:
            total.update(text.encode() + b"\0")
        for rows in (self.queries, self.positives, *self.negatives):
            total.update(rows.tobytes() + b"\1")
        return total.hexdigest()

    def split(self, most: int, seed: int) -> tuple[Rows, Rows]:
        """Return numbers of pairs to train with and to validate with: at most `most` and a tenth, by whole queries."""
        names = np.array(sorted(self.answers), np.int64)
        order = names[np.random.default_rng((seed, 0)).permutation(len(names))]
        held = order[: min(most, len(names) // 10)]
        chosen = np.isin(self.queries, held)
        return np.flatnonzero(~chosen), np.flatnonzero(chosen)


@dataclass
class _Gathered:
    """Pairs while they are read."""

    numbers: dict[str, int]
    queries: list[int]
    positives: list[int]
    negatives: list[Rows]
    places: list[str]

    def number(self, text: object, what: str, where: str) -> int:
        if not isinstance(text, str) or not text.strip():
            raise InvalidTrainingData(f"{where}: the {what} is {'empty' if text == '' else 'no text'}", hint=_FORM)
        try:
            text.encode()
        except UnicodeEncodeError:
            raise InvalidTrainingData(f"{where}: the {what} is not valid Unicode") from None
        return self.numbers.setdefault(text, len(self.numbers))

    def add(self, query: object, positive: object, negatives: Sequence[object], where: str) -> None:
        self.queries.append(self.number(query, "query", where))
        self.positives.append(self.number(positive, "positive", where))
        self.negatives.append(np.array([self.number(text, "negative", where) for text in negatives], np.int64))
        self.places.append(where)

    def pairs(self) -> Pairs:
        made = Pairs(
            list(self.numbers),
            np.array(self.queries, np.int64),
            np.array(self.positives, np.int64),
            self.negatives,
        )
        for query, negatives, where in zip(self.queries, self.negatives, self.places, strict=True):
            if np.isin(negatives, made.answers[query]).any():
                raise InvalidTrainingData(
                    f"{where}: a negative is also a positive of the same query", hint="take it out of the negatives"
                )
        return made


def read_pairs(paths: Sequence[Path], *, split: str = "train") -> Pairs:
    """Read pairs of files and BEIR folders.

    Parameters
    ----------
    split : of BEIR folders: `qrels/SPLIT.tsv`. Grades above 0 are positives, others hard negatives of their query.

    Raises
    ------
    InvalidTrainingData
        A file is missing, damaged, or a line of it is no pair; the message names file and line. Or there is none.
    """
    gathered = _Gathered({}, [], [], [], [])
    for path in paths:
        if path.is_dir():
            _read_beir(path, split, gathered)
        else:
            _read_lines(path, gathered)
    if not gathered.queries:
        raise InvalidTrainingData(f"{', '.join(map(str, paths)) or 'no files'}: there are no pairs", hint=_FORM)
    return gathered.pairs()


def _read_lines(path: Path, gathered: _Gathered) -> None:
    for where, row in _objects(path):
        unknown = sorted(set(row) - _KEYS)
        if unknown or not {"query", "positive"} <= set(row):
            wrong = f"there is no key {unknown[0]!r} in a pair" if unknown else "query or positive is missing"
            raise InvalidTrainingData(f"{where}: {wrong}", hint=_FORM)
        negatives = row.get("negatives") or []
        if not isinstance(negatives, list):
            raise InvalidTrainingData(f"{where}: negatives are not a list", hint=_FORM)
        gathered.add(row["query"], row["positive"], negatives, where)


def _read_beir(folder: Path, split: str, gathered: _Gathered) -> None:
    judged = _judgements(folder / "qrels" / f"{split}.tsv")
    queries = _texts(_either(folder, "queries.jsonl"), {query for query, _ in judged})
    documents = _texts(_either(folder, "corpus.jsonl"), {document for _, document in judged})
    against: dict[str, list[str]] = {}
    for (query, document), (grade, where) in judged.items():
        for name, known, what in ((query, queries, "query"), (document, documents, "document")):
            if name not in known:
                raise InvalidTrainingData(f"{where}: there is no {what} {name!r} in {folder}")
        if grade <= 0:
            against.setdefault(query, []).append(documents[document])
    for (query, document), (grade, where) in judged.items():
        if grade > 0:
            gathered.add(queries[query], documents[document], against.get(query, []), where)


def _judgements(path: Path) -> dict[tuple[str, str], tuple[int, str]]:
    """Return grade and place by query and document, in the order of the file."""
    found: dict[tuple[str, str], tuple[int, str]] = {}
    for number, line in _lines(path):
        parts = line.rstrip("\r\n").split("\t")
        if number == 1 and not parts[-1].lstrip("-").isdigit():
            continue  # the header
        try:
            query, document, grade = parts
            found[query, document] = int(grade), f"{path}:{number}"
        except ValueError:
            raise InvalidTrainingData(f"{path}:{number}: not 'query-id, corpus-id, score'") from None
    return found


def _texts(path: Path, wanted: set[str]) -> dict[str, str]:
    found = {}
    for where, row in _objects(path):
        name, title, text = row.get("_id"), row.get("title") or "", row.get("text")
        if not isinstance(name, str) or not isinstance(title, str) or not isinstance(text, str):
            raise InvalidTrainingData(f"{where}: not an object with _id and text")
        if name in wanted:
            found[name] = f"{title} {text}".strip()
    return found


def _either(folder: Path, name: str) -> Path:
    return folder / name if (folder / name).is_file() else folder / f"{name}.gz"


def _objects(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in _lines(path):
        where = f"{path}:{number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InvalidTrainingData(f"{where}: not JSON: {error}", hint=_FORM) from None
        if not isinstance(row, dict):
            raise InvalidTrainingData(f"{where}: not a JSON object", hint=_FORM)
        yield where, row


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines that are not blank, with their numbers."""
    if not path.is_file():
        raise InvalidTrainingData(f"{path}: there is no such file", hint="give JSON lines, or a BEIR folder")
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, line
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise InvalidTrainingData(f"{path}: {error}") from error
