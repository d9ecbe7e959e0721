"""Writes what was measured into `report.md` with figures, and into the places that `docs/benchmarks.md` has for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from benchmarks.compression.results import Results
from benchmarks.compression.tables import fill
from benchmarks.peers import plots, tables
from benchmarks.peers.summary import Turn, gather

PAGE = "benchmarks.md"


def write(results: Results, work: Path, docs: Path | None) -> None:
    """Write tables and figures of every data set.

    work : gets `report.md` and `images/`, sweeps included.
    docs : folder whose `benchmarks.md` has places named as in `parts` for what is to stand there; gets images too.
    """
    sets = gather(results)
    text = []
    for dataset, turns in sets.items():
        made = parts(dataset, turns) | sweeps(dataset, turns)
        text += [f"<!-- part: {name} -->\n\n{content}\n\n<!-- end -->" for name, content in made.items()]
        for folder in (work, docs):
            if folder is not None:
                figures(dataset, turns, folder / "images")
    (work / "report.md").write_text("\n\n".join(text) + "\n")
    print(f"{work / 'report.md'}: {', '.join(sets) or 'nothing was measured'}")
    if docs is not None:
        page = (docs / PAGE).read_text()
        wanted = {name: content for dataset, turns in sets.items() for name, content in parts(dataset, turns).items()}
        fill(docs / PAGE, {name: content for name, content in wanted.items() if f"<!-- part: {name} -->" in page})


def parts(dataset: str, turns: list[Turn]) -> dict[str, str]:
    """Return the parts of a page about a data set, by name; those of contestants over HTTP are parts of their own."""
    made = {}
    for name, own in groups(dataset, turns):
        made[f"peers {name} machine"] = tables.machine_line(own)
        made[f"peers {name}"] = tables.best_table(own)
        made[f"peers {name} costs"] = tables.cost_table(own)
        made[f"peers {name} filters"] = tables.filter_table(own)
    return made


def sweeps(dataset: str, turns: list[Turn]) -> dict[str, str]:
    """Return parts with every setting, which are too long for a page."""
    return {f"peers {name} sweep": tables.sweep_table(own) for name, own in groups(dataset, turns)}


def figures(dataset: str, turns: list[Turn], folder: Path) -> None:
    """Draw the curves of a data set."""
    for name, own in groups(dataset, turns):
        for draw in (plots.curves, plots.filtered):
            if not draw(own, folder / f"peers-{name.replace(' ', '-')}-{draw.__name__}.svg"):
                print(f"no figure of {draw.__name__} for {name}: nothing reaches recall {plots.LEAST_RECALL}")


def groups(dataset: str, turns: list[Turn]) -> Iterator[tuple[str, list[Turn]]]:
    """Go through those in process and those over HTTP, as far as there are any, with what to call them."""
    for name, over_http in ((dataset, False), (f"{dataset} http", True)):
        if own := [turn for turn in turns if turn.over_http == over_http]:
            yield name, own
