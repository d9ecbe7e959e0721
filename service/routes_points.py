"""Points in Qdrant's dialect: write, read, delete, scroll, count, payloads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal, TypeVar

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from index.errors import VectorsDropped
from index.ids import PointId, parse_id
from index.payload import PayloadEdit
from service.context import (
    READ,
    WRITE,
    Services,
    answer,
    answer_body,
    page,
    query_string,
    read_ids,
    services,
)
from service.direct import Direct
from service.errors import UnknownPoint
from service.openapi import documented, fields, list_of, ref
from service.payloads import Shape
from service.routes_collections import updated
from service.schemas_points import (
    Count,
    DeletePayload,
    PointsSelector,
    RetrievePoints,
    Scroll,
    SetPayload,
    UpsertPoints,
)
from service.upsert import write_points

router = APIRouter(prefix="/collections/{collection}/points", tags=["points"], route_class=Direct)

_NO_VECTOR: Final = "the collection keeps codes only: the vector of this point was dropped"
Selecting = TypeVar("Selecting", bound=PointsSelector)


@router.put(
    "",
    **documented("Write points", body=UpsertPoints, query=WRITE, result=ref("Update"), writes=True),
)
async def upsert(request: Request, collection: str) -> Response:
    """Write all points of the body or, when one is wrong, none; they are durable when this is answered."""
    service = services(request)
    asked = query_string(request, WRITE)

    def write(body: UpsertPoints) -> dict[str, Any]:
        count, warnings = write_points(service.engine, service.settings, collection, body)
        asked.warnings += warnings
        return updated(count)

    return await answer_body(request, service.writes, asked, UpsertPoints, write)


@router.post(
    "",
    **documented("Read points by id", body=RetrievePoints, query=READ, result=list_of(ref("Point"))),
)
async def retrieve(request: Request, collection: str) -> Response:
    """Answer with the points that exist, in the order of the ids."""
    service = services(request)
    asked = query_string(request, READ, read=True)

    def read(body: RetrievePoints) -> list[dict[str, Any]]:
        shape = _shape(body)
        ids = read_ids(service.settings, body.ids, "ids")
        points = service.engine.points(collection, ids, with_vector=shape.vector, with_text=shape.text)
        return [shape.point(point) for point in points]

    return await answer_body(request, service.reads, asked, RetrievePoints, read)


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
        try:
            found = service.engine.points(collection, [point_id], with_vector=True, with_text=True)
        except VectorsDropped:
            found = service.engine.points(collection, [point_id], with_vector=False, with_text=True)
            asked.warnings.append(_NO_VECTOR)
        if not found:
            raise UnknownPoint(f"there is no point {point_id!r} in {collection}", param="id")
        return Shape(True, vector=True, text=True).point(found[0])

    return await answer(request, service.reads, asked, read)


@router.post(
    "/delete",
    **documented(
        "Delete points by id or filter",
        body=PointsSelector,
        query=WRITE,
        result=ref("Update"),
        writes=True,
    ),
)
async def delete(request: Request, collection: str) -> Response:
    """Delete points; ids that do not exist are no error."""
    service = services(request)
    asked = query_string(request, WRITE)

    def remove(body: PointsSelector) -> dict[str, Any]:
        return updated(service.engine.delete(collection, ids=_selected(service, body), filter=body.filter))

    return await answer_body(request, service.writes, asked, PointsSelector, remove)


def _selected(service: Services, body: PointsSelector) -> list[PointId] | None:
    return None if body.points is None else read_ids(service.settings, body.points, "points")


def _shape(body: RetrievePoints | Scroll) -> Shape:
    payload = True if body.with_payload is None else body.with_payload
    return Shape(payload, vector=bool(body.with_vector), text=body.with_text)


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
    def edit(body: SetPayload) -> PayloadEdit:
        return PayloadEdit(kind, payload=body.payload, path=body.key)

    return await _edit(request, collection, SetPayload, edit)


@router.post(
    "/payload",
    **documented("Set payload keys", body=SetPayload, query=WRITE, result=ref("Update"), writes=True),
)
async def set_payload(request: Request, collection: str) -> Response:
    """Set keys and leave the others as they are."""
    return await _put_payload(request, collection, "set")


@router.put(
    "/payload",
    **documented("Replace payloads", body=SetPayload, query=WRITE, result=ref("Update"), writes=True),
)
async def overwrite_payload(request: Request, collection: str) -> Response:
    """Replace whole payloads."""
    return await _put_payload(request, collection, "overwrite")


@router.post(
    "/payload/delete",
    **documented("Delete payload keys", body=DeletePayload, query=WRITE, result=ref("Update"), writes=True),
)
async def delete_payload(request: Request, collection: str) -> Response:
    """Remove keys from payloads."""

    def edit(body: DeletePayload) -> PayloadEdit:
        return PayloadEdit("delete", keys=tuple(body.keys))

    return await _edit(request, collection, DeletePayload, edit)


@router.post(
    "/payload/clear",
    **documented("Empty payloads", body=PointsSelector, query=WRITE, result=ref("Update"), writes=True),
)
async def clear_payload(request: Request, collection: str) -> Response:
    """Remove all keys from payloads."""
    return await _edit(request, collection, PointsSelector, lambda _: PayloadEdit("clear"))


@router.post(
    "/scroll",
    **documented(
        "Read points page by page", body=Scroll, query=READ,
        result=fields(points=list_of(ref("Point")), next_page_offset={"type": ["integer", "string", "null"]}),
    ),
)  # fmt: skip
async def scroll(request: Request, collection: str) -> Response:
    """Answer with a page in id order, integers first; `next_page_offset` is the `offset` of the next one.

    A page of large points has fewer than `limit` when it would grow far beyond 64 MiB.
    """
    service = services(request)
    asked = query_string(request, READ, read=True)

    def read(body: Scroll) -> dict[str, Any]:
        limit, _ = page(service.settings, body.limit)
        shape = _shape(body)
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

    return await answer_body(request, service.reads, asked, Scroll, read)


@router.post(
    "/count",
    **documented("Count points", body=Count, query=READ, result=fields(count={"type": "integer", "minimum": 0})),
)
async def count(request: Request, collection: str) -> Response:
    """Answer with the number of points that match; it is always exact."""
    service = services(request)
    asked = query_string(request, READ, read=True)

    def read(body: Count) -> dict[str, int]:
        return {"count": service.engine.count(collection, body.filter, asked.deadline)}

    return await answer_body(request, service.reads, asked, Count, read)
