"""Command line of the comparison: `quality`, `speed` and `report`."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.common import machine
from benchmarks.compression import quality
from benchmarks.compression.results import Results
from benchmarks.compression.sets import SETS


def main() -> None:
    """Run one step."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compression", description=__doc__)
    parser.add_argument("step", choices=["quality", "speed", "report"])
    parser.add_argument("--cache", type=Path, required=True, help="where benchmarks/embeddings.py left its vectors")
    parser.add_argument("--results", type=Path, help="folder of results; default: CACHE/compression")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the evaluation sets")
    parser.add_argument("--sets", nargs="+", help="such as scifact cosqa+distill; default: all, alone and among others")
    parser.add_argument("--distractors", type=int, default=204_800, help="rows of distill-open")
    parser.add_argument("--learned", type=Path, help="folder of trained binarizers, see catalogue.learned")
    parser.add_argument("--only", default="", help="regular expression over method names")
    parser.add_argument("--again", help="regular expression over method names to measure anew")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rows", type=int, default=1_000_000, help="codes to scan when measuring speed")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--queries", type=int, default=8, help="queries a round when measuring speed")
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="folder of compression.md")
    a = parser.parse_args()
    folder = a.results or a.cache / "compression"
    measured = Results(folder / "quality.jsonl", quality.KEYS)
    if a.step == "quality":
        names = a.sets or [*SETS, *(f"{name}+distill" for name in SETS)]
        options = {"distractor_rows": a.distractors, "trained": a.learned, "only": a.only, "again": a.again}
        quality.run(names, a.data, a.cache, measured, threads=a.threads, **options)
    elif a.step == "speed":
        from benchmarks.compression import speed

        out = folder / "speed.json"
        speed.run(a.data, a.cache, out, rows=a.rows, rounds=a.rounds, asked=a.queries, machine=machine())
    else:
        from benchmarks.compression import report

        report.write(measured, folder / "speed.json", a.docs)


if __name__ == "__main__":
    main()
