"""A picture of a student's training: loss and what held-out texts say, over the steps of both phases."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from models.distill.phase import read_log
from models.training_plot import picture

SHOWN: Final = ("loss", "cosine", "r10@10")


def draw(log: Path, out: Path) -> None:
    """Draw a log as SVG; raises as `picture`."""
    with picture(out, size=(12, 3.6), columns=len(SHOWN)) as drawn:
        lines = read_log(log)
        for axes, measure in zip(drawn, SHOWN, strict=True):
            for phase in dict.fromkeys(line["phase"] for line in lines):
                _draw_phase(axes, [line for line in lines if line["phase"] == phase], measure)
            axes.set_title(measure)
            axes.set_xlabel("share of the phase")


def _draw_phase(axes: Any, lines: list[dict[str, Any]], measure: str) -> None:  # noqa: ANN401 - matplotlib's
    shares = [line["step"] / lines[-1]["step"] for line in lines]
    for name in dict.fromkeys(key for line in lines for key in line if key.endswith(measure)):
        label = f"{lines[0]['phase']}: {name}" if name == "loss" else name
        axes.plot(shares, [line[name] for line in lines], marker=".", label=label)
