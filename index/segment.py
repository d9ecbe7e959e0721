"""An immutable range of rows with codes: what is scanned. Derived from vectors, saved only to start faster.

File layout (`codes/*.codes`), little-endian: b"BFCODES1", u32 CRC-32 of the header and all that follows, u32
length of a JSON header, the header, then codes (n x m/8 bytes), factors (n float32), with Euclid `beta` (n
float32), and where the range has holes `offsets` (n uint32, row minus first row).
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from index import durable
from index.binarizer import Binarizer
from index.code_index import CodeIndex, Positions
from index.codes import Codes, pack, pack_bits, unpack_bits
from index.points import Distance, Float32s, Rows

MAGIC = b"BFCODES1"
PREFIX = struct.Struct("<8sII")
FIRST_BAND = 1024
SPREAD = 0.05  # standard deviation over mean of the norms, above which a scan must know about norms


class DamagedCodes(Exception):
    """A codes file cannot be used. Codes are derived, so they are made again."""


@dataclass(frozen=True, slots=True)
class SegmentData:
    """A segment's arrays, position by position in the order of rows.

    Parameters
    ----------
    first_row, end_row : the range of rows, end exclusive.
    binarizer : version of the binarizer that made the codes.
    codes : (n, m / 8) uint8.
    factors : (n,) float32.
    beta : (n,) float32, minus half the squared norm, under Euclid; else None.
    offsets : (n,) uint32, row minus first row; None when every row of the range is there.
    """

    first_row: int
    end_row: int
    binarizer: int
    codes: Codes
    factors: Float32s
    beta: Float32s | None
    offsets: NDArray[np.uint32] | None


def encode_rows(
    pieces: Iterable[tuple[Rows, Float32s]],
    span: tuple[int, int],
    version: int,
    binarizer: Binarizer,
    distance: Distance,
) -> SegmentData:
    """Encode `(row numbers, vectors)` pieces that cover a span of rows, in order."""
    rows, codes, factors, beta = [], [], [], []
    for numbers, vectors in pieces:
        levels, factor = binarizer.encode(vectors)
        rows.append(numbers)
        codes.append(pack(levels))
        factors.append(factor)
        if distance == "Euclid":
            beta.append(-0.5 * np.einsum("ij,ij->i", vectors, vectors))
    all_rows = np.concatenate(rows) if rows else np.empty(0, dtype=np.int64)
    dense = len(all_rows) == span[1] - span[0]
    return SegmentData(
        first_row=span[0],
        end_row=span[1],
        binarizer=version,
        codes=np.concatenate(codes) if codes else np.empty((0, binarizer.code_dimension // 8), dtype=np.uint8),
        factors=np.concatenate(factors).astype(np.float32) if factors else np.empty(0, dtype=np.float32),
        beta=np.concatenate(beta).astype(np.float32) if beta else None,
        offsets=None if dense else (all_rows - span[0]).astype(np.uint32),
    )


def norm_bands(data: SegmentData, distance: Distance) -> Sequence[Positions]:
    """Cut positions into bands of like norm, the likeliest winners first: 1024, 2048, 4096, ... positions.

    The scan ranks by direction alone. Under Dot the longest vectors win whatever their direction, under
    Euclid the shortest are a little nearer to everything, so each band keeps its own candidates. Under
    Cosine, or when norms hardly differ, one band holds all.
    """
    everything = np.arange(len(data.codes), dtype=np.int64)
    if distance == "Cosine" or len(everything) == 0:
        return [everything]
    norms = data.factors if data.beta is None else np.sqrt(-2 * data.beta)
    if norms.std() <= SPREAD * norms.mean():
        return [everything]
    order = np.argsort(-norms if distance == "Dot" else norms, kind="stable")
    ends = FIRST_BAND * (2 ** np.arange(1, 40) - 1)
    return [np.sort(band) for band in np.split(order, ends[ends < len(order)])]


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """A searchable range. `alive` is a bitmap over positions, None when nothing in it was deleted."""

    first_row: int
    end_row: int
    binarizer: int
    index: CodeIndex
    factors: Float32s
    beta: Float32s | None
    offsets: NDArray[np.uint32] | None
    alive: NDArray[np.uint8] | None
    count: int

    @classmethod
    def build(cls, data: SegmentData, distance: Distance) -> Segment:
        """Lay codes out for scanning; every row counts as alive."""
        return cls(
            first_row=data.first_row,
            end_row=data.end_row,
            binarizer=data.binarizer,
            index=CodeIndex(data.codes, norm_bands(data, distance)),
            factors=data.factors,
            beta=data.beta,
            offsets=data.offsets,
            alive=None,
            count=len(data.codes),
        )

    def __len__(self) -> int:
        """Return the number of positions, alive or not."""
        return len(self.factors)

    @property
    def bytes_per_point(self) -> float:
        """Bytes in memory a position: code, FAISS id, factor, and where they exist beta and offset."""
        optional = (self.beta is not None) + (self.offsets is not None)
        return float(self.index.code_bytes + 8 + 4 + 4 * optional)

    def rows_at(self, positions: Positions) -> Rows:
        """Return the row numbers of positions."""
        if self.offsets is None:
            return positions + self.first_row
        offsets = self.offsets[positions]
        rows: Rows = offsets.astype(np.int64)
        return rows + self.first_row

    def positions_of(self, rows: Rows) -> Positions:
        """Return the positions of those rows that the segment holds."""
        inside = rows[(rows >= self.first_row) & (rows < self.end_row)] - self.first_row
        if self.offsets is None or not len(inside):
            return inside
        if not len(self):
            return np.empty(0, dtype=np.int64)
        at: Positions = np.minimum(np.searchsorted(self.offsets, inside), len(self) - 1)
        found: Positions = at[self.offsets[at] == inside]
        return found

    def flags_of(self, rows: Rows) -> NDArray[np.bool_]:
        """Return which positions hold one of these rows (rows elsewhere are passed over)."""
        flags = np.zeros(len(self), dtype=np.bool_)
        flags[self.positions_of(rows)] = True
        return flags

    def alive_flags(self) -> NDArray[np.bool_]:
        """Return which positions count."""
        if self.alive is None:
            return np.ones(len(self), dtype=np.bool_)
        return unpack_bits(self.alive, len(self))

    def alive_rows(self) -> Rows:
        """Return the rows that count, ascending."""
        return self.rows_at(np.flatnonzero(self.alive_flags()))

    def alive_by_row(self) -> NDArray[np.bool_] | None:
        """Return a flag for each row of the range, whether it counts; None when all do."""
        if self.alive is None and self.offsets is None:
            return None
        flags = np.zeros(self.end_row - self.first_row, dtype=np.bool_)
        flags[self.alive_rows() - self.first_row] = True
        return flags

    def without(self, rows: Rows) -> Segment:
        """Return the same segment with these rows deleted too."""
        dead = self.positions_of(rows)
        if not len(dead):
            return self
        alive = pack_bits(self.alive_flags()) if self.alive is None else self.alive.copy()
        # Bit by bit: a commit with one delete must not cost time that grows with the segment.
        np.bitwise_and.at(alive, dead >> 3, ~(1 << (dead & 7)).astype(np.uint8))
        return replace(self, alive=alive, count=int(np.bitwise_count(alive).sum()))


def codes_name(span: tuple[int, int], version: int) -> str:
    """Return the name of the codes file of a range of rows, coded by a version of the binarizer."""
    return f"{span[0]:012d}-{span[1]:012d}-{version}.codes"


def span_of(path: Path) -> tuple[int, int]:
    """Return the range of rows in a codes file's name."""
    first, end, _ = path.stem.split("-")
    return int(first), int(end)


def save(path: Path, data: SegmentData) -> None:
    """Write a codes file. Not synced: its checksum tells whether it is whole."""
    header = {
        "first_row": data.first_row,
        "end_row": data.end_row,
        "binarizer": data.binarizer,
        "n": len(data.codes),
        "code_bytes": data.codes.shape[1],
        "beta": data.beta is not None,
        "holes": data.offsets is not None,
    }
    raw = json.dumps(header).encode()
    arrays = [data.codes, data.factors.astype("<f4")]
    arrays += [data.beta.astype("<f4")] if data.beta is not None else []
    arrays += [data.offsets.astype("<u4")] if data.offsets is not None else []
    body = b"".join([raw, *(array.tobytes() for array in arrays)])
    durable.replace_file(path, PREFIX.pack(MAGIC, zlib.crc32(body), len(raw)) + body, durable=False)


def load(path: Path) -> SegmentData:
    """Read a codes file. Raises DamagedCodes when it is not exactly what was written."""
    try:
        raw = path.read_bytes()
        magic, checksum, length = PREFIX.unpack(raw[: PREFIX.size])
        body = memoryview(raw)[PREFIX.size :]
        if magic != MAGIC or zlib.crc32(body) != checksum:
            raise DamagedCodes(f"{path}: the checksum does not fit")
        header = json.loads(bytes(body[:length]))
        return _arrays(header, body[length:])
    except (OSError, struct.error, ValueError, KeyError) as error:
        raise DamagedCodes(f"{path}: {error}") from error


def _arrays(header: dict[str, Any], body: memoryview) -> SegmentData:
    n, width = header["n"], header["code_bytes"]
    cut = [n * width, 4 * n, 4 * n * header["beta"], 4 * n * header["holes"]]
    ends = np.cumsum([0, *cut])
    part = [body[ends[i] : ends[i + 1]] for i in range(4)]
    return SegmentData(
        first_row=header["first_row"],
        end_row=header["end_row"],
        binarizer=header["binarizer"],
        codes=np.frombuffer(part[0], np.uint8).reshape(n, width),
        factors=np.frombuffer(part[1], "<f4").copy(),
        beta=np.frombuffer(part[2], "<f4").copy() if header["beta"] else None,
        offsets=np.frombuffer(part[3], "<u4").copy() if header["holes"] else None,
    )
