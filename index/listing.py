"""Gives large segments inverted lists, beside reading and writing. Until then searches look at all of their codes."""

from __future__ import annotations

from dataclasses import replace

from index.clustering import Clustering
from index.collection import Collection
from index.lists import Lists
from index.segment import Segment


def list_piece(collection: Collection) -> bool:
    """Do the next piece of the lists of the largest segment that should have some; say whether there is one."""
    segment = _wanted(collection)
    if segment is None:
        collection.clustering = None
        return False
    clustering = collection.clustering
    if clustering is None or clustering.segment.index is not segment.index:
        clustering = Clustering(segment, collection.folder / "codes", collection.config.dimension)
        collection.clustering = clustering
    lists = clustering.step(collection.view)
    if lists is not None:
        _swap(collection, segment, lists)
        collection.clustering = None
    return True


def _wanted(collection: Collection) -> Segment | None:
    if not collection.config.store_vectors:
        return None  # they are soon dropped, and lists are found from vectors
    fitting = [
        segment
        for segment in collection.view.segments
        # Several bands: norms differ, and every band must give candidates.
        if segment.centroids is None and segment.count >= collection.options.list_rows and segment.index.bands == 1
    ]
    return max(fitting, key=len, default=None)


def _swap(collection: Collection, segment: Segment, lists: Lists) -> None:
    listed = segment.listed(lists)
    with collection.committer.lock:
        view = collection.view
        # Deletes made meanwhile have made another segment of it, with the same codes.
        segments = tuple(
            replace(listed, alive=now.alive, count=now.count) if now.index is segment.index else now
            for now in view.segments
        )
        collection.show(replace(view, segments=segments))
