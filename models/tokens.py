"""Texts to token ids with the `tokenizers` library alone, as transformers would make them. Knows no model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from models.backend import Task
from models.errors import CorruptModel

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

TOKENIZER = "tokenizer.json"
CONFIG = "tokenizer_config.json"
LEAST_TOKEN = 64  # characters that a token may have, at least
COUNTED_TOGETHER = 256  # texts that are tokenised at once when tokens are counted
# Classes of transformers: the first read tokenizer.json as it is, the second put a normaliser of their own into it.
AS_IT_IS = frozenset({"PreTrainedTokenizerFast", "TokenizersBackend"})
BERTS_OWN = frozenset({"BertTokenizer", "BertTokenizerFast"})


@dataclass(frozen=True, slots=True, eq=False)
class TokenBatch:
    """Tokens of n texts, padded at the end to the longest.

    Attributes
    ----------
    ids : (n, length) int32, special tokens included.
    mask : (n, length) int32, 1 for tokens and 0 for padding.
    truncated : (n,) bool, True where a text did not fit the window.
    """

    ids: NDArray[np.int32]
    mask: NDArray[np.int32]
    truncated: NDArray[np.bool_]


class Tokens:
    """A tokenizer with a window and prompts; may be used by several threads at once.

    Parameters
    ----------
    path : `tokenizer.json`.
    window : tokens that are kept, special tokens and prompt included.
    vocabulary : rows of the model's token table.
    prompts : text put before every query and every document.

    Raises
    ------
    CorruptModel
        The file cannot be read, or has tokens beyond the vocabulary.
    """

    def __init__(self, path: Path, *, window: int, vocabulary: int, prompts: Mapping[Task, str]) -> None:
        self._tokenizer = _load(path)
        known = self._tokenizer.get_vocab()
        if max(known.values(), default=0) >= vocabulary:
            raise CorruptModel(f"{path} has tokens beyond the model's {vocabulary}", hint="restore the file")
        # Both are set once: changing them later would be seen by other threads.
        self._tokenizer.enable_truncation(window)
        self._tokenizer.no_padding()
        self.window = window
        self.prompts = prompts
        # More characters are never used but where many make no token (long blanks, endless words), and tokenising
        # a text of a million would hold up every other one. Such a text counts as truncated.
        self.most_characters = window * max(LEAST_TOKEN, max(map(len, known), default=0))

    def batch(self, texts: Sequence[str], task: Task) -> TokenBatch:
        """Tokenise n >= 1 texts."""
        encodings = self._encode(texts, task)
        lists = [encoding.ids for encoding in encodings]
        shape = len(lists), max(map(len, lists))
        ids, mask = np.zeros(shape, dtype=np.int32), np.zeros(shape, dtype=np.int32)
        for row, own in enumerate(lists):
            ids[row, : len(own)] = own
            mask[row, : len(own)] = 1
        cut = (
            bool(encoding.overflowing) or not _blank(text, self.most_characters)
            for encoding, text in zip(encodings, texts, strict=True)
        )
        return TokenBatch(ids, mask, np.fromiter(cut, np.bool_, len(texts)))

    def counts(self, texts: Sequence[str], task: Task) -> list[int]:
        """Return how many tokens of each text are kept."""
        counts: list[int] = []
        for start in range(0, len(texts), COUNTED_TOGETHER):
            counts += [len(encoding.ids) for encoding in self._encode(texts[start : start + COUNTED_TOGETHER], task)]
        return counts

    def _encode(self, texts: Sequence[str], task: Task) -> list[Encoding]:
        prompt = self.prompts[task]
        read = [prompt + text[: self.most_characters] for text in texts]
        if len(read) == 1:  # no need of the library's threads
            return [self._tokenizer.encode(read[0])]
        return self._tokenizer.encode_batch_fast(read)


def other_reading(folder: Path, *, lower: bool) -> str | None:
    """Say why transformers would not read texts by a folder's `tokenizer.json` alone; None if it would.

    Parameters
    ----------
    folder : of the transformer module.
    lower : texts are to be lowercased, whatever the tokenizer says.
    """
    if not (folder / TOKENIZER).is_file():
        return f"it has no {TOKENIZER}"
    written, config = _read(folder / TOKENIZER), _read(folder / CONFIG)
    if any(part.get("type_id") for part in _specials(written)):
        return f"{TOKENIZER} gives tokens a type"
    if config.get("padding_side", "right") != "right" or config.get("truncation_side", "right") != "right":
        return f"{CONFIG} pads or truncates on the left"
    normalizer = written.get("normalizer") or {}
    if lower and not (normalizer.get("type") == "BertNormalizer" and normalizer.get("lowercase")):
        return f"texts are to be lowercased, which {TOKENIZER} does not do"
    kind = config.get("tokenizer_class", "BertTokenizer")
    if kind in AS_IT_IS:
        return None
    if kind not in BERTS_OWN:
        return f"{CONFIG} names a {kind}"
    return None if _is_berts_own(written, config) else f"{TOKENIZER} and {CONFIG} describe different tokenizers"


def window_of(folder: Path, *, stated: int | None, positions: int) -> int:
    """Return the tokens that a transformer's folder lets it read: as stated, or what its files leave."""
    if stated is not None:
        return stated
    most = _read(folder / CONFIG).get("model_max_length")
    return positions if not isinstance(most, int | float) else int(min(most, positions))


def _is_berts_own(written: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
    """Say whether the class BertTokenizer of transformers, which goes by `config`, makes the tokenizer as written."""
    named = {name: _content(config.get(f"{name}_token", f"[{name.upper()}]")) for name in ("unk", "cls", "sep")}
    normalizer = {
        "type": "BertNormalizer",
        "clean_text": True,
        "handle_chinese_chars": config.get("tokenize_chinese_chars", True),
        "strip_accents": config.get("strip_accents"),
        "lowercase": config.get("do_lower_case", True),
    }
    model = {"type": "WordPiece", "unk_token": named["unk"], "continuing_subword_prefix": "##"}
    model["max_input_chars_per_word"] = 100
    found = written.get("model") or {}
    ends = [part.get("id") for part in _specials(written) if part.get("id") != "A"]
    return (
        written.get("normalizer") == normalizer
        and written.get("pre_tokenizer") == {"type": "BertPreTokenizer"}
        and {name: found.get(name) for name in model} == model
        and ends == [named["cls"], named["sep"]]
    )


def _specials(written: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return what a tokenizer puts around one text, as `{id, type_id}`, the text itself as A."""
    processor = written.get("post_processor") or {}
    if processor.get("type") == "BertProcessing":
        return [{"id": processor["cls"][0]}, {"id": "A"}, {"id": processor["sep"][0]}]
    return [part for entry in processor.get("single", ()) for part in entry.values()]


def _content(token: object) -> object:
    return token.get("content") if isinstance(token, dict) else token


def _blank(text: str, start: int) -> bool:
    """Say whether nothing but white space is in a text from `start` on."""
    return len(text) <= start or not text[start:].strip()


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CorruptModel(f"{path} cannot be read as JSON: {error}", hint="restore the file") from error
    if not isinstance(value, dict):
        raise CorruptModel(f"{path} is not a JSON object", hint="restore the file")
    return value


def _load(path: Path) -> Tokenizer:
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises its own
        raise CorruptModel(f"{path} is not a tokenizer: {error}", hint="restore the file") from error
