"""What a reader sees: an immutable picture of a collection's vectors, codes and deletes as of one commit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from index.binarizer import Binarizer
from index.errors import VectorsDropped
from index.graph import GraphIndex
from index.kernels import Candidates
from index.points import Float32s, Rows
from index.segment import Segment
from index.vector_file import VectorMap, chunk_rows
from index.vector_table import VectorTable


@dataclass(frozen=True, slots=True, eq=False)
class Tail:
    """The newest rows, not yet coded, kept as float32 and scored exactly.

    `buffer` is shared with later views, which write only behind `count`.
    """

    first_row: int
    buffer: Float32s
    count: int
    alive: NDArray[np.bool_]

    @classmethod
    def empty(cls, first_row: int, dimension: int) -> Tail:
        """Return a tail without rows."""
        buffer = np.empty((0, dimension), dtype=np.float32)
        return cls(first_row=first_row, buffer=buffer, count=0, alive=np.empty(0, dtype=np.bool_))

    @property
    def end_row(self) -> int:
        """The row behind the last one."""
        return self.first_row + self.count

    @property
    def vectors(self) -> Float32s:
        """All rows of the tail, `(count, d)` float32, alive or not."""
        return self.buffer[: self.count]

    def alive_rows(self) -> Rows:
        """Return the rows that count, ascending."""
        return np.flatnonzero(self.alive) + self.first_row

    def extended(self, vectors: Float32s) -> Tail:
        """Return the tail with `(n, d)` more rows; the buffer grows by doubling."""
        count = self.count + len(vectors)
        buffer = self.buffer
        if count > len(buffer):
            buffer = np.empty((max(count, 2 * len(buffer), 64), buffer.shape[1]), dtype=np.float32)
            buffer[: self.count] = self.vectors
        buffer[self.count : count] = vectors
        alive = np.concatenate([self.alive, np.ones(len(vectors), dtype=np.bool_)])
        return replace(self, buffer=buffer, count=count, alive=alive)

    def without(self, rows: Rows) -> Tail:
        """Return the tail with these rows deleted (rows elsewhere are passed over)."""
        dead = rows[(rows >= self.first_row) & (rows < self.end_row)] - self.first_row
        if not len(dead):
            return self
        alive = self.alive.copy()
        alive[dead] = False
        return replace(self, alive=alive)


@dataclass(frozen=True, eq=False)
class View:
    """Segments cover all rows before the tail; maps cover at least the rows of the segments.

    In a collection of codes only, segments whose vectors are not all there any more have codes files that are truth:
    `named` has their names, by the first row of the segment.
    """

    seq: int
    maps: tuple[VectorMap, ...]
    segments: tuple[Segment, ...]
    tail: Tail
    binarizers: Mapping[int, Binarizer]
    named: Mapping[int, str] = field(default_factory=dict)

    # Worked out for readers alone: a commit makes several views, of which one is shown.

    @cached_property
    def points(self) -> int:
        """How many rows count."""
        return sum(segment.count for segment in self.segments) + int(np.count_nonzero(self.tail.alive))

    @cached_property
    def layouts(self) -> tuple[bool, bool]:
        """Whether codes are in inverted lists, and whether in a graph."""
        lists = any(segment.centroids is not None for segment in self.segments)
        return lists, any(isinstance(segment.index, GraphIndex) for segment in self.segments)

    @cached_property
    def _ends(self) -> Rows:
        """The row behind those that each map has, the tail's left out."""
        return np.array([min(mapped.end_row, self.tail.first_row) for mapped in self.maps], dtype=np.int64)

    @cached_property
    def _vectors(self) -> VectorTable:
        return VectorTable(self.maps, self.tail.first_row, self.tail.vectors)

    def without(self, rows: Rows) -> View:
        """Return the view with these rows deleted."""
        if not len(rows):
            return self
        segments = tuple(segment.without(rows) for segment in self.segments)
        return replace(self, segments=segments, tail=self.tail.without(rows))

    @property
    def numbered(self) -> bool:
        """Whether the ids of all rows are in memory: see `NumberIds`."""
        return not self.tail.count and all(segment.ids.known_as_of(self.seq) for segment in self.segments)

    @property
    def newest(self) -> Binarizer | None:
        """What new codes are made with, None before the first."""
        return self.binarizers[max(self.binarizers)] if self.binarizers else None

    @property
    def row_bytes(self) -> int:
        """Bytes of a vector on disk."""
        return self.maps[0].layout.row_bytes if self.maps else 0

    def readable(self, rows: Rows) -> NDArray[np.bool_]:
        """Return which rows have their vectors: all, but those that a collection of codes only has dropped."""
        if not self.named:
            return np.ones(len(rows), dtype=np.bool_)
        flags = rows >= self.tail.first_row
        for mapped in self.maps:
            flags |= (rows >= mapped.first_row) & (rows < mapped.end_row)
        return np.asarray(flags)

    def require_vectors(self, rows: Rows, *, hint: str, param: str | None = None) -> None:
        """Raise VectorsDropped unless all of these rows have their vectors."""
        if self.named and (lost := int((~self.readable(rows)).sum())):
            message = f"the collection keeps codes only: the full-precision vectors of {lost} points are gone"
            raise VectorsDropped(message, param=param, hint=hint)

    def read(self, rows: Rows) -> Float32s:
        """Return `(n, d)` float32 vectors of ascending rows, from the maps and the tail.

        Raises VectorsDropped when some are not there any more.
        """
        out = np.empty((len(rows), self.tail.buffer.shape[1]), dtype=np.float32)
        for part, vectors in self.parts(rows):
            out[part] = vectors
        return out

    def scores(self, rows: Rows, query: Float32s, *, distance: bool) -> Float32s:
        """Return the products of the vectors of ascending rows with a (d,) query, or the negative distances.

        Raises VectorsDropped when some vectors are not there any more.
        """
        self._require_all(rows)
        return self._vectors.scores(rows, query, distance=distance)

    def finish(
        self, candidates: Candidates, read: int, k: int, query: Float32s, *, distance: bool
    ) -> tuple[Rows, Float32s, float] | None:
        """Rank candidates by their vectors, which must all be there: see `VectorTable.finish`."""
        return self._vectors.finish(candidates, read, k, query, distance=distance)

    def _require_all(self, rows: Rows) -> None:
        self.require_vectors(rows, hint="ask for points without vectors; with store_vectors a collection keeps them")

    def parts(self, rows: Rows) -> Iterator[tuple[slice, Float32s]]:
        """Yield which of some ascending rows, and their vectors: what `read` does, file by file, copied once.

        Raises VectorsDropped when some are not there any more.
        """
        self._require_all(rows)
        start = 0
        for mapped, end in zip(self.maps, rows.searchsorted(self._ends).tolist(), strict=True):
            if end > start:
                yield slice(start, end), mapped.read(rows[start:end])
                start = end
        if start < len(rows):
            yield slice(start, len(rows)), self.tail.buffer[rows[start:] - self.tail.first_row]

    def pieces(self, first_row: int, end_row: int) -> Iterator[tuple[Rows, Float32s]]:
        """Yield `(rows, vectors)` of all mapped rows in a range, alive or not, in bounded pieces."""
        for mapped in self.maps:
            if mapped.end_row <= first_row or mapped.first_row >= end_row:
                continue
            numbers = mapped.row_numbers()
            low, high = np.searchsorted(numbers, [first_row, end_row])
            size = chunk_rows(mapped.layout.dimension)
            for start in range(int(low), int(high), size):
                stop = min(start + size, int(high))
                yield numbers[start:stop], mapped.vectors[start:stop].astype(np.float32, copy=False)

    def alive_rows(self) -> Rows:
        """Return the rows of all points, ascending."""
        return np.concatenate([*(segment.alive_rows() for segment in self.segments), self.tail.alive_rows()])
