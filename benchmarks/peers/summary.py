"""What was measured, by data set and contestant: each one's last finished turn, its curves and its best settings."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from benchmarks.compression.results import Row
from benchmarks.peers.contestants import CONTESTANTS
from benchmarks.peers.datasets import SHARES


@dataclass(frozen=True, slots=True)
class Asked:
    """One setting as it was measured.

    Attributes
    ----------
    recall : recall@10, 0 to 1.
    qps : queries a second, the median pass; `least` and `most` of all passes.
    p50, p99 : milliseconds of a query, over all passes.
    """

    setting: str
    recall: float
    qps: float
    least: float
    most: float
    p50: float
    p99: float


@dataclass(frozen=True, slots=True)
class Turn:
    """One contestant on one data set.

    Attributes
    ----------
    build, memory : the lines of the results.
    asked : share of the points that a filter lets through (1: no filter) -> settings in the order of the sweep.
    """

    name: str
    build: Row
    memory: Row
    asked: dict[float, list[Asked]]

    @property
    def over_http(self) -> bool:
        """Say whether it is a server, which is compared with servers only."""
        return CONTESTANTS[self.name].over_http

    def best(self, least_recall: float, share: float = 1.0) -> Asked | None:
        """Return the fastest setting of at least some recall, None where no setting reaches it."""
        reached = [one for one in self.asked.get(share, []) if one.recall >= least_recall]
        return max(reached, key=lambda one: one.qps, default=None)

    def highest(self, share: float) -> Asked | None:
        """Return the setting of the highest recall, the faster of equals."""
        return max(self.asked.get(share, []), key=lambda one: (one.recall, one.qps), default=None)

    def curve(self, share: float = 1.0) -> list[Asked]:
        """Return the settings that none beats in both recall and rate, by rising recall."""
        out: list[Asked] = []
        for one in sorted(self.asked.get(share, []), key=lambda one: (-one.recall, -one.qps)):
            if not out or one.qps > out[-1].qps:
                out.append(one)
        return out[::-1]


def gather(rows: Iterable[Row]) -> dict[str, list[Turn]]:
    """Return the finished turns of every data set, in the order of `CONTESTANTS`."""
    runs: dict[tuple[str, str, int], list[Row]] = {}
    for row in rows:
        runs.setdefault((row["dataset"], row["contestant"], row["run"]), []).append(row)
    turns: dict[tuple[str, str], Turn] = {}
    for (dataset, name, _), lines in sorted(runs.items()):
        found = {row["kind"]: row for row in lines}
        if "memory" in found:
            turns[dataset, name] = Turn(name, found["build"], found["memory"], _asked(lines))
    order = list(CONTESTANTS)
    sets = dict.fromkeys(dataset for dataset, _ in turns)
    return {
        dataset: sorted((turn for (own, _), turn in turns.items() if own == dataset), key=lambda t: order.index(t.name))
        for dataset in sets
    }


def _asked(lines: Iterable[Row]) -> dict[float, list[Asked]]:
    out: dict[float, list[Asked]] = {share: [] for share in SHARES}
    for row in lines:
        if row["kind"] == "search":
            least, median, most = row["qps"]
            one = Asked(row["setting"], row["recall"], median, least, most, row["p50"], row["p99"])
            out[row["share"]].append(one)
    return out
