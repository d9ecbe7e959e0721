"""The envelope: `{result, status, time}`, and `{status: {error}, time, type, param, hint}` for errors.

The one place that maps errors to HTTP statuses. Knows nothing of routes, but that paths below /v1 are OpenAI's:
their errors are `{error: {message, type, param, code}}`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any, Final

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

import index.errors as ix
import models.errors as ml
from service.errors import (
    EncoderLoading,
    EncoderUnavailable,
    JobExists,
    NoEncoder,
    OtherSpace,
    ParserFailed,
    TrainingFailed,
    UnknownJob,
    UnknownPoint,
    WillNotFit,
    WorseBinarizer,
)

log = logging.getLogger(__name__)

STARTED: Final = "bitfold.started"
TRUSTED: Final = "bitfold.trusted"  # whether the request has the API key, or none is needed
OPENAI: Final = "/v1/"
_OPTIONS = orjson.OPT_SERIALIZE_NUMPY

# A family of errors stands for all of its children that are not listed themselves.
STATUS: Final[Mapping[type[Exception], tuple[int, str]]] = {
    ix.InvalidInput: (400, "invalid_input"),
    ix.InvalidId: (400, "invalid_id"),
    ix.InvalidVector: (400, "invalid_vector"),
    ix.InvalidPayload: (400, "invalid_payload"),
    ix.InvalidFilter: (400, "invalid_filter"),
    ix.InvalidName: (400, "invalid_name"),
    ix.VectorsDropped: (400, "vectors_dropped"),
    ix.NotFound: (404, "not_found"),
    ix.UnknownCollection: (404, "unknown_collection"),
    ix.CollectionExists: (409, "collection_exists"),
    ix.CorruptCollection: (503, "damaged_collection"),
    ix.ReadOnlyCollection: (503, "read_only_collection"),
    ix.DiskFull: (507, "disk_full"),
    ix.DataDirLocked: (503, "data_dir_locked"),
    ix.DeadlineExceeded: (408, "deadline_exceeded"),
    WillNotFit: (507, "will_not_fit"),
    UnknownPoint: (404, "unknown_point"),
    NoEncoder: (400, "no_encoder"),
    OtherSpace: (400, "other_space"),
    ParserFailed: (503, "parser_failed"),
    UnknownJob: (404, "unknown_job"),
    JobExists: (409, "job_exists"),
    TrainingFailed: (500, "training_failed"),
    WorseBinarizer: (409, "worse_binarizer"),
    EncoderUnavailable: (503, "encoder_unavailable"),
    EncoderLoading: (503, "encoder_unavailable"),
    ml.UnknownEncoder: (400, "unknown_encoder"),
    ml.InvalidText: (400, "invalid_text"),
    ml.InvalidVectors: (400, "invalid_vector"),
    ml.TooFewVectors: (400, "too_few_vectors"),
    ml.InvalidSize: (400, "invalid_size"),
    ml.UnsupportedSize: (400, "unsupported_size"),
    ml.CorruptBinarizer: (400, "invalid_binarizer"),
    ml.ModelError: (503, "encoder_unavailable"),
}


class ApiError(Exception):
    """An error that the HTTP layer itself finds.

    Parameters
    ----------
    status : the HTTP status.
    type_ : a short stable word for programs.
    message : what is wrong and where.
    param : the input at fault, as a path.
    hint : what to do about it.
    headers : extra response headers.
    partial : what was done or measured before the error, if anything was.
    """

    def __init__(
        self,
        status: int,
        type_: str,
        message: str,
        *,
        param: str | None = None,
        hint: str | None = None,
        headers: Mapping[str, str] | None = None,
        partial: object = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.type = type_
        self.param = param
        self.hint = hint
        self.headers = dict(headers or {})
        self.partial = partial


def translate(error: Exception) -> ApiError:
    """Map an error of `index`, `models` or the engine to its status; the nearest listed ancestor counts."""
    if isinstance(error, ApiError):
        return error
    for family in type(error).__mro__:
        if family in STATUS:
            status, type_ = STATUS[family]
            return ApiError(
                status,
                type_,
                str(error),
                param=getattr(error, "param", None),
                hint=getattr(error, "hint", None),
                headers={"Retry-After": "2"} if family is EncoderLoading else None,
                partial=getattr(error, "figures", None),
            )
    log.error("unexpected error", exc_info=error)
    return ApiError(500, "internal_error", "an unexpected error; the server's log has the details")


def described(error: Exception) -> dict[str, Any]:
    """Return `{type, message, hint}` of an error, as a job keeps it."""
    wrong = translate(error)
    return {"type": wrong.type, "message": str(wrong), "hint": wrong.hint}


def elapsed(scope: Scope) -> float:
    """Seconds since the request arrived."""
    return time.perf_counter() - float(scope.get(STARTED, time.perf_counter()))


def envelope(request: Request, result: object, *, warnings: list[str] | None = None) -> Response:
    """Return 200 with the result; `warnings` appears only when there are some."""
    return wrapped(dumped(request, result, warnings))


def dumped(request: Request, result: object, warnings: list[str] | None = None) -> bytes:
    """Return the body of a 200; for a large result this takes milliseconds."""
    body: dict[str, Any] = {"result": result, "status": "ok", "time": elapsed(request.scope)}
    if warnings:
        body["warnings"] = list(dict.fromkeys(warnings))
    return orjson.dumps(body, option=_OPTIONS)


def wrapped(body: bytes) -> Response:
    """Return 200 around what `dumped` made."""
    return Response(body, media_type="application/json")


def failure(error: ApiError, scope: Scope) -> Response:
    """Return the error in the shape that clients of this path read."""
    openai = scope["path"].startswith(OPENAI)
    body = _openai_error(error) if openai else _error(error, elapsed(scope))
    return Response(orjson.dumps(body), error.status, error.headers, "application/json")


def _error(error: ApiError, seconds: float) -> dict[str, Any]:
    body: dict[str, Any] = {
        "status": {"error": str(error)},
        "time": seconds,
        "type": error.type,
        "param": error.param,
        "hint": error.hint,
    }
    if error.partial is not None:
        body["result"] = error.partial
    return body


def _openai_error(error: ApiError) -> dict[str, Any]:
    """Return OpenAI's shape: the family as `type`, our own word as `code`, the hint at the end of the message."""
    type_ = "server_error" if error.status >= 500 else "invalid_request_error"
    message = f"{error}; {error.hint}" if error.hint else str(error)
    return {
        "error": {
            "message": message,
            "type": "rate_limit_error" if error.status == 429 else type_,
            "param": error.param,
            "code": error.type,
        }
    }


async def on_error(request: Request, error: Exception) -> Response:
    """Answer any mapped error, and any other as 500 without its details."""
    return failure(translate(error), request.scope)


async def on_http_error(request: Request, error: Exception) -> Response:
    """Answer what the router refuses: no such route, no such method."""
    status, headers = 500, {}
    if isinstance(error, HTTPException):
        status, headers = error.status_code, dict(error.headers or {})
    words = {404: ("no_route", "there is no such route"), 405: ("no_method", "this route has no such method")}
    type_, message = words.get(status, ("http_error", "the request cannot be handled"))
    where = f"{request.method} {request.url.path}"
    wrong = ApiError(status, type_, f"{message}: {where}", hint="GET /docs lists the routes", headers=headers)
    return failure(wrong, request.scope)


async def on_disconnect(request: Request, error: Exception) -> Response:
    """End the request of a client that went away; nobody reads this answer."""
    log.info("the client of %s %s went away: %s", request.method, request.url.path, type(error).__name__)
    return failure(ApiError(400, "disconnected", "the body ended too early"), request.scope)
