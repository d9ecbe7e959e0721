"""Query texts to vectors: known ones out of a cache, those that are asked for at the same time in one batch.

A text whose encoder is idle is encoded at once, so that a query alone never waits. Those that come meanwhile are taken
together as soon as it is done, by one of the threads that wait for them. Knows nothing of collections.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from index.errors import DeadlineExceeded
from models import InvalidText
from service.metrics import TextCounts
from service.query_cache import Entry, QueryCache
from service.text_encoder import EncodedTexts, TextEncoder, without_number

Key = tuple[str, str, int, int]  # name and space of the encoder, layers, dimensions


@dataclass(frozen=True, slots=True)
class EncodedQueries:
    """What became of n query texts.

    Parameters
    ----------
    vectors : (n, k) float32 of unit length, as `encode_queries` returns them.
    truncated : (n,) bool, whether the text is longer than the model's window.
    cached : (n,) bool, whether the vector was known.
    """

    vectors: NDArray[np.float32]
    truncated: NDArray[np.bool_]
    cached: NDArray[np.bool_]


@dataclass(eq=False, slots=True)
class _Request:
    """The texts that one thread waits for; `vectors` or `error` is set when they are done."""

    texts: Sequence[str]
    vectors: dict[str, Entry] | None = None
    error: Exception | None = None

    @property
    def done(self) -> bool:
        return self.vectors is not None or self.error is not None


@dataclass(slots=True)
class _Lane:
    """The requests for one encoder at one size: how many calls of it run, and who waits for the next."""

    changed: threading.Condition
    running: int = 0
    waiting: deque[_Request] = field(default_factory=deque)

    def take(self, most: int) -> list[_Request]:
        """Take the first request out, and those behind it as long as there are at most `most` texts."""
        taken = [self.waiting.popleft()]
        texts = len(taken[0].texts)
        while self.waiting and texts + len(self.waiting[0].texts) <= most:
            taken.append(self.waiting.popleft())
            texts += len(taken[-1].texts)
        return taken


class QueryEncoding:
    """Encodes queries of all requests. Every method may be called from any thread.

    Parameters
    ----------
    cache : what was encoded before.
    most_batch : texts of different requests that are encoded together, at most; one request is never split.
    at_once : calls of an encoder, at one size, that run at the same time before others wait for them.
    """

    def __init__(self, *, cache: QueryCache, most_batch: int, at_once: int) -> None:
        self._cache = cache
        self._most_batch = most_batch
        self._at_once = at_once
        self._lock = threading.Lock()  # guards what follows; never held while anything is encoded
        self._lanes: dict[Key, _Lane] = {}
        self._hits = self._misses = self._calls = 0

    def encode(
        self,
        encoder: TextEncoder,
        texts: Sequence[str],
        *,
        layers: int,
        dimensions: int,
        deadline: float | None = None,
    ) -> EncodedQueries:
        """Return the vectors of n >= 1 query texts at a size that the encoder has.

        Parameters
        ----------
        deadline : `time.monotonic()` seconds until which to wait for other requests.

        Raises
        ------
        InvalidText
            One of these texts has no vector; `index` says which. Texts of other requests are not affected.
        DeadlineExceeded
            Other requests took too long.
        """
        key = (encoder.name, encoder.space, layers, dimensions)
        known = self._cache.get(key, texts)
        cached = np.array([text in known for text in texts], np.bool_)
        with self._lock:
            self._hits += int(cached.sum())
            self._misses += len(texts) - int(cached.sum())
        if not cached.all():
            known |= self._fresh(key, encoder, texts, known, deadline)
        return EncodedQueries(
            vectors=np.stack([known[text].vector for text in texts]),
            truncated=np.array([known[text].truncated for text in texts], np.bool_),
            cached=cached,
        )

    def counts(self) -> TextCounts:
        """Return what was counted since the start."""
        with self._lock:
            return TextCounts(self._hits, self._misses, self._calls)

    def _fresh(
        self, key: Key, encoder: TextEncoder, texts: Sequence[str], known: dict[str, Entry], deadline: float | None
    ) -> dict[str, Entry]:
        """Encode what is not known, and keep it."""
        missing = list(dict.fromkeys(text for text in texts if text not in known))
        try:
            entries = self._together(key, encoder, missing, deadline)
        except InvalidText as error:
            raise InvalidText(
                without_number(error), index=texts.index(missing[error.index]), hint=error.hint
            ) from error
        self._cache.put(key, entries)
        return entries

    def _together(
        self, key: Key, encoder: TextEncoder, texts: Sequence[str], deadline: float | None
    ) -> dict[str, Entry]:
        """Encode texts, now or with those of others: whoever waits runs what is next as soon as there is room."""
        request = _Request(texts)
        with self._lock:
            lane = self._lanes.setdefault(key, _Lane(threading.Condition(self._lock)))
            lane.waiting.append(request)
        while batch := self._next(lane, request, encoder, deadline):
            self._run(lane, batch, key, encoder)
        if request.vectors is None:
            raise request.error or RuntimeError("a request ended without a result")
        return request.vectors

    def _next(self, lane: _Lane, request: _Request, encoder: TextEncoder, deadline: float | None) -> list[_Request]:
        """Return what the calling thread shall run, or nothing once its own request is done; until then wait."""
        with self._lock:
            while not request.done:
                if lane.waiting and lane.running < self._at_once:
                    lane.running += 1
                    return lane.take(self._most_batch)
                left = None if deadline is None else deadline - time.monotonic()
                if not lane.changed.wait(left) and not request.done:
                    if request in lane.waiting:
                        lane.waiting.remove(request)
                    raise DeadlineExceeded(
                        f"encoder {encoder.name} was busy with other queries for too long",
                        hint="try again, or raise BITFOLD_SEARCH_TIMEOUT_MS",
                    )
            return []

    def _run(self, lane: _Lane, batch: list[_Request], key: Key, encoder: TextEncoder) -> None:
        """Answer requests and wake those who wait; what fails is raised by the thread whose request it is."""
        calls = 0
        try:
            calls = _answer(batch, key, encoder)
        finally:
            with self._lock:
                self._calls += calls
                lane.running -= 1
                for request in batch:
                    if not request.done:
                        request.error = RuntimeError("the thread that encoded this query was ended")
                if not lane.waiting and not lane.running:
                    self._lanes.pop(key, None)
                lane.changed.notify_all()


def _answer(batch: list[_Request], key: Key, encoder: TextEncoder) -> int:
    """Encode the texts of requests; return how many calls of the encoder that took.

    An encoder gives nothing when one text is bad: then each request is encoded alone, and only its own can fail it.
    """
    _, _, layers, dimensions = key
    texts = list(dict.fromkeys(text for request in batch for text in request.texts))
    try:
        encoded = encoder.encode_queries(texts, layers=layers, dimensions=dimensions)
        entries = _entries(texts, encoded)
    except Exception as error:
        if len(batch) == 1:
            batch[0].error = error
            return 1
        return 1 + sum(_answer([request], key, encoder) for request in batch)
    for request in batch:
        request.vectors = {text: entries[text] for text in request.texts}
    return 1


def _entries(texts: Sequence[str], encoded: EncodedTexts) -> dict[str, Entry]:
    """Take the rows apart: each has memory of its own, so that one that is kept keeps no others."""
    entries: dict[str, Entry] = {}
    for text, row, truncated in zip(texts, encoded.vectors, encoded.truncated, strict=True):
        vector = row.astype(np.float32, copy=True)
        vector.setflags(write=False)
        entries[text] = Entry(vector, bool(truncated))
    return entries
