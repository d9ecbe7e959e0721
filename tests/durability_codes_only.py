"""Writes and upkeep of a collection that keeps codes only, run under the recorder of `tests/data/record_io.c`.

    python -m tests.durability_codes_only ROOT SABOTAGE

As in `tests/durability_workload.py`, `{"begin": n}` and `{"done": n}` go to ROOT/acknowledged. SABOTAGE (or `none`)
leaves out the sync of codes that become truth (`contents`), of their names (`names`), or removes vector files
before the commit that takes them out of the record (`early`).
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np

from index import codes_file, dropping, durable, maintenance, merging
from index.record import Writer
from index.store import Store
from tests.codes_only import D, codes_only
from tests.index_fakes import RotationFactory, batch_of, options, vectors_of

ACKNOWLEDGED = "acknowledged"
SMALL = {"exact_below": 0, "first_fit": 16, "tail_rows": 12, "save_rows": 1, "fan_out": 3, "file_bytes": 12 * D * 4}


def script():
    """Return operations: `(kind, ids)`; an upsert writes vectors that depend on its number."""
    return [
        ("create", []),
        ("upsert", range(10)),
        ("upsert", range(10, 24)),
        ("upsert", range(24, 36)),
        ("upkeep", []),
        ("delete", [1, 11, 30]),
        ("upsert", range(30, 44)),
        ("optimize", []),
        ("upsert", [*range(5), *range(44, 55)]),
        ("delete", range(12, 22)),
        ("upkeep", []),
        ("optimize", []),
        ("reopen", []),
        ("upsert", range(55, 68)),
        ("delete", range(22, 45)),
        ("optimize", []),
        ("upsert", range(3)),
    ]


def vectors_of_operation(number):
    """The vectors of the upsert with this number, in the order of its ids."""
    return vectors_of(len(script()[number][1]), number)


def model_after(model, number):
    """What there is after an operation: id -> `(vector, number of the upsert)`, None while there is no collection."""
    kind, ids = script()[number]
    after = {} if kind == "create" else dict(model or {})
    if kind == "upsert":
        after |= {i: (vector, number) for i, vector in zip(ids, vectors_of_operation(number), strict=True)}
    if kind == "delete":
        after = {i: kept for i, kept in after.items() if i not in ids}
    return after


def sabotage(how):
    """Break what `how` names."""
    if how == "contents":
        save = codes_file.save
        merging.save = lambda path, data, synced=False: save(path, data)  # noqa: ARG005
    elif how == "names":
        sync = durable.sync_directory
        durable.sync_directory = lambda path: None if path.name == "codes" else sync(path)
    elif how == "early":
        swap = Writer.swap_files

        def remove_first(writer, old, *rest):
            for entry in old:
                path = folder_of(Path(sys.argv[1])) / "vectors" / entry.name
                path.unlink()
                durable.sync_directory(path.parent)
                path.touch()  # for the one who removes it in time
            swap(writer, old, *rest)

        Writer.swap_files = remove_first
    elif how != "none":
        raise ValueError(how)


def folder_of(root):
    """The folder of the collection."""
    return root / "data" / "collections" / "c"


def open_store(data):
    """Open the store as the workload does."""
    return Store(data, RotationFactory(), options(**SMALL))


def run(store, number):
    """Run an operation; return the store to go on with."""
    kind, ids = script()[number]
    if kind == "create":
        store.create("c", codes_only())
    elif kind == "upsert":
        store.get("c").upsert(batch_of(ids, vectors_of_operation(number), [{"at": number}] * len(ids)))
    elif kind == "delete":
        store.get("c").delete(list(ids))
    elif kind == "upkeep":
        while maintenance.step(store.get("c"), idle=False):
            pass
    elif kind == "optimize":
        maintenance.optimize(store.get("c"))
    elif kind == "reopen":
        store.close()
        return open_store(store.directory)
    return store


def main():
    """Run everything and leave the store open, as a crash would."""
    root = Path(sys.argv[1])
    sabotage(sys.argv[2])
    dropping.QUERIES = 4
    said = os.open(root / ACKNOWLEDGED, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    store = open_store(root / "data")
    for number in range(len(script())):
        os.write(said, json.dumps({"begin": number}).encode())
        store = run(store, number)
        os.write(said, json.dumps({"done": number}).encode())
    view = store.get("c").view
    assert not view.readable(np.arange(20)).any(), "vectors were dropped"
    sys.stdout.write("finished\n")
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
