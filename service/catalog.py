"""The collections by name, with what the service keeps for each: encoder, metadata, counters of its loads.

Knows nothing of points, searches or HTTP. Every method may be called from any thread.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import orjson

from index.collection import Collection
from index.errors import IndexingError, InvalidPayload, UnknownCollection
from index.indexing import drop_field, fill, index_field
from index.points import GRAPH_BITS, CollectionConfig, Distance, IndexKind, VectorType
from index.store import Store
from models.errors import ModelError
from service.encoders import Encoders, Pair
from service.errors import EngineError, NoEncoder, OtherSpace
from service.metrics import Sizes
from service.payload_schema import ATTRIBUTE, begin_indexes, field_path
from service.spaces import declaration, declared, refusal

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Load:
    """Points taken in since the process started: received, of these acknowledged, of these refused."""

    received: int = 0
    durable: int = 0
    rejected: int = 0


class Catalog:
    """All collections of a data directory.

    Parameters
    ----------
    store : the open data directory; whoever made it closes it.
    encoders : what collections of texts are made for.
    """

    def __init__(self, store: Store, encoders: Encoders) -> None:
        self._store = store
        self._encoders = encoders
        self._loads: dict[str, Load] = {}
        self._lock = threading.Lock()  # guards _loads; never held while anything is written
        self._attributes_lock = threading.Lock()  # makes read, change and write of attributes one step
        for name in store.names():
            begin_indexes(store.get(name))

    def create(self, name: str, config: CollectionConfig) -> None:
        """Make a collection; raises CollectionExists, InvalidInput."""
        self._store.create(name, config)
        with self._lock:
            self._loads[name] = Load()

    def configured(
        self,
        *,
        dimension: int | None,
        distance: Distance | None,
        dtype: VectorType | None,
        encoder: str | Pair | None,
        metadata: Mapping[str, Any] | None,
        bits: int | None = None,
        code_dimension: int | None = None,
        store_vectors: bool | None = None,
        index: IndexKind | None = None,
    ) -> CollectionConfig:
        """Return what a new collection of vectors (`dimension`, `distance`) or, with `encoder`, of texts is to be.

        What is None takes the default of `CollectionConfig`, but with a graph the bits that it is over; `encoder` is
        what `spaces.declaration` takes.

        Raises InvalidInput, UnknownEncoder, EncoderUnavailable, OtherSpace, NoEncoder.
        """
        attributes: dict[str, Any] = {"created": time.time()}
        if metadata is not None:
            attributes["metadata"] = dict(metadata)
        if encoder is not None:
            width, declares = declaration(self._encoders, encoder)
            if dimension not in (None, width):
                raise OtherSpace(
                    f"size {dimension} does not fit encoder {declares['encoder']} of {width} dimensions",
                    param="vectors.size",
                    hint=f"leave vectors out, or set size to {width}",
                )
            dimension = width
            attributes |= declares
        if dimension is None:
            raise NoEncoder(
                "a collection needs vectors or an encoder",
                param="vectors",
                hint='send {"vectors": {"size": 384, "distance": "Cosine"}} or {"encoder": "default"}',
            )
        self._check_attributes(attributes)
        if index == "graph" and bits is None:
            bits = GRAPH_BITS
        codes: dict[str, Any] = {
            "bits": bits,
            "code_dimension": code_dimension,
            "store_vectors": store_vectors,
            "index": index,
        }
        return CollectionConfig(
            dimension,
            distance or "Cosine",
            dtype or "float32",
            attributes,
            **{key: value for key, value in codes.items() if value is not None},
        )

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
            raise self.dropped(name)
        try:
            yield collection
        except (IndexingError, ModelError, EngineError):
            raise
        except Exception as error:
            if self.is_open(collection):
                raise
            raise self.dropped(name) from error

    def is_open(self, collection: Collection) -> bool:
        """Say whether a collection is still the one of its name."""
        try:
            return self._store.get(collection.name) is collection
        except IndexingError:
            return False

    @staticmethod
    def dropped(name: str) -> UnknownCollection:
        """Return the error for work on a collection that was dropped meanwhile."""
        return UnknownCollection(
            f"collection {name!r} was dropped meanwhile", param="collection", hint="create it again"
        )

    def names(self) -> list[str]:
        """Return the names of all collections, damaged ones too."""
        return sorted({*self._store.names(), *self._store.damaged})

    def opened(self) -> Iterator[Collection]:
        """Yield the open collections by name; those dropped meanwhile are passed over."""
        for name in self._store.names():
            try:
                yield self._store.get(name)
            except IndexingError:
                continue

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
                    info, recall = collection.info(), collection.meter.report()
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
                    recall,
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

    def index_field(self, name: str, field_name: str, schema: Mapping[str, Any], *, until: float) -> bool:
        """Make a payload index, durable as a wish; say whether it is complete by `time.monotonic()` seconds.

        Upkeep goes on with it otherwise. Raises InvalidInput for what is no path, and as `using`.
        """
        path = field_path(field_name)
        self._set_field(name, field_name, schema)
        with self.using(name) as collection:
            index_field(collection, path, schema["type"])
            return fill(collection, until=until)

    def drop_index(self, name: str, field_name: str) -> None:
        """Forget a payload index; a field without one is no error. Raises InvalidInput, and as `using`."""
        path = field_path(field_name)
        self._set_field(name, field_name, None)
        with self.using(name) as collection:
            drop_field(collection, path)

    def _set_field(self, name: str, field_name: str, schema: Mapping[str, Any] | None) -> None:
        with self._attributes_lock, self.using(name) as collection:
            attributes = dict(collection.config.attributes)
            fields = dict(attributes.get(ATTRIBUTE) or {})
            fields.pop(field_name, None)
            if schema is not None:
                fields[field_name] = dict(schema)
            attributes[ATTRIBUTE] = fields
            self._check_attributes(attributes)
            collection.set_attributes(attributes)

    def query_encoders(self) -> list[str]:
        """Return the names of the encoders that collections need for queries."""
        return sorted({own.encoders.query for _, attributes in self._attributes() if (own := declared(attributes))})

    def refusing(self) -> dict[str, str]:
        """Return the collections that refuse texts, and why, as far as that is known without loading an encoder."""
        found = {name: refusal(attributes, self._encoders) for name, attributes in self._attributes()}
        return {name: why for name, why in found.items() if why is not None}

    def record_folds(self) -> None:
        """Note the fold that short queries are cut by, where a collection was made before there were folds."""
        for name, attributes in self._attributes():
            own = declared(attributes)
            if own is None or own.fold is not None or not self._encoders.has(own.encoders.query):
                continue
            encoder = self._encoders.loaded(own.encoders.query)
            if encoder is None or encoder.fold is None or encoder.space != own.space:
                continue
            try:
                with self._attributes_lock, self.using(name) as collection:
                    collection.set_attributes({**collection.config.attributes, "fold": encoder.fold})
            except IndexingError as error:  # dropped meanwhile, read-only, or no room: the next start tries again
                log.warning("the fold of collection %s was not recorded: %s", name, error)

    def _attributes(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        for collection in self.opened():
            yield collection.name, collection.config.attributes

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
