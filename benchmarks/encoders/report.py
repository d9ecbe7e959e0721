"""Writes what was measured into `docs/encoders.md`, `docs/encoders-tables.md` and `docs/images/`."""

from __future__ import annotations

from pathlib import Path

from benchmarks.compression.results import Results
from benchmarks.compression.tables import fill
from benchmarks.encoders import plots, tables
from benchmarks.encoders.contestants import STATIC, STUDENT, TEACHER, Contestants, Exit
from benchmarks.encoders.summary import Measured


def write(quality: Results, speed: Results, footprint: Results, contestants: Contestants, docs: Path) -> None:
    """Fill the pages and draw the figures; print the bars."""
    found, exits = Measured.gather(contestants.version, quality, speed, footprint), contestants.exits()
    fill_pages(found, exits, docs)
    for draw in (plots.time, plots.dimensions):
        if not draw(found, exits, docs / "images" / f"encoders-{draw.__name__}.svg"):
            print(f"no figure of {draw.__name__}: nothing was measured")
    print(tables.bar_table(found, exits))


def fill_pages(found: Measured, exits: list[Exit], docs: Path) -> None:
    """Put the tables into their places."""
    parts = {
        "machine": found.machine or "Not timed yet.",
        "bars": tables.bar_table(found, exits),
        "summary": tables.summary_table(found, exits),
        "modes": tables.modes_table(found, exits),
        "fold": tables.fold_table(found),
        "footprint": tables.footprint_table(found),
        "warning": tables.warning_table(found, exits),
    }
    fill(docs / "encoders.md", parts)
    grids = {f"documents {name}": tables.grid_table(found, name) for name in (TEACHER, STUDENT, STATIC)}
    fill(docs / "encoders-tables.md", grids)
