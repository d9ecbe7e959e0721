"""Exact scores by planes of chosen codes: how further planes lie in memory, and what the refine stage does with them.

One further plane (2 bits) lies as it is packed. Three further planes (4 bits) are interleaved, in as many bytes, so
that a mask makes levels of them: of four dimensions the first three have a nibble each, whose lower bits are their
planes 1 to 3 (plane 1 highest); its top bits are planes 1, 2 and 3 of the fourth. Either way shifts and masks give
nibbles that `LevelScan` multiplies with floats; docs/log.md has what else was tried.
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

from index.codes import Codes, Planes
from index.level_scan import LevelScan
from index.points import Float32s

Rest = NDArray[np.uint8]  # (n, (bits - 1) * m / 8): further planes as they lie in memory

PIECE = 1 << 16  # rows interleaved at a time


@functools.cache
def _tables() -> tuple[NDArray[np.uint32], NDArray[np.uint8]]:
    """Return where the bits of a byte go, `(3, 256)`: of plane 1 + t into three bytes; `(3, 3, 256)`: and back."""
    there = np.zeros((3, 256), dtype=np.uint32)
    back = np.zeros((3, 3, 256), dtype=np.uint8)
    byte = np.arange(256)
    for t in range(3):
        for j in range(8):
            group, place = divmod(j, 4)
            at = 4 * (3 * group + place) + 2 - t if place < 3 else 4 * (3 * group + t) + 3
            there[t] |= ((byte >> j & 1) << at).astype(np.uint32)
            back[t, at // 8] |= ((byte >> at % 8 & 1) << j).astype(np.uint8)
    return there, back


def interleave(planes: Planes) -> Rest:
    """Return `(n, f m / 8)` bytes of `(n, f, m / 8)` further planes, f 0, 1 or 3."""
    n, f, width = planes.shape
    if f < 3:
        return np.ascontiguousarray(planes).reshape(n, f * width)
    there, _ = _tables()
    rest = np.empty((n, width, 3), dtype=np.uint8)
    for start in range(0, n, PIECE):
        part = planes[start : start + PIECE]
        words = there[0][part[:, 0]] | there[1][part[:, 1]] | there[2][part[:, 2]]
        rest[start : start + PIECE] = words.astype("<u4", copy=False).view(np.uint8).reshape(-1, width, 4)[:, :, :3]
    return rest.reshape(n, 3 * width)


def deinterleave(rest: Rest, f: int, width: int) -> Planes:
    """Return the `(n, f, m / 8)` planes that `interleave` was given; `width` is m / 8."""
    n = len(rest)
    if f < 3:
        return rest.reshape(n, f, width)
    _, back = _tables()
    first, second, third = rest.reshape(n, width, 3).transpose(2, 0, 1)
    return np.stack([back[t, 0][first] | back[t, 1][second] | back[t, 2][third] for t in range(3)], axis=1)


class _Scorer:
    """Scores rows of bytes of one form: all that does not depend on the query is made once.

    Parameters
    ----------
    row_bytes : of a row.
    images : `(shift, mask)` of bytes: what makes nibbles of them, one after the other.
    order, scales : weights of all nibbles are `query[order] * scales`.
    base : what the query's sum is multiplied with and taken off.
    """

    def __init__(
        self, row_bytes: int, images: list[tuple[int, int]], order: NDArray[np.intp], scales: Float32s, base: float
    ) -> None:
        # Words of several bytes at a time: what a shift brings over from the next nibble is masked.
        self._word = np.dtype(f"<u{np.gcd(row_bytes, 8)}")
        masks = [int.from_bytes(bytes([mask]) * self._word.itemsize, "little") for _, mask in images]
        self._shifts = np.array([[shift] for shift, _ in images], dtype=self._word)
        self._masks = np.array(masks, dtype=self._word)[:, None]
        self._order, self._scales, self._base = order, scales, np.float32(base)
        self._scan = LevelScan(len(order))

    def __call__(self, query: Float32s, rows: NDArray[np.uint8]) -> Float32s:
        """Return (n,) scores of (n, row_bytes) for an (m,) query."""
        if not len(rows):
            return np.empty(0, dtype=np.float32)
        nibbles = rows.view(self._word)[:, None] >> self._shifts
        nibbles &= self._masks
        weights = query.take(self._order)
        weights *= self._scales
        scores = self._scan(weights, nibbles.view(np.uint8))
        scores -= self._base * query.sum()
        return scores


@functools.cache
def _plane_scorer(m: int, weight: float) -> _Scorer:
    """Return what scores one plane of m bits: four images of a bit each."""
    order = np.arange(m).reshape(-1, 4).T.ravel()
    scales = np.full(m, 2 * weight, dtype=np.float32)
    return _Scorer(m // 8, [(s, 0x11) for s in range(4)], order, scales, weight)


@functools.cache
def _three_planes_scorer(m: int, p: int) -> _Scorer:
    """Return what scores planes 1 to p - 1 of three interleaved ones: an image of levels, and one of top bits."""
    groups = np.arange(m).reshape(-1, 4)
    order = np.concatenate([groups[:, :3].ravel(), np.repeat(groups[:, 3], 3)])
    tops = np.where(np.arange(1, 4) < p, 2.0 ** (1 - np.arange(1, 4)), 0.0)
    scales = np.concatenate([np.full(3 * m // 4, 0.25), np.tile(tops, m // 4)]).astype(np.float32)
    levels = 0x77 & ~(0x11 * ((1 << (4 - p)) - 1))
    return _Scorer(3 * m // 8, [(0, levels), (3, 0x11)], order, scales, 1 - 2.0 ** (1 - p))


def plane_scores(query: Float32s, codes: Codes) -> Float32s:
    """Return `(n,)` float32 scores `<query, +-1 code>` of `(n, m / 8)` codes of one plane for an `(m,)` query."""
    return _plane_scorer(len(query), 1.0)(query, codes)


def further_scores(query: Float32s, rest: Rest, bits: int, p: int) -> Float32s:
    """Return `(n,)` float32 sums over planes t = 1 to p - 1 of `2^-t <query, +-1 plane t>`.

    Parameters
    ----------
    query : (m,) float32, in code space.
    rest : (n, (bits - 1) m / 8) uint8, from `interleave`; bits 1, 2 or 4.
    """
    if p == 1:
        return np.zeros(len(rest), dtype=np.float32)
    return (_plane_scorer(len(query), 0.5) if bits == 2 else _three_planes_scorer(len(query), p))(query, rest)
