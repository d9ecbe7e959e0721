"""Payload indexes that were asked for, as a collection's attributes keep them, beside those that there are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from index.collection import Collection
from index.errors import InvalidInput
from index.fields.field import FieldKind
from index.indexing import index_field
from index.paths import Path, read_path

ATTRIBUTE = "payload_schema"


def field_path(name: str) -> Path:
    """Read the name of a field; raises InvalidInput."""
    return read_path(name, "field_name", wrong=InvalidInput)


def begin_indexes(collection: Collection) -> None:
    """Make what was asked for in earlier lives; upkeep fills it."""
    for _, path, kind in _wished(collection):
        index_field(collection, path, kind)


def payload_schema(collection: Collection) -> dict[str, dict[str, Any]]:
    """Return field -> kind, how many points have it, and whether its index is complete, so that filters use it."""
    found = {}
    for name, path, kind in _wished(collection):
        state = collection.fields.state(path)
        points, ready = (state.points, state.ready) if state else (0, False)
        found[name] = {"data_type": kind, "points": points, "ready": ready}
    return found


def wished_kinds(collection: Collection) -> dict[str, FieldKind]:
    """Return field -> kind of the indexes that were asked for."""
    return {name: kind for name, _, kind in _wished(collection)}


def _wished(collection: Collection) -> Iterator[tuple[str, Path, FieldKind]]:
    for name, schema in (collection.config.attributes.get(ATTRIBUTE) or {}).items():
        with suppress(InvalidInput):  # an earlier version took any name
            yield name, field_path(name), schema["type"]
