"""Searching: the plain search, and Qdrant's query, one or many at once."""

from __future__ import annotations

import dataclasses
from typing import Any, Final

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from index.collection import Collection
from index.ids import PointId, parse_ids
from index.points import SearchParams, Stages
from models import InvalidText
from models.errors import UnsupportedSize
from service import schemas_search
from service.context import READ, Asked, Services, answer_body, check_size, page, query_string, services
from service.direct import Direct
from service.fields import no_effect
from service.openapi import OBJECT, documented, fields, list_of, ref
from service.payloads import Shape
from service.queries import Answer, Float32s, Query
from service.responses import ApiError, translate
from service.vectors import TextInput, check_text, read_numbers, read_vector

router = APIRouter(tags=["points"], route_class=Direct)

_TRUNCATED: Final = "longer than the model's window: its end was not used"
_OF_TEXT: Final = ("encoder", "layers", "dimensions", "cached", "truncated")
_OF_SEARCH: Final = tuple(field.name for field in dataclasses.fields(Stages))
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
    (found,) = _answers(service, name, [query], asked, collection, [""])
    payload = True if body.with_payload is None else body.with_payload
    shape = Shape(payload, text=body.with_text, qdrant=False)
    return {"points": [shape.hit(hit) for hit in found.hits], "stages": _stages(found)}


def _stages(answer: Answer) -> Stages | dict[str, Any]:
    """Return what was done, with how the text was encoded if there was one."""
    text = answer.text
    if text is None:
        return answer.stages
    # Field by field: `asdict` copies what lies in them, 0.1 ms of every search.
    shown = {name: getattr(text, name) for name in _OF_TEXT}
    return shown | {name: getattr(answer.stages, name) for name in _OF_SEARCH}


def _answers(
    service: Services, name: str, queries: list[Query], asked: Asked, collection: Collection, paths: list[str]
) -> list[Answer]:
    """Search; put what is to be said about texts into the warnings, and the place into errors about them.

    Parameters
    ----------
    paths : where in the body each query stands, "" or with a dot at its end.
    """
    try:
        answers = service.engine.search(name, queries, asked.deadline, same=collection)
    except InvalidText as error:
        wrong = translate(error)
        wrong.param = f"{paths[error.index]}query"
        raise wrong from error
    except UnsupportedSize as error:
        wrong = translate(error)
        wrong.param = f"{paths[error.index]}params"
        raise wrong from error
    for path, answer in zip(paths, answers, strict=True):
        if answer.text is not None and answer.text.truncated:
            asked.warnings.append(f"the text of {path}query is {_TRUNCATED}")
        if answer.text is not None and answer.text.warning:
            asked.warnings.append(answer.text.warning)
    return answers


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
    if text is None and body.encoder is not None:
        raise ApiError(
            400, "invalid_request", "encoder is for a query with a text, this one is a vector", param="encoder",
            hint="leave it out",
        )  # fmt: skip
    layers, dimensions = _size(body.params, "", has_text=text is not None)
    return Query(
        limit=limit,
        offset=offset,
        text=text,
        encoder=body.encoder,
        layers=layers,
        dimensions=dimensions,
        vector=vector,
        filter=body.filter,
        params=to_params(body.params),
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
        return _ask(service, collection, [body], asked, [""])[0]

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
        paths = [f"searches[{i}]." for i in range(len(body.searches))]
        for path, search in zip(paths, body.searches, strict=True):
            asked.warnings += search.warnings(path)
        return _ask(service, collection, body.searches, asked, paths) if body.searches else []

    return await answer_body(request, service.searches, asked, schemas_search.QueryBatch, read)


def _ask(
    service: Services, name: str, bodies: list[schemas_search.Query], asked: Asked, paths: list[str]
) -> list[dict[str, Any]]:
    collection = service.engine.catalog.get(name)
    dimension = collection.config.dimension
    queries = [_to_query(service, body, dimension, asked, path) for body, path in zip(bodies, paths, strict=True)]
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
    answers = _answers(service, name, queries, asked, collection, paths)
    shapes = [Shape(body.with_payload or False, vector=bool(body.with_vector), text=body.with_text) for body in bodies]
    return [{"points": [shape.hit(hit) for hit in answer.hits]} for shape, answer in zip(shapes, answers, strict=True)]


def _to_query(service: Services, body: schemas_search.Query, dimension: int, asked: Asked, at: str) -> Query:
    """Turn a request into the engine's question; raises ApiError or InvalidId."""
    limit, offset = page(service.settings, body.limit, body.offset)
    wanted, path = body.query, f"{at}query"
    if isinstance(wanted, dict) and "nearest" in wanted:
        extra = sorted(set(wanted) - {"nearest"})
        if extra:
            raise ApiError(400, "unknown_key", f"{path}.{extra[0]} is not supported", param=f"{path}.{extra[0]}")
        wanted, path = wanted["nearest"], f"{path}.nearest"
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
    layers, dimensions = _size(body.params, at, has_text=text is not None)
    return Query(
        limit=limit,
        offset=offset,
        vector=vector,
        text=text.text if text else None,
        encoder=text.model if text else None,
        layers=layers,
        dimensions=dimensions,
        point=point,
        filter=body.filter,
        params=to_params(body.params),
        score_threshold=body.score_threshold,
        with_payload=bool(body.with_payload),
        with_text=body.with_text,
        with_vector=bool(body.with_vector),
    )


def _size(params: schemas_search.Params | None, at: str, *, has_text: bool) -> tuple[int | None, int | None]:
    """Return the layers and dimensions to encode a text at; raises ApiError (400) where there is no text."""
    if params is None:
        return None, None
    for key in ("layers", "dimensions"):
        if not has_text and getattr(params, key) is not None:
            raise ApiError(
                400,
                "invalid_request",
                f"{at}params.{key} is the size at which a text is encoded, and the query is no text",
                param=f"{at}params.{key}",
                hint="leave it out and send a whole vector: the prefix of one is not that of a folded space",
            )
    return params.layers, params.dimensions


def to_params(params: schemas_search.Params | None) -> SearchParams:
    """Return how to search."""
    if params is None:
        return SearchParams()
    return SearchParams(
        exact=params.exact,
        candidates=params.candidates,
        rerank=params.rerank,
        bits=params.bits,
        symmetric=params.symmetric,
        probes=params.probes,
        target_recall=params.target_recall,
    )
