"""Keeps a collection's calibration: measured in quiet times, again when the collection has changed, saved beside it."""

from __future__ import annotations

import logging

import numpy as np

from index.calibration import Calibration, Shape
from index.collection import Collection
from index.errors import DiskFull
from index.graph import GraphIndex
from index.measuring import Measuring
from index.points import Rows
from index.view import View

log = logging.getLogger(__name__)

SAMPLE = 1000  # stored points that are asked for, beside the queries asked last
LEAST_ASKED = 32  # fewer say little
LEAST_POINTS = 1000
GROWTH = 1.3  # measured again when there are so many times more points, or fewer
SEED = 0


def calibrate_piece(collection: Collection) -> bool:
    """Do the next piece of a calibration, where there is none that fits; say whether there was one."""
    view = collection.view
    shape = _shape(view, max(LEAST_POINTS, collection.options.exact_below))
    if shape is None or not collection.config.store_vectors or _fits(collection.calibration, shape):
        collection.measuring = None
        return False
    measuring = collection.measuring
    if measuring is None or not _alike(measuring.shape, shape):
        collection.measuring = measuring = _begun(collection, view, shape)
    found = measuring.step(view)
    if found is not None:
        collection.measuring = None
        collection.calibration = found
        try:
            found.save(collection.calibration_path)
        except DiskFull as error:
            log.warning("the calibration of %s is not saved: %s", collection.name, error)
    return True


def _shape(view: View, least: int) -> Shape | None:
    points = sum(segment.count for segment in view.segments)
    newest = view.newest
    if newest is None or points < least:
        return None
    lists = sum(len(segment.centroids) for segment in view.segments if segment.centroids is not None)
    return Shape(
        points=points,
        planes=newest.bits,
        code_bytes=newest.code_dimension // 8,
        dimension=newest.dimension,
        binarizer=max(view.binarizers),
        lists=lists,
        walked=sum(segment.count for segment in view.segments if isinstance(segment.index, GraphIndex)),
    )


def _fits(calibration: Calibration | None, shape: Shape) -> bool:
    return calibration is not None and _alike(calibration.shape, shape)


def _alike(measured: Shape, now: Shape) -> bool:
    grown = max(measured.points, now.points) > GROWTH * min(measured.points, now.points)
    same = (measured.planes, measured.binarizer) == (now.planes, now.binarizer)
    layout = (bool(measured.lists), bool(measured.walked)) == (bool(now.lists), bool(now.walked))
    return same and layout and not grown


def _begun(collection: Collection, view: View, shape: Shape) -> Measuring:
    rng = np.random.default_rng(SEED)
    coded: Rows = np.concatenate([segment.alive_rows() for segment in view.segments])
    own = np.sort(rng.choice(coded, min(SAMPLE, len(coded)), replace=False))
    queries = view.read(own)
    asked = list(collection.asked)
    if len(asked) >= LEAST_ASKED:
        queries = np.concatenate([queries, np.stack(asked)])
        own = np.concatenate([own, np.full(len(asked), -1)])
    return Measuring(shape, collection.config.distance, queries, own)
