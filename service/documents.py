"""Files of documents into native NDJSON lines: NDJSON, BEIR, CSV, TSV and Parquet.

Knows nothing of the server. Lines that are native already pass through untouched: the server judges them.
What must be converted has to make sense here, so errors of that name the file and the place.
"""

from __future__ import annotations

import base64
import csv
import gzip
import io
import re
import zlib
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal, NamedTuple, cast

import numpy as np
import orjson

Format = Literal["ndjson", "csv", "tsv", "parquet"]

_FORMATS: Final[Mapping[str, Format]] = {
    ".jsonl": "ndjson",
    ".ndjson": "ndjson",
    ".json": "ndjson",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
}
_NUMBER: Final = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?", re.ASCII)
_CELL_BYTES: Final = 1 << 26
_BATCH_ROWS: Final = 1024


class DocumentError(Exception):
    """A file cannot be read as documents; the message names the file and the line, row or column."""


class Document(NamedTuple):
    """One native line without its newline, and its line (Parquet: row) in the file, from 1."""

    number: int
    line: bytes


@dataclass(frozen=True, slots=True)
class Fields:
    """Which fields hold what; None means the usual name, and leaves native and BEIR lines as they are.

    All other fields become the payload.
    """

    id: str | None = None
    text: str | None = None
    vector: str | None = None

    @property
    def given(self) -> bool:
        """Whether any name was given."""
        return not (self.id is None and self.text is None and self.vector is None)


def read_documents(path: Path, fields: Fields | None = None) -> Generator[Document, None, None]:
    """Yield the documents of a file in its order; `.gz` is unpacked (not Parquet).

    Close the generator when it is not read to its end: it holds the file open.

    Raises
    ------
    DocumentError : no such file, unknown format, damaged content, a row without id or content.
    """
    fields = fields or Fields()
    kind = format_of(path)
    if kind == "parquet":
        return _read_parquet(path, fields)
    if kind == "ndjson":
        return _read_lines(path, fields)
    return _read_table(path, fields, "\t" if kind == "tsv" else ",")


def format_of(path: Path) -> Format:
    """Return the format that the file's name says."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] == ".gz":
        suffixes.pop()
    kind = _FORMATS.get(suffixes[-1]) if suffixes else None
    if kind is None:
        raise DocumentError(f"{path}: the format is not known; use {', '.join(_FORMATS)}, or .gz of these")
    return kind


def estimate_count(path: Path) -> int:
    """Return about how many documents a file has: its lines or rows, without looking into them."""
    with _reading(path):
        if format_of(path) == "parquet":
            return int(_parquet(path).metadata.num_rows)
        with _open(path) as file:
            return sum(piece.count(b"\n") for piece in iter(lambda: file.read(1 << 20), b""))


def first_dimension(path: Path, fields: Fields | None = None) -> int | None:
    """Return the dimension of the first document's vector, None when it has a text instead."""
    with closing(read_documents(path, fields)) as documents:
        document = next(documents, None)
    if document is None:
        raise DocumentError(f"{path}: the file has no documents")
    try:
        vector = orjson.loads(document.line).get("vector")
    except (orjson.JSONDecodeError, AttributeError):
        return None
    if isinstance(vector, str):
        return len(vector.rstrip("=")) * 3 // 4 // 4
    return len(vector) if isinstance(vector, list) else None


def _read_lines(path: Path, fields: Fields) -> Generator[Document, None, None]:
    beir: bool | None = None
    with _reading(path), _open(path) as file:
        for number, line in enumerate(file, 1):
            line = line.removeprefix(b"\xef\xbb\xbf").strip() if number == 1 else line.strip()
            if not line:
                continue
            if fields.given:
                yield Document(number, _convert(_object(line, path, number), fields, f"{path}:{number}"))
                continue
            if beir is None:
                beir = _is_beir(line)
            yield Document(number, _from_beir(_object(line, path, number), path, number) if beir else line)


def _is_beir(line: bytes) -> bool:
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError:
        return False
    return isinstance(value, dict) and "_id" in value and "id" not in value


def _object(line: bytes, path: Path, number: int) -> dict[str, Any]:
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise DocumentError(f"{path}:{number}: not JSON: {error}") from None
    if not isinstance(value, dict):
        raise DocumentError(f"{path}:{number}: not a JSON object")
    return value


def _from_beir(record: dict[str, Any], path: Path, number: int) -> bytes:
    if "_id" not in record:
        raise DocumentError(f"{path}:{number}: _id is missing")
    title, text, metadata = record.get("title") or "", record.get("text") or "", record.get("metadata") or {}
    if not isinstance(title, str) or not isinstance(text, str) or not isinstance(metadata, dict):
        raise DocumentError(f"{path}:{number}: title and text must be strings, metadata an object")
    payload = {"title": title, **metadata} if title else metadata
    return orjson.dumps({"id": record["_id"], "text": f"{title} {text}".strip(), "payload": payload})


def _read_table(path: Path, fields: Fields, delimiter: str) -> Generator[Document, None, None]:
    csv.field_size_limit(_CELL_BYTES)
    with _reading(path), _open(path) as file, io.TextIOWrapper(file, "utf-8-sig", newline="") as text:
        rows = csv.DictReader(text, delimiter=delimiter, strict=True)
        names = rows.fieldnames or []
        _check_columns(list(names), fields, path)
        number = rows.line_num + 1
        for row in rows:
            where = f"{path}:{number}"
            if None in row or None in row.values():
                raise DocumentError(f"{where}: the row does not have the {len(names)} columns of the header")
            # CSV has no types: what looks like a JSON number or boolean is one, an empty cell is nothing.
            record = {name: _cell(value) for name, value in row.items() if value != ""}
            for name in (fields.text or "text", "title"):
                if name in record:
                    record[name] = row[name]
            yield Document(number, _convert(record, fields, where))
            number = rows.line_num + 1


def _cell(value: str) -> object:
    if value in ("true", "false"):
        return value == "true"
    if value.startswith("[") or _NUMBER.fullmatch(value):
        try:
            return orjson.loads(value)
        except orjson.JSONDecodeError:
            return value
    return value


def _check_columns(names: list[str], fields: Fields, path: Path) -> None:
    wanted = [name for name in (fields.id or "id", fields.text, fields.vector) if name is not None]
    if fields.text is None and fields.vector is None and not {"text", "vector"} & set(names):
        wanted.append("text")
    for name in wanted:
        if name not in names:
            raise DocumentError(
                f"{path}: there is no column {name!r} (there is {', '.join(map(repr, names)) or 'none'}); "
                "name the columns with --id-field and --text-field or --vector-field"
            )


def _convert(record: dict[str, Any], fields: Fields, where: str) -> bytes:
    """Return the native line of a record with named fields; what has no part in it becomes the payload."""
    id_field = fields.id or "id"
    if record.get(id_field) is None:
        raise DocumentError(f"{where}: {id_field} is missing")
    native = {"id": record.pop(id_field)}
    for key, name in (("text", fields.text or "text"), ("vector", fields.vector or "vector")):
        value = record.pop(name, None)
        if value is not None:
            native[key] = value
    nested = record.pop("payload", None) or {}
    if not isinstance(nested, dict):
        raise DocumentError(f"{where}: payload is not an object")
    native["payload"] = {**record, **nested}
    try:
        return orjson.dumps(native, default=_plain)
    except TypeError as error:
        raise DocumentError(f"{where}: a value cannot be written as JSON: {error}") from None


def _plain(value: object) -> object:
    if type(value).__name__ == "Decimal":
        return str(value)
    raise TypeError(f"{type(value).__name__} is no JSON type")


def _read_parquet(path: Path, fields: Fields) -> Generator[Document, None, None]:
    name = fields.vector or "vector"
    with _reading(path):
        file = _parquet(path)
        _check_columns(file.schema_arrow.names, fields, path)
        number = 0
        for batch in file.iter_batches(batch_size=_BATCH_ROWS):
            columns = {column: batch.column(column) for column in batch.schema.names}
            vectors = columns.pop(name, None)
            plain = {column: values.to_pylist() for column, values in columns.items()}
            for i in range(batch.num_rows):
                number += 1
                record = {column: values[i] for column, values in plain.items()}
                if vectors is not None:
                    record[name] = _base64(vectors[i], f"{path}, row {number}, column {name!r}")
                yield Document(number, _convert(record, fields, f"{path}, row {number}"))


def _base64(cell: Any, where: str) -> str | None:  # noqa: ANN401  (pyarrow has no types)
    """Return a list of numbers as base64 float32, a string as it is, null as None."""
    value = cell.as_py()
    if value is None or isinstance(value, str):
        return value
    try:
        vector = np.array(value, "<f4")
    except (TypeError, ValueError):
        vector = np.empty((0, 0))
    if vector.ndim != 1:
        raise DocumentError(f"{where}: not a list of numbers")
    return base64.b64encode(vector.tobytes()).decode()


def _parquet(path: Path) -> Any:  # noqa: ANN401  (pyarrow has no types)
    # Not above: it takes as long to import as everything else that `bitfold index` needs.
    from pyarrow.parquet import ParquetFile

    return ParquetFile(path)


def _open(path: Path) -> BinaryIO:
    if path.suffix.lower() == ".gz":
        return cast(BinaryIO, gzip.open(path, "rb"))
    return path.open("rb")


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn whatever goes wrong in reading a file into a DocumentError that names it."""
    try:
        yield
    except FileNotFoundError:
        raise DocumentError(f"{path}: there is no such file") from None
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error) as error:
        raise DocumentError(f"{path}: {error}") from error
    except ValueError as error:
        # pyarrow's ArrowInvalid is one.
        raise DocumentError(f"{path}: {error}") from error
