"""Command line of the grid: `quality`, `speed`, `footprint` and `report`."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.common import machine
from benchmarks.compression.results import Results
from benchmarks.encoders import footprint, quality, speed
from benchmarks.encoders.contestants import Contestants


def main() -> None:
    """Run one step."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.encoders", description=__doc__)
    parser.add_argument("step", choices=["quality", "speed", "footprint", "report"])
    parser.add_argument(
        "--work", type=Path, required=True, help="where benchmarks/embeddings.py leaves vectors; results go beside them"
    )
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the evaluation sets")
    parser.add_argument("--sets", nargs="+", default=[*quality.SETS, *quality.WARNING])
    parser.add_argument("--student", type=Path, help="folder of a student; default: the one that ships")
    parser.add_argument("--threads", type=int, default=2, help="when quality is measured")
    parser.add_argument("--rounds", type=int, default=7, help="when speed is measured")
    parser.add_argument("--queries", type=int, default=32, help="short queries of each set when speed is measured")
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="folder of encoders.md")
    a = parser.parse_args()
    folder, contestants = a.work / "encoders", Contestants(a.student)
    measured = Results(folder / "quality.jsonl", quality.KEYS)
    speeds = Results(folder / "speed.jsonl", speed.KEYS)
    sizes = Results(folder / "footprint.jsonl", footprint.KEYS)
    if a.step == "quality":
        quality.run(a.sets, a.data, a.work, measured, contestants, threads=a.threads)
    elif a.step == "speed":
        speed.run(a.data, speeds, contestants, rounds=a.rounds, asked=a.queries, machine=machine())
    elif a.step == "footprint":
        footprint.run(sizes, contestants)
    else:
        from benchmarks.encoders import report

        report.write(measured, speeds, sizes, contestants, a.docs)


if __name__ == "__main__":
    main()
