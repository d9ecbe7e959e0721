"""What tests of large segments share: points in groups, small numbers that make segments large, hard filters."""

from __future__ import annotations

import numpy as np

from index.maintenance import step

D = 16
N = 1200
SMALL = {"first_fit": 200, "tail_rows": 100, "save_rows": 1, "list_rows": 300, "exact_below": 0, "file_bytes": 1 << 20}


def grouped(n=N, seed=0, groups=30):
    """(n, d) float32 around some middles, as texts of some subjects are."""
    rng = np.random.default_rng(seed)
    middles = rng.standard_normal((groups, D))
    return (middles[rng.integers(0, groups, n)] + 0.5 * rng.standard_normal((n, D))).astype(np.float32)


def upkeep(collection, most=10_000):
    """Do all that there is to do in a quiet time."""
    for _ in range(most):
        if not step(collection, idle=True):
            return
    raise AssertionError("upkeep does not end")


def passing(near, share, side):
    """Return which points a filter lets pass, so large a share.

    near : (n,) scores for the query. side : 1 lets the nearest pass, -1 the farthest, 0 does not care.
    """
    rank = np.argsort(np.argsort(-near * side)) if side else np.random.default_rng(0).permutation(len(near))
    return rank < share * len(near)
