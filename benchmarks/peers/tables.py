"""Markdown of the comparison: best settings, costs, filters. A dash: no setting of the sweep got there."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.common import table
from benchmarks.compression.tables import number
from benchmarks.peers.datasets import SHARES
from benchmarks.peers.summary import Asked, Turn

RECALLS = (0.95, 0.98, 0.99)
FILTERED_RECALL = 0.95


def best_table(turns: Sequence[Turn]) -> str:
    """Return the fastest setting of every contestant at each recall: rate, p99, what it was."""
    head = ["engine", *(f"queries/s at recall {least}" for least in RECALLS), "p99 ms at .98", "setting at .98"]
    rows = []
    for turn in turns:
        best = [turn.best(least) for least in RECALLS]
        named = best[1]
        rows.append(
            [turn.name, *map(_rate, best), f"{named.p99:.2f}" if named else "-", named.setting if named else "-"]
        )
    return table(head, rows)


def cost_table(turns: Sequence[Turn]) -> str:
    """Return seconds of the build, memory and disk of every contestant."""
    head = ["engine", "searchable s", "optimized s", "anonymous MB", "mapped index MB", "bytes a point", "disk MB"]
    rows = []
    for turn in turns:
        build, memory = turn.build, turn.memory
        held = memory["anonymous"] + memory["files"]
        rows.append(
            [
                turn.name,
                f"{build['searchable']:,.1f}",
                f"{build['optimized']:,.1f}",
                *(f"{memory[kind] / 1e6:,.0f}" for kind in ("anonymous", "files")),
                f"{held / build['points']:,.0f}",
                f"{build['disk'] / 1e6:,.0f}",
            ]
        )
    return table(head, rows)


def filter_table(turns: Sequence[Turn]) -> str:
    """Return the fastest setting at recall .95 under each filter, or the highest recall where none reaches that."""
    head = ["engine", *(f"{share:.1%} pass: queries/s" for share in SHARES[1:])]
    rows = []
    for turn in turns:
        if turn.memory["filters"]:
            rows.append([turn.name, *(_filtered(turn, share) for share in SHARES[1:])])
    return table(head, rows)


def sweep_table(turns: Sequence[Turn]) -> str:
    """Return every setting that was measured without a filter."""
    head = ["engine", "setting", "recall@10", "queries/s", "p50 ms", "p99 ms"]
    return table(
        head,
        (
            [turn.name, one.setting, number(one.recall, 4), _rate(one), f"{one.p50:.3f}", f"{one.p99:.3f}"]
            for turn in turns
            for one in turn.asked[1.0]
        ),
    )


def machine_line(turns: Sequence[Turn]) -> str:
    """Return machine and versions; several where contestants were measured on several."""
    versions = {f"{name} {one}" for turn in turns for name, one in turn.build["versions"].items()}
    machines = {turn.build["machine"] for turn in turns}
    return f"{'; '.join(sorted(machines))}. {', '.join(sorted(versions))}."


def _rate(one: Asked | None) -> str:
    return "-" if one is None else f"{one.qps:,.0f} ({one.least:,.0f} to {one.most:,.0f})"


def _filtered(turn: Turn, share: float) -> str:
    best = turn.best(FILTERED_RECALL, share)
    if best is not None:
        return f"{best.qps:,.0f}"
    highest = turn.highest(share)
    return "-" if highest is None else f"{highest.qps:,.0f}, recall {number(highest.recall, 2)}"
