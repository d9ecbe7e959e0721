"""A contestant behind HTTP: its server in a process of its own, asked over one connection that is kept alive.

Every server is asked in the same way, so that the client costs all the same: a body of JSON that orjson writes straight
from the query, sent with httpx, the answer read with orjson. Vendors' own clients take no part.
Server and client share the cores, one in a search: what a query costs is what both need together.
"""

from __future__ import annotations

import os
import time
from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import httpx
import orjson

from benchmarks.peers.engine import Engine
from benchmarks.peers.server import Server, free_port

SETTLE_SECONDS = 20.0  # in which a server gives back what it does not need; Bitfold's does so every 15
JSON = {"content-type": "application/json"}


class HttpEngine(Engine):
    """Starts and asks a server.

    Attributes
    ----------
    ready : path that answers 200 once the server serves.
    own_variables : prefix of variables that the server reads; none of this process reach it.
    """

    ready: ClassVar[str]
    own_variables: ClassVar[str]

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        self._server: Server | None = None

    @abstractmethod
    def command(self, folder: Path, port: int) -> tuple[list[str], dict[str, str]]:
        """Return the command of a server over a folder on a port of 127.0.0.1, and variables for it."""

    @property
    def server(self) -> Server:
        """Return the server that runs. Raises RuntimeError if none does."""
        if self._server is None:
            raise RuntimeError("no server runs")
        return self._server

    def start(self, folder: Path) -> None:
        """Serve a folder, in place of what was served."""
        self.stop()
        port = free_port()
        command, variables = self.command(folder, port)
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(self.own_variables)}
        self._server = Server(command, inherited | variables, port, self.ready)
        # trust_env=False: no proxy is meant here. A load is answered once, at its end.
        self._http = httpx.Client(base_url=self._server.url, trust_env=False, timeout=None)

    def stop(self) -> None:
        """End the server, if one runs."""
        if self._server is not None:
            self._http.close()
            self._server.end()
            self._server = None

    def call(self, method: str, path: str, body: object = None) -> Any:  # noqa: ANN401 - JSON of any shape
        """Send JSON, arrays of numpy in it as lists; return what the answer holds. Raises RuntimeError for an error."""
        content = None if body is None else orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
        return self.answer(self._http.request(method, path, content=content, headers=JSON))

    def answer(self, response: httpx.Response) -> Any:  # noqa: ANN401
        """Read an answer. Raises RuntimeError for an error."""
        if response.status_code >= httpx.codes.BAD_REQUEST:
            raise RuntimeError(f"{response.url}: {response.status_code} {response.text[:500]}")
        return orjson.loads(response.content)

    def processes(self) -> list[int]:
        """Return the server's: the client's memory is nobody's cost."""
        return self.server.processes()

    def settle(self) -> None:
        """Wait: what a server does not need it gives back itself."""
        time.sleep(SETTLE_SECONDS)
