"""Groups of similar vectors: spherical k-means (Dhillon and Modha, 2001) in NumPy, for fitting, not for searching."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SAMPLE = 128  # vectors a group that its centre is fitted to, at most
SWEEPS = 10
CHUNK_ROWS = 16384

Floats = NDArray[np.float32]


def around_group_means(vectors: Floats, groups: int, seed: int) -> Floats:
    """Return what sets vectors apart from the mean of their group.

    Parameters
    ----------
    vectors : (n, d) finite float32.
    groups : 1 to n groups; some may stay empty.
    seed : of the centres that the search begins with.

    Returns
    -------
    (n, d) float32; within each group, the rows add up to zero.
    """
    rng = np.random.default_rng(seed)
    sample = vectors[rng.permutation(len(vectors))[: groups * SAMPLE]]
    centres = sample[:groups]
    for _ in range(SWEEPS):
        # A centre without vectors stays where it is.
        sums, counts = _sums(sample, nearest(sample, centres), len(centres))
        centres = np.where(counts[:, None] > 0, sums, centres).astype(np.float32)
    owners = nearest(vectors, centres)
    sums, counts = _sums(vectors, owners, len(centres))
    means = (sums / np.maximum(counts, 1)[:, None]).astype(np.float32)
    return vectors - means[owners]


def nearest(vectors: Floats, centres: Floats) -> NDArray[np.intp]:
    """Return the centre of the largest cosine for each vector: (n,) positions."""
    norms = np.linalg.norm(centres, axis=1, keepdims=True)
    directions = (centres / np.maximum(norms, np.finfo(np.float32).tiny)).T
    found = np.empty(len(vectors), dtype=np.intp)
    for start in range(0, len(vectors), CHUNK_ROWS):
        rows = slice(start, start + CHUNK_ROWS)
        found[rows] = (vectors[rows] @ directions).argmax(axis=1)
    return found


def _sums(vectors: Floats, owners: NDArray[np.intp], groups: int) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    sums = np.zeros((groups, vectors.shape[1]))
    order = np.argsort(owners, kind="stable")
    counts = np.bincount(owners, minlength=groups)
    for group, rows in enumerate(np.split(order, np.cumsum(counts)[:-1])):
        sums[group] = vectors[rows].sum(axis=0, dtype=np.float64)
    return sums, counts
