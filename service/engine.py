"""Joins models and index: writes and searches of collections with their encoders. Plain synchronous code.

Knows nothing of HTTP, of JSON bodies, or of the environment. Every method may be called from any thread.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path

from index.collection import Collection
from index.filters import parse_filter
from index.ids import PointId
from index.options import StoreOptions
from index.payload import PayloadEdit
from index.points import Point
from index.store import Store
from models.binarizers import Binarizers
from service.catalog import Catalog
from service.encoders import Encoders
from service.ingest import Incoming, Outcome, ingest
from service.places import Places
from service.queries import (
    Answer,
    Query,
    RawFilter,
    alike,
    bounded_page,
    parsed,
    search_alike,
    wire_hits,
)
from service.query_encoding import QueryEncoding
from service.query_vectors import QueryVectors
from service.room import Expected, Room
from service.spaces import encoder_for

log = logging.getLogger(__name__)


class Engine:
    """The whole service without its transport.

    Parameters
    ----------
    searches_at_once : threads that look through collections at the same time; more may wait for encoders.
    """

    def __init__(
        self,
        *,
        data_dir: Path,
        encoders: Encoders,
        encoding: QueryEncoding,
        options: StoreOptions,
        searches_at_once: int,
    ) -> None:
        self.encoders = encoders
        self.encoding = encoding
        self._query_vectors = QueryVectors(encoders, encoding)
        self._places = Places(searches_at_once)
        self.factory = Binarizers()
        self.options = options
        self._store = Store(data_dir, self.factory, options)
        self.catalog = Catalog(self._store, encoders)
        self.room = Room(self.catalog, data_dir, options.memory_limit)

    def start(self) -> None:
        """Begin to load the encoders that queries need, and tell which collections refuse texts."""
        for name, why in self.catalog.refusing().items():
            log.warning("collection %s refuses texts: %s", name, why)
        self.encoders.start(self.catalog.query_encoders(), then=self.catalog.record_folds)

    def close(self) -> None:
        """Release the data directory."""
        self._store.close()

    # -- writes

    def upsert(
        self,
        name: str,
        incoming: Incoming,
        *,
        encoder: str | None = None,
        skip_bad: bool = False,
        same: Collection | None = None,
        expected: Expected | None = None,
    ) -> Outcome:
        """Make points durable; see `ingest`, `Catalog.using` for `same`, `Room.require` for `expected`.

        Texts need an encoder of the collection's space. Nothing is written, or encoded, for which there is no room.
        """
        with self.catalog.using(name, same) as collection:
            self.room.require(collection, incoming, expected)
            needed = any(text is not None for text in incoming.texts)
            loaded = encoder_for(collection, self.encoders, "document", encoder) if needed else None
            return ingest(collection, incoming, loaded, skip_bad=skip_bad)

    def delete(self, name: str, *, ids: list[PointId] | None, filter: RawFilter) -> int:
        """Delete points by id, or all that match a filter; return how many there were."""
        with self.catalog.using(name) as collection:
            if ids is not None:
                return collection.delete(ids)
            return collection.delete_where(parse_filter(filter))

    def edit_payload(self, name: str, edit: PayloadEdit, *, ids: list[PointId] | None, filter: RawFilter) -> int:
        """Change payloads by id or filter; return how many points were changed."""
        with self.catalog.using(name) as collection:
            if ids is not None:
                return collection.edit_payload(edit, ids=ids)
            return collection.edit_payload(edit, filter=parse_filter(filter))

    # -- reads

    def scroll(
        self,
        name: str,
        *,
        after: PointId | None,
        limit: int,
        filter: RawFilter,
        with_vector: bool,
        with_text: bool,
        deadline: float | None,
    ) -> tuple[list[Point], PointId | None]:
        """Return a page of points in id order, and the id at which the next page starts.

        A page ends early rather than growing far beyond 64 MiB.
        """
        with self.catalog.using(name) as collection:
            wanted = parsed(filter)

            def read(start: PointId | None, count: int) -> tuple[list[Point], PointId | None]:
                return collection.scroll(
                    after=start,
                    limit=count,
                    filter=wanted,
                    with_vector=with_vector,
                    with_text=with_text,
                    deadline=deadline,
                )

            return bounded_page(read, after, limit)

    def points(self, name: str, ids: list[PointId], *, with_vector: bool, with_text: bool) -> list[Point]:
        """Return the points that exist, in the order of `ids`."""
        with self.catalog.using(name) as collection:
            return collection.points(ids, with_vector=with_vector, with_text=with_text)

    def count(self, name: str, filter: RawFilter, deadline: float | None) -> int:
        """Count points exactly."""
        with self.catalog.using(name) as collection:
            return collection.count(parsed(filter), deadline)

    def search(
        self,
        name: str,
        queries: Sequence[Query],
        deadline: float | None = None,
        *,
        same: Collection | None = None,
    ) -> list[Answer]:
        """Answer queries in order; those that ask alike are searched together.

        Parameters
        ----------
        deadline : `time.monotonic()` seconds.
        same : see `Catalog.using`.

        Raises
        ------
        IndexingError, ModelError, EngineError
            Nothing is answered when one query is wrong.
        """
        with self.catalog.using(name, same) as collection:
            return self._search(collection, queries, deadline)

    def _search(self, collection: Collection, queries: Sequence[Query], deadline: float | None) -> list[Answer]:
        filters = [parsed(query.filter) for query in queries]
        started = time.perf_counter()
        vectors, texts, within = self._query_vectors.of(collection, queries, deadline)
        encoding = (time.perf_counter() - started) * 1000
        answers: list[Answer | None] = [None] * len(queries)
        # Texts that wait for their encoder, to be encoded together, hold no place.
        with self._places.taken(deadline):
            for members in alike(queries):
                asked = [queries[i] for i in members]
                first = members[0]
                results = search_alike(collection, asked, vectors[members], within[first], filters[first], deadline)
                for i, result in zip(members, results, strict=True):
                    spent = result.stages.milliseconds | {"encode": encoding}
                    result.stages.milliseconds = {stage: round(times, 4) for stage, times in spent.items()}
                    hits = wire_hits(result.hits, queries[i], collection.config.distance)
                    answers[i] = Answer(hits, result.stages, texts[i])
        return [answer for answer in answers if answer is not None]
