"""An index of FAISS: trained, filled and written to a file; read from there to be asked."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import ClassVar

import faiss
import numpy as np

from benchmarks.peers.engine import Clock, Engine, Points


def selector(buckets: np.ndarray, below: int) -> faiss.IDSelector:
    """Return the points whose bucket is below a number, as FAISS takes them."""
    return faiss.IDSelectorBitmap(np.packbits(buckets < below, bitorder="little"))


class FaissFile(Engine):
    """One index in one file, all in memory once it is read.

    Attributes
    ----------
    file : its name in the folder.
    """

    packages = ("faiss-cpu",)
    file: ClassVar[str]

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        faiss.omp_set_num_threads(threads)

    @abstractmethod
    def trained(self, points: Points) -> faiss.Index:
        """Return an index that points can be added to."""

    def build(self, points: Points, folder: Path, clock: Clock) -> None:
        """Train and add; every point can be found at once."""
        index = self.trained(points)
        for _, vectors in points.blocks():
            index.add(vectors)
        clock.searchable()
        faiss.write_index(index, str(folder / self.file))

    def open(self, points: Points, folder: Path) -> None:
        """Read the index."""
        self._points, self._index = points, faiss.read_index(str(folder / self.file))
