"""From a body of points to the engine: all ids, vectors and texts are read before anything is written."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from index.ids import PointId, parse_id
from index.points import content_hash
from service.context import check_batch, dump_payload
from service.engine import Engine
from service.fields import no_effect
from service.ingest import Incoming
from service.responses import ApiError
from service.schemas_points import BatchInput, PointInput, UpsertPoints
from service.settings import Settings
from service.vectors import TextInput, check_text, read_vector

Content = NDArray[np.float32] | TextInput
Row = tuple[PointId, Content, bytes]
_NAMED_TRUNCATED = 10


def write_points(engine: Engine, settings: Settings, name: str, body: UpsertPoints) -> tuple[int, list[str]]:
    """Write the points of a request; return how many there were, and warnings about texts that were cut.

    Raises ApiError, InvalidInput, and what `Engine.upsert` raises. Nothing is half applied.
    """
    collection = engine.catalog.get(name)
    dimension = collection.config.dimension
    reader = _Reader(dimension, settings)
    rows = reader.columns(body.batch) if body.batch is not None else reader.rows(body.points or [])
    if not rows:
        return 0, []
    engine.catalog.count_load(name, received=len(rows))
    try:
        incoming = to_incoming(rows, dimension)
        outcome = engine.upsert(name, incoming, encoder=reader.model, same=collection)
    except Exception:
        engine.catalog.count_load(name, rejected=len(rows))
        raise
    engine.catalog.count_load(name, durable=len(rows))
    warnings = reader.warnings
    if outcome.truncated:
        named = ", ".join(repr(rows[i][0]) for i in outcome.truncated[:_NAMED_TRUNCATED])
        more = ", ..." if len(outcome.truncated) > _NAMED_TRUNCATED else ""
        warnings.append(
            f"{len(outcome.truncated)} texts are longer than the model's window, "
            f"their ends are not in the vectors: {named}{more}"
        )
    return len(rows), warnings


def to_incoming(rows: list[Row], dimension: int) -> Incoming:
    """Arrange points as columns."""
    vectors = np.zeros((len(rows), dimension), np.float32)
    texts: list[str | None] = []
    hashes: list[bytes] = []
    for i, (_, content, _) in enumerate(rows):
        if isinstance(content, TextInput):
            texts.append(content.text)
            hashes.append(content_hash(content.text.encode()))
        else:
            texts.append(None)
            hashes.append(content_hash(content.tobytes()))
            vectors[i] = content
    return Incoming([row[0] for row in rows], texts, vectors, [row[2] for row in rows], hashes)


class _Reader:
    """Reads the points of one request; all texts of it must name one model."""

    def __init__(self, dimension: int, settings: Settings) -> None:
        self._dimension = dimension
        self._settings = settings
        self.model: str | None = None
        self._has_text = False
        self.warnings: list[str] = []

    def rows(self, points: list[PointInput]) -> list[Row]:
        check_batch(self._settings, len(points), "points")
        return [self._row(point, f"points[{i}]") for i, point in enumerate(points)]

    def _row(self, point: PointInput, path: str) -> Row:
        if (point.vector is None) == (point.text is None):
            raise ApiError(
                400, "invalid_request", f"{path} needs exactly one of vector and text", param=path,
                hint="send text to a collection with an encoder, else a vector",
            )  # fmt: skip
        content: Content
        if point.text is not None:
            check_text(point.text, f"{path}.text", self._settings.max_text_bytes)
            content = self._noted(TextInput(point.text), f"{path}.text")
        else:
            content = self._vector(point.vector, f"{path}.vector")
        return parse_id(point.id, param=f"{path}.id"), content, dump_payload(point.payload, f"{path}.payload")

    def columns(self, batch: BatchInput) -> list[Row]:
        vectors = batch.vectors
        if isinstance(vectors, dict) and list(vectors) == [""]:
            vectors = vectors[""]
        if not isinstance(vectors, list):
            raise ApiError(
                400, "invalid_vector", "batch.vectors is not a list", param="batch.vectors",
                hint="send one vector for each id",
            )  # fmt: skip
        check_batch(self._settings, len(batch.ids), "batch.ids")
        payloads = batch.payloads if batch.payloads is not None else [None] * len(batch.ids)
        if not len(batch.ids) == len(vectors) == len(payloads):
            raise ApiError(
                400,
                "invalid_request",
                f"batch has {len(batch.ids)} ids, {len(vectors)} vectors and {len(payloads)} payloads",
                param="batch",
                hint="send as many of each",
            )
        return [
            (
                parse_id(batch.ids[i], param=f"batch.ids[{i}]"),
                self._vector(vectors[i], f"batch.vectors[{i}]"),
                dump_payload(payloads[i], f"batch.payloads[{i}]"),
            )
            for i in range(len(vectors))
        ]

    def _vector(self, value: object, path: str) -> Content:
        content = read_vector(value, path, dimension=self._dimension, max_text_bytes=self._settings.max_text_bytes)
        return self._noted(content, path) if isinstance(content, TextInput) else content

    def _noted(self, text: TextInput, path: str) -> TextInput:
        if self._has_text and text.model != self.model:
            raise ApiError(
                400, "invalid_request", f"{path} names another model than the texts before it", param=path,
                hint="send one request a model",
            )  # fmt: skip
        self._has_text, self.model = True, text.model
        if text.options:
            self.warnings.append(no_effect("options", f"{path}.options"))
        return text
