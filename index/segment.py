"""An immutable, searchable range of rows with codes, in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from index.code_index import PIECE, CodeIndex, Positions
from index.codes import Planes, pack_bits, unpack_bits
from index.graph import GraphIndex, Links
from index.lists import Centroids, Lists
from index.mapped_index import MappedIndex
from index.number_ids import NumberIds
from index.points import Distance, Float32s, Rows
from index.rows import located
from index.segment_data import Factors, SegmentData, narrowed, of_rows

FIRST_BAND = 1024
SPREAD = 0.05  # standard deviation over mean of the norms, above which a scan must know about norms


def norm_bands(data: SegmentData, distance: Distance) -> Sequence[Positions]:
    """Cut positions into bands of like norm, the likeliest winners first: 1024, 2048, 4096, ... positions.

    The scan ranks by direction alone. Under Dot the longest vectors win whatever their direction, under
    Euclid the shortest are a little nearer to everything, so each band keeps its own candidates. Under
    Cosine, or when norms hardly differ, one band holds all.
    """
    everything = np.arange(len(data), dtype=np.int64)
    if distance == "Cosine" or len(everything) == 0:
        return [everything]
    norms = data.factors[:, 0] if data.beta is None else np.sqrt(-2 * data.beta)
    if norms.std() <= SPREAD * norms.mean():
        return [everything]
    order = np.argsort(-norms if distance == "Dot" else norms, kind="stable")
    ends = FIRST_BAND * (2 ** np.arange(1, 40) - 1)
    return [np.sort(band) for band in np.split(order, ends[ends < len(order)])]


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """A searchable range.

    `index` holds the codes, `factors` are (n, bits), column by column. `alive` is a bitmap over positions, None when
    nothing in it was deleted. `centroids` are those of the inverted lists of `index`, None where a query has to look at
    all of it, or walks through a graph. `filed` are the codes as they lie in their file, mapped, (n, bits, m / 8); None
    if they are in no file. `ids` fill up beside reading and writing.
    """

    first_row: int
    end_row: int
    binarizer: int
    index: CodeIndex | GraphIndex
    factors: Factors
    beta: Float32s | None
    offsets: NDArray[np.uint32] | None
    alive: NDArray[np.uint8] | None
    count: int
    ids: NumberIds
    centroids: Centroids | None = None
    filed: Planes | None = None

    @classmethod
    def build(
        cls,
        data: SegmentData,
        distance: Distance,
        lists: Lists | None = None,
        links: Links | None = None,
        *,
        filed: Planes | None = None,
        mapped: bool = False,
    ) -> Segment:
        """Lay codes out for scanning, in inverted lists or a graph if there is one; every row counts as alive.

        Parameters
        ----------
        filed : the codes as they lie in their file, mapped.
        mapped : codes stay there, none are held in memory. They must be in a file.

        Raises
        ------
        ValueError
            The links of a graph are not of these codes.
        """
        index: CodeIndex | GraphIndex
        if links is not None:
            index = GraphIndex.of(data.pieces(PIECE), data.planes.shape[2], links)
        else:
            bands = norm_bands(data, distance) if lists is None else lists.positions()
            if mapped and filed is not None:
                index = MappedIndex(filed, bands)
            else:
                index = CodeIndex(data.planes[:, 0], bands, np.ascontiguousarray(data.planes[:, 1:]))
        return cls(
            first_row=data.first_row,
            end_row=data.end_row,
            binarizer=data.binarizer,
            index=index,
            factors=narrowed(data.factors, distance).copy(order="F"),
            beta=data.beta,
            offsets=data.offsets,
            alive=None,
            count=len(data),
            centroids=None if lists is None else Centroids(lists.centroids),
            filed=filed,
            ids=NumberIds(len(data)),
        )

    def listed(self, lists: Lists) -> Segment:
        """Return the same segment with its codes in inverted lists; they must not be in a graph."""
        assert isinstance(self.index, CodeIndex)
        return replace(self, index=self.index.in_lists(lists.positions()), centroids=Centroids(lists.centroids))

    def in_graph(self, graph: GraphIndex) -> Segment:
        """Return the same segment with its codes in a graph."""
        return replace(self, index=graph, centroids=None)

    @property
    def scanned_whole(self) -> bool:
        """Whether a query looks at all codes: they are in neither inverted lists nor a graph."""
        return self.centroids is None and isinstance(self.index, CodeIndex)

    @property
    def bands(self) -> int:
        """How many bands of like norm give candidates of their own: 1 in inverted lists and in a graph."""
        return self.index.bands if isinstance(self.index, CodeIndex) and self.centroids is None else 1

    @property
    def bits(self) -> int:
        """The planes of a code."""
        return int(self.factors.shape[1])

    def __len__(self) -> int:
        """Return the number of positions, alive or not."""
        return len(self.factors)

    @property
    def bytes_per_point(self) -> float:
        """Bytes in memory a position: planes, place or links, factors, and where they exist beta and offset."""
        optional = (self.beta is not None) + (self.offsets is not None)
        return self.index.bytes_per_point + self.bits * self.factors.itemsize + 4 * optional

    def bytes_by_part(self) -> dict[str, int]:
        """Return the bytes in memory of the parts of `index`, of `factors`, `rows`, `lists`.

        Rows: which lie where, and which count. Lists: their centroids.
        """
        rows = sum(part.nbytes for part in (self.offsets, self.alive) if part is not None)
        factors = self.factors.nbytes + (0 if self.beta is None else self.beta.nbytes)
        lists = 0 if self.centroids is None else self.centroids.nbytes
        parts = self.index.bytes_by_part()
        ids = parts.get("ids", 0) + self.ids.nbytes
        return {**parts, "ids": ids, "factors": factors, "rows": rows, "lists": lists}

    def data(self) -> SegmentData:
        """Return what the segment was built from, of the rows that are alive."""
        positions = np.flatnonzero(self.alive_flags())
        return of_rows(
            [self.rows_at(positions)],
            (self.first_row, self.end_row),
            self.binarizer,
            self.index.planes_at(positions),
            self.factors[positions],
            [self.beta[positions]] if self.beta is not None else [],
        )

    def rows_at(self, positions: Positions) -> Rows:
        """Return the row numbers of positions."""
        if self.offsets is None:
            return positions + self.first_row
        offsets = self.offsets[positions]
        rows: Rows = offsets.astype(np.int64)
        return rows + self.first_row

    def number_ids(self, rows: Rows, seq: int) -> NDArray[np.uint64] | None:
        """Return the ids of points as of a commit, by their rows in any order; None where they are not in memory."""
        inside = rows - self.first_row
        return self.ids.of(inside if self.offsets is None else located(inside, self.offsets)[0], seq)

    def positions_of(self, rows: Rows) -> Positions:
        """Return the positions of those of ascending rows that the segment holds."""
        low, high = rows.searchsorted([self.first_row, self.end_row])
        inside = rows[low:high] - self.first_row
        if self.offsets is None or not len(inside):
            return inside
        at, held = located(inside, self.offsets)
        return at[held]

    def holds(self, rows: Rows) -> NDArray[np.bool_]:
        """Return which of ascending rows have a position."""
        flags = (rows >= self.first_row) & (rows < self.end_row)
        if self.offsets is not None:
            _, flags[flags] = located(rows[flags] - self.first_row, self.offsets)
        return flags

    def flags_of(self, rows: Rows) -> NDArray[np.bool_]:
        """Return which positions hold one of these ascending rows (rows elsewhere are passed over)."""
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
        dead = self.positions_of(np.sort(rows))
        if not len(dead):
            return self
        alive = pack_bits(self.alive_flags()) if self.alive is None else self.alive.copy()
        # Bit by bit: a commit with one delete must not cost time that grows with the segment.
        np.bitwise_and.at(alive, dead >> 3, ~(1 << (dead & 7)).astype(np.uint8))
        return replace(self, alive=alive, count=int(np.bitwise_count(alive).sum()))
