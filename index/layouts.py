"""Gives the codes of large segments a layout in which a query looks at a part of them: inverted lists, or a graph.

Beside reading and writing, piece by piece. Until then searches look at all of the codes.
"""

from __future__ import annotations

from dataclasses import replace

from index.clustering import Clustering
from index.collection import Collection
from index.graph_building import GraphBuilding
from index.segment import Segment


def layout_piece(collection: Collection) -> bool:
    """Do the next piece of the layout of the largest segment that should have one; say whether there is one."""
    segment = _wanted(collection)
    if segment is None:
        collection.layout = None
        return False
    layout = collection.layout
    if layout is None or layout.segment.index is not segment.index:
        collection.layout = layout = _begun(collection, segment)
    made = layout.step(collection.view)
    if made is not None:
        _swap(collection, segment, made)
        collection.layout = None
    return True


def _wanted(collection: Collection) -> Segment | None:
    if not _graph(collection) and not collection.config.store_vectors:
        return None  # they are soon dropped, and lists are found from vectors
    fitting = [
        segment
        for segment in collection.view.segments
        if segment.scanned_whole
        and segment.count >= collection.options.list_rows
        and segment.bands == 1  # several: norms differ, and every band must give candidates
    ]
    return max(fitting, key=len, default=None)


def _graph(collection: Collection) -> bool:
    # A graph is for codes in memory.
    return collection.config.index == "graph" and not collection.codes_mapped


def _begun(collection: Collection, segment: Segment) -> Clustering | GraphBuilding:
    folder = collection.folder / "codes"
    if _graph(collection):
        return GraphBuilding(segment, folder)
    return Clustering(segment, folder, collection.config.dimension)


def _swap(collection: Collection, segment: Segment, made: Segment) -> None:
    with collection.committer.lock:
        view = collection.view
        # Deletes made meanwhile have made another segment of it, with the same codes.
        segments = tuple(
            replace(made, alive=now.alive, count=now.count) if now.index is segment.index else now
            for now in view.segments
        )
        collection.show(replace(view, segments=segments))
