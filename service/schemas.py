"""What clients may send: one strict model per request body.

Unknown keys are errors. A key that Qdrant has and that changes nothing here is accepted and named in
`warnings`. Vectors, ids and filters stay raw values in these models: `service/vectors.py` and `index` read
them, faster and with better messages.
"""

from __future__ import annotations

import difflib
from typing import Annotated, Any, Final, Literal, TypeVar

import orjson
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
    model_validator,
)

from service.fields import (
    ID_LIST_SCHEMA,
    ID_SCHEMA,
    NO_EFFECT,
    NUMBERS_SCHEMA,
    VECTOR_SCHEMA,
    FilterField,
    Ids,
    NoEffect,
    Nothing,
    Payload,
    PointIdField,
    QueryField,
    Unsupported,
    VectorField,
    WithPayload,
    WithVector,
    no_effect,
)
from service.responses import ApiError


class Request(BaseModel):
    """Base of all bodies: no unknown keys, no conversions between types."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    def warnings(self, path: str = "") -> list[str]:
        """Name every key that was sent, is known to Qdrant, and changes nothing here."""
        found: list[str] = []
        for key in sorted(self.model_fields_set):
            value = getattr(self, key)
            if isinstance(value, Request):
                found += value.warnings(f"{path}{key}.")
            elif value is not None and type(self).model_fields[key].annotation is Any and key in NO_EFFECT:
                found.append(no_effect(key, f"{path}{key}"))
        return found


class VectorParams(Request):
    """The one vector of a collection."""

    size: int = Field(ge=1, le=65_536)
    distance: Literal["Cosine", "Dot", "Euclid"]
    datatype: Literal["float32", "float16"] | None = None
    multivector_config: Unsupported = None
    hnsw_config: NoEffect = None
    quantization_config: NoEffect = None
    on_disk: NoEffect = None
    memory: NoEffect = None


def _unnamed(value: object) -> object:
    """Take the vector out of a map of named vectors, of which only the unnamed one exists here."""
    if isinstance(value, dict) and value and "size" not in value and "distance" not in value:
        if list(value) != [""]:
            raise ValueError('a collection has one unnamed vector: send {size, distance} or {"": {size, distance}}')
        return value[""]
    return value


class CreateCollection(Request):
    """`vectors` for a collection of vectors, `encoder` for one of texts."""

    model_config = ConfigDict(json_schema_extra={"example": {"encoder": "default"}})
    vectors: Annotated[VectorParams | None, BeforeValidator(_unnamed)] = None
    encoder: str | None = None
    datatype: Literal["float32", "float16"] | None = None
    metadata: dict[str, Any] | None = None
    sparse_vectors: Nothing = None
    shard_number: NoEffect = None
    sharding_method: NoEffect = None
    replication_factor: NoEffect = None
    write_consistency_factor: NoEffect = None
    on_disk_payload: NoEffect = None
    payload: NoEffect = None
    id_tracker: NoEffect = None
    hnsw_config: NoEffect = None
    wal_config: NoEffect = None
    optimizers_config: NoEffect = None
    quantization_config: NoEffect = None
    strict_mode_config: NoEffect = None


class VectorsDiff(Request):
    """What Qdrant lets change about a vector; nothing of it has an effect here."""

    hnsw_config: NoEffect = None
    quantization_config: NoEffect = None
    on_disk: NoEffect = None
    memory: NoEffect = None


class UpdateCollection(Request):
    """Only `metadata` can change: keys are merged, an empty object removes all."""

    model_config = ConfigDict(json_schema_extra={"example": {"metadata": {"owner": "library"}}})
    metadata: dict[str, Any] | None = None
    sparse_vectors: Nothing = None
    vectors: Annotated[VectorsDiff | None, BeforeValidator(_unnamed)] = None
    params: NoEffect = None
    hnsw_config: NoEffect = None
    optimizers_config: NoEffect = None
    quantization_config: NoEffect = None
    strict_mode_config: NoEffect = None


FIELD_TYPES = Literal["keyword", "integer", "float", "bool", "datetime", "uuid", "text"]


class FieldSchema(Request):
    """A payload index with any of the parameters that Qdrant's indexes have, kept as sent."""

    type: FIELD_TYPES
    is_tenant: bool | None = None
    is_principal: bool | None = None
    on_disk: bool | None = None
    memory: str | None = None
    enable_hnsw: bool | None = None
    prefix: Any = None
    nested: Any = None
    lookup: bool | None = None
    range: bool | None = None
    tokenizer: str | None = None
    min_token_len: int | None = None
    max_token_len: int | None = None
    lowercase: bool | None = None
    ascii_folding: bool | None = None
    phrase_matching: bool | None = None
    stopwords: Any = None
    stemmer: Any = None
    scoring: Any = None


def _named_type(value: object) -> object:
    if value is None:
        raise ValueError('name the type of the field, as in "keyword": it is not guessed from the payloads')
    return value


class CreateIndex(Request):
    """A payload field to index."""

    model_config = ConfigDict(json_schema_extra={"example": {"field_name": "topic", "field_schema": "keyword"}})
    field_name: str = Field(min_length=1, max_length=512)
    field_schema: Annotated[FIELD_TYPES | FieldSchema, BeforeValidator(_named_type)]


class PointInput(Request):
    """A point to write: exactly one of `vector` and `text`."""

    id: PointIdField
    vector: VectorField = None
    text: str | None = None
    payload: Payload | None = None


class BatchInput(Request):
    """Points as columns."""

    ids: Ids
    vectors: Annotated[Any, WithJsonSchema({"anyOf": [{"type": "array", "items": VECTOR_SCHEMA}, {"type": "object"}]})]
    payloads: list[Payload | None] | None = None


def _exactly_one(model: Request, *keys: str) -> None:
    if sum(getattr(model, key) is not None for key in keys) != 1:
        raise ValueError(f"send exactly one of {' and '.join(keys)}")


class UpsertPoints(Request):
    """Points as rows or as columns."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {"points": [{"id": 1, "text": "The Nile flows north.", "payload": {"topic": "rivers"}}]}
        }
    )
    points: list[PointInput] | None = None
    batch: BatchInput | None = None
    update_filter: Unsupported = None
    update_mode: Unsupported = None
    shard_key: NoEffect = None

    @model_validator(mode="after")
    def _one_form(self) -> UpsertPoints:
        _exactly_one(self, "points", "batch")
        return self


class RetrievePoints(Request):
    """Ids to read; those that do not exist are left out of the answer."""

    model_config = ConfigDict(json_schema_extra={"example": {"ids": [1, "report-7"]}})
    ids: Ids
    with_payload: WithPayload | None = None
    with_vector: WithVector | None = None
    with_text: bool = False
    shard_key: NoEffect = None


class PointsSelector(Request):
    """Which points: exactly one of `points` (ids) and `filter`."""

    model_config = ConfigDict(json_schema_extra={"example": {"points": [1]}})
    points: Annotated[list[Any] | None, WithJsonSchema({"anyOf": [ID_LIST_SCHEMA, {"type": "null"}]})] = None
    filter: FilterField = None
    shard_key: NoEffect = None

    @model_validator(mode="after")
    def _one_kind(self) -> PointsSelector:
        _exactly_one(self, "points", "filter")
        return self


class SetPayload(PointsSelector):
    """Payload keys to set, at the path `key` if given."""

    model_config = ConfigDict(json_schema_extra={"example": {"payload": {"read": True}, "points": [1]}})
    payload: Payload
    key: str | None = Field(default=None, min_length=1, max_length=512)


class DeletePayload(PointsSelector):
    """Payload keys to remove."""

    model_config = ConfigDict(json_schema_extra={"example": {"keys": ["read"], "points": [1]}})
    keys: list[str] = Field(min_length=1)


class Params(Request):
    """How to search; the defaults are chosen by the size of the collection."""

    exact: bool | None = None
    candidates: int | None = Field(default=None, ge=1, le=1_000_000)
    rerank: int | None = Field(default=None, ge=1, le=1_000_000)
    hnsw_ef: NoEffect = None
    indexed_only: NoEffect = None
    quantization: NoEffect = None
    acorn: NoEffect = None
    idf: NoEffect = None


class Search(Request):
    """The plain search: a text or a vector, and how many points to find."""

    model_config = ConfigDict(json_schema_extra={"example": {"query": "which river flows north", "limit": 3}})
    query: Annotated[Any, WithJsonSchema({"anyOf": [{"type": "string", "minLength": 1}, NUMBERS_SCHEMA]})]
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


class Scroll(Request):
    """A page of points in id order: integers first, then strings."""

    model_config = ConfigDict(json_schema_extra={"example": {"limit": 10}})
    offset: Annotated[Any, WithJsonSchema({"anyOf": [ID_SCHEMA, {"type": "null"}]})] = None
    limit: int | None = Field(default=None, ge=1)
    order_by: Unsupported = None
    filter: FilterField = None
    with_payload: WithPayload | None = None
    with_vector: WithVector | None = None
    with_text: bool = False
    shard_key: NoEffect = None


class Count(Request):
    """Which points to count; counts are exact, whatever `exact` says."""

    model_config = ConfigDict(json_schema_extra={"example": {"exact": True}})
    filter: FilterField = None
    exact: bool | None = None
    shard_key: NoEffect = None

    def warnings(self, path: str = "") -> list[str]:
        """Name `exact` too where it asks for an estimate."""
        asked = [] if self.exact is not False else [no_effect("exact", f"{path}exact")]
        return asked + super().warnings(path)


R = TypeVar("R", bound=Request)


def read(model: type[R], body: bytes) -> R:
    """Parse a JSON body strictly.

    Raises ApiError (400): not JSON, not of this shape, an unknown key.
    """
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise ApiError(
            400, "invalid_json", f"the body is not JSON: {error}", hint="send one JSON object, UTF-8"
        ) from None
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise _translated(error, model) from None


def _translated(error: ValidationError, model: type[Request]) -> ApiError:
    """Turn one of pydantic's complaints into ours: the deepest, where the forms of a union all complain."""
    first = max(error.errors(include_url=False, include_input=False), key=lambda item: len(item["loc"]))
    path = _path(first["loc"])
    if first["type"] == "extra_forbidden":
        known = difflib.get_close_matches(str(first["loc"][-1]), list(model.model_fields), n=1)
        hint = f"did you mean {known[0]}?" if known else "leave it out"
        return ApiError(400, "unknown_key", f"the key {path} is not known here", param=path, hint=hint)
    if first["type"] == "unsupported":
        return ApiError(400, "unsupported", f"Qdrant's {path} is not supported here", param=path, hint="leave it out")
    message = first["msg"].removeprefix("Value error, ")
    return ApiError(400, "invalid_request", f"{path or 'body'}: {message}", param=path or None)


_UNION_PARTS: Final = frozenset(("bool", "str", "int", "list", "dict", "Selector", "FieldSchema"))


def _path(location: tuple[int | str, ...]) -> str:
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        elif part in _UNION_PARTS:
            continue
        elif part.isidentifier():
            path += f".{part}" if path else part
        elif part == location[-1] and not part.startswith(("literal[", "function-", "list[", "dict[")):
            path += f"[{part!r}]"
    return path
