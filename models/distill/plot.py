"""A picture of a student's training: loss and what held-out texts say, over the steps of both phases."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from models.distill.phase import read_log
from models.errors import InvalidTraining
from models.safe_files import write_safely

NAME: Final = "training.svg"
SHOWN: Final = ("loss", "cosine", "r10@10")


def draw(log: Path, picture: Path) -> None:
    """Draw a log as SVG.

    Raises
    ------
    InvalidTraining
        matplotlib is not installed; the hint says how to get it.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise InvalidTraining(
            "there is no plot without matplotlib",
            hint="install this project with its extra 'bench', which brings matplotlib",
        ) from None
    lines = read_log(log)
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    for axes, measure in zip(figure.subplots(1, len(SHOWN)), SHOWN, strict=True):
        for phase in dict.fromkeys(line["phase"] for line in lines):
            own = [line for line in lines if line["phase"] == phase]
            for name in dict.fromkeys(key for line in own for key in line if key.endswith(measure)):
                label = f"{phase}: {name}" if name == "loss" else name
                total = own[-1]["step"]
                axes.plot([line["step"] / total for line in own], [line[name] for line in own], marker=".", label=label)
        axes.set_title(measure)
        axes.set_xlabel("share of the phase")
        axes.grid(alpha=0.3)
        if axes.has_data():
            axes.legend(fontsize="small")
    with write_safely(picture) as file:
        figure.savefig(file, format="svg", metadata={"Date": None})
