"""Links of a graph: beside a slow walk and choice that follow the paper, on several threads, gone on from."""

from __future__ import annotations

import numpy as np
import pytest

from index import kernels, linking
from index.codes import pack
from index.graph import DEGREE, LINKS, Links
from index.linking import Linker
from index.parallel import set_threads, threads


def planes_of(n, m, seed=0):
    return pack(np.random.default_rng(seed).integers(0, 16, (n, m), dtype=np.uint8), 4)


class Slow:
    """HNSW (arXiv 1603.09320, algorithms 1, 2 and 4) on whole numbers, node after node."""

    def __init__(self, planes, levels, width):
        nibbles = kernels.to_nibbles(planes)
        self.values = np.empty((len(planes), 2 * nibbles.shape[1]), dtype=np.int64)
        self.values[:, 0::2], self.values[:, 1::2] = (
            2 * (nibbles & 15).astype(int) - 15,
            2 * (nibbles >> 4).astype(int) - 15,
        )
        length = np.sqrt((self.values**2).sum(axis=1))
        self.scales = np.floor(65535 * np.sqrt(self.values.shape[1]) / length).astype(np.int64)
        self.levels, self.width = levels, width
        self.links = [[[] for _ in range(count)] for count in levels]

    def near(self, query, node):
        return int(self.values[query] @ self.values[node]) * int(self.scales[node]) >> 10

    def walk(self, query, starts, level, width):
        best = sorted(((self.near(query, node), node) for node in starts), reverse=True)
        seen, waiting = set(starts), list(best)
        while waiting:
            score, node = waiting.pop(waiting.index(max(waiting)))
            if len(best) == width and score < best[-1][0]:
                break
            for other in self.links[node][level]:
                if other in seen:
                    continue
                seen.add(other)
                met = (self.near(query, other), other)
                if len(best) < width or met[0] > best[-1][0]:
                    waiting.append(met)
                    best = sorted([*best, met], reverse=True)[:width]
        return best

    def choose(self, node, near, most):
        chosen = []
        for score, other in near:
            between = score * int(self.scales[node])
            if len(chosen) < most and all(self.near(other, one) * int(self.scales[other]) <= between for one in chosen):
                chosen.append(other)
        return chosen

    def add(self, node):
        at = [0]
        for level in range(self.levels[0] - 1, -1, -1):
            linked = level < self.levels[node]
            found = self.walk(node, at, level, self.width if linked else 1)
            if linked:
                self.links[node][level] = self.choose(node, found, LINKS)
                for other in self.links[node][level]:
                    mine = self.links[other][level]
                    if len(mine) < DEGREE:
                        mine.append(node)
                    else:
                        near = sorted(((self.near(other, one), one) for one in [*mine, node]), reverse=True)
                        self.links[other][level] = self.choose(other, near, DEGREE)
            at = [found[0][1]]


def lists_of(links):
    """The neighbours of each node on each level."""
    starts = links.starts()
    rows = links.neighbours.reshape(-1, DEGREE)
    return [[row[row >= 0].tolist() for row in rows[start:end]] for start, end in zip(starts, starts[1:], strict=False)]


@pytest.mark.parametrize(("n", "m", "width"), [(1, 8, 5), (2, 16, 5), (150, 96, 20), (400, 128, 40)])
def test_links_are_those_of_the_paper(monkeypatch, n, m, width):
    monkeypatch.setattr(linking, "WIDTH", width)
    planes = planes_of(n, m)
    linker = Linker(n, m // 8)
    linker.add(planes[: n // 2])
    linker.add(planes[n // 2 :])
    links = linker.links()
    slow = Slow(planes, links.levels.tolist(), width)
    for node in range(1, n):
        slow.add(node)
    # Equally near ones may come in either order.
    assert [[sorted(one) for one in own] for own in lists_of(links)] == [
        [sorted(one) for one in own] for own in slow.links
    ]


def test_levels_thin_out():
    linker = Linker(100_000, 1)
    linker.add(np.zeros((0, 4, 1), dtype=np.uint8))
    assert len(linker.links().levels) == 0, "none is linked yet"
    drawn = linker._levels
    assert drawn[0] == drawn.max() >= 4
    for level in (1, 2, 3):
        assert (drawn > level).sum() == pytest.approx((drawn > level - 1).sum() / LINKS, rel=0.3)


def test_several_threads_link_as_well_as_one():
    planes = planes_of(6000, 32, seed=3)
    queries = np.random.default_rng(4).standard_normal((50, 32)).astype(np.float32)
    before, reached = threads(), []
    for count in (1, 4):
        try:
            set_threads(count)
            linker = Linker(len(planes), 4)
            for start in range(0, len(planes), 2500):
                linker.add(planes[start : start + 2500])
        finally:
            set_threads(before)
        lists = lists_of(linker.links())
        for node, levels in enumerate(lists):
            for around in levels:
                assert len(set(around)) == len(around)
                assert node not in around
        graph, everything = linker.graph(), np.arange(len(planes))
        nearness = [graph.scores_at(query, everything) * kernels.scales_of(graph.codes) for query in queries]
        best = [set(np.argsort(-near)[:10].tolist()) for near in nearness]
        found = [set(graph.walk(query, 60)[0].tolist()) for query in queries]
        reached.append(np.mean([len(one & other) / 10 for one, other in zip(best, found, strict=True)]))
    assert min(reached) > 0.9
    assert reached[1] > reached[0] - 0.03


def test_linking_goes_on_from_what_was_linked():
    planes = planes_of(900, 24, seed=5)
    whole = Linker(900, 3)
    whole.add(planes[:600])
    saved = whole.links()
    saved = Links(saved.levels.copy(), saved.neighbours.copy())
    whole.add(planes[600:])
    again = Linker(900, 3)
    again.go_on_from((planes[:400], planes[400:600]), saved)
    assert len(again) == 600
    again.add(planes[600:])
    assert lists_of(again.links()) == lists_of(whole.links())
    with pytest.raises(ValueError, match="600 nodes on other levels do not fit 901 codes"):
        Linker(901, 3).go_on_from((planes[:600],), Links(saved.levels + 1, saved.neighbours))
