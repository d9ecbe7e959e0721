"""Builds the graph of one segment, piece by piece, from its codes; saved now and then, so that a start goes on."""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from pathlib import Path

import numpy as np

from index.blobs import DamagedBlobs
from index.code_index import PIECE
from index.errors import DiskFull
from index.graph_file import graph_path, load_links, save_links
from index.linking import Linker
from index.segment import Segment
from index.view import View

log = logging.getLogger(__name__)

A_PIECE = 2000  # codes added at a time: a second or so
SAVE_SECONDS = 120.0


class GraphBuilding:
    """The graph of a segment, while it is built."""

    def __init__(self, segment: Segment, folder: Path) -> None:
        """Begin, or go on from what is saved in the folder of the segment's codes."""
        self.segment = segment
        self._path = graph_path(folder, segment)
        self._saved_at = time.monotonic()
        self._linker = Linker(len(segment), segment.index.code_bytes)
        with suppress(DamagedBlobs, ValueError):
            links = load_links(self._path, segment)
            done = np.arange(len(links.levels))
            spans = (done[start : start + PIECE] for start in range(0, len(done), PIECE))
            self._linker.go_on_from((segment.index.planes_at(span) for span in spans), links)

    @property
    def share(self) -> float:
        """How much of the codes are in the graph, 0 to 1."""
        return len(self._linker) / len(self.segment)

    def step(self, view: View) -> Segment | None:
        """Add the next codes, in about a second; return the segment in its graph when all are in."""
        del view  # codes are all that it takes
        start = len(self._linker)
        end = min(start + A_PIECE, len(self.segment))
        self._linker.add(self.segment.index.planes_at(np.arange(start, end)))
        if end < len(self.segment):
            if time.monotonic() - self._saved_at > SAVE_SECONDS:
                self._save()
            return None
        self._save()
        return self.segment.in_graph(self._linker.graph())

    def _save(self) -> None:
        try:
            save_links(self._path, self.segment, self._linker.links())
        except DiskFull as error:
            log.warning("the graph is not saved, the next start builds it again: %s", error)
        self._saved_at = time.monotonic()
