"""Gives the tail codes: it becomes a segment, coded by the newest binarizer, or by the first that is fitted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from index.binarizer import Binarizer
from index.opening import map_file
from index.points import CollectionConfig, Rows
from index.record import Writer
from index.segment import Segment
from index.segment_data import encode_rows
from index.view import Tail, View


def sealed(
    view: View, writer: Writer, folder: Path, config: CollectionConfig, fit: Callable[[View, Rows], Binarizer]
) -> View:
    """Return a view with its tail turned into a segment; `fit` is asked when there is no binarizer yet."""
    tail, files = view.tail, writer.files()
    known = {mapped.path.name: mapped for mapped in view.maps}
    maps = []
    for entry in files:
        mapped = known.get(entry.name)
        fresh = mapped is not None and len(mapped) == entry.rows
        maps.append(mapped if mapped and fresh else map_file(folder / "vectors", entry, config))
    alive = np.flatnonzero(tail.alive)
    binarizers = dict(view.binarizers)
    segments = view.segments
    if len(alive):
        vectors = tail.vectors[alive]
        if not binarizers:
            fitted = fit(view, alive + tail.first_row)
            binarizers[writer.add_binarizer(len(alive), fitted.to_bytes())] = fitted
        version = max(binarizers)
        span = (tail.first_row, tail.end_row)
        pieces = [(alive + tail.first_row, vectors)]
        data = encode_rows(pieces, span, version, binarizers[version], config.distance)
        segments = (*segments, Segment.build(data, config.distance))
    empty = Tail.empty(tail.end_row, config.dimension)
    return replace(view, maps=tuple(maps), segments=segments, tail=empty, binarizers=binarizers)
