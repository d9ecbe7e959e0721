"""NDJSON into columns: where lines end, and what each line says. Pure functions of bytes and a `LineSpec`.

Knows nothing of HTTP, collections or processes, and imports little: worker processes load it.
"""

from __future__ import annotations

import binascii
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np
import orjson
from numpy.typing import NDArray

from index.errors import InvalidId, InvalidPayload
from index.ids import PointId, parse_id
from index.payload import parse_payload
from index.points import MAX_NORM, Distance, content_hash

Float32s = NDArray[np.float32]

_KEYS: Final = frozenset(("id", "text", "vector", "payload"))
_NUMBERS: Final = frozenset((int, float))
_BOM: Final = b"\xef\xbb\xbf"
_PIECE: Final = 1 << 14


@dataclass(frozen=True, slots=True)
class LineSpec:
    """What the lines of one load must look like.

    Parameters
    ----------
    kind : `vector`: every line has a vector. `text`: a line has a text, or the vector that stands for one.
    dimension : d of the collection.
    distance : of the collection; under Cosine a zero vector is refused.
    max_line_bytes : without the newline.
    max_text_bytes : in UTF-8.
    """

    kind: Literal["text", "vector"]
    dimension: int
    distance: Distance
    max_line_bytes: int
    max_text_bytes: int


@dataclass(frozen=True, slots=True)
class LineError:
    """Why a line was refused. `id` is None when it could not be read."""

    line: int
    id: PointId | None
    type: str
    message: str


@dataclass(slots=True)
class ParsedBlock:
    """The good lines of a block as columns, and the errors of the bad ones.

    Parameters
    ----------
    lines : (n,) int64, line numbers of the good lines, from 1.
    ids : n canonical ids, repetitions included.
    texts : n texts, None where a line has a vector.
    vectors : (n, d) float32, zero where a line has a text; None when no line has a vector.
    payloads : n JSON objects as UTF-8 bytes.
    hashes : n content hashes: of the UTF-8 text, or of the float32 bytes as received.
    errors : by line number.
    received : lines that are not blank, good or bad.
    """

    lines: NDArray[np.int64]
    ids: list[PointId]
    texts: list[str | None]
    vectors: Float32s | None
    payloads: list[bytes]
    hashes: list[bytes]
    errors: list[LineError]
    received: int


class _BadLine(Exception):
    def __init__(self, type_: str, message: str) -> None:
        super().__init__(message)
        self.type = type_


def parse_block(data: bytes, first_line: int, spec: LineSpec) -> ParsedBlock:
    """Parse a block of complete lines; a bad line never costs a good one.

    Parameters
    ----------
    data : lines separated by newlines; the last one may lack its own.
    first_line : number of the block's first line, from 1.
    """
    # The shortest vector is a list of one-digit numbers, so that bounds how many rows so many bytes can fill.
    most = min(data.count(b"\n") + 1, len(data) // (2 * spec.dimension + 1))
    with np.errstate(over="ignore"):
        return _Parser(spec, most).parse(data, first_line)


class _Parser:
    """Columns that fill up line by line; one parser for one block."""

    def __init__(self, spec: LineSpec, most_vectors: int) -> None:
        self._spec = spec
        self._matrix: Float32s = np.empty((most_vectors, spec.dimension), "<f4")
        self._sent: list[int] = []  # matrix row -> position in the columns
        self._lines: list[int] = []
        self._ids: list[PointId] = []
        self._texts: list[str | None] = []
        self._payloads: list[bytes] = []
        self._hashes: list[bytes] = []
        self._errors: list[LineError] = []

    def parse(self, data: bytes, first_line: int) -> ParsedBlock:
        received = 0
        for number, line in enumerate(data.split(b"\n"), first_line):
            if len(line) > self._spec.max_line_bytes:
                received += 1
                self._errors.append(line_too_long(number, self._spec.max_line_bytes))
                continue
            if number == 1:
                line = line.removeprefix(_BOM)
            if line and not line.isspace():
                received += 1
                self._add(line, number)
        vectors = self._checked_vectors() if self._sent else None
        self._errors.sort(key=lambda error: error.line)
        return ParsedBlock(
            np.array(self._lines, np.int64), self._ids, self._texts, vectors, self._payloads, self._hashes,
            self._errors, received,
        )  # fmt: skip

    def _add(self, line: bytes, number: int) -> None:
        point_id: PointId | None = None
        try:
            value = _read_object(line)
            point_id = _read_id(value)
            _check_keys(value)
            payload = _read_payload(value)
            text = value.get("text")
            if text is not None:
                hashed = content_hash(self._read_text(text))
            else:
                hashed = content_hash(self._read_vector(value["vector"]))
                self._sent.append(len(self._ids))
        except _BadLine as error:
            self._errors.append(LineError(number, point_id, error.type, str(error)))
            return
        self._lines.append(number)
        self._ids.append(point_id)
        self._texts.append(text)
        self._payloads.append(payload)
        self._hashes.append(hashed)

    def _read_text(self, text: object) -> bytes:
        """Return the UTF-8 bytes of an acceptable text."""
        if self._spec.kind != "text":
            raise _BadLine("no_encoder", "text: the collection takes vectors, not texts; send a vector")
        if not isinstance(text, str):
            raise _BadLine("invalid_text", "text is not a string")
        if not text or text.isspace():
            raise _BadLine("invalid_text", "text is empty")
        content = text.encode()
        if len(content) > self._spec.max_text_bytes:
            raise _BadLine(
                "text_too_large",
                f"text has {len(content)} bytes, at most {self._spec.max_text_bytes} are allowed; "
                "cut it into passages, or raise BITFOLD_MAX_TEXT_BYTES",
            )
        return content

    def _read_vector(self, value: object) -> bytes:
        """Put a vector into its row and return its float32 bytes; numbers are checked later, all at once."""
        dimension = self._spec.dimension
        if isinstance(value, str):
            content = _decode(value, dimension)
            self._matrix[len(self._sent)] = np.frombuffer(content, "<f4")
            return content
        if not isinstance(value, list):
            raise _BadLine("invalid_vector", "vector is neither a list of numbers nor a base64 string")
        if not _NUMBERS.issuperset(map(type, value)):
            position = next(i for i, item in enumerate(value) if type(item) not in _NUMBERS)
            raise _BadLine("invalid_vector", f"vector[{position}] is not a number")
        if len(value) != dimension:
            raise _wrong_dimension(len(value), dimension)
        # By way of float64, as everywhere: the nearest float32 to the number that was written.
        row = self._matrix[len(self._sent)]
        row[:] = np.fromiter(value, np.float64, dimension)
        return bytes(row.data)

    def _checked_vectors(self) -> Float32s | None:
        """Return vectors for all columns, after moving lines whose vector cannot be stored to the errors."""
        vectors = self._matrix[: len(self._sent)]
        with np.errstate(invalid="ignore"):
            # float64: no square of a float32 overflows or vanishes, so a sum is finite when all numbers are.
            norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))
        usable = norms > 0 if self._spec.distance == "Cosine" else norms <= MAX_NORM
        bad = np.flatnonzero(~(np.isfinite(norms) & usable))
        if bad.size:
            self._refuse([self._sent[row] for row in bad], norms[bad])
            vectors = np.delete(vectors, bad, axis=0)
            if not len(vectors):
                return None
        if len(vectors) == len(self._ids):
            return vectors
        spread = np.zeros((len(self._ids), self._spec.dimension), "<f4")
        spread[[text is None for text in self._texts]] = vectors
        return spread

    def _refuse(self, positions: list[int], norms: NDArray[np.float64]) -> None:
        for position, norm in zip(positions, norms, strict=True):
            message = "vector holds infinite values, or values too large for float32"
            if np.isnan(norm):
                message = "vector holds NaN"
            elif norm == 0:
                message = "vector is all zeros, which has no direction: Cosine needs non-zero vectors"
            elif np.isfinite(norm):
                message = f"vector has a norm above {MAX_NORM:g}: its scores would overflow"
            self._errors.append(LineError(self._lines[position], self._ids[position], "invalid_vector", message))
        gone = set(positions)
        keep = [i for i in range(len(self._ids)) if i not in gone]
        self._lines = [self._lines[i] for i in keep]
        self._ids = [self._ids[i] for i in keep]
        self._texts = [self._texts[i] for i in keep]
        self._payloads = [self._payloads[i] for i in keep]
        self._hashes = [self._hashes[i] for i in keep]


def line_too_long(number: int, most: int) -> LineError:
    """Return the error of a line with more than `most` bytes."""
    return LineError(
        number, None, "line_too_large", f"the line has more than {most} bytes; raise BITFOLD_MAX_LINE_BYTES"
    )


def _read_object(line: bytes) -> dict[str, Any]:
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise _BadLine("invalid_json", f"the line is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise _BadLine("invalid_json", "the line is not a JSON object")
    return value


def _read_id(value: dict[str, Any]) -> PointId:
    if "id" not in value:
        raise _BadLine("invalid_id", "id is missing")
    try:
        return parse_id(value["id"])
    except InvalidId as error:
        raise _BadLine("invalid_id", str(error)) from None


def _check_keys(value: dict[str, Any]) -> None:
    """Refuse unknown keys, and lines with both or neither of text and vector."""
    if not _KEYS.issuperset(value):
        extra = min(set(value) - _KEYS)
        raise _BadLine("unknown_key", f"the key {extra[:100]!r} is not known here: id, text or vector, payload are")
    if (value.get("text") is None) == (value.get("vector") is None):
        raise _BadLine("invalid_line", "the line needs exactly one of text and vector")


def _read_payload(value: dict[str, Any]) -> bytes:
    payload = value.get("payload")
    if not payload and (payload is None or isinstance(payload, dict)):
        return b"{}"
    try:
        return orjson.dumps(parse_payload(payload))
    except InvalidPayload as error:
        raise _BadLine("invalid_payload", str(error)) from None


def _decode(value: str, dimension: int) -> bytes:
    try:
        content = binascii.a2b_base64(value, strict_mode=True)
    except (binascii.Error, ValueError) as error:
        raise _BadLine("invalid_vector", f"vector is not base64: {error}") from None
    if len(content) % 4:
        raise _BadLine("invalid_vector", f"vector has {len(content)} bytes, which are no float32 numbers")
    if len(content) != 4 * dimension:
        raise _wrong_dimension(len(content) // 4, dimension)
    return content


def _wrong_dimension(got: int, dimension: int) -> _BadLine:
    return _BadLine("invalid_vector", f"vector has {got} dimensions, the collection has {dimension}")


@dataclass(frozen=True, slots=True)
class Block:
    """Complete lines of a stream, and the errors of lines among them that were too long to keep.

    Such a line is blank in `data`, so that line numbers stay right.
    """

    data: bytes
    first_line: int
    errors: list[LineError] = field(default_factory=list)


class LineSplitter:
    """Cuts a byte stream at newlines into blocks, in bounded memory.

    At most one block and one line of `max_line_bytes` are held; of a longer line nothing is kept.

    Parameters
    ----------
    max_line_bytes : as in `LineSpec`.
    block_bytes, block_lines : a block is passed on when it reaches either.
    """

    def __init__(self, *, max_line_bytes: int, block_bytes: int = 1 << 20, block_lines: int = 1024) -> None:
        self._max_line = max_line_bytes
        self._block_bytes = block_bytes
        self._block_lines = block_lines
        self._complete = bytearray()
        self._partial = bytearray()
        self._skipping = False
        self._first = 1
        self._count = 0
        self._errors: list[LineError] = []

    def feed(self, chunk: bytes) -> list[Block]:
        """Take the next bytes of the stream and return the blocks that they complete."""
        blocks: list[Block] = []
        for start in range(0, len(chunk), _PIECE):
            blocks += self._piece(chunk[start : start + _PIECE])
        return blocks

    def finish(self) -> list[Block]:
        """Return what is left; the last line may lack its newline."""
        if self._partial:
            self._complete += self._partial
            self._count += 1
            self._partial.clear()
        return list(self._emit()) if self._complete or self._errors else []

    def _piece(self, piece: bytes) -> Iterator[Block]:
        end = piece.rfind(b"\n") + 1
        if end:
            start = 0
            if self._skipping:
                start = piece.index(b"\n")  # the newline itself stays: a blank line in place of the long one
                self._skipping = False
            self._complete += self._partial
            self._complete += piece[start:end]
            self._count += piece.count(b"\n")
            self._partial.clear()
            if len(self._complete) >= self._block_bytes or self._count >= self._block_lines:
                yield from self._emit()
        if self._skipping:
            return
        self._partial += piece[end:]
        if len(self._partial) > self._max_line:
            self._partial.clear()
            self._skipping = True
            self._errors.append(line_too_long(self._first + self._count, self._max_line))

    def _emit(self) -> Iterator[Block]:
        yield Block(bytes(self._complete), self._first, self._errors)
        self._first += self._count
        self._complete.clear()
        self._count = 0
        self._errors = []
