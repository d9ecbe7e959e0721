"""Pictures of trainings: axes side by side, written as SVG where matplotlib is installed. Knows no log."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from models.errors import InvalidTraining
from models.safe_files import write_safely

NAME: Final = "training.svg"
HOW_TO_GET: Final = "install this project with its extra 'bench', which brings matplotlib"


@contextmanager
def picture(path: Path, *, size: tuple[float, float], columns: int) -> Iterator[list[Any]]:
    """Give matplotlib's axes to draw on, and write them when all is drawn.

    Parameters
    ----------
    size : inches.

    Raises
    ------
    InvalidTraining
        matplotlib is not installed; the hint says how to get it.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise InvalidTraining("there is no plot without matplotlib", hint=HOW_TO_GET) from None
    figure = Figure(figsize=size, layout="constrained")
    drawn = list(figure.subplots(1, columns))
    yield drawn
    for axes in drawn:
        axes.grid(alpha=0.3)
        if axes.has_data():
            axes.legend(fontsize="small")
    with write_safely(path) as file:
        figure.savefig(file, format="svg", metadata={"Date": None})
