"""One contestant in a process of its own: builds it, or opens and asks it. Started by `measure`."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import machine
from benchmarks.compression.results import Results, Row
from benchmarks.peers.contestants import CONTESTANTS
from benchmarks.peers.datasets import DEPTH, SHARES, DataSet, below, load, recall
from benchmarks.peers.engine import Ask, Clock, Engine, Floats, Setting, label
from benchmarks.peers.memory import Memory, on_disk, peak, resident

NOT_INSTALLED = 3  # exit status
KEYS = ("dataset", "contestant", "run", "kind", "setting", "share")
WARM = 50  # queries before a setting is timed
PASS_SECONDS = 30.0  # after which a pass asks no more queries
SWEEP_SECONDS = 300.0  # after which a sweep tries no more settings; they get dearer as it goes on


@dataclass(frozen=True, slots=True)
class Task:
    """What a child is to do.

    Attributes
    ----------
    run : seconds since 1970 when this contestant's turn began: names its measurements.
    threads : that it may use.
    passes : times that every setting is asked all queries.
    queries : how many are asked, the first ones; 0: all.
    """

    stage: Literal["build", "search"]
    work: Path
    dataset: str
    contestant: str
    run: int
    threads: int
    passes: int
    queries: int

    def to_json(self) -> str:
        """Write it as an argument."""
        return json.dumps({**asdict(self), "work": str(self.work)})

    @classmethod
    def from_json(cls, text: str) -> Task:
        """Read what `to_json` wrote."""
        values = json.loads(text)
        return cls(**{**values, "work": Path(values["work"])})

    @property
    def folder(self) -> Path:
        """Where the contestant builds."""
        return self.work / "builds" / self.dataset / self.contestant

    @property
    def built(self) -> Path:
        """What is known of a finished build."""
        return self.folder.with_suffix(".json")

    def row(self, kind: str, setting: str = "", share: float = 1.0, **values: object) -> Row:
        """Return a line for the results."""
        named = {"dataset": self.dataset, "contestant": self.contestant, "run": self.run}
        return {**named, "kind": kind, "setting": setting, "share": share, **values}


def build(task: Task, engine: Engine, data: DataSet) -> None:
    """Build, and note how long it took and what it left."""
    shutil.rmtree(task.folder, ignore_errors=True)
    task.folder.mkdir(parents=True)
    engine.start(task.folder)
    before = held(engine, data)
    clock = Clock()
    engine.build(data.points, task.folder, clock)
    seconds = clock.seconds() if clock.last is None else clock.last
    memory, most = held(engine, data) - before, peak(engine.processes())
    engine.stop()
    disk = on_disk(task.folder) + (data.points.vectors.nbytes if engine.reads_source else 0)
    row = {
        "points": len(data.points),
        "threads": task.threads,
        "searchable": clock.first,
        "optimized": seconds,
        "disk": disk,
        "memory": memory.row(),
        "peak": most,
        "versions": {name: version(name) for name in engine.packages},
        "machine": machine(),
    }
    task.built.write_text(json.dumps(row))
    print(f"  built: searchable after {clock.first:.1f} s, optimized after {seconds:.1f} s, {disk / 1e6:,.0f} MB")


def search(task: Task, engine: Engine, data: DataSet, results: Results) -> None:
    """Open and sweep. The line of memory, after the sweep without filters, comes last: the contestant is done."""
    results.add(task.row("build", **json.loads(task.built.read_text())))
    with tempfile.TemporaryDirectory() as empty:
        engine.start(Path(empty))
        before = held(engine, data)
        engine.stop()
    began = time.perf_counter()
    engine.open(data.points, task.folder)
    opened = time.perf_counter() - began
    sweep(task, engine, data, results, 1.0)
    memory: Row = (held(engine, data) - before).row()
    print("  memory: " + ", ".join(f"{name} {value / 1e6:,.0f} MB" for name, value in memory.items()), flush=True)
    for share in SHARES[1:] if engine.filters else ():
        sweep(task, engine, data, results, share)
    at_end = (held(engine, data) - before).row()
    engine.close()
    results.add(task.row("memory", opened=opened, filters=engine.filters, at_end=at_end, **memory))


def held(engine: Engine, data: DataSet) -> Memory:
    """Return the memory of a contestant as it is now."""
    engine.settle()
    return resident(engine.processes(), [str(data.points.path), *engine.float_paths])


def sweep(task: Task, engine: Engine, data: DataSet, results: Results, share: float) -> None:
    """Ask with every setting until time is up, among a share of the points."""
    settings = engine.settings() if share == 1 else engine.filtered_settings()
    end = time.perf_counter() + SWEEP_SECONDS
    for i, setting in enumerate(settings):
        if time.perf_counter() > end:
            print(f"  {share:7.1%} the last {len(settings) - i} of {len(settings)} settings are left out", flush=True)
            break
        measured = asked(engine, setting, share, data, task.passes)
        results.add(task.row("search", label(setting), share, **measured))
        qps = measured["qps"]
        print(
            f"  {share:7.1%} {label(setting):36s} recall {measured['recall']:.4f}, {qps[1]:8,.0f}/s "
            f"({qps[0]:,.0f} to {qps[2]:,.0f}), p99 {measured['p99']:.2f} ms",
            flush=True,
        )


def asked(engine: Engine, setting: Setting, share: float, data: DataSet, passes: int) -> Row:
    """Return recall@10, queries a second (least, median, greatest pass) and milliseconds of a query."""
    ask = engine.asker(setting, DEPTH, below(share))
    one_pass(ask, data.queries[:WARM])
    rates, times = [], []
    for _ in range(passes):
        found, seconds = one_pass(ask, data.queries)
        rates.append(len(seconds) / sum(seconds))
        times += seconds
    p50, p99 = np.percentile(times, [50, 99]) * 1e3
    return {
        "recall": recall(found, data.truth[share][: len(found)]),
        "qps": [min(rates), float(np.median(rates)), max(rates)],
        "passes": passes,
        "queries": len(found),
        "p50": p50,
        "p99": p99,
    }


def one_pass(ask: Ask, queries: Floats) -> tuple[NDArray[np.int64], list[float]]:
    """Ask queries, one after the other, all or until time is up; return (asked, 10) ids and the seconds of each."""
    answers, seconds = [], []
    end = time.perf_counter() + PASS_SECONDS
    for query in queries:
        began = time.perf_counter()
        answer = ask(query)
        done = time.perf_counter()
        seconds.append(done - began)
        answers.append(answer)
        if done > end:
            break
    found = np.full((len(answers), DEPTH), -1)
    for row, answer in zip(found, answers, strict=True):
        row[: len(answer)] = answer
    return found, seconds


def main() -> None:
    """Do one task."""
    task = Task.from_json(sys.argv[1])
    try:
        engine = CONTESTANTS[task.contestant].load(task.threads)
    except ImportError as error:
        print(f"  skipped: {error}")
        sys.exit(NOT_INSTALLED)
    data = load(task.work, task.dataset)
    if task.queries:
        data = data.first_queries(task.queries)
    try:
        if task.stage == "build":
            build(task, engine, data)
        else:
            search(task, engine, data, Results(task.work / "results.jsonl", KEYS))
    finally:
        engine.stop()


if __name__ == "__main__":
    main()
