"""Searching: the plain search, and Qdrant's query, one or many at once."""

from __future__ import annotations

from typing import Any, Final

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from index.ids import PointId, parse_ids
from index.points import SearchParams
from service import schemas_search
from service.context import READ, Asked, Services, answer_body, check_size, page, query_string, services
from service.direct import Direct
from service.fields import no_effect
from service.openapi import OBJECT, documented, fields, list_of, ref
from service.payloads import Shape
from service.queries import Float32s, Query
from service.responses import ApiError
from service.vectors import TextInput, check_text, read_numbers, read_vector

router = APIRouter(tags=["points"], route_class=Direct)

_TRUNCATED: Final = "a query text is longer than the model's window: its end was not used"
_BATCH_SHARE: Final = 10  # how many times the largest limit + offset all queries of a batch may have together


@router.post(
    "/collections/{collection}/search",
    **documented(
        "Search by text or vector", body=schemas_search.Search, query=("timeout",),
        result=fields(points=list_of(ref("Hit")), stages=OBJECT),
    ),
)  # fmt: skip
async def search(request: Request, collection: str) -> Response:
    """Answer with the nearest points, best first, and with what was done to find them."""
    service = services(request)
    asked = query_string(request, ("timeout",), read=True)

    def read(body: schemas_search.Search) -> dict[str, Any]:
        return _search(service, collection, body, asked)

    return await answer_body(request, service.searches, asked, schemas_search.Search, read)


def _search(service: Services, name: str, body: schemas_search.Search, asked: Asked) -> dict[str, Any]:
    collection = service.engine.catalog.get(name)
    query = _query(service, body, collection.config.dimension)
    (found,) = service.engine.search(name, [query], asked.deadline, same=collection)
    if found.truncated:
        asked.warnings.append(_TRUNCATED)
    payload = True if body.with_payload is None else body.with_payload
    shape = Shape(payload, text=body.with_text, qdrant=False)
    return {"points": [shape.hit(hit) for hit in found.hits], "stages": found.stages}


def _query(service: Services, body: schemas_search.Search, dimension: int) -> Query:
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
        params=_to_params(body.params),
        score_threshold=body.score_threshold,
        with_payload=body.with_payload is not False,
        with_text=body.with_text,
    )


@router.post(
    "/collections/{collection}/points/query",
    **documented(
        "Nearest points to a vector, a text or a point", body=schemas_search.Query, query=READ,
        result=fields(points=list_of(ref("Hit"))),
    ),
)  # fmt: skip
async def query(request: Request, collection: str) -> Response:
    """Answer with the nearest points, best first; under Euclid the score is the distance."""
    service = services(request)
    asked = query_string(request, READ, read=True)

    def read(body: schemas_search.Query) -> dict[str, Any]:
        return _ask(service, collection, [body], asked)[0]

    return await answer_body(request, service.searches, asked, schemas_search.Query, read)


@router.post(
    "/collections/{collection}/points/query/batch",
    **documented(
        "Several queries at once", body=schemas_search.QueryBatch, query=READ,
        result=list_of(fields(points=list_of(ref("Hit")))),
    ),
)  # fmt: skip
async def query_batch(request: Request, collection: str) -> Response:
    """Answer queries in their order; when one is wrong, none is answered."""
    service = services(request)
    asked = query_string(request, READ, read=True)

    def read(body: schemas_search.QueryBatch) -> list[dict[str, Any]]:
        check_size(len(body.searches), service.settings.max_queries, "searches", "BITFOLD_MAX_QUERIES")
        for i, search in enumerate(body.searches):
            asked.warnings += search.warnings(f"searches[{i}].")
        return _ask(service, collection, body.searches, asked) if body.searches else []

    return await answer_body(request, service.searches, asked, schemas_search.QueryBatch, read)


def _ask(service: Services, name: str, bodies: list[schemas_search.Query], asked: Asked) -> list[dict[str, Any]]:
    collection = service.engine.catalog.get(name)
    queries = [_to_query(service, body, collection.config.dimension, asked) for body in bodies]
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
        asked.warnings.append(_TRUNCATED)
    shapes = [Shape(body.with_payload or False, vector=bool(body.with_vector), text=body.with_text) for body in bodies]
    return [{"points": [shape.hit(hit) for hit in answer.hits]} for shape, answer in zip(shapes, answers, strict=True)]


def _to_query(service: Services, body: schemas_search.Query, dimension: int, asked: Asked) -> Query:
    """Turn a request into the engine's question; raises ApiError or InvalidId."""
    limit, offset = page(service.settings, body.limit, body.offset)
    wanted, path = body.query, "query"
    if isinstance(wanted, dict) and "nearest" in wanted:
        extra = sorted(set(wanted) - {"nearest"})
        if extra:
            raise ApiError(400, "unknown_key", f"query.{extra[0]} is not supported", param=f"query.{extra[0]}")
        wanted, path = wanted["nearest"], "query.nearest"
    vector: Float32s | None = None
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
        params=_to_params(body.params),
        score_threshold=body.score_threshold,
        with_payload=bool(body.with_payload),
        with_text=body.with_text,
        with_vector=bool(body.with_vector),
    )


def _to_params(params: schemas_search.Params | None) -> SearchParams:
    """Return how to search."""
    if params is None:
        return SearchParams()
    return SearchParams(
        exact=params.exact,
        candidates=params.candidates,
        rerank=params.rerank,
        bits=params.bits,
        symmetric=params.symmetric,
    )
