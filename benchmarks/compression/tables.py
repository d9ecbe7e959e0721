"""Markdown of the results, put between markers of `docs/compression.md`."""

from __future__ import annotations

import re
from pathlib import Path

from benchmarks.common import table
from benchmarks.compression.bars import All, check
from benchmarks.compression.catalogue import RECURRENT, TRAINING_FREE
from benchmarks.compression.measures import MEASURES
from benchmarks.compression.quality import FLOAT
from benchmarks.compression.speed import Speeds
from benchmarks.compression.summary import BARRED, Measured, group, methods, over_sets

SHOWN = ("r10@10", "r10@20", "r10@100", "nDCG@10 codes", "nDCG@10 rerank 20")


def number(value: float | None, digits: int = 3) -> str:
    """Write a share without its leading zero."""
    if value is None:
        return ""
    text = f"{value:.{digits}f}"
    return text.removeprefix("0") if value < 1 else text


def bar_table(all_: All, added: str) -> str:
    """Return the bars with figures and verdicts."""
    return table(["bar", "measured", "verdict"], check(all_, added))


def speed_table(speeds: Speeds) -> str:
    """Return how long each method scans and encodes."""
    lines = [[name, speeds.scan(name), speeds.encode(name)] for name in speeds.names()]
    return table(["method", "µs per million codes", "encode, ms per 1,000"], lines)


def summary_table(all_: All, added: str) -> str:
    """Return the means over the barred sets of every method, by bytes; in bold the best of each size."""
    names = [name + added for name in BARRED if name + added in all_]
    rows = [(one, [over_sets(all_, names, one.method, m) for m in SHOWN]) for one in methods(all_)]
    rows = [(one, values) for one, values in rows if None not in values]
    best = {
        (group(one.bytes), i): max(v[i] or 0 for o, v in rows if group(o.bytes) == group(one.bytes))
        for one, _ in rows
        for i in range(len(SHOWN))
    }
    lines, last = [], None
    for one, values in rows:
        size = group(one.bytes) if one.method != FLOAT else None
        if size != last and lines:
            lines.append([""] * (2 + len(SHOWN)))
        last = size
        cells = [
            f"**{number(v, 4)}**" if v == best[group(one.bytes), i] and one.method != FLOAT else number(v, 4)
            for i, v in enumerate(values)
        ]
        lines.append([_name(one), f"{one.bytes:.0f}", *cells])
    return table(["method", "bytes", *SHOWN], lines)


def _name(one: Measured) -> str:
    ours = one.family.startswith((TRAINING_FREE, RECURRENT))
    return f"*{one.method}*" if ours else one.method


def set_table(all_: All, name: str) -> str:
    """Return every figure of one collection, with the standard deviation over seeds where there are several."""
    lines = []
    for one in methods({name: all_[name]}):
        cells = [number(one.mean(m), 4) + (f" ±{number(s, 4)}" if (s := one.spread(m)) else "") for m in MEASURES]
        lines.append([one.method, f"{one.bytes:.0f}", len(one.queries[MEASURES[0]]), *cells])
    return table(["method", "bytes", "seeds", *MEASURES], lines)


def fill(path: Path, parts: dict[str, str]) -> None:
    """Replace what stands between `<!-- part: NAME -->` and `<!-- end -->` in a page, for every name."""
    text = path.read_text()
    for name, content in parts.items():
        pattern = re.compile(rf"(<!-- part: {re.escape(name)} -->\n).*?(<!-- end -->)", re.DOTALL)
        if not pattern.search(text):
            raise ValueError(f"{path} has no place for {name!r}")
        text = pattern.sub(lambda match, new=content: f"{match[1]}\n{new}\n\n{match[2]}", text)
    path.write_text(text)
