"""The vectors of the texts that were asked for last, so that a question that comes again is not encoded again.

Knows nothing of encoders: a key stands for one.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

TEXT_BYTES: Final = 16 << 20


@dataclass(frozen=True, slots=True)
class Entry:
    """A text's vector, (k,) float32 and read-only, and whether the text was cut at the model's window."""

    vector: NDArray[np.float32]
    truncated: bool


class QueryCache:
    """Keeps the entries that were used last. Every method may be called from any thread.

    Parameters
    ----------
    entries : how many are kept; 0 keeps none.
    text_bytes : how many bytes of text (UTF-8) they may have together.
    """

    def __init__(self, *, entries: int, text_bytes: int = TEXT_BYTES) -> None:
        self._most = entries
        self._most_bytes = text_bytes
        self._entries: OrderedDict[tuple[Hashable, str], tuple[Entry, int]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Return how many entries there are."""
        return len(self._entries)

    @property
    def text_bytes(self) -> int:
        """Bytes of all texts that are kept."""
        return self._bytes

    def get(self, key: Hashable, texts: Sequence[str]) -> dict[str, Entry]:
        """Return those texts that are known, and count them as used.

        Parameters
        ----------
        key : the encoder and the size that the vectors are of.
        """
        found: dict[str, Entry] = {}
        with self._lock:
            for text in texts:
                kept = self._entries.get((key, text))
                if kept is not None:
                    self._entries.move_to_end((key, text))
                    found[text] = kept[0]
        return found

    def put(self, key: Hashable, entries: dict[str, Entry]) -> None:
        """Keep the vectors of texts, and drop what was not used for longest while there are too many."""
        sizes = {text: len(text.encode()) for text in entries}
        with self._lock:
            for text, entry in entries.items():
                self._drop((key, text))
                if sizes[text] <= self._most_bytes and self._most:
                    self._entries[key, text] = (entry, sizes[text])
                    self._bytes += sizes[text]
            while len(self._entries) > self._most or self._bytes > self._most_bytes:
                self._drop(next(iter(self._entries)))

    def _drop(self, place: tuple[Hashable, str]) -> None:
        kept = self._entries.pop(place, None)
        if kept is not None:
            self._bytes -= kept[1]
