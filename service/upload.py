"""Sends documents to a server in bulk requests of a size that suits it, and remembers how far a file came.

Knows nothing of terminals. A request that is sent again changes nothing: the server takes lines idempotently.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Final

import orjson

from service.client import Client, ClientError
from service.documents import Document

MAX_LINES_NAMED: Final = 100
_FIRST_LINES: Final = 512
_MAX_LINES: Final = 1 << 15
_MAX_BYTES: Final = 16 << 20
# Requests between these are short enough to show progress and long enough not to be mostly round trips.
_SHORT_SECONDS: Final = 3.0
_LONG_SECONDS: Final = 15.0
_TRIES: Final = 8


@dataclass(slots=True)
class Tally:
    """What the server did with the lines so far.

    Parameters
    ----------
    sent : documents that were answered for, from the start of the file.
    errors : of refused lines, the first hundred: `{line, id, type, message}`; `line` is that of the file.
    truncated_lines : lines of the file whose texts are longer than the encoder's window, the first hundred.
    """

    sent: int = 0
    accepted: int = 0
    rejected: int = 0
    unchanged: int = 0
    truncated: int = 0
    errors: list[dict[str, Any]] = field(default_factory=list)
    truncated_lines: list[int] = field(default_factory=list)


class Checkpoint:
    """A small file beside the documents, so that the same command continues where it was interrupted.

    It counts only for the same server, collection, fields and file; the file is told by its size and time, the
    collection by its name and when it was made.
    """

    def __init__(self, file: Path, identity: dict[str, Any]) -> None:
        self._path = file.with_name(file.name + ".bitfold-progress")
        stat = file.stat()
        self._identity = {**identity, "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}

    @property
    def path(self) -> Path:
        """Where it lies."""
        return self._path

    def load(self) -> Tally | None:
        """Return how far an earlier run came, None when there was none or it was another load."""
        try:
            value = orjson.loads(self._path.read_bytes())
            if value["identity"] != self._identity:
                return None
            return Tally(**{item.name: value["tally"][item.name] for item in fields(Tally)})
        except (OSError, orjson.JSONDecodeError, KeyError, TypeError):
            # A checkpoint only saves time: without it the load begins again, and nothing is written twice.
            return None

    def save(self, tally: Tally) -> bool:
        """Keep how far the load came; return whether that was possible."""
        temporary = self._path.with_name(self._path.name + ".tmp")
        try:
            temporary.write_bytes(orjson.dumps({"identity": self._identity, "tally": asdict(tally)}))
            os.replace(temporary, self._path)
        except OSError:
            temporary.unlink(missing_ok=True)
            return False
        return True

    def remove(self) -> None:
        """Forget it: the load is complete."""
        self._path.unlink(missing_ok=True)


def upload(
    client: Client,
    collection: str,
    documents: Iterator[Document],
    *,
    tally: Tally,
    on_progress: Callable[[Tally], None],
    total: int | None = None,
) -> None:
    """Send all documents and add up the answers in `tally`.

    Parameters
    ----------
    documents : those that are still to be sent.
    on_progress : called after each answer; the documents counted by then are durable.
    total : how many there are with those that are sent already, so that what will not fit is refused at once.

    Raises
    ------
    ClientError : what the server refused, or no answer; `tally` says what was done before.
    """
    size = _FIRST_LINES
    while chunk := _take(documents, size):
        started = time.monotonic()
        result = _send(client, collection, chunk, None if total is None else max(total - tally.sent, 0))
        seconds = time.monotonic() - started
        _add(tally, result, chunk)
        on_progress(tally)
        if seconds < _SHORT_SECONDS:
            size = min(2 * size, _MAX_LINES)
        elif seconds > _LONG_SECONDS:
            size = max(size // 2, 1)


def _take(documents: Iterator[Document], lines: int) -> list[Document]:
    chunk: list[Document] = []
    size = 0
    for document in documents:
        chunk.append(document)
        size += len(document.line)
        if len(chunk) >= lines or size >= _MAX_BYTES:
            break
    return chunk


def _send(client: Client, collection: str, chunk: list[Document], points: int | None) -> dict[str, Any]:
    """Send one request, again while the server says that it has no room now."""
    for _ in range(_TRIES - 1):
        try:
            return client.bulk(collection, (document.line for document in chunk), points)
        except ClientError as error:
            if error.status not in (429, 503) or error.retry_after is None:
                raise
            time.sleep(min(error.retry_after, 30.0))
    return client.bulk(collection, (document.line for document in chunk), points)


def _add(tally: Tally, result: dict[str, Any], chunk: list[Document]) -> None:
    tally.sent += len(chunk)
    tally.accepted += result["accepted"]
    tally.rejected += result["rejected"]
    tally.unchanged += result["unchanged"]
    tally.truncated += result["truncated"]
    room = MAX_LINES_NAMED - len(tally.errors)
    tally.errors += [{**error, "line": chunk[error["line"] - 1].number} for error in result["errors"][:room]]
    room = MAX_LINES_NAMED - len(tally.truncated_lines)
    tally.truncated_lines += [chunk[line - 1].number for line in result["truncated_lines"][:room]]
