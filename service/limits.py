"""What guards the routes: API key, body sizes, room for work, deadlines. Knows nothing of the work itself."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, ParamSpec, TypeVar

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.metrics import Metrics
from service.responses import STARTED, TRUSTED, ApiError, failure

P = ParamSpec("P")
T = TypeVar("T")

OPEN_PATHS: Final = frozenset(("/healthz", "/livez", "/readyz"))


class Pool:
    """Threads for one kind of work and a bounded queue before them; use it from one event loop.

    Parameters
    ----------
    name : what the threads are called and what the 429 speaks of.
    threads : how much runs at once.
    queue : how much may wait; more is refused at once.
    """

    def __init__(self, name: str, *, threads: int, queue: int) -> None:
        self._name = name
        self._room = threads + queue
        self._busy = 0
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=name)

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run blocking work in a thread; raises ApiError (429) when threads and queue are full."""
        if self._busy >= self._room:
            raise over_capacity(self._name)
        self._busy += 1
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()
        future = self._executor.submit(work, *args, **kwargs)
        # One wake-up of the loop, and not when the caller gives up, but when the thread is free again.
        future.add_done_callback(lambda done: loop.call_soon_threadsafe(self._finish, done, answer))
        try:
            return await answer
        except asyncio.CancelledError:
            future.cancel()  # what only waits is not begun
            raise

    def _finish(self, done: Future[T], answer: asyncio.Future[T]) -> None:
        self._busy -= 1
        if answer.done():
            return
        if done.cancelled():
            answer.cancel()
        elif (error := done.exception()) is not None:
            answer.set_exception(error)
        else:
            answer.set_result(done.result())

    def close(self) -> None:
        """Wait for the work that runs; what only waits is dropped."""
        self._executor.shutdown(wait=True, cancel_futures=True)


class Slots:
    """A count of long requests of one kind that may run at once; use it from one event loop."""

    def __init__(self, name: str, limit: int) -> None:
        self._name = name
        self._free = limit

    def __enter__(self) -> None:
        """Take a place; raises ApiError (429) when there is none."""
        if self._free <= 0:
            raise over_capacity(self._name)
        self._free -= 1

    def __exit__(self, *_: object) -> None:
        """Give the place back."""
        self._free += 1


class Budget:
    """Bytes that the bodies of all requests may hold together; use it from one event loop.

    Parameters
    ----------
    name : what the 429 speaks of.
    size : how many bytes there are.
    """

    def __init__(self, name: str, size: int) -> None:
        self._name = name
        self._free = size

    def share(self) -> Share:
        """Return the share of one request, empty at first."""
        return Share(self)

    def take(self, size: int) -> None:
        """Take bytes out; raises ApiError (429) when there are not so many."""
        if size > self._free:
            raise over_capacity(self._name)
        self._free -= size

    def give(self, size: int) -> None:
        """Put bytes back."""
        self._free += size


class Share:
    """What one request holds of a budget; it is given back when the `with` block ends."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._held = 0

    def __enter__(self) -> Share:
        """Return the share itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Give everything back."""
        self._budget.give(self._held)
        self._held = 0

    def take(self, size: int) -> None:
        """Hold more bytes; raises ApiError (429) when the budget has not so many left."""
        self._budget.take(size)
        self._held += size


def over_capacity(name: str) -> ApiError:
    """Return the 429 for a kind of work that has no room left."""
    return ApiError(
        429,
        "over_capacity",
        f"the server has no room for more {name} requests now",
        hint="try again after the seconds in Retry-After",
        headers={"Retry-After": "1"},
    )


def deadline(milliseconds: int, request: Request, timeout: int | None = None) -> float:
    """Return the `time.monotonic()` by which a request must be done; its time began when it arrived."""
    allowed = milliseconds / 1000
    if timeout is not None:
        allowed = min(allowed, float(timeout))
    waited = time.perf_counter() - float(request.scope.get(STARTED, time.perf_counter()))
    return time.monotonic() - waited + allowed


async def arriving(chunks: AsyncIterator[bytes], idle: float) -> AsyncIterator[bytes]:
    """Yield the pieces of a body; raises ApiError (408) when none comes for `idle` seconds."""
    while True:
        try:
            async with asyncio.timeout(idle):
                chunk = await anext(chunks)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise ApiError(
                408,
                "body_stalled",
                f"nothing of the body came for {idle:g} seconds",
                hint="send it without such pauses, or raise BITFOLD_BODY_IDLE_S",
                headers={"Connection": "close"},
            ) from None
        yield chunk


async def read_body(request: Request, *, limit: int, idle: float, share: Share) -> bytes:
    """Read a whole body of at most `limit` bytes, which `share` holds; raises ApiError 408, 413, 415, 429."""
    for name, value in request.scope["headers"]:
        if name == b"content-encoding" and value.lower() != b"identity":
            raise ApiError(
                415,
                "unsupported_encoding",
                f"this route does not read {value.decode('latin-1')} bodies",
                hint="send plain JSON; points/bulk reads gzip",
            )
    chunks: list[bytes] = []
    size = 0
    async for chunk in arriving(request.stream(), idle):
        size += len(chunk)
        if size <= limit:
            share.take(len(chunk))
            chunks.append(chunk)
        elif size > 2 * limit + (1 << 20):
            break  # the rest is not worth reading: the connection closes
    if size > limit:
        raise ApiError(
            413,
            "body_too_large",
            f"the body has more than {limit} bytes",
            hint="send less at once, load points by points/bulk, which takes any size, or raise BITFOLD_MAX_BODY_BYTES",
            headers={"Connection": "close"},
        )
    return b"".join(chunks)


class Gate:
    """Around all routes and error handlers: takes the time, checks the key and the path, counts the answers."""

    def __init__(self, app: ASGIApp, *, api_key: str | None, metrics: Metrics) -> None:
        self._app = app
        self._key = api_key.encode() if api_key else None
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it here."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        scope[STARTED] = started
        status = 500

        async def counting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            refusal = self._refusal(scope)
            if refusal is None:
                await self._app(scope, receive, counting)
            else:
                await failure(refusal, scope)(scope, receive, counting)
        finally:
            self._metrics.observe(route_of(scope), scope["method"], status, time.perf_counter() - started)

    def _refusal(self, scope: Scope) -> ApiError | None:
        trusted = scope[TRUSTED] = self._key is None or self._has_key(Headers(scope=scope))
        if not trusted and scope["path"] not in OPEN_PATHS:
            return ApiError(
                401,
                "wrong_api_key",
                "the API key is missing or wrong",
                hint="send it in the header api-key, or as Authorization: Bearer",
                headers={"WWW-Authenticate": "Bearer"},
            )
        parts = scope.get("raw_path", b"").split(b"/")
        if len(parts) > 2 and parts[1] == b"collections" and b"%2f" in parts[2].lower():
            return ApiError(
                400,
                "invalid_name",
                "a collection name has no slash in it",
                param="collection",
                hint="use letters, digits, - and _",
            )
        return None

    def _has_key(self, headers: Headers) -> bool:
        key = self._key or b""
        bearer = headers.get("authorization", "")
        offered = [headers.get("api-key", "")]
        if bearer[:7].lower() == "bearer ":
            offered.append(bearer[7:].strip())
        return any(hmac.compare_digest(value.encode("latin-1", "replace"), key) for value in offered)


def route_of(scope: Scope) -> str:
    """Return the pattern of the route that answered: few values, whatever clients ask for."""
    route = scope.get("route")
    return str(getattr(route, "path", "none"))
