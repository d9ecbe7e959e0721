"""What every route has at hand: the parts of the service, readers for bodies and query strings, limits."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

import orjson
from starlette.requests import Request
from starlette.responses import Response

from index.errors import DeadlineExceeded
from index.ids import PointId, parse_ids
from index.payload import parse_payload
from service import schemas
from service.engine import Engine
from service.fields import NO_EFFECT, no_effect
from service.jobs import Jobs
from service.limits import Budget, Pool, Slots, deadline, read_body
from service.metrics import Metrics
from service.parser_pool import ParserPool
from service.responses import ApiError, dumped, wrapped
from service.settings import Settings
from service.training import Training

R = TypeVar("R", bound=schemas.Request)

READ: Final = ("consistency", "timeout")
WRITE: Final = ("wait", "ordering", "timeout")
ADMIN: Final = ("timeout",)
BINARIZER: Final = ("force", "space")
BULK: Final = ("points",)

_CHOICES: Final[Mapping[str, tuple[str, ...]]] = {
    "wait": ("true", "false"),
    "ordering": ("weak", "medium", "strong"),
    "force": ("true", "false"),
}
_CONSISTENCY: Final = ("majority", "quorum", "all")
MAX_TIMEOUT: Final = 86_400
DEFAULT_LIMIT: Final = 10


@dataclass(frozen=True, slots=True)
class Services:
    """The parts of one running application.

    Parameters
    ----------
    searches : threads for searches. reads : for all other reads. writes : for small writes, which starve neither.
    embeddings : threads for texts to embed, which may take minutes and must starve neither.
    bulk : threads for the blocks of bulk loads. parsing : threads that wait for parsers.
    loads : how many bulk requests may run. bodies : how many bytes JSON bodies may hold together.
    """

    settings: Settings
    engine: Engine
    metrics: Metrics
    searches: Pool
    reads: Pool
    writes: Pool
    embeddings: Pool
    bulk: Pool
    parsing: Pool
    loads: Slots
    bodies: Budget
    parsers: ParserPool
    jobs: Jobs
    training: Training


@dataclass(slots=True)
class Asked:
    """The warnings that an answer will carry, and when a read must be done (`time.monotonic()` seconds)."""

    warnings: list[str]
    deadline: float | None


def services(request: Request) -> Services:
    """Return the parts of the application that the request came to."""
    found: Services = request.state.services
    return found


def query_string(request: Request, allowed: tuple[str, ...], *, read: bool = False) -> Asked:
    """Check the query string; raises ApiError (400) for unknown keys and values.

    A read has a deadline, which `timeout` (seconds) makes earlier; elsewhere `timeout` is named in the warnings,
    as other keys without effect are.
    """
    asked = Asked([], None)
    timeout: int | None = None
    if request.scope["query_string"]:
        timeout = _read_query_string(request, allowed, asked, read=read)
    if read:
        asked.deadline = deadline(services(request).settings.search_timeout_ms, request, timeout)
    return asked


def _read_query_string(request: Request, allowed: tuple[str, ...], asked: Asked, *, read: bool) -> int | None:
    timeout: int | None = None
    for key, value in request.query_params.multi_items():
        if key not in allowed:
            known = ", ".join(allowed) or "none"
            raise ApiError(
                400, "unknown_key", f"the query parameter {key} is not known here", param=key,
                hint=f"known here: {known}",
            )  # fmt: skip
        _check_value(key, value)
        if key == "timeout" and read:
            timeout = int(value)
        elif key in NO_EFFECT and (key, value) != ("wait", "true"):
            asked.warnings.append(no_effect(key, key))
    return timeout


def _check_value(key: str, value: str) -> None:
    number = int(value) if value.isascii() and value.isdigit() and len(value) < 10 else None
    if key == "timeout":
        good = number is not None and 1 <= number <= MAX_TIMEOUT
        expected = f"whole seconds, 1 to {MAX_TIMEOUT}"
    elif key == "consistency":
        good = value in _CONSISTENCY or (number is not None and number >= 1)
        expected = f"a number from 1 or {', '.join(_CONSISTENCY)}"
    elif key == "points":
        # Numbers of more digits than a timeout has.
        good, expected = value.isascii() and value.isdigit() and len(value) <= 12, "a whole number below 10^12"
    elif key == "space":
        good, expected = 0 < len(value) <= 1000, "the name of a vector space"
    else:
        good, expected = value in _CHOICES[key], " or ".join(_CHOICES[key])
    if not good:
        raise ApiError(400, "invalid_request", f"{key} has a wrong value", param=key, hint=f"send {expected}")


async def answer(request: Request, pool: Pool, asked: Asked, work: Callable[[], object]) -> Response:
    """Run `work` in a thread, which also makes its result the bytes of the answer; the loop only sends them.

    Raises what `work` raises, ApiError (429), and DeadlineExceeded when a read waited longer than it may.
    """

    def run() -> bytes:
        _check_deadline(asked)
        result = work()
        return dumped(request, result, asked.warnings)

    return wrapped(await pool.run(run))


async def answer_body(
    request: Request, pool: Pool, asked: Asked, model: type[R], work: Callable[[R], object]
) -> Response:
    """As `answer_bytes`, for a body of JSON, which the same thread reads and checks."""

    def parsed(data: bytes) -> object:
        body = schemas.read(model, data)
        asked.warnings += body.warnings()
        return work(body)

    return await answer_bytes(request, pool, asked, parsed)


async def answer_bytes(request: Request, pool: Pool, asked: Asked, work: Callable[[bytes], object]) -> Response:
    """As `answer`, for a request with a body, which is handed to `work` as it came.

    The bytes of all bodies under way are limited together. Raises ApiError 400, 408, 413, 415, 429 too.
    """
    service = services(request)
    settings = service.settings
    with service.bodies.share() as share:
        data = await read_body(request, limit=settings.max_body_bytes, idle=settings.body_idle_s, share=share)
        return await answer(request, pool, asked, lambda: work(data))


def _check_deadline(asked: Asked) -> None:
    if asked.deadline is not None and time.monotonic() > asked.deadline:
        raise DeadlineExceeded(
            "the request waited longer than it may", hint="try again, or raise BITFOLD_SEARCH_TIMEOUT_MS"
        )


def page(settings: Settings, limit: int | None, offset: int | None = None) -> tuple[int, int]:
    """Return limit (10 by default, or what is allowed) and offset; raises ApiError (400) beyond that."""
    offset = offset or 0
    if limit is None:
        limit = max(1, min(DEFAULT_LIMIT, settings.max_limit - offset))
    if limit + offset > settings.max_limit:
        what = "limit + offset" if offset else "limit"
        raise ApiError(
            400,
            "limit_too_large",
            f"{what} is {limit + offset}, at most {settings.max_limit} is allowed",
            param="limit",
            hint="use points/scroll to read many points, or raise BITFOLD_MAX_LIMIT",
        )
    return limit, offset


def check_batch(settings: Settings, size: int, param: str) -> None:
    """Raise ApiError (400) for more points or ids in one request than the setting allows."""
    check_size(size, settings.max_batch, param, "BITFOLD_MAX_BATCH; points/bulk has no such limit")


def check_size(size: int, most: int, param: str, setting: str) -> None:
    """Raise ApiError (400) for more than `most` entries."""
    if size > most:
        raise ApiError(
            400,
            "batch_too_large",
            f"{param} has {size} entries, at most {most} are allowed",
            param=param,
            hint=f"send several requests, or raise {setting}",
        )


def read_ids(settings: Settings, values: list[object], param: str) -> list[PointId]:
    """Return canonical ids; raises InvalidId, or ApiError for too many."""
    check_batch(settings, len(values), param)
    return parse_ids(values, param=param)


def dump_payload(payload: Mapping[str, object] | None, param: str) -> bytes:
    """Return a payload as JSON bytes; raises InvalidPayload."""
    return orjson.dumps(parse_payload(payload, param=param)) if payload else b"{}"
