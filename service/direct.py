"""A route of FastAPI that hands a request to its function as it is: no dependencies, nothing converted.

FastAPI keeps what describes the route in the OpenAPI document. Solving its dependencies would cost a small
search a tenth of its time, to find parameters that the path has already.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import request_response


class Direct(APIRoute):
    """Calls `endpoint(request, **path_params)`, which must be a coroutine function that returns a Response."""

    def __init__(self, path: str, endpoint: Callable[..., Awaitable[Response]], **described: Any) -> None:  # noqa: ANN401
        super().__init__(path, endpoint, **described)

        async def handle(request: Request) -> Response:
            return await endpoint(request, **request.path_params)

        self.app = request_response(handle)
