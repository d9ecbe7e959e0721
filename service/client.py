"""A thin HTTP client of a running server, for the command line and for evaluation.

Every failure, of the network or of the server, is a `ClientError` with a hint. Knows nothing of files.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import quote, urlencode

import httpx
import orjson

from service.settings import ClientSettings

_CONNECT_SECONDS: Final = 5.0
_CHUNK_BYTES: Final = 1 << 16
_PAGE: Final = 1000


class ClientError(Exception):
    """A request failed.

    Parameters
    ----------
    message : what went wrong.
    status : the HTTP status, None when no answer came.
    type : the server's word for the error; `unreachable`, `timeout` or `no_answer` when none came.
    hint : what to do about it.
    retry_after : seconds after which the server wants to be asked again, if it said so.
    result : what was done before the error, as far as the server says.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        type: str = "no_answer",
        hint: str | None = None,
        retry_after: float | None = None,
        result: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.type = type
        self.hint = hint
        self.retry_after = retry_after
        self.result = result


class Client:
    """One connection pool to one server; close it, or use it in `with`."""

    def __init__(self, settings: ClientSettings) -> None:
        self.url = settings.url.rstrip("/")
        headers = {"api-key": settings.api_key.get_secret_value()} if settings.api_key else {}
        timeout = httpx.Timeout(settings.client_timeout_s, connect=_CONNECT_SECONDS)
        # trust_env=False: only settings read the environment, and a proxy for the internet is not meant here.
        self._http = httpx.Client(base_url=self.url, headers=headers, timeout=timeout, trust_env=False)

    def __enter__(self) -> Self:
        """Return the client itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close all connections."""
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def collections(self) -> list[str]:
        """Return the names of all collections."""
        result = self._result("GET", "/collections")
        return [str(item["name"]) for item in result["collections"]]

    def exists(self, collection: str) -> bool:
        """Say whether there is a collection of that name."""
        return bool(self._result("GET", f"{_path(collection)}/exists")["exists"])

    def info(self, collection: str) -> dict[str, Any]:
        """Return what the server says about a collection."""
        return dict(self._result("GET", _path(collection)))

    def create_texts(
        self, collection: str, encoder: str | Mapping[str, str], codes: Mapping[str, Any] | None = None
    ) -> None:
        """Create a collection whose texts the server encodes.

        Parameters
        ----------
        encoder : a name, or `{document, query}`.
        codes : bits, code_dimensions, store_vectors, index.
        """
        self._result("PUT", _path(collection), {"encoder": encoder, **(codes or {})})

    def create_vectors(self, collection: str, size: int, distance: str, codes: Mapping[str, Any] | None = None) -> None:
        """Create a collection of vectors; `codes` as in `create_texts`."""
        self._result("PUT", _path(collection), {"vectors": {"size": size, "distance": distance}, **(codes or {})})

    def drop(self, collection: str) -> bool:
        """Delete a collection; return whether there was one."""
        return bool(self._result("DELETE", _path(collection)))

    def bulk(self, collection: str, lines: Iterable[bytes], points: int | None = None) -> dict[str, Any]:
        """Send NDJSON lines (without newlines) as one stream and return the server's counts.

        `points`: how many will come, in this request and in those that go on with the load; None: not known.
        """
        query = "" if points is None else f"?points={points}"
        return dict(
            self._result(
                "POST",
                f"{_path(collection)}/points/bulk{query}",
                content=_chunks(lines),
                headers={"content-type": "application/x-ndjson"},
            )
        )

    def scroll_ids(self, collection: str) -> Iterator[int | str]:
        """Yield the ids of all points, in their order."""
        body: dict[str, Any] = {"limit": _PAGE, "with_payload": False}
        while True:
            page = self._result("POST", f"{_path(collection)}/points/scroll", body)
            yield from (point["id"] for point in page["points"])
            if page["next_page_offset"] is None:
                return
            body["offset"] = page["next_page_offset"]

    def vectors(self, collection: str, ids: Sequence[int | str]) -> list[list[float]]:
        """Return the vectors of those points that exist."""
        body = {"ids": list(ids), "with_vector": True, "with_payload": False}
        return [point["vector"] for point in self._result("POST", f"{_path(collection)}/points", body)]

    def put_binarizer(self, collection: str, data: bytes, *, space: str | None, force: bool) -> dict[str, Any]:
        """Upload a binarizer; return what the server says of it.

        One of another `space` is refused, and, unless `force`, one that finds less.
        """
        query = {"force": "true" if force else "false"} | ({} if space is None else {"space": space})
        return dict(
            self._result(
                "PUT",
                f"{_path(collection)}/binarizer?{urlencode(query)}",
                content=data,
                headers={"content-type": "application/octet-stream"},
            )
        )

    def upgrade(self, collection: str) -> dict[str, Any]:
        """Queue a job that makes old codes again; return the job."""
        return dict(self._result("POST", f"{_path(collection)}/upgrade", {}))

    def jobs(self) -> list[dict[str, Any]]:
        """Return all jobs, the newest first."""
        return list(self._result("GET", "/jobs")["jobs"])

    def job(self, job_id: str) -> dict[str, Any]:
        """Return a job."""
        return dict(self._result("GET", f"/jobs/{quote(job_id, safe='')}"))

    def cancel(self, job_id: str) -> dict[str, Any]:
        """Cancel a job and return it."""
        return dict(self._result("DELETE", f"/jobs/{quote(job_id, safe='')}"))

    def search(
        self,
        collection: str,
        query: str | list[float],
        *,
        encoder: str | None = None,
        limit: int = 10,
        filter: Mapping[str, Any] | None = None,
        params: Mapping[str, Any] | None = None,
        with_payload: bool = True,
        with_text: bool = True,
    ) -> dict[str, Any]:
        """Search by text (with the collection's encoder if none is named) or vector; return `{points, stages}`."""
        body: dict[str, Any] = {
            "query": query,
            "limit": limit,
            "with_payload": with_payload,
            "with_text": with_text,
        }
        if encoder is not None:
            body["encoder"] = encoder
        if filter is not None:
            body["filter"] = filter
        if params is not None:
            body["params"] = params
        return dict(self._result("POST", f"{_path(collection)}/search", body))

    def _result(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        content: Iterator[bytes] | bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:  # noqa: ANN401  (JSON of any shape)
        """Send a request and return `result`; raises ClientError."""
        headers = dict(headers or {})
        if body is not None:
            content = orjson.dumps(body)
            headers["content-type"] = "application/json"
        try:
            response = self._http.request(method, path, content=content, headers=headers)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise ClientError(
                f"no server answers at {self.url}: {error}",
                type="unreachable",
                hint="start it in another terminal with `bitfold serve` (or `make serve`), or give --url",
            ) from error
        except httpx.TimeoutException as error:
            raise ClientError(
                f"{self.url} did not answer in time",
                type="timeout",
                hint="look at the server's log, or raise BITFOLD_CLIENT_TIMEOUT_S",
            ) from error
        except httpx.HTTPError as error:
            raise ClientError(
                f"the connection to {self.url} broke: {error}",
                hint="look at the server's log, then try again",
            ) from error
        return self._unwrap(response)

    def _unwrap(self, response: httpx.Response) -> Any:  # noqa: ANN401  (JSON of any shape)
        try:
            envelope = orjson.loads(response.content)
        except orjson.JSONDecodeError:
            envelope = None
        if not isinstance(envelope, dict) or "status" not in envelope:
            raise ClientError(
                f"{self.url} answered {response.status_code} with something else than Bitfold does",
                status=response.status_code,
                type="other_server",
                hint="does another program listen there? give the server's address with --url",
            )
        if response.is_success:
            return envelope.get("result")
        status = envelope["status"]
        message = status.get("error") if isinstance(status, dict) else None
        after = response.headers.get("retry-after", "")
        raise ClientError(
            str(message or f"the server answered {response.status_code}"),
            status=response.status_code,
            type=str(envelope.get("type") or "error"),
            hint="give the key in BITFOLD_API_KEY" if response.status_code == 401 else envelope.get("hint"),
            retry_after=float(after) if after.isdigit() else None,
            result=envelope.get("result"),
        )


def encoder_name(info: Mapping[str, Any]) -> str:
    """Return the encoder in what `info` returned, as words: both, where queries have one of their own."""
    encoder = info.get("encoder")
    return f"{encoder['document']}, queries {encoder['query']}" if isinstance(encoder, dict) else str(encoder)


def _path(collection: str) -> str:
    return f"/collections/{quote(collection, safe='')}"


def _chunks(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Join lines into pieces of some size: one system call for each, not one for each line."""
    buffer = bytearray()
    for line in lines:
        buffer += line
        buffer += b"\n"
        if len(buffer) >= _CHUNK_BYTES:
            yield bytes(buffer)
            buffer.clear()
    if buffer:
        yield bytes(buffer)
