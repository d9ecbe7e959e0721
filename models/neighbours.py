"""Best rows by inner product, found block by block: neighbours to train on, exact answers, answers by codes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.errors import TrainingCancelled
from models.grid import Floats

QUERY_ROWS: Final = 1024
DOCUMENT_ROWS: Final = 8192

Rows = NDArray[np.int64]
Block = tuple[Floats, Floats]


def best_rows(
    queries: Floats,
    n: int,
    k: int,
    block: Callable[[slice], Block],
    *,
    own: Rows | None = None,
    on_progress: Callable[[float], None] | None = None,
    cancelled: Callable[[], bool] = bool,
) -> Rows:
    """Return the k best of n rows for every query, by `<q, row> + shift`.

    Beside the answer, memory is one block of rows and about 130 MiB for scores and their order.

    Parameters
    ----------
    queries : (nq, d) float32.
    n : rows there are.
    k : rows wanted.
    block : given a slice of rows, at most 8,192 of them, returns them, (b, d) float32, and their shifts, (b,) float32.
    own : (nq,) a row that is not an answer to its query, because it is the query; -1 where there is none.
    on_progress : told the share that is done, after each block.
    cancelled : asked before each block.

    Returns
    -------
    (nq, min(k, n)) int64, best first. A query whose own row had to be left out of all n has -1 in the last place.

    Raises
    ------
    TrainingCancelled
    """
    k = min(k, n)
    rows: Rows = np.full((len(queries), 0), -1, dtype=np.int64)
    scores: Floats = np.zeros((len(queries), 0), dtype=np.float32)
    for start in range(0, n, DOCUMENT_ROWS):
        if cancelled():
            raise TrainingCancelled("cancelled while looking for neighbours")
        stop = min(start + DOCUMENT_ROWS, n)
        vectors, shifts = block(slice(start, stop))
        merged = [
            _merged(
                queries[part] @ vectors.T + shifts,
                start,
                None if own is None else own[part],
                rows[part],
                scores[part],
                k,
            )
            for part in (slice(i, i + QUERY_ROWS) for i in range(0, len(queries), QUERY_ROWS))
        ]
        if merged:
            rows = np.concatenate([pair[0] for pair in merged])
            scores = np.concatenate([pair[1] for pair in merged])
        if on_progress is not None:
            on_progress(stop / n)
    return rows


def _merged(found: Floats, start: int, own: Rows | None, rows: Rows, scores: Floats, k: int) -> tuple[Rows, Floats]:
    """Return rows and scores of the best k among those kept and a block's scores, best first."""
    if own is not None:
        inside = np.flatnonzero((own >= start) & (own < start + found.shape[1]))
        found[inside, own[inside] - start] = -np.inf
    if k < found.shape[1]:
        best = np.sort(np.argpartition(-found, k - 1, axis=1)[:, :k], axis=1)
    else:
        best = np.broadcast_to(np.arange(found.shape[1]), found.shape)
    all_scores = np.concatenate([scores, np.take_along_axis(found, best, axis=1)], axis=1)
    all_rows = np.concatenate([rows, best + start], axis=1)
    order = np.argsort(-all_scores, axis=1, kind="stable")[:, :k]
    scores = np.take_along_axis(all_scores, order, axis=1)
    rows = np.take_along_axis(all_rows, order, axis=1)
    return np.where(np.isneginf(scores), -1, rows), scores
