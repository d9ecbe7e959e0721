"""Does search by codes find what exact search finds, on real text?

    python benchmarks/bench_eval.py ../shared/data/scifact ../shared/data/cosqa

For each BEIR directory: `bitfold eval` against a server with the default encoder: the corpus is loaded as text, each
query of the test split is asked once with codes (`exact: false`, defaults) and once exactly.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from common import machine, server, table

from service.client import Client
from service.evaluation_run import Evaluation, evaluate
from service.settings import load_client_settings

HEAD = [
    "set", "documents", "queries", "nDCG@10 codes", "nDCG@10 exact", "recall@100 codes", "recall@100 exact",
    "recall@10 of exact", "code bytes a point", "text queries/s", "load s", "cut texts",
]  # fmt: skip


def row(found: Evaluation) -> list[object]:
    """Return a row of the table."""
    return [
        found.data_set, f"{found.documents:,}", found.queries, f"{found.ndcg_at_10:.4f}",
        f"{found.exact_ndcg_at_10:.4f}", f"{found.recall_at_100:.4f}", f"{found.exact_recall_at_100:.4f}",
        f"{found.recall_at_10_of_exact:.4f}", f"{found.code_bytes_per_point:.0f}",
        f"{found.queries_per_second:.0f}", f"{found.load_seconds:.0f}", found.truncated,
    ]  # fmt: skip


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directories", type=Path, nargs="+")
    parser.add_argument("--split", default="test")
    arguments = parser.parse_args()
    print(machine(), flush=True)
    rows = []
    with tempfile.TemporaryDirectory() as folder, server(Path(folder)) as running:
        with Client(load_client_settings(url=f"http://127.0.0.1:{running.port}")) as client:
            for directory in arguments.directories:
                (found,) = evaluate(
                    client,
                    directory,
                    split=arguments.split,
                    collection=directory.name,
                    encoder="default",
                    on_progress=lambda *_: None,
                )
                rows.append(row(found))
    print(table(HEAD, rows))


if __name__ == "__main__":
    main()
