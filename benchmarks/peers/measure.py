"""Lets contestants take their turns, each in processes of its own: one builds on two cores, one is asked on one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.compression.results import Results
from benchmarks.peers.child import KEYS, NOT_INSTALLED, Task
from benchmarks.peers.datasets import load

BUILD_THREADS, SEARCH_THREADS = 2, 1
THREADS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "RAYON_NUM_THREADS",
    "TOKIO_WORKER_THREADS",
    "LANCE_CPU_THREADS",
)
QUIET = {"RUST_LOG": "error", "LANCE_LOG": "error", "ANONYMIZED_TELEMETRY": "False"}


def run(
    work: Path,
    datasets: Sequence[str],
    names: Sequence[str],
    *,
    again: Collection[str],
    passes: int,
    queries: int,
    keep: bool,
    reuse: bool,
) -> list[str]:
    """Measure who was not measured yet; return who failed or is not installed.

    again : names that are measured once more.
    queries : how many are asked, the first ones; 0: all.
    keep : builds are left on disk.
    reuse : who is measured again is only asked again, if its build was kept.
    """
    failed = []
    for dataset in datasets:
        load(work, dataset)  # true answers are found here, once
        for name in names:
            results = Results(work / "results.jsonl", KEYS)
            if name not in again and finished(results, dataset, name):
                print(f"{dataset}: {name} was measured")
                continue
            task = Task("build", work, dataset, name, int(time.time()), BUILD_THREADS, passes, queries)
            if name in again and not reuse:
                task.built.unlink(missing_ok=True)
            print(f"{dataset}: {name}", flush=True)
            if why := _turn(task):
                print(f"{dataset}: {name} {why}", flush=True)
                failed.append(f"{dataset}: {name} {why}")
            elif not keep:
                shutil.rmtree(task.folder)
                task.built.unlink()
    return failed


def finished(results: Results, dataset: str, name: str) -> bool:
    """Say whether a contestant's last line is there."""
    return any((row["dataset"], row["contestant"], row["kind"]) == (dataset, name, "memory") for row in results)


def _turn(task: Task) -> str:
    """Build, unless a finished build was left, and search; return what went wrong, empty if nothing did."""
    stages = [] if task.built.exists() else [task]
    stages.append(replace(task, stage="search", threads=SEARCH_THREADS))
    for one in stages:
        status = _child(one)
        if status == NOT_INSTALLED:
            return "is not installed"
        if status:
            return f"ended with status {status} in its {one.stage}"
    return ""


def _child(task: Task) -> int:
    """Run one stage on as many cores as it may use; return its exit status."""
    cores = sorted(os.sched_getaffinity(0))[-task.threads :]
    environment = {**os.environ, **dict.fromkeys(THREADS, str(task.threads)), **QUIET}
    command = [sys.executable, "-m", "benchmarks.peers.child", task.to_json()]
    done = subprocess.run(command, env=environment, check=False, preexec_fn=lambda: os.sched_setaffinity(0, cores))
    return done.returncode
