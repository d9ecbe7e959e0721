"""The arrays of a segment of codes, position by position: made from vectors, or joined from what there is."""

from __future__ import annotations

import mmap
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from index.binarizer import Binarizer
from index.codes import Planes, pack
from index.points import Distance, Float32s, Rows

# A factor is right to some per cent (that is what it corrects), so half of a float's digits lose nothing.
FACTOR_ROUNDING = 2.0**-10

RELEASES = hasattr(mmap, "MADV_DONTNEED")

Factors = NDArray[np.float16] | Float32s


@dataclass(frozen=True, slots=True)
class SegmentData:
    """A segment's arrays, position by position in the order of rows.

    Parameters
    ----------
    first_row, end_row : the range of rows, end exclusive.
    binarizer : version of the binarizer that made the codes.
    planes : (n, bits, m / 8) uint8.
    factors : (n, bits) float32, or float16 where that is enough.
    beta : (n,) float32, minus half the squared norm, under Euclid; else None.
    offsets : (n,) uint32, row minus first row; None when every row of the range is there.
    mapping : of the file where the planes are, None where they are in memory.
    """

    first_row: int
    end_row: int
    binarizer: int
    planes: Planes
    factors: Factors
    beta: Float32s | None
    offsets: NDArray[np.uint32] | None
    mapping: mmap.mmap | None = None

    def __len__(self) -> int:
        """Return n."""
        return len(self.planes)

    def pieces(self, size: int) -> Iterator[Planes]:
        """Yield the planes of `size` positions at a time; a file's are not kept in memory when they were used."""
        for start in range(0, len(self), size):
            yield self.planes[start : start + size]
            self.release()

    def release(self) -> None:
        """Give back the memory of what was read from the file."""
        if self.mapping is not None and RELEASES:
            self.mapping.madvise(mmap.MADV_DONTNEED)

    def rows(self) -> Rows:
        """Return the row numbers, ascending."""
        offsets = np.arange(len(self)) if self.offsets is None else self.offsets
        return offsets.astype(np.int64) + self.first_row


class Spanned(Protocol):
    """A segment, or the data of one: positions that hold rows of a range."""

    @property
    def first_row(self) -> int:
        """The range's first row."""

    @property
    def end_row(self) -> int:
        """The row behind its last one."""

    @property
    def offsets(self) -> NDArray[np.uint32] | None:
        """(n,) row minus first row; None when every row of the range is there."""

    def __len__(self) -> int:
        """Return n."""


def identity(segment: Spanned) -> dict[str, int]:
    """Return what tells whether something derived is of a segment's rows; `offsets` is their CRC-32, 0 without."""
    return {
        "first_row": segment.first_row,
        "end_row": segment.end_row,
        "n": len(segment),
        "offsets": 0 if segment.offsets is None else zlib.crc32(segment.offsets.tobytes()),
    }


def narrowed(factors: Factors, distance: Distance) -> Factors:
    """Return factors as float16 where vectors have unit length and no digit that counts is lost."""
    if distance != "Cosine":
        return factors
    with np.errstate(over="ignore"):
        narrow = factors.astype(np.float16)
    fits = np.abs(narrow - factors) <= FACTOR_ROUNDING * np.abs(factors)
    return narrow if fits.all() else factors


def encode_rows(
    pieces: Iterable[tuple[Rows, Float32s]],
    span: tuple[int, int],
    version: int,
    binarizer: Binarizer,
    distance: Distance,
) -> SegmentData:
    """Encode `(row numbers, vectors)` pieces that cover a span of rows, in order."""
    rows, planes, factors, beta = [], [], [], []
    for numbers, vectors in pieces:
        levels, factor = binarizer.encode(vectors)
        rows.append(numbers)
        planes.append(pack(levels, binarizer.bits))
        factors.append(factor)
        if distance == "Euclid":
            beta.append(np.asarray(-0.5 * np.einsum("ij,ij->i", vectors, vectors), dtype=np.float32))
    bits, width = binarizer.bits, binarizer.code_dimension // 8
    return of_rows(
        rows,
        span,
        version,
        np.concatenate([np.empty((0, bits, width), dtype=np.uint8), *planes]),
        narrowed(np.concatenate([np.empty((0, bits), dtype=np.float32), *factors]), distance),
        beta,
    )


def joined(parts: Sequence[SegmentData], span: tuple[int, int]) -> SegmentData:
    """Join the data of neighbouring segments of one binarizer version, in order, over a span of rows."""
    return of_rows(
        [part.rows() for part in parts],
        span,
        parts[0].binarizer,
        np.concatenate([part.planes for part in parts]),
        np.concatenate([part.factors for part in parts]),
        [part.beta for part in parts if part.beta is not None],
    )


def of_rows(
    rows: Sequence[Rows],
    span: tuple[int, int],
    version: int,
    planes: Planes,
    factors: Factors,
    beta: Sequence[Float32s],
) -> SegmentData:
    """Make the data of a span from its parts in order: rows and beta piece by piece, planes and factors whole."""
    numbers = np.concatenate([np.empty(0, dtype=np.int64), *rows])
    dense = len(numbers) == span[1] - span[0]
    return SegmentData(
        first_row=span[0],
        end_row=span[1],
        binarizer=version,
        planes=planes,
        factors=factors,
        beta=np.concatenate(beta) if beta else None,
        offsets=None if dense else (numbers - span[0]).astype(np.uint32),
    )
