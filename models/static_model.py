"""Texts to vectors by a table alone: the rows of a text's tokens, added up. NumPy and `tokenizers`, no other library.

A query costs tens of microseconds, most of them in the tokenizer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from models.backend import Runtime, Task
from models.errors import CorruptModel
from models.static_mix import StaticMix
from models.student_folder import describe_student, read_static_table, tokenizer_file

if TYPE_CHECKING:
    from tokenizers import Tokenizer

LEAST_TOKEN = 64  # characters that a token may have, at least
NO_PROMPTS: Mapping[Task, str] = MappingProxyType({"query": "", "document": ""})


class StaticModel:
    """Exit 0 of a student, a `models.backend.Backend`.

    Attributes
    ----------
    dimension : length d of its vectors.
    max_tokens : tokens of a text that count.
    pooling : "bag".
    prompts : none.
    runtime : "numpy".
    exits : (0,).
    tokenizer : neither cuts nor pads.
    """

    pooling = "bag"
    prompts = NO_PROMPTS
    runtime: Runtime = "numpy"
    exits = (0,)

    def __init__(self, folder: Path) -> None:
        """Load the table of a student folder.

        Raises
        ------
        ModelNotFound, CorruptModel
            A file is missing or damaged.
        """
        shape = describe_student(folder).shape
        self._mix = StaticMix.read(folder)
        # Levels of a byte each: a quarter of the memory of float32, and faster to gather.
        table = read_static_table(folder)
        self._levels, self._scales = table.levels, table.scales
        self.tokenizer = load_tokenizer(tokenizer_file(folder), shape.vocabulary)
        self.dimension = shape.dimension
        self.max_tokens = shape.static_window
        longest = max(map(len, self.tokenizer.get_vocab()), default=0)
        # What is longer than a window of the longest tokens is not tokenised: endless texts would hold up others.
        self._most_characters = max(self.max_tokens, shape.window) * max(LEAST_TOKEN, longest)

    def embed(self, texts: Sequence[str], task: Task, layers: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:  # noqa: ARG002
        """Add up the rows of each text's tokens, and mix: (n, d) float32, and what was truncated, (n,) bool."""
        tokens, truncated = self.tokens(texts)
        for row, ids in enumerate(tokens):
            if len(ids) > self.max_tokens:
                truncated[row] = True
        return self.vectors(tokens), truncated

    def count_tokens(self, texts: Sequence[str], task: Task, layers: int) -> list[int]:  # noqa: ARG002
        """Return how many tokens of each text count."""
        return [min(len(ids), self.max_tokens) for ids in self.tokens(texts)[0]]

    def tokens(self, texts: Sequence[str]) -> tuple[list[list[int]], NDArray[np.bool_]]:
        """Tokenise, without special tokens and without a window.

        Returns
        -------
        ids : the tokens of each text, but for texts of very many characters.
        cut : (n,) bool, True where even that left out more than white space.
        """
        most = self._most_characters
        read = [text if len(text) <= most else text[:most] for text in texts]
        if len(read) == 1:  # no need of the library's threads
            encodings = [self.tokenizer.encode(read[0], add_special_tokens=False)]
        else:
            encodings = self.tokenizer.encode_batch_fast(read, add_special_tokens=False)
        cut = np.zeros(len(texts), dtype=np.bool_)
        for row, text in enumerate(texts):
            if len(text) > most:
                cut[row] = bool(text[most:].strip())
        return [encoding.ids for encoding in encodings], cut

    def vectors(self, tokens: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """Return the (n, d) float32 of tokenised texts; tokens beyond the window are left out."""
        vectors = np.empty((len(tokens), self.dimension), dtype=np.float32)
        for row, ids in enumerate(tokens):
            rows = np.array(ids[: self.max_tokens], dtype=np.intp)
            np.dot(self._scales.take(rows), self._levels.take(rows, axis=0).astype(np.float32), out=vectors[row])
        return vectors if self._mix is None else self._mix(vectors)


def load_tokenizer(path: Path, vocabulary: int) -> Tokenizer:
    """Read a `tokenizer.json` that neither cuts nor pads.

    Raises
    ------
    CorruptModel
        It cannot be read, or has tokens beyond the vocabulary.
    """
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises its own
        raise CorruptModel(f"{path} is not a tokenizer: {error}", hint="restore the file") from error
    if max(tokenizer.get_vocab().values(), default=0) >= vocabulary:
        raise CorruptModel(f"{path} has tokens beyond the student's {vocabulary}", hint="restore the file")
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
