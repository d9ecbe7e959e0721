"""One append-only file of full-precision vectors: a header, then rows, nothing else.

Knows bytes and rows; which rows count is the record's business (`index/record.py`). Layout, little-endian:

    0     8  magic b"BFVECTOR"
    8     4  format version (1)
    12    4  d, the dimension
    16    4  bytes a value (4: float32, 2: float16)
    20    4  1 if the file has holes: a table of row numbers follows the header
    24    8  first row
    32    8  n, rows in the table (0 without one)
    40    4  CRC-32 of bytes 0 to 39
    4096     with holes: n x int64 row numbers, ascending
    ...      vectors, d values a row, in row order
"""

from __future__ import annotations

import mmap
import os
import struct
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from index import durable
from index.errors import CorruptCollection
from index.kernels import address
from index.points import Float32s, Rows

MAGIC = b"BFVECTOR"
VERSION = 1
HEADER = struct.Struct("<8sIIIIQQ")
HEADER_BYTES = 4096
CHUNK_VALUES = 4 * 2**20


def chunk_rows(dimension: int) -> int:
    """Return how many rows are read at a time: about 16 MiB of float32."""
    return min(8192, max(1, CHUNK_VALUES // dimension))


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a file's rows lie. `table` is 0 for a file without holes, else its number of rows."""

    dimension: int
    value_bytes: int
    first_row: int
    table: int

    @property
    def row_bytes(self) -> int:
        """Bytes a vector."""
        return self.dimension * self.value_bytes

    @property
    def data_offset(self) -> int:
        """Where the vectors begin."""
        return HEADER_BYTES + 8 * self.table

    def header(self) -> bytes:
        """Return the 4,096 header bytes."""
        holes = int(self.table > 0)
        head = HEADER.pack(MAGIC, VERSION, self.dimension, self.value_bytes, holes, self.first_row, self.table)
        return (head + struct.pack("<I", zlib.crc32(head))).ljust(HEADER_BYTES, b"\0")


def read_layout(path: Path) -> Layout:
    """Read and check a file's header. Raises CorruptCollection naming the file."""
    try:
        with path.open("rb") as file:
            head = file.read(HEADER.size + 4)
    except OSError as error:
        raise CorruptCollection(f"{path}: cannot be read ({error.strerror})") from error
    if len(head) < HEADER.size + 4:
        raise CorruptCollection(f"{path}: {len(head)} bytes are too few for a header")
    magic, version, dimension, value_bytes, _, first_row, table = HEADER.unpack(head[: HEADER.size])
    if magic != MAGIC or struct.unpack("<I", head[HEADER.size :])[0] != zlib.crc32(head[: HEADER.size]):
        raise CorruptCollection(f"{path}: the header is damaged")
    if version != VERSION:
        raise CorruptCollection(
            f"{path}: format version {version}, this program reads {VERSION}", hint="use a newer Bitfold"
        )
    return Layout(dimension=dimension, value_bytes=value_bytes, first_row=first_row, table=table)


class VectorWriter:
    """Appends rows to one file. Not thread-safe: the collection's writer owns it."""

    def __init__(self, path: Path, layout: Layout, *, rows: int) -> None:
        self.path = path
        self.layout = layout
        self.rows = rows  # rows written; the committed ones are the record's to know
        self._fd = os.open(path, os.O_RDWR)

    @classmethod
    def create(cls, path: Path, layout: Layout) -> VectorWriter:
        """Make the file, its header and its name durable."""
        durable.replace_file(path, layout.header())
        return cls(path, layout, rows=0)

    def append(self, stored: NDArray[Any]) -> int:
        """Write `(n, d)` values of the file's type behind the last row; return their CRC-32."""
        data = memoryview(np.ascontiguousarray(stored).data).cast("B")
        durable.write_at(self._fd, data, HEADER_BYTES + self.rows * self.layout.row_bytes, self.path)
        self.rows += len(stored)
        return zlib.crc32(data)

    def sync(self) -> None:
        """Flush what was appended. An OSError from here means that the disk's state is unknown."""
        durable.sync_file(self._fd)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)


HINTS = hasattr(mmap, "MADV_RANDOM") and hasattr(mmap, "MADV_WILLNEED")
COLD_SECONDS = 6e-6  # a row: in memory it takes 1 us, announced 13, from disk 150
DENSE = 8  # rows are read with what is between them where they are as near as this


class VectorMap:
    """Committed rows of one file, memory-mapped for reading. Immutable; freed with its last reader."""

    def __init__(self, path: Path, *, rows: int) -> None:
        """Map `rows` rows of the file. Raises CorruptCollection if it is shorter than that."""
        self.path = path
        self.layout = layout = read_layout(path)
        needed = layout.data_offset + rows * layout.row_bytes
        length = path.stat().st_size
        if length < needed:
            raise CorruptCollection(f"{path}: {length} bytes long, {rows} committed rows need {needed}")
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), needed, access=mmap.ACCESS_READ)
            # The same pages once more, for rows here and there: of these the system reads none ahead.
            self._scattered = mmap.mmap(file.fileno(), needed, access=mmap.ACCESS_READ) if HINTS else mapped
        if HINTS:
            self._scattered.madvise(mmap.MADV_RANDOM)
        self.cold = False  # whether the last scattered rows that were read were not in memory
        dtype = np.dtype("<f4") if layout.value_bytes == 4 else np.dtype("<f2")
        shape, count = (rows, layout.dimension), rows * layout.dimension
        self.vectors: NDArray[Any] = np.frombuffer(mapped, dtype, count, layout.data_offset).reshape(shape)
        self._rows: NDArray[Any] = np.frombuffer(self._scattered, dtype, count, layout.data_offset).reshape(shape)
        self._table = np.frombuffer(mapped, "<i8", count=layout.table, offset=HEADER_BYTES)
        self.first_row = layout.first_row
        self.end_row = int(self._table[-1]) + 1 if layout.table else layout.first_row + rows

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.vectors)

    @property
    def has_holes(self) -> bool:
        """Whether row numbers are listed instead of counted."""
        return self.layout.table > 0

    def row_numbers(self) -> Rows:
        """Return the row numbers that the file holds, ascending int64."""
        if self.has_holes:
            return self._table
        return np.arange(self.first_row, self.end_row, dtype=np.int64)

    def read(self, rows: Rows) -> Float32s:
        """Return `(n, d)` float32 of ascending rows that the file holds.

        Rows that are not in memory are announced all at once where it was so with the last ones: one by one they take
        the disk's latency each. A hundred of them cost 276 ms with what the system reads around them, 16 ms without
        that, 2 ms announced (docs/log.md).
        """
        positions = self._positions(rows)
        count = len(positions)
        if not count:
            return np.empty((0, self.layout.dimension), dtype=np.float32)
        if int(positions[-1]) - int(positions[0]) < DENSE * count:
            return self.vectors.take(positions, axis=0, mode="clip").astype(np.float32, copy=False)
        if self.cold:
            self._announce(positions)
        started = time.perf_counter()
        # `take` that checks nothing is a quarter faster than indexing.
        vectors = self._rows.take(positions, axis=0, mode="clip")
        self.cold = HINTS and time.perf_counter() - started > COLD_SECONDS * count
        return vectors.astype(np.float32, copy=False)

    def _positions(self, rows: Rows) -> Rows:
        return np.searchsorted(self._table, rows) if self.has_holes else rows - self.first_row

    def described(self, end_row: int, *, scattered: bool) -> tuple[int, int, int, int, int, int]:
        """Return what `kernels.vector_scores` wants to know of the rows below one; of the pages for scattered rows."""
        vectors = self._rows if scattered else self.vectors
        table = address(self._table) if self.has_holes else 0
        end = min(self.end_row, end_row)
        return address(vectors), self.first_row, end, self.layout.value_bytes, table, len(self._table)

    def announce(self, rows: Rows) -> None:
        """Tell the system that ascending rows that the file holds will be read."""
        self._announce(self._positions(rows))

    def _announce(self, positions: Rows) -> None:
        row_bytes, offset = self.layout.row_bytes, self.layout.data_offset
        for start in (offset + positions * row_bytes).tolist():
            page = start // mmap.PAGESIZE * mmap.PAGESIZE
            self._scattered.madvise(mmap.MADV_WILLNEED, page, start + row_bytes - page)


def write_with_holes(path: Path, layout: Layout, rows: Rows, pieces: Iterator[NDArray[Any]]) -> list[int]:
    """Write a whole file of chosen rows and make it durable under its name; return a CRC-32 a piece."""
    checksums = []
    with durable.replacing(path) as (fd, temporary):
        durable.write_at(fd, layout.header(), 0, temporary)
        durable.write_at(fd, memoryview(rows.astype("<i8").data).cast("B"), HEADER_BYTES, temporary)
        offset = layout.data_offset
        for piece in pieces:
            data = memoryview(np.ascontiguousarray(piece).data).cast("B")
            durable.write_at(fd, data, offset, temporary)
            offset += len(data)
            checksums.append(zlib.crc32(data))
    return checksums
