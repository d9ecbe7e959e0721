"""Joins models and index: collections with their encoders, writes, searches. Plain synchronous code.

Knows nothing of HTTP, of JSON bodies, or of the environment. Every method may be called from any thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from index.code_index import set_threads
from index.collection import Collection
from index.errors import IndexingError, InvalidPayload, UnknownCollection
from index.filters import parse_filter
from index.ids import PointId
from index.options import StoreOptions
from index.payload import PayloadEdit
from index.points import (
    CollectionConfig,
    Distance,
    Point,
    VectorType,
)
from index.store import Store
from models import TrainingFreeFactory
from models.errors import ModelError
from service.encoders import MAX_WAIT, Encoders, TextEncoder
from service.errors import EngineError, NoEncoder, OtherSpace
from service.ingest import Incoming, Outcome, check_width, ingest
from service.metrics import Sizes
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


@dataclass(slots=True)
class Load:
    """Points taken in since the process started: received, of these acknowledged, of these refused."""

    received: int = 0
    durable: int = 0
    rejected: int = 0


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
        self._store = Store(data_dir, TrainingFreeFactory(), options)
        self._loads: dict[str, Load] = {}
        self._lock = threading.Lock()  # guards _loads; never held while anything is written
        self._attributes_lock = threading.Lock()  # makes read, change and write of attributes one step

    def start(self) -> None:
        """Begin to load the default encoder."""
        self.encoders.start()

    def close(self) -> None:
        """Release the data directory."""
        self._store.close()

    def prepare_thread(self) -> None:
        """Set the limits that FAISS keeps per calling thread."""
        set_threads(self._faiss_threads)

    # -- collections

    def create(
        self,
        name: str,
        *,
        dimension: int | None,
        distance: Distance | None,
        dtype: VectorType | None,
        encoder: str | None,
        metadata: Mapping[str, Any] | None,
    ) -> None:
        """Make a collection of vectors (`dimension`, `distance`) or, with `encoder`, of texts.

        Raises CollectionExists, InvalidInput, UnknownEncoder, EncoderUnavailable, OtherSpace.
        """
        attributes: dict[str, Any] = {"created": time.time()}
        if metadata is not None:
            attributes["metadata"] = dict(metadata)
        if encoder is not None:
            loaded = self.encoders.get(encoder)
            if dimension not in (None, loaded.dimension):
                raise OtherSpace(
                    f"size {dimension} does not fit encoder {loaded.name} of {loaded.dimension} dimensions",
                    param="vectors.size",
                    hint=f"leave vectors out, or set size to {loaded.dimension}",
                )
            dimension = loaded.dimension
            attributes |= {"encoder": self.encoders.canonical(encoder), "space": loaded.space}
        if dimension is None:
            raise NoEncoder(
                "a collection needs vectors or an encoder",
                param="vectors",
                hint='send {"vectors": {"size": 384, "distance": "Cosine"}} or {"encoder": "default"}',
            )
        self._check_attributes(attributes)
        config = CollectionConfig(dimension, distance or "Cosine", dtype or "float32", attributes)
        self._store.create(name, config)
        with self._lock:
            self._loads[name] = Load()

    def drop(self, name: str) -> bool:
        """Delete a collection and its files; return whether there was one."""
        dropped = self._store.drop(name)
        with self._lock:
            self._loads.pop(name, None)
        return dropped

    def get(self, name: str) -> Collection:
        """Return an open collection; raises UnknownCollection, CorruptCollection, InvalidName."""
        return self._store.get(name)

    @contextmanager
    def using(self, name: str, same: Collection | None = None) -> Iterator[Collection]:
        """Work on a collection; if it is dropped meanwhile, whatever breaks is an UnknownCollection.

        Parameters
        ----------
        same : what the caller's input was read for; another collection of that name is an UnknownCollection.

        Raises
        ------
        UnknownCollection, CorruptCollection
            There is none that can be used.
        """
        collection = self.get(name)
        if same is not None and same is not collection:
            raise _dropped(name)
        try:
            yield collection
        except (IndexingError, ModelError, EngineError):
            raise
        except Exception as error:
            if self._is_open(name, collection):
                raise
            raise _dropped(name) from error

    def _is_open(self, name: str, collection: Collection) -> bool:
        try:
            return self._store.get(name) is collection
        except IndexingError:
            return False

    def names(self) -> list[str]:
        """Return the names of all collections, damaged ones too."""
        return sorted({*self._store.names(), *self._store.damaged})

    def damaged(self) -> dict[str, str]:
        """Return the collections that could not be opened, and why."""
        return dict(self._store.damaged)

    def load_of(self, name: str) -> Load:
        """Return a copy of a collection's intake counters."""
        with self._lock:
            load = self._loads.get(name, Load())
            return Load(load.received, load.durable, load.rejected)

    def count_load(self, name: str, *, received: int = 0, durable: int = 0, rejected: int = 0) -> None:
        """Add to a collection's intake counters."""
        with self._lock:
            load = self._loads.setdefault(name, Load())
            load.received += received
            load.durable += durable
            load.rejected += rejected

    def sizes(self) -> list[Sizes]:
        """Return the sizes of all open collections."""
        found: list[Sizes] = []
        for name in self._store.names():
            try:
                with self.using(name) as collection:
                    info = collection.info()
            except IndexingError:
                continue  # dropped meanwhile
            found.append(
                Sizes(
                    name,
                    info.points,
                    info.indexed,
                    info.vector_bytes,
                    info.record_bytes,
                    info.code_file_bytes,
                )
            )
        return found

    def set_metadata(self, name: str, metadata: Mapping[str, Any]) -> None:
        """Merge keys into the metadata of a collection; an empty object removes all of it."""
        with self._attributes_lock, self.using(name) as collection:
            attributes = dict(collection.config.attributes)
            attributes["metadata"] = {**(attributes.get("metadata") or {}), **metadata} if metadata else {}
            self._check_attributes(attributes)
            collection.set_attributes(attributes)

    def set_field(self, name: str, field_name: str, schema: Mapping[str, Any] | None) -> None:
        """Record the wish for a payload index, or (None) take it back."""
        with self._attributes_lock, self.using(name) as collection:
            attributes = dict(collection.config.attributes)
            fields = dict(attributes.get("payload_schema") or {})
            fields.pop(field_name, None)
            if schema is not None:
                fields[field_name] = dict(schema)
            attributes["payload_schema"] = fields
            self._check_attributes(attributes)
            collection.set_attributes(attributes)

    @staticmethod
    def _check_attributes(attributes: Mapping[str, Any]) -> None:
        try:
            size = len(orjson.dumps(attributes))
        except TypeError as error:
            raise InvalidPayload(f"metadata cannot be stored: {error}", param="metadata") from None
        if size > 1 << 20:
            raise InvalidPayload(
                f"metadata has {size} bytes, at most 1 MiB is kept",
                param="metadata",
                hint="store points instead",
            )

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
        """Make points durable; see `ingest`, and `using` for `same`. Texts need an encoder of its space."""
        with self.using(name, same) as collection:
            needed = any(text is not None for text in incoming.texts)
            loaded = self.encoder_of(collection, encoder) if needed else None
            return ingest(collection, incoming, loaded, skip_bad=skip_bad)

    def delete(self, name: str, *, ids: list[PointId] | None, filter: RawFilter) -> int:
        """Delete points by id, or all that match a filter; return how many there were."""
        with self.using(name) as collection:
            if ids is not None:
                return collection.delete(ids)
            return collection.delete_where(parse_filter(filter))

    def edit_payload(self, name: str, edit: PayloadEdit, *, ids: list[PointId] | None, filter: RawFilter) -> int:
        """Change payloads by id or filter; return how many points were changed."""
        with self.using(name) as collection:
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
        with self.using(name) as collection:
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
        with self.using(name) as collection:
            return collection.points(ids, with_vector=with_vector, with_text=with_text)

    def count(self, name: str, filter: RawFilter, deadline: float | None) -> int:
        """Count points exactly."""
        with self.using(name) as collection:
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
        same : see `using`.

        Raises
        ------
        IndexingError, ModelError, EngineError
            Nothing is answered when one query is wrong.
        """
        with self.using(name, same) as collection:
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


def _dropped(name: str) -> UnknownCollection:
    return UnknownCollection(f"collection {name!r} was dropped meanwhile", param="collection", hint="create it again")
