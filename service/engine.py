"""Joins models and index: writes and searches of collections with their encoders. Plain synchronous code.

Knows nothing of HTTP, of JSON bodies, or of the environment. Every method may be called from any thread.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from index.code_index import set_threads
from index.collection import Collection
from index.filters import parse_filter
from index.ids import PointId
from index.options import StoreOptions
from index.payload import PayloadEdit
from index.points import Point
from index.store import Store
from models.binarizers import Binarizers
from service.catalog import Catalog
from service.encoders import MAX_WAIT, Encoders, TextEncoder
from service.errors import NoEncoder, OtherSpace
from service.ingest import Incoming, Outcome, check_width, ingest
from service.queries import (
    Answer,
    Float32s,
    Query,
    RawFilter,
    alike,
    bounded_page,
    parsed,
    search_alike,
    stored_vector,
    wire_hits,
)


class Engine:
    """The whole service without its transport."""

    def __init__(
        self,
        *,
        data_dir: Path,
        encoders: Encoders,
        options: StoreOptions,
        faiss_threads: int,
    ) -> None:
        self.encoders = encoders
        self._faiss_threads = faiss_threads
        self.factory = Binarizers()
        self._store = Store(data_dir, self.factory, options)
        self.catalog = Catalog(self._store, encoders)

    def start(self) -> None:
        """Begin to load the default encoder."""
        self.encoders.start()

    def close(self) -> None:
        """Release the data directory."""
        self._store.close()

    def prepare_thread(self) -> None:
        """Set the limits that FAISS keeps per calling thread."""
        set_threads(self._faiss_threads)

    # -- encoders

    def encoder_of(self, collection: Collection, name: str | None = None, *, wait: float = MAX_WAIT) -> TextEncoder:
        """Return the collection's encoder, or another one by name if it reads the same space.

        Raises NoEncoder, OtherSpace, UnknownEncoder, EncoderUnavailable; `wait` as in `Encoders.get`.
        """
        own, space = collection.config.attributes.get("encoder"), collection.config.attributes.get("space")
        if own is None:
            raise NoEncoder(
                f"collection {collection.name} takes vectors, not texts",
                hint='send vectors, or create a collection with {"encoder": "default"}',
            )
        encoder = self.encoders.get(name or own, wait=wait)
        if encoder.space != space:
            raise OtherSpace(
                f"encoder {encoder.name} makes vectors of the space {encoder.space}, "
                f"collection {collection.name} holds the space {space}",
                hint="use an encoder of the collection's space, or load the texts into a new collection",
            )
        return encoder

    # -- writes

    def upsert(
        self,
        name: str,
        incoming: Incoming,
        *,
        encoder: str | None = None,
        skip_bad: bool = False,
        same: Collection | None = None,
    ) -> Outcome:
        """Make points durable; see `ingest`, and `Catalog.using` for `same`. Texts need an encoder of its space."""
        with self.catalog.using(name, same) as collection:
            needed = any(text is not None for text in incoming.texts)
            loaded = self.encoder_of(collection, encoder) if needed else None
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
        vectors, truncated = self._query_vectors(collection, queries)
        encoding = (time.perf_counter() - started) * 1000
        answers: list[Answer | None] = [None] * len(queries)
        for members in alike(queries):
            asked = [queries[i] for i in members]
            results = search_alike(collection, asked, vectors[members], filters[members[0]], deadline)
            for i, result in zip(members, results, strict=True):
                result.stages.milliseconds["encode"] = round(encoding, 4)
                hits = wire_hits(result.hits, queries[i], collection.config.distance)
                answers[i] = Answer(hits, result.stages, i in truncated)
        return [answer for answer in answers if answer is not None]

    def _query_vectors(self, collection: Collection, queries: Sequence[Query]) -> tuple[Float32s, set[int]]:
        """Return (nq, d) float32 and the positions of texts that were cut at the model's window."""
        dimension = collection.config.dimension
        vectors = np.empty((len(queries), dimension), np.float32)
        truncated: set[int] = set()
        texts: dict[str | None, list[int]] = {}
        for i, query in enumerate(queries):
            if query.vector is not None:
                check_width(query.vector.shape[-1], dimension)
                vectors[i] = query.vector
            elif query.text is not None:
                texts.setdefault(query.encoder, []).append(i)
            elif query.point is not None:
                vectors[i] = stored_vector(collection, query.point)
        for encoder, members in texts.items():
            # Threads for reads must not all wait for a model that loads: whoever asked tries again.
            encoded = self.encoder_of(collection, encoder, wait=0).encode_queries(
                [queries[i].text or "" for i in members]
            )
            vectors[members] = encoded.vectors
            truncated |= {members[j] for j in np.flatnonzero(encoded.truncated)}
        return vectors, truncated
