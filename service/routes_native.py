"""Bitfold's own routes: plain search, bulk load, encoders, health, metrics, and the page of routes."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response

from service import openapi
from service.bulk import Report, content_encoding, load
from service.context import BULK, query_string, services
from service.direct import Direct
from service.limits import arriving
from service.load_size import Announced
from service.openapi import OBJECT, documented, fields, list_of, ref
from service.responses import TRUSTED, ApiError, envelope, translate
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
    **documented(
        "List encoders",
        result=fields(encoders=list_of(OBJECT), pairs=OBJECT, default={"type": ["string", "null"]}),
    ),
)
async def encoders(request: Request) -> Response:
    """Answer with the encoders by name, what is known of each without loading it, and the names of pairs."""
    query_string(request, ())
    registry = services(request).engine.encoders
    result = {
        "encoders": [asdict(status) for status in registry.statuses()],
        "pairs": {name: pair._asdict() for name, pair in registry.pairs().items()},
        "default": registry.default,
    }
    return envelope(request, result)


@router.post(
    "/collections/{collection}/points/bulk",
    tags=["points"],
    **documented(
        "Load points from a stream of NDJSON lines",
        body="application/x-ndjson",
        query=BULK,
        result=ref("Bulk"),
        writes=True,
    ),
)
async def bulk(request: Request, collection: str) -> Response:
    """Read lines `{id, text | vector, payload}`, plain or gzip, any number; batches are durable as they go.

    A bad line is reported and costs no other. Lines that change nothing are counted and not encoded again.
    A load that will not fit into memory or on the disk is refused before it begins: `points` says how many will come,
    else the length of a plain body tells; of what tells neither, as much is loaded as fits.
    """
    service = services(request)
    query_string(request, BULK)
    with service.loads:
        report = Report()
        chunks = arriving(request.stream(), service.settings.body_idle_s)
        try:
            encoding = content_encoding(request.headers)
            announced = Announced.of(request.query_params, request.headers, encoding)
            await load(service, collection, chunks, encoding, report, announced)
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
    text = await service.reads.run(service.metrics.render)
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
    """Answer 200 when the encoders that queries need are loaded or known not to load; vectors work before that.

    Those are the default's and those of collections. Names and reasons are for those who have the API key; others
    see counts.
    """
    engine = services(request).engine
    ready = engine.encoders.settled()
    failed, damaged, refusing = engine.encoders.failures(), engine.catalog.damaged(), engine.catalog.refusing()
    result: dict[str, Any] = {
        "ready": ready,
        "encoders_failed_count": len(failed),
        "collections_damaged_count": len(damaged),
        "collections_refusing_texts_count": len(refusing),
    }
    warnings: list[str] = []
    if request.scope[TRUSTED]:
        result |= {
            "encoders_failed": failed,
            "collections_damaged": damaged,
            "collections_refusing_texts": refusing,
        }
        warnings += [f"encoder {name} failed to load, only vectors work with it: {why}" for name, why in failed.items()]
        warnings += [f"collection {name} takes vectors only: {why}" for name, why in refusing.items()]
    response = envelope(request, result, warnings=warnings)
    response.status_code = 200 if ready else 503
    return response


@health.get("/docs", summary="This list of routes", response_class=HTMLResponse)
async def docs(request: Request) -> HTMLResponse:
    """Answer with a page that needs no network."""
    return HTMLResponse(openapi.page(request.app.openapi(), str(request.base_url).rstrip("/")))
