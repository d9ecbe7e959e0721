"""A bulk load: a stream of bytes becomes blocks of lines, parsed in a worker process, committed in turn.

While one block is encoded and committed the next one is received and parsed; no more than these two are held.
Knows HTTP only as an iterator of bytes.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

from service.context import Services
from service.ingest import Incoming, Outcome
from service.load_size import Announced
from service.ndjson import Block, LineError, LineSpec, LineSplitter, ParsedBlock
from service.responses import ApiError
from service.room import Expected

MAX_REPORTED: Final = 100
_PIECE: Final = 1 << 16  # bytes that are inflated at a time: about 0.2 ms of the event loop
# Deflate shrinks nothing to less than 1/1032; text, even a very repetitive one, stays far from that.
MAX_RATIO: Final = 400
_RATIO_FROM: Final = 64 << 20
# Hundreds of lines of 384 numbers; with smaller blocks a load would mostly wait for the disk.
BLOCK_BYTES: Final = 4 << 20


@dataclass(slots=True)
class Report:
    """What became of the lines so far.

    Parameters
    ----------
    accepted : lines that are durable, those included that changed nothing (`unchanged`).
    truncated : texts, among the lines that were encoded, that are longer than the model's window.
    """

    accepted: int = 0
    rejected: int = 0
    truncated: int = 0
    unchanged: int = 0
    errors: list[LineError] = field(default_factory=list)
    truncated_lines: list[int] = field(default_factory=list)

    def refuse(self, errors: list[LineError]) -> None:
        """Add lines that were refused; only the first hundred are kept."""
        self.rejected += len(errors)
        self.errors += errors[: MAX_REPORTED - len(self.errors)]

    def result(self) -> dict[str, Any]:
        """Return the result of the answer."""
        return {
            "accepted": self.accepted,
            "rejected": self.rejected,
            "truncated": self.truncated,
            "unchanged": self.unchanged,
            "errors": [asdict(error) for error in sorted(self.errors, key=lambda error: error.line)],
            "errors_truncated": self.rejected > len(self.errors),
            "truncated_lines": self.truncated_lines,
            "truncated_lines_truncated": self.truncated > len(self.truncated_lines),
        }


class Inflater:
    """Decompresses a gzip stream of one or more members in small pieces; refuses bombs.

    Raises ApiError: 400 for damaged or incomplete data, 413 for a ratio that no text reaches.
    """

    def __init__(self) -> None:
        self._member = _new_member()
        self._fresh = True
        self._taken = self._given = 0

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Yield what a chunk decompresses to, at most 64 KiB at a time."""
        self._taken += len(chunk)
        while chunk:
            if self._member.eof:
                self._member, self._fresh = _new_member(), True
            try:
                piece = self._member.decompress(chunk, _PIECE)
            except zlib.error as error:
                raise _bad_gzip(str(error)) from None
            self._fresh = False
            chunk = self._member.unused_data if self._member.eof else self._member.unconsumed_tail
            if not piece and not self._member.eof:
                continue
            self._given += len(piece)
            if self._given > _RATIO_FROM and self._given > MAX_RATIO * self._taken:
                raise ApiError(
                    413,
                    "compression_bomb",
                    f"the gzip body grows more than {MAX_RATIO} times",
                    hint="send it plain",
                )
            yield piece

    def finish(self) -> None:
        """Check that the stream is complete."""
        if not self._fresh and not self._member.eof:
            raise _bad_gzip("the stream ends too early")


def _new_member() -> zlib._Decompress:
    return zlib.decompressobj(16 + zlib.MAX_WBITS)


def _bad_gzip(problem: str) -> ApiError:
    return ApiError(400, "invalid_gzip", f"the gzip body cannot be read: {problem}", hint="send it plain")


def content_encoding(headers: Mapping[str, str]) -> Literal["identity", "gzip"]:
    """Return how the body is encoded; raises ApiError (415) for other than plain and gzip."""
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding in ("identity", ""):
        return "identity"
    if encoding in ("gzip", "x-gzip"):
        return "gzip"
    raise ApiError(415, "unsupported_encoding", f"{encoding!r} is not read here", hint="send gzip or plain")


async def _plain(chunks: AsyncIterator[bytes], encoding: Literal["identity", "gzip"]) -> AsyncIterator[bytes]:
    if encoding == "identity":
        async for chunk in chunks:
            yield chunk
        return
    inflater = Inflater()
    async for chunk in chunks:
        for piece in inflater.feed(chunk):
            yield piece
            await asyncio.sleep(0)
    inflater.finish()


async def load(
    service: Services,
    name: str,
    chunks: AsyncIterator[bytes],
    encoding: Literal["identity", "gzip"],
    report: Report,
    announced: Announced,
) -> None:
    """Load a stream of lines into a collection and fill in the report.

    What the report counts as accepted is durable, also when this raises. Whether there is room is asked before the
    first block, for as many points as are announced, and before each block, for its own.

    Raises
    ------
    ApiError, IndexingError, EngineError
        Nothing after the block at fault is written.
    """
    loader = _Loader(service, name, report, announced)
    try:
        async for piece in _plain(chunks, encoding):
            for block in loader.splitter.feed(piece):
                await loader.take(block)
        for block in loader.splitter.finish():
            await loader.take(block)
    finally:
        # A client that goes away must not leave a commit behind that nobody counts.
        await loader.settle()


class _Loader:
    def __init__(self, service: Services, name: str, report: Report, announced: Announced) -> None:
        # Blocks are read for this collection: none of them may reach a later one of the same name.
        self._collection = service.engine.catalog.get(name)
        config = self._collection.config
        settings = service.settings
        self._service = service
        self._name = name
        self._report = report
        self._announced: Announced | None = announced  # until the first block has told how long lines are
        self._committing: asyncio.Task[None] | None = None
        self._spec = LineSpec(
            kind="text" if config.attributes.get("encoder") else "vector",
            dimension=config.dimension,
            distance=config.distance,
            max_line_bytes=settings.max_line_bytes,
            max_text_bytes=settings.max_text_bytes,
        )
        self.splitter = LineSplitter(
            block_bytes=BLOCK_BYTES, max_line_bytes=settings.max_line_bytes, block_lines=settings.bulk_batch
        )

    async def take(self, block: Block) -> None:
        """Parse a block while the one before it is committed, then begin to commit it."""
        parsed = await self._service.parsing.run(self._service.parsers.parse, block.data, block.first_line, self._spec)
        refused = sorted([*parsed.errors, *block.errors], key=lambda error: error.line)
        self._service.engine.catalog.count_load(
            self._name, received=parsed.received + len(block.errors), rejected=len(refused)
        )
        self._report.refuse(refused)
        await self.settle()
        if parsed.ids:
            expected = self._announced.expected(len(parsed.ids), len(block.data)) if self._announced else None
            self._announced = None
            self._committing = asyncio.create_task(self._commit(parsed, expected))

    async def settle(self) -> None:
        """Wait for the commit under way; raises what it raised."""
        committing, self._committing = self._committing, None
        if committing is not None:
            await asyncio.shield(committing)

    async def _commit(self, parsed: ParsedBlock, expected: Expected | None) -> None:
        engine = self._service.engine
        incoming = Incoming(parsed.ids, parsed.texts, parsed.vectors, parsed.payloads, parsed.hashes)
        outcome = await self._service.bulk.run(
            engine.upsert, self._name, incoming, skip_bad=True, same=self._collection, expected=expected
        )
        engine.catalog.count_load(self._name, durable=outcome.accepted, rejected=len(outcome.refused))
        self._count(parsed, outcome)

    def _count(self, parsed: ParsedBlock, outcome: Outcome) -> None:
        report = self._report
        report.accepted += outcome.accepted
        report.unchanged += outcome.unchanged
        report.truncated += len(outcome.truncated)
        room = MAX_REPORTED - len(report.truncated_lines)
        report.truncated_lines += [int(parsed.lines[i]) for i in sorted(outcome.truncated)[:room]]
        lines = parsed.lines.tolist()
        report.refuse(
            [LineError(lines[i], parsed.ids[i], "invalid_content", why) for i, why in sorted(outcome.refused)]
        )
