"""What clients may send about points: writing, reading, selecting and counting them, and their payloads."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import ConfigDict, Field, WithJsonSchema, model_validator

from service.fields import (
    ID_LIST_SCHEMA,
    ID_SCHEMA,
    VECTOR_SCHEMA,
    FilterField,
    Ids,
    NoEffect,
    Payload,
    PointIdField,
    Unsupported,
    VectorField,
    WithPayload,
    WithVector,
    no_effect,
)
from service.schemas import Request, exactly_one


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
        exactly_one(self, "points", "batch")
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
        exactly_one(self, "points", "filter")
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
