"""Markdown of the grid. Blank cells were not measured."""

from __future__ import annotations

import numpy as np

from benchmarks.common import table
from benchmarks.compression.tables import number
from benchmarks.encoders.bars import check
from benchmarks.encoders.contestants import DIMENSIONS, FULL, INT8, PEER, STATIC, STUDENT, TEACHER, Exit
from benchmarks.encoders.quality import PREFIX, SETS
from benchmarks.encoders.speed import DOCUMENTS, QUERY
from benchmarks.encoders.summary import NDCG, PEER_EXIT, RECALL, Measured, full


def bar_table(found: Measured, exits: list[Exit]) -> str:
    """Return the bars with figures and verdicts."""
    return table(["bar", "measured", "verdict"], check(found, exits))


def summary_table(found: Measured, exits: list[Exit]) -> str:
    """Return one line for each exit at full length: quality with teacher documents, time, rate, size."""
    head = [
        "queries by",
        "nDCG@10",
        "kept",
        *SETS,
        "query ms, 1 thread",
        "2 threads",
        "documents/s, 1 thread",
        "2 threads",
    ]
    lines = []
    for one in [PEER_EXIT, *exits]:
        kept = found.kept(TEACHER, full(one))
        cells = [number(found.mean(TEACHER, full(one)), 4), "" if kept is None else f"{kept[0]:.1%}"]
        cells += [number(found.value(name, TEACHER, full(one)), 4) for name in SETS]
        cells += [_spread(found, QUERY, threads, one, 3) for threads in (1, 2)]
        cells += [_spread(found, DOCUMENTS, threads, one, 0) for threads in (1, 2)]
        lines.append([one.title, *cells])
    return table(head, lines)


def _spread(found: Measured, what: str, threads: int, one: Exit, digits: int) -> str:
    values = found.rounds(what, threads, full(one))
    if not len(values):
        return ""
    low, middle, high = (f"{float(f(values)):,.{digits}f}" for f in (np.min, np.median, np.max))
    return f"{middle} ({low} to {high})"


def modes_table(found: Measured, exits: list[Exit]) -> str:
    """Return nDCG@10 of every exit against documents of every encoder, whole vectors, means over the three sets."""
    sides = (TEACHER, STUDENT, STATIC)
    lines = [[one.title, *(number(found.mean(side, full(one)), 4) for side in sides)] for one in exits]
    return table(["queries by", *(f"documents by {side}" for side in sides)], lines)


def fold_table(found: Measured) -> str:
    """Return what the fold is worth: the teacher cut in its basis, and cut as it is, means over the three sets."""
    lines = []
    for k in DIMENSIONS:
        sizes = [(TEACHER, 6, k), (PREFIX if k < FULL else TEACHER, 6, k)]
        lines.append([k, *(number(found.mean(TEACHER, size), 4) for size in sizes)])
    return table(["dimensions", "fold", "own prefix"], lines)


def footprint_table(found: Measured) -> str:
    """Return megabytes on disk and in memory."""
    rows = [(name, found.footprint.get(name)) for name in (PEER, TEACHER, INT8, STUDENT, STATIC)]
    cells = [[name, *(f"{value / 1e6:.1f}" for value in sizes)] if sizes else [name, "", ""] for name, sizes in rows]
    return table(["encoder", "files, MB", "memory, MB"], cells)


def grid_table(found: Measured, documents: str) -> str:
    """Return every size against documents of one encoder: means over the three sets, then set by set."""
    others = [name for name in found.sets() if name not in SETS]
    head = ["queries by", "layers", "dimensions", "query ms", "kept", "nDCG@10", "recall@100"]
    head += [f"{name} {what}" for name in [*SETS, *others] for what in ("nDCG@10", "recall@100")]
    lines = []
    for size in found.sizes(documents):
        kept, time = found.kept(documents, size), found.milliseconds(size)
        cells = ["" if time is None else f"{time:.3f}", "" if kept is None else f"{kept[0]:.1%}"]
        cells += [number(found.mean(documents, size, measure), 4) for measure in (NDCG, RECALL)]
        cells += [
            number(found.value(name, documents, size, measure), 4)
            for name in [*SETS, *others]
            for measure in (NDCG, RECALL)
        ]
        lines.append([*size, *cells])
    return table(head, lines)


def warning_table(found: Measured, exits: list[Exit]) -> str:
    """Return LIMIT by encoder: recall, which should be 1."""
    names = [name for name in found.sets() if name not in SETS]
    lines = []
    for one in exits:
        cells = [number(found.value(name, TEACHER, full(one), m), 4) for name in names for m in (NDCG, RECALL)]
        lines.append([one.title, *cells])
    return table(["queries by", *(f"{name} {what}" for name in names for what in ("nDCG@10", "recall@100"))], lines)
