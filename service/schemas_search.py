"""What clients may send to search: the plain search, Qdrant's query, and how to search."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, WithJsonSchema

from service.fields import (
    NUMBERS_SCHEMA,
    FilterField,
    NoEffect,
    QueryField,
    Unsupported,
    WithPayload,
    WithVector,
)
from service.schemas import Request


class Params(Request):
    """How to search; the defaults are chosen by the size and the codes of the collection.

    `bits`: how many of the stored bits a dimension are used. `symmetric`: the query is coded too. `candidates`: rows
    that each scan proposes, or how many a walk through a graph keeps. `rerank`: full-precision vectors that are read;
    0 ranks by codes alone. `probes`: inverted lists that are looked into in each segment. `target_recall`: share of
    the true ten best to be found; what is not given of `candidates`, `rerank` and `probes` is chosen for it.
    `layers`, `dimensions`: the size at which the text of the query is encoded, one that its encoder has.
    """

    exact: bool | None = None
    bits: int | None = Field(default=None, ge=1, le=8)
    symmetric: bool = False
    candidates: int | None = Field(default=None, ge=1, le=1_000_000)
    rerank: int | None = Field(default=None, ge=0, le=1_000_000)
    probes: int | None = Field(default=None, ge=1, le=1_000_000)
    target_recall: float | None = Field(default=None, gt=0, lt=1)
    layers: int | None = Field(default=None, ge=0, le=1000)
    dimensions: int | None = Field(default=None, ge=1, le=65_536)
    hnsw_ef: NoEffect = None
    indexed_only: NoEffect = None
    quantization: NoEffect = None
    acorn: NoEffect = None
    idf: NoEffect = None


class Search(Request):
    """The plain search: a text or a vector, and how many points to find.

    `encoder`: who reads the text, if not the collection's own query encoder; it must be of the same space.
    """

    model_config = ConfigDict(json_schema_extra={"example": {"query": "which river flows north", "limit": 3}})
    query: Annotated[Any, WithJsonSchema({"anyOf": [{"type": "string", "minLength": 1}, NUMBERS_SCHEMA]})]
    encoder: str | None = Field(default=None, min_length=1)
    limit: int | None = Field(default=None, ge=1)
    offset: int | None = Field(default=None, ge=0)
    filter: FilterField = None
    with_payload: WithPayload | None = None
    with_text: bool = True
    score_threshold: float | None = None
    params: Params | None = None


class Query(Request):
    """Qdrant's query, of which nearest by vector, by text and by point id exist here."""

    model_config = ConfigDict(json_schema_extra={"example": {"query": {"text": "rivers", "model": "default"}}})
    query: QueryField
    prefetch: Unsupported = None
    lookup_from: Unsupported = None
    using: Literal[""] | None = None
    filter: FilterField = None
    params: Params | None = None
    score_threshold: float | None = None
    limit: int | None = Field(default=None, ge=1)
    offset: int | None = Field(default=None, ge=0)
    with_payload: WithPayload | None = None
    with_vector: WithVector | None = None
    with_text: bool = False
    shard_key: NoEffect = None


class QueryBatch(Request):
    """Several queries, answered in order."""

    model_config = ConfigDict(json_schema_extra={"example": {"searches": [{"query": 1}, {"query": 2}]}})
    searches: list[Query]
