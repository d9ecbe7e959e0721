"""Collections: list, make, describe, change, drop, index. Shapes are Qdrant's, with additions of our own."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from index.collection import Collection
from index.errors import InvalidInput
from index.points import CollectionConfig
from service.catalog import Catalog
from service.context import ADMIN, WRITE, answer, answer_body, query_string, services
from service.direct import Direct
from service.encoders import Pair
from service.engine import Engine
from service.openapi import BOOLEAN, OBJECT, documented, fields, list_of, ref
from service.payload_schema import payload_schema
from service.responses import envelope
from service.schemas_collections import METADATA_KEY, CreateCollection, CreateIndex, EncoderPair, UpdateCollection
from service.spaces import declared, refusal

router = APIRouter(tags=["collections"], route_class=Direct)

# What `index` calls by another name than a request does.
_KEYS: Final = {"dimension": "vectors.size", "dtype": "datatype", "code_dimension": "code_dimensions"}
_OWN_NOTE: Final = f"metadata.{METADATA_KEY} counts when a collection is made: it is kept and changes nothing now"
_INDEX_SECONDS: Final = 5.0  # that a request waits for an index; upkeep goes on with it


@router.get(
    "/collections",
    **documented("List collections", result=fields(collections=list_of(fields(name={"type": "string"})))),
)
async def list_collections(request: Request) -> Response:
    """Answer with the names of all collections, damaged ones too."""
    asked = query_string(request, ())
    names = [{"name": name} for name in services(request).engine.catalog.names()]
    return envelope(request, {"collections": names}, warnings=asked.warnings)


@router.get(
    "/collections/{collection}/exists",
    **documented("Say whether a collection exists", result=fields(exists=BOOLEAN)),
)
async def exists(request: Request, collection: str) -> Response:
    """Answer whether there is a collection of that name."""
    query_string(request, ())
    return envelope(request, {"exists": collection in services(request).engine.catalog.names()})


@router.put(
    "/collections/{collection}",
    **documented(
        "Create a collection, of texts with `encoder`, of vectors with `vectors`",
        body=CreateCollection, query=ADMIN, result=BOOLEAN, writes=True, errors=(409,),
    ),
)  # fmt: skip
async def create(request: Request, collection: str) -> Response:
    """Make a collection; it is durable when this is answered."""
    service = services(request)
    asked = query_string(request, ADMIN)

    def make(body: CreateCollection) -> bool:
        catalog = service.engine.catalog
        catalog.create(collection, configured(catalog, body))
        return True

    return await answer_body(request, service.writes, asked, CreateCollection, make)


@router.get("/collections/{collection}", **documented("Describe a collection", result=OBJECT))
async def describe(request: Request, collection: str) -> Response:
    """Answer with Qdrant's collection info and ours: encoder, space, codes, counts of the load, bytes on disk."""
    service = services(request)
    asked = query_string(request, (), read=True)
    return await answer(request, service.reads, asked, lambda: info(service.engine, collection))


@router.patch(
    "/collections/{collection}",
    **documented(
        "Change the metadata of a collection",
        body=UpdateCollection,
        query=ADMIN,
        result=BOOLEAN,
        writes=True,
    ),
)
async def update(request: Request, collection: str) -> Response:
    """Merge keys into the metadata; whatever else Qdrant could change has no effect here."""
    service = services(request)
    asked = query_string(request, ADMIN)

    def change(body: UpdateCollection) -> bool:
        if body.metadata is None:
            service.engine.catalog.get(collection)
        else:
            service.engine.catalog.set_metadata(collection, body.metadata)
            if METADATA_KEY in body.metadata:
                asked.warnings.append(_OWN_NOTE)
        return True

    return await answer_body(request, service.writes, asked, UpdateCollection, change)


@router.delete("/collections/{collection}", **documented("Drop a collection", query=ADMIN, result=BOOLEAN, writes=True))
async def drop(request: Request, collection: str) -> Response:
    """Delete a collection and its files; the result is false when there was none."""
    service = services(request)
    asked = query_string(request, ADMIN)
    return await answer(request, service.writes, asked, lambda: service.engine.catalog.drop(collection))


@router.put(
    "/collections/{collection}/index",
    **documented("Make a payload index", body=CreateIndex, query=WRITE, result=ref("Update"), writes=True),
)
async def create_index(request: Request, collection: str) -> Response:
    """Index a payload field; `acknowledged` says that it is being filled, and filters read payloads until then."""
    service = services(request)
    asked = query_string(request, WRITE)

    def make(body: CreateIndex) -> dict[str, Any]:
        wished = body.field_schema
        schema = {"type": wished} if isinstance(wished, str) else wished.model_dump(exclude_unset=True)
        until = time.monotonic() + _INDEX_SECONDS
        complete = service.engine.catalog.index_field(collection, body.field_name, schema, until=until)
        return updated(0) if complete else updated(0) | {"status": "acknowledged"}

    return await answer_body(request, service.writes, asked, CreateIndex, make)


@router.delete(
    "/collections/{collection}/index/{field:path}",
    **documented("Forget a payload index", query=WRITE, result=ref("Update"), writes=True),
)
async def drop_index(request: Request, collection: str, field: str) -> Response:
    """Forget an index; a field without one is no error."""
    service = services(request)
    asked = query_string(request, WRITE)

    def forget() -> dict[str, Any]:
        service.engine.catalog.drop_index(collection, field)
        return updated(0)

    return await answer(request, service.writes, asked, forget)


def configured(catalog: Catalog, body: CreateCollection) -> CollectionConfig:
    """Return what a body asks for; errors name its keys."""
    vectors, own = body.vectors, body.own()
    one = own.encoder
    encoder = Pair(one.document, one.query) if isinstance(one, EncoderPair) else one
    try:
        return catalog.configured(
            dimension=vectors.size if vectors else None,
            distance=vectors.distance if vectors else None,
            dtype=body.datatype or (vectors.datatype if vectors else None),
            encoder=encoder,
            metadata=body.metadata,
            bits=own.bits,
            code_dimension=own.code_dimensions,
            store_vectors=own.store_vectors,
            index=own.index,
        )
    except InvalidInput as error:
        error.param = _KEYS.get(error.param or "", error.param)
        raise


def updated(affected: int) -> dict[str, Any]:
    """Return the result of a write: always completed, because writes are durable when they are answered."""
    return {"operation_id": 0, "status": "completed", "affected": affected}


def info(engine: Engine, name: str) -> dict[str, Any]:
    """Return the description of one collection."""
    with engine.catalog.using(name) as collection:
        state, schema = collection.info(), payload_schema(collection)
    attributes = collection.config.attributes
    load = engine.catalog.load_of(name)
    return {
        "status": "red" if state.read_only else "green",
        "optimizer_status": {"error": state.read_only} if state.read_only else "ok",
        "points_count": state.points,
        "indexed_vectors_count": state.indexed,
        "segments_count": state.segments,
        "config": _config(collection),
        "payload_schema": schema,
        **_texts(engine, attributes),
        "created_at": attributes.get("created"),
        "received": load.received,
        "durable": load.durable,
        "rejected": load.rejected,
        "indexed": state.indexed,
        "vector_dtype": collection.config.dtype,
        "codes": {
            "bits": state.bits,
            "code_dimensions": state.code_dimension,
            "bytes_per_point": state.code_bytes_per_point,
            "mapped": state.codes_mapped,
            "binarizers": state.binarizers,
        },
        "index": state.index,
        "store_vectors": collection.config.store_vectors,
        "codes_only": state.codes_only,
        "disk_bytes": {
            "vectors": state.vector_bytes,
            "record": state.record_bytes,
            "codes": state.code_file_bytes,
        },
        "read_only": state.read_only,
    }


def _texts(engine: Engine, attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return who encodes the collection's texts: a name, or two where queries have an encoder of their own."""
    own = declared(attributes)
    if own is None:
        return {"encoder": None, "space": None, "fold": None, "texts_refused": None}
    one = own.encoders.document == own.encoders.query
    return {
        "encoder": own.encoders.document if one else own.encoders._asdict(),
        "space": own.space,
        "fold": own.fold,
        "texts_refused": refusal(attributes, engine.encoders),
    }


def _config(collection: Collection) -> dict[str, Any]:
    """Return the part that Qdrant's clients insist on; there is no graph and nothing to flush: zeros."""
    config = collection.config
    return {
        "params": {
            "vectors": {"size": config.dimension, "distance": config.distance, "datatype": config.dtype},
            "shard_number": 1,
            "replication_factor": 1,
            "write_consistency_factor": 1,
            "on_disk_payload": True,
        },
        "hnsw_config": {"m": 0, "ef_construct": 0, "full_scan_threshold": 0},
        "optimizer_config": {"default_segment_number": 0, "flush_interval_sec": 0},
        "wal_config": None,
        "quantization_config": None,
        "metadata": config.attributes.get("metadata"),
    }
