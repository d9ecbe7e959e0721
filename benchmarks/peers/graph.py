"""What graphs have in common: how dense they are built, and how widely they are searched."""

from __future__ import annotations

from benchmarks.peers.engine import Engine, Setting, grid

GRAPH_LINKS, GRAPH_WIDTH = 16, 128  # M and efConstruction of every graph, unless its name says otherwise
WIDTHS = (10, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)  # ef
FILTERED_WIDTHS = (16, 48, 128, 384)  # the same where a filter makes each dear


class GraphEngine(Engine):
    """A graph of which only ef is swept."""

    def settings(self) -> list[Setting]:
        """Sweep ef."""
        return grid(ef=WIDTHS)

    def filtered_settings(self) -> list[Setting]:
        """Sweep fewer."""
        return grid(ef=FILTERED_WIDTHS)
