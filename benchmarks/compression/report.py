"""Writes the results into `docs/compression.md`, `docs/compression-tables.md` and `docs/images/`."""

from __future__ import annotations

from pathlib import Path

from benchmarks.compression import plots, tables
from benchmarks.compression.results import Results
from benchmarks.compression.sets import SETS
from benchmarks.compression.speed import Speeds
from benchmarks.compression.summary import gather

FIGURES = {"r10-at-100": "r10@100", "ndcg": "nDCG@10 codes"}
SETTINGS = {"alone": "", "among": "+distill"}


def write(results: Results, speeds_path: Path, docs: Path) -> None:
    """Fill the pages and draw the figures; print the bars."""
    all_ = gather(results)
    speeds = Speeds(speeds_path)
    parts = {"machine": speeds.machine, "speed": tables.speed_table(speeds)} if speeds.names() else {}
    for setting, added in SETTINGS.items():
        if not any(name + added in all_ for name in SETS):
            print(f"sets {setting}: nothing was measured")
            continue
        parts[f"bars {setting}"] = tables.bar_table(all_, added)
        parts[f"summary {setting}"] = tables.summary_table(all_, added)
        names = [name + added for name in SETS]
        for figure, measure in FIGURES.items():
            plots.draw(all_, names, measure, docs / "images" / f"compression-{figure}-{setting}.svg")
        print(f"bars, sets {setting}\n{parts[f'bars {setting}']}\n")
    tables.fill(docs / "compression.md", parts)
    if not all_:
        return
    everything = "\n\n".join(f"## {name}\n\n{tables.set_table(all_, name)}" for name in all_)
    tables.fill(docs / "compression-tables.md", {"all": everything})
