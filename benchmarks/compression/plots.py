"""Quality against bytes as SVG: one panel a set, one line a family."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.compression.bars import All
from benchmarks.compression.catalogue import RECURRENT, TRAINING_FREE
from benchmarks.compression.quality import FLOAT
from benchmarks.compression.summary import Measured

# Okabe and Ito's colours, told apart with every kind of colour vision; ours are the thick lines.
BLUE, ORANGE, GREEN, RED, PURPLE, SKY, GREY = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#777777",
)  # fmt: skip
COLUMNS = 2
TICKS = (16, 32, 48, 96, 192, 384)

Style = tuple[str, str, str]  # colour, marker, dash


def styles(families: Sequence[str]) -> dict[str, Style]:
    """Return label -> style of the lines that are drawn, in the legend's order."""
    recurrent = sorted({family for family in families if family.startswith(RECURRENT)})
    out = {f"{family}, {bits} bit": ("black", mark, "-") for family in recurrent for bits, mark in MARKS.items()}
    out |= {f"{TRAINING_FREE}, {bits} bit": (BLUE, mark, "-") for bits, mark in MARKS.items()}
    out |= {f"FAISS RaBitQ {bits} bit": (ORANGE, mark, "--") for bits, mark in MARKS.items()}
    return out | {
        "FAISS SQ4": (GREEN, "D", "--"),
        "FAISS PQ": (RED, "v", ":"),
        "FAISS OPQ": (RED, "P", ":"),
        "Qdrant TurboQuant": (PURPLE, "X", "-."),
        "Qdrant BQ": (PURPLE, "*", "-."),
        "sentence-transformers binary, rescored": (SKY, "h", ""),
        "sign, Hamming": (GREY, "o", "-"),
    }


MARKS = {"1": "o", "2": "s", "4": "^"}


def label(one: Measured) -> str:
    """Return the line that a method belongs to."""
    bits = one.method.removeprefix(f"{one.family}, ").partition(" x ")[0]
    split = one.family.startswith((TRAINING_FREE, RECURRENT)) and bits in MARKS
    return f"{one.family}, {bits} bit" if split else one.family


def draw(all_: All, names: Sequence[str], measure: str, path: Path) -> None:
    """Write one figure: a panel for every named collection."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    matplotlib.rcParams |= {"svg.hashsalt": "bitfold", "svg.fonttype": "none", "font.size": 9}
    kept = [name for name in names if name in all_]
    families = [one.family for name in kept for one in all_[name].values()]
    rows = -(-len(kept) // COLUMNS)
    figure, grid = plt.subplots(rows, COLUMNS, figsize=(4.4 * COLUMNS, 3.9 * rows), squeeze=False)
    axes = grid.ravel()
    for axis in axes[len(kept) :]:
        axis.remove()
    for axis, name in zip(axes, kept, strict=False):
        _panel(axis, list(all_[name].values()), measure, styles(families))
        axis.set_title(name)
        axis.set_ylabel(measure)
    pairs = [zip(*axis.get_legend_handles_labels(), strict=True) for axis in axes[: len(kept)]]
    handles = {text: handle for pair in pairs for handle, text in pair}
    order = [text for text in [*styles(families), FLOAT] if text in handles]
    figure.legend(
        [handles[text] for text in order], order, loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=3, frameon=False
    )
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)


def _panel(axis: Any, measured: list[Measured], measure: str, drawn: dict[str, Style]) -> None:  # noqa: ANN401
    lines: dict[str, list[tuple[float, float]]] = {}
    for one in measured:
        lines.setdefault(label(one), []).append((one.bytes, one.mean(measure)))
    misses = measure.startswith("r10@")
    for text, (colour, marker, dash) in drawn.items():
        points = sorted(lines.get(text, []))
        if not points:
            continue
        xs, ys = zip(*points, strict=True)
        thick = colour in ("black", BLUE)
        look = {"linewidth": 2, "markersize": 6, "zorder": 3} if thick else {"linewidth": 1, "markersize": 5}
        ys = [max(1 - y, FLOOR) for y in ys] if misses else ys
        axis.plot(xs, ys, label=text, color=colour, marker=marker, linestyle=dash or "none", **look)
    axis.set_xscale("log")
    axis.set_xticks(TICKS, [str(tick) for tick in TICKS])
    axis.minorticks_off()
    axis.set_xlabel("bytes a vector")
    axis.grid(visible=True, alpha=0.3)
    if misses:
        axis.set_yscale("log")
        axis.set_yticks([1 - y for y in RECALLS], [f"{y:g}" for y in RECALLS])
        axis.minorticks_off()
        axis.set_ylim(0.6, FLOOR * 0.9)
    else:
        level = next(one.mean(measure) for one in measured if one.method == FLOAT)
        axis.axhline(level, color="black", linewidth=1, linestyle=(0, (1, 1)), label=FLOAT)
        axis.set_ylim(level * 0.5, level * 1.03)


FLOOR = 0.0005  # what is missed less often is drawn here
RECALLS = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999)
