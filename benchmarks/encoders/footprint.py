"""Megabytes of each encoder: its files, and what a process that does nothing else holds in memory after one query."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from benchmarks.common import anonymous_bytes
from benchmarks.compression.results import Results
from benchmarks.encoders.contestants import INT8, PEER, STATIC, STUDENT, TEACHER, Contestants
from models.loading import model_folder

KEYS = ("version", "name")
FILES = ("model.safetensors", "student.safetensors", "student.json", "tokenizer.json")


def run(results: Results, contestants: Contestants) -> None:
    """Measure what is not in the results yet."""
    for name in (PEER, TEACHER, INT8, STUDENT, STATIC):
        if (contestants.version, name) in results:
            continue
        command = [sys.executable, "-m", "benchmarks.encoders.footprint", name]
        command += [] if contestants.student is None else [str(contestants.student)]
        out = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        folder = contestants.folder if name in (STUDENT, STATIC) else model_folder(TEACHER)
        disk = sum((folder / file).stat().st_size for file in FILES if (folder / file).exists())
        row = {"version": contestants.version, "name": name, "disk": disk, "memory": int(out.stdout)}
        results.add(row)
        print(row)


def child(name: str, contestants: Contestants) -> int:
    """Return the anonymous memory that loading an encoder and one query add to this process, libraries included."""
    before = anonymous_bytes(os.getpid())
    encoder = contestants.load(name, 1)
    encoder.encode_queries(["how do vaccines work"], layers=None, dimensions=None)
    return anonymous_bytes(os.getpid()) - before


if __name__ == "__main__":
    print(child(sys.argv[1], Contestants(Path(sys.argv[2]) if len(sys.argv) > 2 else None)))
