"""Command line of the comparison: `collect` real embeddings, `measure`, `report`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.compression.results import Results
from benchmarks.peers import collecting, datasets, measure
from benchmarks.peers.child import KEYS
from benchmarks.peers.contestants import CONTESTANTS, usual


def main() -> None:
    """Run one step."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("step", choices=["collect", "measure", "report"])
    parser.add_argument("--work", type=Path, required=True, help="where data sets, builds and results are kept")
    parser.add_argument("--trained", type=Path, help="collect: teacher vectors that `bitfold train student` keeps")
    parser.add_argument("--judged", type=Path, help="collect: work folder of benchmarks/embeddings.py")
    parser.add_argument("--real", type=Path, help=".npy file of real embeddings, float32 of unit length")
    parser.add_argument("--queries", type=Path, help=".npy file of queries for them")
    parser.add_argument("--limit", type=int, help="take so many of the real embeddings")
    parser.add_argument("--synthetic", type=int, nargs="*", default=[], metavar="N", help="draw so many synthetic ones")
    parser.add_argument(
        "--only", nargs="+", choices=CONTESTANTS, default=usual(), metavar="NAME", help="who takes part"
    )
    parser.add_argument(
        "--again", nargs="+", choices=CONTESTANTS, default=[], metavar="NAME", help="who is measured once more"
    )
    parser.add_argument("--passes", type=int, default=3, help="times that each setting is asked all queries")
    parser.add_argument("--ask", type=int, default=0, metavar="N", help="ask the first N queries only, for a quick try")
    parser.add_argument("--keep", action="store_true", help="leave what was built on disk")
    parser.add_argument("--reuse", action="store_true", help="--again asks what was kept and builds nothing")
    parser.add_argument("--docs", type=Path, help="report: fill the places in this folder's benchmarks.md too")
    a = parser.parse_args()
    if a.step == "collect":
        if a.trained is None or a.judged is None:
            parser.error("collect needs --trained and --judged")
        print(*collecting.collect(a.trained, a.judged, a.work))
        return
    if a.step == "report":
        from benchmarks.peers import report

        report.write(Results(a.work / "results.jsonl", KEYS), a.work, a.docs)
        return
    sets = [datasets.synthetic(a.work, n) for n in a.synthetic]
    if a.real is not None:
        if a.queries is None:
            parser.error("--real needs --queries")
        sets.insert(0, datasets.real(a.work, a.real, a.queries, a.limit))
    if not sets:
        parser.error("name a data set: --real FILE --queries FILE, --synthetic N")
    names = list(dict.fromkeys([*a.only, *a.again]))
    failed = measure.run(a.work, sets, names, again=a.again, passes=a.passes, queries=a.ask, keep=a.keep, reuse=a.reuse)
    if failed:
        sys.exit("not measured:\n" + "\n".join(failed))


if __name__ == "__main__":
    main()
