"""Recall against queries a second as SVG, one line a contestant: without a filter, and a panel for each filter."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.compression.plots import BLUE, GREEN, GREY, ORANGE, PURPLE, RED, SKY
from benchmarks.peers.datasets import SHARES
from benchmarks.peers.summary import Turn

# By the first word of a name; ours is black and thick.
COLOURS = {
    "bitfold": "black",
    "qdrant": PURPLE,
    "lancedb": SKY,
    "usearch": GREEN,
    "hnswlib": GREY,
    "faiss": ORANGE,
    "chromadb": RED,
    "chroma": RED,
}
MARKS = ("o", "s", "^", "D", "v", "X", "P", "*")
LEAST_RECALL = 0.85


def curves(turns: Sequence[Turn], path: Path) -> bool:
    """Draw the curves without a filter; say whether there was anything."""
    return _draw(turns, (1.0,), path, (7.2, 5.2))


def filtered(turns: Sequence[Turn], path: Path) -> bool:
    """Draw the curves under each filter; say whether there was anything."""
    return _draw(turns, SHARES[1:], path, (9.6, 8.0))


def styles(turns: Sequence[Turn]) -> dict[str, tuple[str, str]]:
    """Return colour and mark of every contestant: a colour for each engine, a mark for each of its builds."""
    seen: dict[str, int] = {}
    out = {}
    for turn in turns:
        engine = turn.name.partition("-")[0]
        seen[engine] = seen.get(engine, -1) + 1
        out[turn.name] = (COLOURS.get(engine, BLUE), MARKS[seen[engine] % len(MARKS)])
    return out


def _draw(turns: Sequence[Turn], shares: Sequence[float], path: Path, size: tuple[float, float]) -> bool:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    matplotlib.rcParams |= {"svg.hashsalt": "bitfold", "svg.fonttype": "none", "font.size": 9}
    columns = 1 if len(shares) == 1 else 2
    figure, axes = plt.subplots(-(-len(shares) // columns), columns, figsize=size, squeeze=False)
    for axis, share in zip(axes.ravel(), shares, strict=True):
        _panel(axis, turns, share)
    handles: dict[str, Any] = {}
    for axis in axes.ravel():
        handles |= {text: line for line, text in zip(*axis.get_legend_handles_labels(), strict=True)}
    if handles:
        figure.legend(
            list(handles.values()), list(handles), loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=4, frameon=False
        )
        figure.tight_layout()
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, bbox_inches="tight", metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)
    return bool(handles)


def _panel(axis: Any, turns: Sequence[Turn], share: float) -> None:  # noqa: ANN401
    for name, (colour, mark) in styles(turns).items():
        turn = next(turn for turn in turns if turn.name == name)
        points = [one for one in turn.curve(share) if one.recall >= LEAST_RECALL]
        if points:
            width = 2.4 if name.startswith("bitfold") else 1.2
            axis.plot(
                [one.recall for one in points],
                [one.qps for one in points],
                color=colour,
                marker=mark,
                markersize=4,
                linewidth=width,
                label=name,
            )
    axis.set_yscale("log")
    axis.set_xlim(LEAST_RECALL, 1.002)
    _plain_ticks(axis.yaxis)
    axis.grid(visible=True, which="both", alpha=0.3)
    axis.set_xlabel("recall@10")
    axis.set_ylabel("queries a second, one core")
    if share != 1:
        axis.set_title(f"{share:.1%} of the points pass the filter")


def _plain_ticks(axis: Any) -> None:  # noqa: ANN401
    """Label a logarithmic axis with whole numbers only, and with several of them however little of it is shown."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)) if high > 8 * low else MaxNLocator(6, integer=True))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axis.set_minor_formatter(NullFormatter())
