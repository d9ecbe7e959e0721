"""Points in Qdrant's dialect: write, read, delete, query, scroll, count, payloads."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from index.ids import PointId, parse_id, parse_ids
from index.payload import PayloadEdit
from index.points import SearchParams
from service import schemas
from service.context import (
    READ,
    WRITE,
    Asked,
    Services,
    check_size,
    deadline_of,
    page,
    query_string,
    read_ids,
    read_json,
    services,
)
from service.errors import UnknownPoint
from service.fields import Selector, no_effect
from service.openapi import documented, fields, list_of, ref
from service.payloads import Shape
from service.queries import Answer, Query
from service.responses import ApiError, envelope
from service.routes_collections import updated
from service.upsert import write_points
from service.vectors import TextInput, read_vector

router = APIRouter(prefix="/collections/{collection}/points", tags=["points"])


@router.put(
    "",
    **documented("Write points", body=schemas.UpsertPoints, query=WRITE, result=ref("Update"), writes=True),
)
async def upsert(request: Request, collection: str) -> Response:
    """Write all points of the body or, when one is wrong, none; they are durable when this is answered."""
    service = services(request)
    asked = query_string(request, WRITE)
    body = await read_json(request, schemas.UpsertPoints, asked)
    count, warnings = await service.writes.run(
        write_points, service.engine, service.settings, collection, body
    )
    return envelope(request, updated(count), warnings=asked.warnings + warnings)


@router.post(
    "",
    **documented("Read points by id", body=schemas.RetrievePoints, query=READ, result=list_of(ref("Point"))),
)
async def retrieve(request: Request, collection: str) -> Response:
    """Answer with the points that exist, in the order of the ids."""
    service = services(request)
    asked = query_string(request, READ)
    body = await read_json(request, schemas.RetrievePoints, asked)
    shape = Shape(
        _payload(body.with_payload, default=True), vector=bool(body.with_vector), text=body.with_text
    )
    ids = read_ids(service.settings, body.ids, "ids")
    points = await service.searches.run(
        service.engine.points, collection, ids, with_vector=shape.vector, with_text=shape.text
    )
    return envelope(request, [shape.point(point) for point in points], warnings=asked.warnings)


@router.get(
    "/{point:path}",
    **documented("Read one point", query=READ, result=ref("Point")),
)
async def get_point(request: Request, collection: str, point: str) -> Response:
    """Answer with payload, text and vector; digits are an integer id, the string "1" is read by POST."""
    service = services(request)
    asked = query_string(request, READ)
    point_id = parse_id(int(point) if point.isascii() and point.isdigit() and len(point) < 24 else point)
    found = await service.searches.run(
        service.engine.points, collection, [point_id], with_vector=True, with_text=True
    )
    if not found:
        raise UnknownPoint(f"there is no point {point_id!r} in {collection}", param="id")
    return envelope(request, Shape(True, vector=True, text=True).point(found[0]), warnings=asked.warnings)


@router.post(
    "/delete",
    **documented(
        "Delete points by id or filter",
        body=schemas.PointsSelector,
        query=WRITE,
        result=ref("Update"),
        writes=True,
    ),
)
async def delete(request: Request, collection: str) -> Response:
    """Delete points; ids that do not exist are no error."""
    service = services(request)
    asked = query_string(request, WRITE)
    body = await read_json(request, schemas.PointsSelector, asked)
    count = await service.writes.run(
        service.engine.delete, collection, ids=_selected(service, body), filter=body.filter
    )
    return envelope(request, updated(count), warnings=asked.warnings)


def _selected(service: Services, body: schemas.PointsSelector) -> list[PointId] | None:
    return None if body.points is None else read_ids(service.settings, body.points, "points")


def _payload(wanted: bool | Selector | None, *, default: bool) -> bool | Selector:
    return default if wanted is None else wanted


async def _edit(request: Request, asked: Asked, body: schemas.PointsSelector, edit: PayloadEdit) -> Response:
    service = services(request)
    count = await service.writes.run(
        service.engine.edit_payload,
        request.path_params["collection"],
        edit,
        ids=_selected(service, body),
        filter=body.filter,
    )
    return envelope(request, updated(count), warnings=asked.warnings)


async def _put_payload(request: Request, kind: Literal["set", "overwrite"]) -> Response:
    asked = query_string(request, WRITE)
    body = await read_json(request, schemas.SetPayload, asked)
    return await _edit(request, asked, body, PayloadEdit(kind, payload=body.payload, path=body.key))


@router.post(
    "/payload",
    **documented("Set payload keys", body=schemas.SetPayload, query=WRITE, result=ref("Update"), writes=True),
)
async def set_payload(request: Request, collection: str) -> Response:  # noqa: ARG001
    """Set keys and leave the others as they are."""
    return await _put_payload(request, "set")


@router.put(
    "/payload",
    **documented("Replace payloads", body=schemas.SetPayload, query=WRITE, result=ref("Update"), writes=True),
)
async def overwrite_payload(request: Request, collection: str) -> Response:  # noqa: ARG001
    """Replace whole payloads."""
    return await _put_payload(request, "overwrite")


@router.post(
    "/payload/delete",
    **documented(
        "Delete payload keys", body=schemas.DeletePayload, query=WRITE, result=ref("Update"), writes=True
    ),
)
async def delete_payload(request: Request, collection: str) -> Response:  # noqa: ARG001
    """Remove keys from payloads."""
    asked = query_string(request, WRITE)
    body = await read_json(request, schemas.DeletePayload, asked)
    return await _edit(request, asked, body, PayloadEdit("delete", keys=tuple(body.keys)))


@router.post(
    "/payload/clear",
    **documented(
        "Empty payloads", body=schemas.PointsSelector, query=WRITE, result=ref("Update"), writes=True
    ),
)
async def clear_payload(request: Request, collection: str) -> Response:  # noqa: ARG001
    """Remove all keys from payloads."""
    asked = query_string(request, WRITE)
    body = await read_json(request, schemas.PointsSelector, asked)
    return await _edit(request, asked, body, PayloadEdit("clear"))


@router.post(
    "/scroll",
    **documented(
        "Read points page by page", body=schemas.Scroll, query=READ,
        result=fields(points=list_of(ref("Point")), next_page_offset={"type": ["integer", "string", "null"]}),
    ),
)  # fmt: skip
async def scroll(request: Request, collection: str) -> Response:
    """Answer with a page in id order, integers first; `next_page_offset` is the `offset` of the next one."""
    service = services(request)
    asked = query_string(request, READ, uses_timeout=True)
    body = await read_json(request, schemas.Scroll, asked)
    limit, _ = page(service.settings, body.limit)
    shape = Shape(
        _payload(body.with_payload, default=True), vector=bool(body.with_vector), text=body.with_text
    )
    points, following = await service.searches.run(
        service.engine.scroll,
        collection,
        after=None if body.offset is None else parse_id(body.offset, param="offset"),
        limit=limit,
        filter=body.filter,
        with_vector=shape.vector,
        with_text=shape.text,
        deadline=deadline_of(request, asked),
    )
    result = {"points": [shape.point(point) for point in points], "next_page_offset": following}
    return envelope(request, result, warnings=asked.warnings)


@router.post(
    "/count",
    **documented(
        "Count points", body=schemas.Count, query=READ, result=fields(count={"type": "integer", "minimum": 0})
    ),
)
async def count(request: Request, collection: str) -> Response:
    """Answer with the number of points that match; it is always exact."""
    service = services(request)
    asked = query_string(request, READ, uses_timeout=True)
    body = await read_json(request, schemas.Count, asked)
    number = await service.searches.run(
        service.engine.count, collection, body.filter, deadline_of(request, asked)
    )
    return envelope(request, {"count": number}, warnings=asked.warnings)


@router.post(
    "/query",
    **documented(
        "Nearest points to a vector, a text or a point", body=schemas.Query, query=READ,
        result=fields(points=list_of(ref("Hit"))),
    ),
)  # fmt: skip
async def query(request: Request, collection: str) -> Response:
    """Answer with the nearest points, best first; under Euclid the score is the distance."""
    service = services(request)
    asked = query_string(request, READ, uses_timeout=True)
    body = await read_json(request, schemas.Query, asked)
    answers = await _ask(request, service, collection, [body], asked)
    return envelope(request, _points(body, answers[0]), warnings=asked.warnings)


@router.post(
    "/query/batch",
    **documented(
        "Several queries at once", body=schemas.QueryBatch, query=READ,
        result=list_of(fields(points=list_of(ref("Hit")))),
    ),
)  # fmt: skip
async def query_batch(request: Request, collection: str) -> Response:
    """Answer queries in their order; when one is wrong, none is answered."""
    service = services(request)
    asked = query_string(request, READ, uses_timeout=True)
    body = await read_json(request, schemas.QueryBatch, asked)
    for i, search in enumerate(body.searches):
        asked.warnings += search.warnings(f"searches[{i}].")
    check_size(len(body.searches), service.settings.max_queries, "searches", "BITFOLD_MAX_QUERIES")
    answers = await _ask(request, service, collection, body.searches, asked) if body.searches else []
    results = [_points(search, answer) for search, answer in zip(body.searches, answers, strict=True)]
    return envelope(request, results, warnings=asked.warnings)


async def _ask(
    request: Request, service: Services, collection: str, bodies: list[schemas.Query], asked: Asked
) -> list[Answer]:
    dimension = service.engine.get(collection).config.dimension
    queries = [to_query(service, body, dimension, asked) for body in bodies]
    answers = await service.searches.run(
        service.engine.search, collection, queries, deadline_of(request, asked)
    )
    if any(answer.truncated for answer in answers):
        asked.warnings.append(TRUNCATED)
    return answers


TRUNCATED = "a query text is longer than the model's window: its end was not used"


def _points(body: schemas.Query, answer: Answer) -> dict[str, Any]:
    shape = Shape(
        _payload(body.with_payload, default=False), vector=bool(body.with_vector), text=body.with_text
    )
    return {"points": [shape.hit(hit) for hit in answer.hits]}


def to_query(service: Services, body: schemas.Query, dimension: int, asked: Asked) -> Query:
    """Turn a request into the engine's question; raises ApiError or InvalidId."""
    limit, offset = page(service.settings, body.limit, body.offset)
    wanted, path = body.query, "query"
    if isinstance(wanted, dict) and "nearest" in wanted:
        extra = sorted(set(wanted) - {"nearest"})
        if extra:
            raise ApiError(
                400, "unknown_key", f"query.{extra[0]} is not supported", param=f"query.{extra[0]}"
            )
        wanted, path = wanted["nearest"], "query.nearest"
    vector: np.ndarray[Any, np.dtype[np.float32]] | None = None
    text: TextInput | None = None
    point: PointId | None = None
    if isinstance(wanted, int | str):
        point = parse_ids([wanted], param=path)[0]
    else:
        found = read_vector(wanted, path, dimension=dimension, max_text_bytes=service.settings.max_text_bytes)
        if isinstance(found, TextInput):
            text = found
            if found.options:
                asked.warnings.append(no_effect("options", f"{path}.options"))
        else:
            vector = found
    return Query(
        limit=limit,
        offset=offset,
        vector=vector,
        text=text.text if text else None,
        encoder=text.model if text else None,
        point=point,
        filter=body.filter,
        params=to_params(body.params),
        score_threshold=body.score_threshold,
        with_payload=_payload(body.with_payload, default=False) is not False,
        with_text=body.with_text,
        with_vector=bool(body.with_vector),
    )


def to_params(params: schemas.Params | None) -> SearchParams:
    """Return how to search."""
    if params is None:
        return SearchParams()
    return SearchParams(exact=params.exact, candidates=params.candidates, rerank=params.rerank)
