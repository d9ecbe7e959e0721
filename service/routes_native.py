"""Bitfold's own routes: plain search, bulk load, encoders, health, metrics, and the page of routes."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response

from service import openapi, schemas
from service.bulk import Report, content_encoding, load
from service.context import Asked, Services, answer_body, page, query_string, services
from service.direct import Direct
from service.limits import arriving
from service.openapi import ERRORS, OBJECT, documented, envelope_schema, fields, list_of, ref
from service.payloads import Shape
from service.queries import Query
from service.responses import TRUSTED, ApiError, envelope, translate
from service.routes_points import TRUNCATED, to_params
from service.vectors import check_text, read_numbers
from service.version import QDRANT_VERSION, TITLE, bitfold_version

router = APIRouter(route_class=Direct)
health = APIRouter(tags=["health"], route_class=Direct)

_TEXT: dict[int | str, dict[str, Any]] = {
    200: {"description": "Alive", "content": {"text/plain": {"schema": {"type": "string"}}}}
}


@router.get(
    "/",
    tags=["server"],
    summary="Title and version",
    responses={200: openapi.json_content("The answer", OBJECT)},
    response_model=None,
)
async def root(request: Request) -> Response:  # noqa: ARG001
    """Answer as Qdrant does; `version` is the version of Qdrant's API that clients may assume."""
    return JSONResponse(
        {"title": TITLE, "version": QDRANT_VERSION, "bitfold_version": bitfold_version(), "docs": "/docs"}
    )


@router.get(
    "/encoders",
    tags=["server"],
    **documented("List encoders", result=fields(encoders=list_of(OBJECT), default={"type": ["string", "null"]})),
)
async def encoders(request: Request) -> Response:
    """Answer with the encoders by name, and what is known of each without loading it."""
    query_string(request, ())
    registry = services(request).engine.encoders
    result = {"encoders": [asdict(status) for status in registry.statuses()], "default": registry.default}
    return envelope(request, result)


@router.post(
    "/collections/{collection}/search",
    tags=["points"],
    **documented(
        "Search by text or vector", body=schemas.Search, query=("timeout",),
        result=fields(points=list_of(ref("Hit")), stages=OBJECT),
    ),
)  # fmt: skip
async def search(request: Request, collection: str) -> Response:
    """Answer with the nearest points, best first, and with what was done to find them."""
    service = services(request)
    asked = query_string(request, ("timeout",), read=True)

    def read(body: schemas.Search) -> dict[str, Any]:
        return _search(service, collection, body, asked)

    return await answer_body(request, service.searches, asked, schemas.Search, read)


def _search(service: Services, name: str, body: schemas.Search, asked: Asked) -> dict[str, Any]:
    collection = service.engine.get(name)
    query = _query(service, body, collection.config.dimension)
    (found,) = service.engine.search(name, [query], asked.deadline, same=collection)
    if found.truncated:
        asked.warnings.append(TRUNCATED)
    payload = True if body.with_payload is None else body.with_payload
    shape = Shape(payload, text=body.with_text, qdrant=False)
    return {"points": [shape.hit(hit) for hit in found.hits], "stages": found.stages}


def _query(service: Services, body: schemas.Search, dimension: int) -> Query:
    limit, offset = page(service.settings, body.limit, body.offset)
    text = vector = None
    if isinstance(body.query, str):
        check_text(body.query, "query", service.settings.max_text_bytes)
        text = body.query
    elif isinstance(body.query, list):
        vector = read_numbers(body.query, "query", dimension)
    else:
        raise ApiError(400, "invalid_request", "query is neither a text nor a vector", param="query")
    return Query(
        limit=limit,
        offset=offset,
        text=text,
        vector=vector,
        filter=body.filter,
        params=to_params(body.params),
        score_threshold=body.score_threshold,
        with_payload=body.with_payload is not False,
        with_text=body.with_text,
    )


_BULK_DOC: dict[str, Any] = {
    "summary": "Load points from a stream of NDJSON lines",
    "responses": {
        200: openapi.json_content("The answer", envelope_schema(ref("Bulk"))),
        **{
            code: openapi.json_content(ERRORS[code], ref("Error"))
            for code in (400, 401, 404, 408, 413, 415, 429, 503, 507)
        },
    },
    "openapi_extra": {
        "requestBody": {
            "required": True,
            "content": {"application/x-ndjson": {"schema": {"type": "string"}}},
        }
    },
    "response_model": None,
}


@router.post("/collections/{collection}/points/bulk", tags=["points"], **_BULK_DOC)
async def bulk(request: Request, collection: str) -> Response:
    """Read lines `{id, text | vector, payload}`, plain or gzip, any number; batches are durable as they go.

    A bad line is reported and costs no other. Lines that change nothing are counted and not encoded again.
    """
    service = services(request)
    query_string(request, ())
    with service.loads:
        report = Report()
        chunks = arriving(request.stream(), service.settings.body_idle_s)
        try:
            await load(service, collection, chunks, content_encoding(request.headers), report)
        except ClientDisconnect:
            raise
        except asyncio.CancelledError:
            # The drain time is over: the client learns what is durable before the process ends.
            raise ApiError(
                503,
                "stopping",
                "the server is stopping, and the load was not at its end",
                hint="send all lines again, later: those that are durable are not encoded again",
                partial=report.result(),
            ) from None
        except Exception as error:
            wrong = translate(error)
            wrong.partial = report.result()
            raise wrong from error
    return envelope(request, report.result())


@router.get("/metrics", tags=["server"], summary="Metrics for Prometheus", response_class=PlainTextResponse)
async def metrics(request: Request) -> Response:
    """Answer with request counts and latencies, points and bytes."""
    service = services(request)
    text = await service.searches.run(service.metrics.render)
    return Response(text, media_type=service.metrics.content_type)


@health.get("/healthz", summary="Whether the server runs", responses=_TEXT, response_class=PlainTextResponse)
async def healthz(request: Request) -> PlainTextResponse:  # noqa: ARG001
    """Answer as long as the event loop turns."""
    return PlainTextResponse("healthz check passed")


@health.get("/livez", summary="Whether the server runs", responses=_TEXT, response_class=PlainTextResponse)
async def livez(request: Request) -> PlainTextResponse:  # noqa: ARG001
    """Answer as long as the event loop turns."""
    return PlainTextResponse("livez check passed")


@health.get(
    "/readyz",
    summary="Whether the server can answer everything it will ever answer",
    responses={
        200: openapi.json_content("Ready", OBJECT),
        503: openapi.json_content("The encoder is still loading", OBJECT),
    },
    response_model=None,
)
async def readyz(request: Request) -> Response:
    """Answer 200 when the default encoder is loaded or is known not to load; vectors work before that.

    Names and reasons are for those who have the API key; others see counts.
    """
    engine = services(request).engine
    ready = engine.encoders.settled()
    failed, damaged = engine.encoders.failures(), engine.damaged()
    result: dict[str, Any] = {
        "ready": ready,
        "encoders_failed_count": len(failed),
        "collections_damaged_count": len(damaged),
    }
    warnings: list[str] = []
    if request.scope[TRUSTED]:
        result |= {"encoders_failed": failed, "collections_damaged": damaged}
        warnings += [f"encoder {name} failed to load, only vectors work with it: {why}" for name, why in failed.items()]
    response = envelope(request, result, warnings=warnings)
    response.status_code = 200 if ready else 503
    return response


@health.get("/docs", summary="This list of routes", response_class=HTMLResponse)
async def docs(request: Request) -> HTMLResponse:
    """Answer with a page that needs no network."""
    return HTMLResponse(openapi.page(request.app.openapi(), str(request.base_url).rstrip("/")))
