"""Keeps a collection's calibration: measured in quiet times, again when the collection has changed, saved beside it."""

from __future__ import annotations

import logging

import numpy as np

from index.calibration import Shape
from index.collection import Collection
from index.errors import DiskFull
from index.graph import GraphIndex
from index.measuring import Measuring
from index.points import Float32s, Rows
from index.view import View

log = logging.getLogger(__name__)

SAMPLE = 1000  # stored points that are asked for, beside the queries asked last
WALKED_SAMPLE = 500  # of graphs: their true neighbours take a look at all codes
LEAST_ASKED = 32  # fewer say little
LEAST_POINTS = 1000
# In a graph a stored point leads to its own neighbours. Noise of its length makes of it what was never stored: walks
# are then as wide as real queries take them (docs/log.md).
NOISE = 1.25
GROWTH = 1.3  # measured again when there are so many times more points, or fewer
SEED = 0
TINY = 1e-30


def calibrate_piece(collection: Collection) -> bool:
    """Do the next piece of a calibration, where there is none that fits; say whether there was one."""
    view = collection.view
    shape = _shape(view, max(LEAST_POINTS, collection.options.exact_below))
    if shape is None or not collection.config.store_vectors or _fits(collection, shape):
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


def _fits(collection: Collection, shape: Shape) -> bool:
    calibration = collection.calibration
    if calibration is None or not _alike(calibration.shape, shape):
        return False
    # As soon as as many queries as count were asked, they do.
    return calibration.knows_asked or len(collection.asked) < (collection.asked.maxlen or LEAST_ASKED)


def _alike(measured: Shape, now: Shape) -> bool:
    grown = max(measured.points, now.points) > GROWTH * min(measured.points, now.points)
    same = (measured.planes, measured.binarizer) == (now.planes, now.binarizer)
    return same and measured.layouts == now.layouts and not grown


def _begun(collection: Collection, view: View, shape: Shape) -> Measuring:
    rng = np.random.default_rng(SEED)
    coded: Rows = np.concatenate([segment.alive_rows() for segment in view.segments])
    sample = WALKED_SAMPLE if shape.walked else SAMPLE
    own = np.sort(rng.choice(coded, min(sample, len(coded)), replace=False))
    queries = view.read(own)
    if shape.walked:
        queries = _noisy(queries, rng)
        own[:] = -1
    asked = list(collection.asked)
    if len(asked) < LEAST_ASKED:
        asked = []
    queries = np.concatenate([queries, *(query[None] for query in asked)])
    own = np.concatenate([own, np.full(len(asked), -1)])
    return Measuring(shape, collection.config.distance, queries, own, len(asked))


def _noisy(vectors: Float32s, rng: np.random.Generator) -> Float32s:
    """Return vectors with noise, of the lengths that they had."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    noise = rng.standard_normal(vectors.shape) / np.sqrt(vectors.shape[1])
    noisy = vectors + NOISE * lengths * noise
    noisy *= lengths / np.maximum(np.linalg.norm(noisy, axis=1, keepdims=True), TINY)
    return np.asarray(noisy, dtype=np.float32)
