"""Kinds of fields that several request bodies share, and the table of Qdrant keys that have no effect here.

What these types do not check (ids, vectors, filters) is read later, by `service/vectors.py` and `index`.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, WithJsonSchema
from pydantic_core import PydanticCustomError

NO_EFFECT: Final[dict[str, str]] = {
    "shard_key": "a collection is one shard",
    "shard_number": "a collection is one shard",
    "sharding_method": "a collection is one shard",
    "replication_factor": "there is one copy of a collection",
    "write_consistency_factor": "there is one copy of a collection",
    "consistency": "there is one copy of a collection, every read sees the last acknowledged write",
    "ordering": "there is one copy of a collection, writes are ordered",
    "wait": "every write is durable before it is answered",
    "hnsw_config": "there is no graph index",
    "hnsw_ef": "there is no graph index; params.candidates and params.rerank set the effort",
    "acorn": "there is no graph index",
    "exact": "counts are always exact",
    "idf": "there are no sparse vectors",
    "indexed_only": "points without codes are scored exactly and cost little",
    "quantization_config": "every collection has compressed codes",
    "quantization": "params.candidates and params.rerank set the effort",
    "optimizers_config": "segments are managed without settings",
    "wal_config": "SQLite keeps the log",
    "on_disk": "vectors lie on disk and codes in memory, always",
    "on_disk_payload": "payloads lie on disk, always",
    "memory": "vectors lie on disk and codes in memory, always",
    "payload": "payloads lie on disk, always",
    "id_tracker": "ids lie in SQLite",
    "strict_mode_config": "limits are settings of the server",
    "params": "a collection has no parameters that can be changed",
    "options": "encoders have no options",
    "timeout": "writes run to their end",
}

# Stands for a reference to a component that is no model of its own; `service/openapi.py` puts it in.
COMPONENT: Final = "x-component"

NoEffect = Annotated[Any, WithJsonSchema({"description": "Accepted and without effect: named in `warnings`."})]
ID_LIST_SCHEMA = {"type": "array", "items": {COMPONENT: "PointId"}}
_TEXT_INPUT = {
    "type": "object",
    "properties": {"text": {"type": "string"}, "model": {"type": "string"}, "options": {"type": "object"}},
    "required": ["text"],
    "additionalProperties": False,
}
NUMBERS_SCHEMA = {"type": "array", "items": {"type": "number"}}
_UNNAMED = {
    "type": "object",
    "properties": {"": NUMBERS_SCHEMA},
    "required": [""],
    "additionalProperties": False,
}
VECTOR_SCHEMA = {"anyOf": [NUMBERS_SCHEMA, _TEXT_INPUT, _UNNAMED]}
QUERY_SCHEMA = {
    "anyOf": [
        {COMPONENT: "PointId"},
        NUMBERS_SCHEMA,
        _TEXT_INPUT,
        {
            "type": "object",
            "properties": {"nearest": {"anyOf": [{COMPONENT: "PointId"}, NUMBERS_SCHEMA, _TEXT_INPUT]}},
            "required": ["nearest"],
            "additionalProperties": False,
        },
    ]
}
POINT_ID_SCHEMA = {
    "description": 'An unsigned 64-bit integer, a UUID, or any string of 1 to 512 bytes. 1 and "1" differ.',
    "anyOf": [
        {"type": "integer", "minimum": 0, "maximum": 2**64 - 1},
        {"type": "string", "minLength": 1, "maxLength": 512},
    ],
}
_SELECTOR = {
    "anyOf": [
        {"type": "boolean"},
        {"type": "array", "items": {"type": "string"}},
        {"type": "object", "properties": {"include": {"type": "array", "items": {"type": "string"}}},
         "required": ["include"], "additionalProperties": False},
        {"type": "object", "properties": {"exclude": {"type": "array", "items": {"type": "string"}}},
         "required": ["exclude"], "additionalProperties": False},
    ]
}  # fmt: skip
ID_SCHEMA = {COMPONENT: "PointId"}

PointIdField = Annotated[Any, WithJsonSchema(ID_SCHEMA)]
Ids = Annotated[list[Any], WithJsonSchema(ID_LIST_SCHEMA)]
VectorField = Annotated[Any, WithJsonSchema(VECTOR_SCHEMA)]
QueryField = Annotated[Any, WithJsonSchema(QUERY_SCHEMA)]
FilterField = Annotated[
    dict[str, Any] | None,
    WithJsonSchema({"anyOf": [{COMPONENT: "Filter"}, {"type": "null"}]}),
]
Payload = dict[str, Any]


class Selector(BaseModel):
    """Which payload keys to return; both None means all of them. Keys are paths with dots."""

    model_config = ConfigDict(extra="forbid", strict=True)
    include: list[str] | None = None
    exclude: list[str] | None = None


def _selector(value: object) -> object:
    if isinstance(value, list):
        return {"include": value}
    return value


WithPayload = Annotated[bool | Selector, BeforeValidator(_selector), WithJsonSchema(_SELECTOR)]


def _with_vector(value: object) -> object:
    if isinstance(value, list):
        if value not in ([], [""]):
            raise ValueError('there is one unnamed vector: use true, false, [] or [""]')
        return bool(value)
    return value


WithVector = Annotated[bool, BeforeValidator(_with_vector)]


def no_effect(key: str, path: str) -> str:
    """Return the warning for a key of `NO_EFFECT` that was sent at `path`."""
    return f"{path} has no effect: {NO_EFFECT[key]}"


def _unsupported(value: object) -> object:
    if value is not None:
        raise PydanticCustomError("unsupported", "is not supported here")
    return value


# Known to Qdrant, and leaving it out of account would change the answer: only null is accepted.
Unsupported = Annotated[None, BeforeValidator(_unsupported)]


def _empty(value: object) -> object:
    if value not in (None, {}):
        raise ValueError("sparse vectors are not supported: leave this out or send {}")
    return value


Nothing = Annotated[Any, BeforeValidator(_empty), WithJsonSchema({"type": "object", "maxProperties": 0})]
