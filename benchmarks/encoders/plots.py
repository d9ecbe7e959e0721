"""Two figures as SVG: what is kept against the time of a query, and nDCG@10 against dimensions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.encoders.contestants import DIMENSIONS, INT8, STATIC, TEACHER, Exit
from benchmarks.encoders.quality import SETS
from benchmarks.encoders.summary import PEER_EXIT, Measured, full

# Okabe and Ito's colours, told apart with every kind of colour vision.
BLACK, GREY, BLUE, ORANGE, GREEN, RED = "black", "#777777", "#0072B2", "#E69F00", "#009E73", "#D55E00"
MARKS = ("o", "x", "s", "^", "D", "v")
GAP = 6  # points between a mark and its label
APART = 0.012  # of the height of the axis, under which labels would touch


def styles(exits: list[Exit]) -> dict[Exit, tuple[str, str]]:
    """Return colour and mark of every exit."""
    fixed = {TEACHER: BLACK, INT8: GREY, STATIC: RED}
    others = iter((BLUE, GREEN, ORANGE))
    return {one: (fixed.get(one.name) or next(others), mark) for one, mark in zip(exits, MARKS, strict=False)}


def time(found: Measured, exits: list[Exit], path: Path) -> bool:
    """Draw what is kept of the teacher's nDCG@10 against the time of a query; say whether there was anything."""
    figure, (axis,) = _figure(1, 1, (6.6, 4.4))
    for one, (colour, mark) in styles(exits).items():
        points = []
        for k in DIMENSIONS:
            kept, milliseconds = (
                found.kept(TEACHER, (one.name, one.layers, k)),
                found.milliseconds((one.name, one.layers, k)),
            )
            if kept is not None and milliseconds is not None:
                points.append((milliseconds, 100 * kept[0], k))
        if not points:
            continue
        axis.plot([x for x, _, _ in points], [y for _, y, _ in points], color=colour, marker=mark, label=one.title)
        _label(axis, points, colour)
    peer, kept = found.milliseconds(full(PEER_EXIT)), found.kept(TEACHER, full(PEER_EXIT))
    if peer is not None and kept is not None:
        axis.plot(
            [peer], [100 * kept[0]], color=ORANGE, marker="*", markersize=11, linestyle="none", label=PEER_EXIT.name
        )
    if not axis.has_data():
        return False
    axis.set_xscale("log")
    low, high = axis.get_xlim()
    axis.set_xlim(low, high * 1.5)  # room for labels
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_xlabel("milliseconds of a query, one thread")
    axis.set_ylabel("kept of the teacher's nDCG@10, %")
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=3, frameon=False)
    _save(figure, path)
    return True


def _label(axis: Any, points: list[tuple[float, float, int]], colour: str) -> None:  # noqa: ANN401
    """Write dimensions beside marks, but where the one before is as good as there."""
    shown: list[float] = []
    for x, y, k in points:
        if all(abs(y - other) > 100 * APART for other in shown):
            axis.annotate(str(k), (x, y), (GAP, -3), textcoords="offset points", fontsize=7, color=colour)
            shown.append(y)


def dimensions(found: Measured, exits: list[Exit], path: Path) -> bool:
    """Draw nDCG@10 against dimensions, the mean first, then set by set; say whether there was anything."""
    figure, axes = _figure(2, 2, (8.8, 7.0))
    for axis, name in zip(axes, (None, *SETS), strict=True):
        for one, (colour, mark) in styles(exits).items():
            points = []
            for k in DIMENSIONS:
                size = (one.name, one.layers, k)
                value = found.value(name, TEACHER, size) if name else found.mean(TEACHER, size)
                if value is not None:
                    points.append((k, value))
            if points:
                xs, ys = [k for k, _ in points], [value for _, value in points]
                axis.plot(xs, ys, color=colour, marker=mark, markersize=4, label=one.title)
        axis.set_title(name or "mean of the three sets")
        axis.set_xticks(DIMENSIONS)
        axis.set_xlabel("dimensions of the query's vector")
        axis.set_ylabel("nDCG@10")
    if not any(axis.has_data() for axis in axes):
        return False
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=2, frameon=False)
    _save(figure, path)
    return True


def _figure(rows: int, columns: int, size: tuple[float, float]) -> tuple[Any, Any]:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    matplotlib.rcParams |= {"svg.hashsalt": "bitfold", "svg.fonttype": "none", "font.size": 9}
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False)
    for axis in axes.ravel():
        axis.grid(visible=True, alpha=0.3)
    return figure, axes.ravel()


def _save(figure: Any, path: Path) -> None:  # noqa: ANN401
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None} if path.suffix == ".svg" else None)
