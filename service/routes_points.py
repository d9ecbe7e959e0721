"""Points in Qdrant's dialect: write, read, delete, query, scroll, count, payloads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal, TypeVar

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
    answer,
    answer_body,
    check_size,
    page,
    query_string,
    read_ids,
    services,
)
from service.direct import Direct
from service.errors import UnknownPoint
from service.fields import Selector, no_effect
from service.openapi import documented, fields, list_of, ref
from service.payloads import Shape
from service.queries import Query
from service.responses import ApiError
from service.routes_collections import updated
from service.upsert import write_points
from service.vectors import TextInput, read_vector

router = APIRouter(prefix="/collections/{collection}/points", tags=["points"], route_class=Direct)

Selecting = TypeVar("Selecting", bound=schemas.PointsSelector)


@router.put(
    "",
    **documented("Write points", body=schemas.UpsertPoints, query=WRITE, result=ref("Update"), writes=True),
)
async def upsert(request: Request, collection: str) -> Response:
    """Write all points of the body or, when one is wrong, none; they are durable when this is answered."""
    service = services(request)
    asked = query_string(request, WRITE)

    def write(body: schemas.UpsertPoints) -> dict[str, Any]:
        count, warnings = write_points(service.engine, service.settings, collection, body)
        asked.warnings += warnings
        return updated(count)

    return await answer_body(request, service.writes, asked, schemas.UpsertPoints, write)


@router.post(
    "",
    **documented("Read points by id", body=schemas.RetrievePoints, query=READ, result=list_of(ref("Point"))),
)
async def retrieve(request: Request, collection: str) -> Response:
    """Answer with the points that exist, in the order of the ids."""
    service = services(request)
    asked = query_string(request, READ, read=True)

    def read(body: schemas.RetrievePoints) -> list[dict[str, Any]]:
        shape = _shape(body, payload=True)
        ids = read_ids(service.settings, body.ids, "ids")
        points = service.engine.points(collection, ids, with_vector=shape.vector, with_text=shape.text)
        return [shape.point(point) for point in points]

    return await answer_body(request, service.searches, asked, schemas.RetrievePoints, read)


@router.get(
    "/{point:path}",
    **documented("Read one point", query=READ, result=ref("Point")),
)
async def get_point(request: Request, collection: str, point: str) -> Response:
    """Answer with payload, text and vector; digits are an integer id, the string "1" is read by POST."""
    service = services(request)
    asked = query_string(request, READ, read=True)
    point_id = parse_id(int(point) if point.isascii() and point.isdigit() and len(point) < 24 else point)

    def read() -> dict[str, Any]:
        found = service.engine.points(collection, [point_id], with_vector=True, with_text=True)
        if not found:
            raise UnknownPoint(f"there is no point {point_id!r} in {collection}", param="id")
        return Shape(True, vector=True, text=True).point(found[0])

    return await answer(request, service.searches, asked, read)


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

    def remove(body: schemas.PointsSelector) -> dict[str, Any]:
        return updated(service.engine.delete(collection, ids=_selected(service, body), filter=body.filter))

    return await answer_body(request, service.writes, asked, schemas.PointsSelector, remove)


def _selected(service: Services, body: schemas.PointsSelector) -> list[PointId] | None:
    return None if body.points is None else read_ids(service.settings, body.points, "points")


def _payload(wanted: bool | Selector | None, *, default: bool) -> bool | Selector:
    return default if wanted is None else wanted


async def _edit(
    request: Request, collection: str, model: type[Selecting], edit: Callable[[Selecting], PayloadEdit]
) -> Response:
    service = services(request)
    asked = query_string(request, WRITE)

    def change(body: Selecting) -> dict[str, Any]:
        ids = _selected(service, body)
        return updated(service.engine.edit_payload(collection, edit(body), ids=ids, filter=body.filter))

    return await answer_body(request, service.writes, asked, model, change)


async def _put_payload(request: Request, collection: str, kind: Literal["set", "overwrite"]) -> Response:
    def edit(body: schemas.SetPayload) -> PayloadEdit:
        return PayloadEdit(kind, payload=body.payload, path=body.key)

    return await _edit(request, collection, schemas.SetPayload, edit)


@router.post(
    "/payload",
    **documented("Set payload keys", body=schemas.SetPayload, query=WRITE, result=ref("Update"), writes=True),
)
async def set_payload(request: Request, collection: str) -> Response:
    """Set keys and leave the others as they are."""
    return await _put_payload(request, collection, "set")


@router.put(
    "/payload",
    **documented("Replace payloads", body=schemas.SetPayload, query=WRITE, result=ref("Update"), writes=True),
)
async def overwrite_payload(request: Request, collection: str) -> Response:
    """Replace whole payloads."""
    return await _put_payload(request, collection, "overwrite")


@router.post(
    "/payload/delete",
    **documented("Delete payload keys", body=schemas.DeletePayload, query=WRITE, result=ref("Update"), writes=True),
)
async def delete_payload(request: Request, collection: str) -> Response:
    """Remove keys from payloads."""

    def edit(body: schemas.DeletePayload) -> PayloadEdit:
        return PayloadEdit("delete", keys=tuple(body.keys))

    return await _edit(request, collection, schemas.DeletePayload, edit)


@router.post(
    "/payload/clear",
    **documented("Empty payloads", body=schemas.PointsSelector, query=WRITE, result=ref("Update"), writes=True),
)
async def clear_payload(request: Request, collection: str) -> Response:
    """Remove all keys from payloads."""
    return await _edit(request, collection, schemas.PointsSelector, lambda _: PayloadEdit("clear"))


@router.post(
    "/scroll",
    **documented(
        "Read points page by page", body=schemas.Scroll, query=READ,
        result=fields(points=list_of(ref("Point")), next_page_offset={"type": ["integer", "string", "null"]}),
    ),
)  # fmt: skip
async def scroll(request: Request, collection: str) -> Response:
    """Answer with a page in id order, integers first; `next_page_offset` is the `offset` of the next one.

    A page of large points has fewer than `limit` when it would grow far beyond 64 MiB.
    """
    service = services(request)
    asked = query_string(request, READ, read=True)

    def read(body: schemas.Scroll) -> dict[str, Any]:
        limit, _ = page(service.settings, body.limit)
        shape = _shape(body, payload=True)
        points, following = service.engine.scroll(
            collection,
            after=None if body.offset is None else parse_id(body.offset, param="offset"),
            limit=limit,
            filter=body.filter,
            with_vector=shape.vector,
            with_text=shape.text,
            deadline=asked.deadline,
        )
        return {"points": [shape.point(point) for point in points], "next_page_offset": following}

    return await answer_body(request, service.searches, asked, schemas.Scroll, read)


@router.post(
    "/count",
    **documented(
        "Count points", body=schemas.Count, query=READ, result=fields(count={"type": "integer", "minimum": 0})
    ),
)
async def count(request: Request, collection: str) -> Response:
    """Answer with the number of points that match; it is always exact."""
    service = services(request)
    asked = query_string(request, READ, read=True)

    def read(body: schemas.Count) -> dict[str, int]:
        return {"count": service.engine.count(collection, body.filter, asked.deadline)}

    return await answer_body(request, service.searches, asked, schemas.Count, read)


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
    asked = query_string(request, READ, read=True)

    def read(body: schemas.Query) -> dict[str, Any]:
        return _ask(service, collection, [body], asked)[0]

    return await answer_body(request, service.searches, asked, schemas.Query, read)


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
    asked = query_string(request, READ, read=True)

    def read(body: schemas.QueryBatch) -> list[dict[str, Any]]:
        check_size(len(body.searches), service.settings.max_queries, "searches", "BITFOLD_MAX_QUERIES")
        for i, search in enumerate(body.searches):
            asked.warnings += search.warnings(f"searches[{i}].")
        return _ask(service, collection, body.searches, asked) if body.searches else []

    return await answer_body(request, service.searches, asked, schemas.QueryBatch, read)


TRUNCATED = "a query text is longer than the model's window: its end was not used"
_BATCH_SHARE: Final = 10  # how many times the largest limit + offset all queries of a batch may have together


def _ask(service: Services, name: str, bodies: list[schemas.Query], asked: Asked) -> list[dict[str, Any]]:
    collection = service.engine.get(name)
    queries = [to_query(service, body, collection.config.dimension, asked) for body in bodies]
    wanted = sum(query.limit + query.offset for query in queries)
    if wanted > _BATCH_SHARE * service.settings.max_limit:
        raise ApiError(
            400,
            "limit_too_large",
            f"the queries ask for {wanted} points together, at most "
            f"{_BATCH_SHARE * service.settings.max_limit} are allowed",
            param="searches",
            hint="send several requests, or raise BITFOLD_MAX_LIMIT",
        )
    answers = service.engine.search(name, queries, asked.deadline, same=collection)
    if any(answer.truncated for answer in answers):
        asked.warnings.append(TRUNCATED)
    shapes = [_shape(body, payload=False) for body in bodies]
    return [{"points": [shape.hit(hit) for hit in answer.hits]} for shape, answer in zip(shapes, answers, strict=True)]


def _shape(body: schemas.RetrievePoints | schemas.Scroll | schemas.Query, *, payload: bool) -> Shape:
    """Return what the rows of the answer hold; `payload` is what None stands for."""
    return Shape(_payload(body.with_payload, default=payload), vector=bool(body.with_vector), text=body.with_text)


def to_query(service: Services, body: schemas.Query, dimension: int, asked: Asked) -> Query:
    """Turn a request into the engine's question; raises ApiError or InvalidId."""
    limit, offset = page(service.settings, body.limit, body.offset)
    wanted, path = body.query, "query"
    if isinstance(wanted, dict) and "nearest" in wanted:
        extra = sorted(set(wanted) - {"nearest"})
        if extra:
            raise ApiError(400, "unknown_key", f"query.{extra[0]} is not supported", param=f"query.{extra[0]}")
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
