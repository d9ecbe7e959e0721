"""A picture of a training's log: losses and held-out quality of every size over the steps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from models.metrics_log import read_log
from models.training_plot import picture


def draw(log: Path, out: Path) -> None:
    """Draw a log as SVG; raises as `picture`."""
    with picture(out, size=(10, 4), columns=2) as (losses, quality):
        lines = read_log(log)
        steps = [line for line in lines if "losses" in line]
        for name in dict.fromkeys(name for line in steps for name in line["losses"]):
            own = [(line["step"], line["losses"][name]) for line in steps if name in line["losses"]]
            losses.plot(*_columns(own), label=name, linewidth=1)
        judged = [line for line in lines if "validation" in line]
        measure = "mean reciprocal rank"
        for size, first in judged[0]["validation"].items() if judged else ():
            names = ["mrr"] if "mrr" in first else list(first)
            measure = measure if names == ["mrr"] else "loss"
            own = [
                (line["step"], sum(line["validation"][size][name] for name in names) / len(names)) for line in judged
            ]
            quality.plot(*_columns(own), label=size, marker=".")
        for axes, title in ((losses, "loss in training, by part"), (quality, f"held out: {measure}, by size")):
            axes.set_title(title)
            axes.set_xlabel("step")


def _columns(points: Sequence[tuple[Any, Any]]) -> tuple[list[Any], list[Any]]:
    return [x for x, _ in points], [y for _, y in points]
