"""Finds the inverted lists of one segment, piece by piece: centroids round by round, then the list of each row.

What was found is saved now and then, so that a start goes on from there.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path

import numpy as np

from index.blobs import DamagedBlobs
from index.errors import DiskFull
from index.lists import ROUNDS, Assigner, Lists, Means, lists_for
from index.lists_file import SavedLists, lists_path, load_lists, save_lists
from index.points import Float32s, Rows
from index.segment import Segment
from index.view import View

log = logging.getLogger(__name__)

SEED = 0
PRODUCTS = 1 << 35  # of numbers, that a piece costs: about a second
LEAST_ROWS = 1024
PIECES_A_SAVE = 32


class Clustering:
    """The lists of a segment, while they are found."""

    def __init__(self, segment: Segment, folder: Path, dimension: int) -> None:
        """Begin, or go on from what is saved in the folder of the segment's codes."""
        self.segment = segment
        self._path = lists_path(folder, segment)
        self._dimension = dimension
        self._rounds = 0
        self._pieces = 0
        self._sample: Rows | None = None  # in random order
        self._means: Means | None = None  # of the round under way
        self._rows: Rows | None = None  # of the sample, that the round under way looks at, ascending
        self._at = 0  # of these
        self._assigner: Assigner | None = None
        self._centroids: Float32s | None = None
        self._membership = np.zeros(len(segment), dtype=np.uint16)
        self._next_row = segment.first_row
        with suppress(DamagedBlobs):
            saved = load_lists(self._path, segment, dimension)
            self._rounds, self._next_row = len(ROUNDS), saved.next_row
            self._centroids, self._membership = saved.lists.centroids, saved.lists.membership

    @property
    def share(self) -> float:
        """How much of the rows have their list, 0 to 1."""
        return (self._next_row - self.segment.first_row) / (self.segment.end_row - self.segment.first_row)

    def step(self, view: View) -> Segment | None:
        """Do the next piece, in about a second; return the segment in its lists when all is done.

        Parameters
        ----------
        view : of now, which holds the segment; of its dead rows it need not have the vectors.
        """
        if self._rounds < len(ROUNDS):
            self._improve(view)
        elif self._next_row < self.segment.end_row:
            self._assign(view)
        else:
            assert self._centroids is not None
            return self.segment.listed(Lists(self._centroids, self._membership))
        return None

    def _improve(self, view: View) -> None:
        lists = lists_for(self.segment.count)
        if self._sample is None or self._centroids is None:
            self._sample = np.random.default_rng(SEED).permutation(self.segment.alive_rows())
            self._centroids = view.read(np.sort(self._sample[:lists]))
        if self._means is None or self._rows is None:
            self._means, self._at = Means(self._centroids), 0
            self._rows = np.sort(self._sample[: ROUNDS[self._rounds] * lists])
        piece = self._rows[self._at : self._at + self._rows_a_piece()]
        self._means.add(view.read(piece))
        self._at += len(piece)
        if self._at < len(self._rows):
            return
        self._centroids, self._means, self._rows = self._means.centroids(), None, None
        self._rounds += 1
        if self._rounds == len(ROUNDS):
            self._sample = None
            self._save()

    def _rows_a_piece(self) -> int:
        assert self._centroids is not None
        return max(LEAST_ROWS, PRODUCTS // self._centroids.size)

    def _assign(self, view: View) -> None:
        assert self._centroids is not None
        if self._assigner is None:
            self._assigner = Assigner(self._centroids)
        stop = min(self._next_row + self._rows_a_piece(), self.segment.end_row)
        for rows, vectors in view.pieces(self._next_row, stop):
            coded = self.segment.holds(rows)
            positions = self.segment.positions_of(rows)
            self._membership[positions] = self._assigner(vectors if coded.all() else vectors[coded])
        self._next_row = stop
        self._pieces += 1
        if self._pieces % PIECES_A_SAVE == 0 or stop == self.segment.end_row:
            self._save()

    def _save(self) -> None:
        assert self._centroids is not None
        try:
            save_lists(self._path, self.segment, SavedLists(Lists(self._centroids, self._membership), self._next_row))
        except DiskFull as error:
            log.warning("lists are not saved, the next start finds them again: %s", error)
