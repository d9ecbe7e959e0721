"""Storage operations, what they should leave behind, and a program that runs them and says when each is done.

Run under the recorder of `tests/data/record_io.c`:

    python -m tests.durability_workload ROOT SABOTAGE SEED first
    python -m tests.durability_workload ROOT SABOTAGE SEED second

The first process ends in the middle of a commit; the second begins with what that left behind. The store lies
in ROOT/data. Before an operation `{"begin": n}`, and once it is acknowledged `{"done": n}`, is written to
ROOT/acknowledged, so that the recording holds them in order with the input and output around them;
`{"undone": n}` says that an operation which never ended was found to be absent. SABOTAGE (or `none`) leaves
out or delays syncs, to prove that the check notices.
"""

from __future__ import annotations

import json
import os
import sqlite3
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from index import durable, maintenance, record
from index.appender import VectorAppender
from index.collection import Collection
from index.ids import PointId
from index.options import StoreOptions
from index.payload import PayloadEdit
from index.points import Batch, CollectionConfig, Distance, content_hash
from index.store import Store

DIMENSION = 16
ACKNOWLEDGED = "acknowledged"
# 12 rows a vector file, codes from 16 points on, every segment saved: a few batches reach every path.
OPTIONS = StoreOptions(
    exact_below=0,
    first_fit=16,
    tail_rows=24,
    fan_out=3,
    save_rows=1,
    list_rows=20,
    file_bytes=12 * DIMENSION * 4,
    dead_share=0.5,
    background=False,
)

Float32s = NDArray[np.float32]


class SignBinarizer:
    """Signs of centred vectors: the least that a collection can code with."""

    bits = 1
    learned = False
    identity = "signs"

    def __init__(self, mean: Float32s) -> None:
        self.mean = mean
        self.dimension = self.code_dimension = len(mean)

    def encode(self, vectors: Float32s) -> tuple[NDArray[np.uint8], Float32s]:
        centred = vectors - self.mean
        sums = np.maximum(np.abs(centred).sum(axis=1), np.float32(1e-9))
        factors = np.einsum("ij,ij->i", centred, centred) / sums
        return (centred > 0).astype(np.uint8), factors[:, None]

    def queries(self, vectors: Float32s) -> Float32s:
        return vectors

    def query_levels(self, vectors: Float32s) -> tuple[NDArray[np.uint8], Float32s]:
        return (vectors > 0).astype(np.uint8), np.abs(vectors).mean(axis=1)

    def reads(self, older: object) -> bool:  # noqa: ARG002
        return False

    def to_bytes(self) -> bytes:
        return self.mean.astype("<f4").tobytes()


class SignFactory:
    """Fits and loads `SignBinarizer`."""

    def fit(self, vectors: Float32s, seed: int, *, bits: int, dimensions: int | None) -> SignBinarizer:  # noqa: ARG002
        return SignBinarizer(vectors.mean(axis=0).astype(np.float32))

    def load(self, data: bytes) -> SignBinarizer:
        return SignBinarizer(np.frombuffer(data, "<f4").astype(np.float32))


@dataclass(frozen=True)
class Kept:
    """What a point must look like afterwards; the vector as it was sent."""

    vector: tuple[float, ...]
    payload: dict[str, Any]
    text: str | None


Points = dict[PointId, Kept]
Model = dict[str, Points]  # collection -> id -> point


@dataclass(frozen=True)
class Operation:
    """One step; `number` names it in the acknowledgements.

    `die` is an upsert whose process ends before its transaction is committed.
    """

    number: int
    kind: str
    collection: str = ""
    points: Points = field(default_factory=dict)
    ids: tuple[PointId, ...] = ()
    payload: dict[str, Any] = field(default_factory=dict)
    distance: Distance = "Dot"

    def on_model(self, model: Model) -> Model:
        """Return the model after this operation."""
        after = {name: dict(points) for name, points in model.items()}
        if self.kind == "create":
            after[self.collection] = {}
        elif self.kind == "drop":
            del after[self.collection]
        elif self.kind in ("upsert", "die"):
            after[self.collection].update(self.points)
        elif self.kind == "delete":
            for point_id in self.ids:
                after[self.collection].pop(point_id, None)
        elif self.kind == "edit":
            for point_id in set(self.ids) & set(after[self.collection]):
                old = after[self.collection][point_id]
                merged = {**old.payload, **self.payload}
                after[self.collection][point_id] = Kept(old.vector, merged, old.text)
        return after


class Plan:
    """Makes operations from a seed, keeping track of numbers and of what exists."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.groups: list[list[Operation]] = []
        self.count = 0
        self.model: Model = {}

    def add(self, *steps: dict[str, Any]) -> None:
        group = []
        for step in steps:
            operation = Operation(number=self.count, **step)
            self.count += 1
            if operation.kind != "die":
                self.model = operation.on_model(self.model)
            group.append(operation)
        self.groups.append(group)

    def points(self, ids: Sequence[PointId]) -> Points:
        made = {}
        for point_id in ids:
            vector = (self.rng.normal(size=DIMENSION) * self.rng.uniform(0.5, 2)).astype(np.float32)
            words = " ".join(f"w{n}" for n in self.rng.integers(0, 999, size=int(self.rng.integers(1, 60))))
            payload = {"n": int(self.rng.integers(0, 1000)), "of": str(point_id)}
            made[point_id] = Kept(tuple(vector.tolist()), payload, words if self.rng.random() < 0.5 else None)
        return made

    def some(self, collection: str, count: int) -> tuple[PointId, ...]:
        known = sorted(self.model[collection], key=str)
        chosen = self.rng.choice(len(known), size=min(count, len(known)), replace=False)
        return tuple(known[i] for i in chosen)


def operations(seed: int) -> list[list[Operation]]:
    """Return groups of operations; those of one group run at once and touch different points."""
    plan = Plan(seed)
    for name, distance in (("a", "Dot"), ("b", "Cosine")):
        plan.add({"kind": "create", "collection": name, "distance": distance})
    ids: dict[str, list[PointId]] = {"a": list(range(200)), "b": [f"id-{n}" for n in range(200)]}
    fresh = {name: iter(values) for name, values in ids.items()}

    def upsert(name: str, new: int, old: int = 0) -> dict[str, Any]:
        chosen = [next(fresh[name]) for _ in range(new)]
        chosen += list(plan.some(name, old)) if old else []
        return {"kind": "upsert", "collection": name, "points": plan.points(chosen)}

    for _ in range(3):
        plan.add(upsert("a", 7))
        plan.add(upsert("b", 5))
    plan.add(upsert("a", 4, 6))
    plan.add(upsert("a", 3), upsert("a", 4), upsert("b", 6))
    plan.add({"kind": "delete", "collection": "a", "ids": plan.some("a", 8)})
    plan.add({"kind": "edit", "collection": "a", "ids": plan.some("a", 5), "payload": {"edited": 1}})
    plan.add({"kind": "seal", "collection": "a"})
    plan.add({"kind": "optimize", "collection": "a"})
    plan.add(upsert("a", 9, 5), upsert("b", 3, 3))
    plan.add({"kind": "reopen"})
    plan.add({**upsert("a", 15, 4), "kind": "die"})
    plan.add(upsert("b", 2, 9))
    plan.add({"kind": "delete", "collection": "b", "ids": plan.some("b", 12)})
    plan.add(upsert("a", 20))
    plan.add({"kind": "optimize", "collection": "b"})
    plan.add({"kind": "drop", "collection": "b"})
    plan.add({"kind": "create", "collection": "b", "distance": "Cosine"})
    plan.add(upsert("b", 14))
    plan.add({"kind": "edit", "collection": "b", "ids": plan.some("b", 20), "payload": {"edited": 2, "n": -1}})
    plan.add({"kind": "upsert", "collection": "a", "points": plan.points([300])})
    plan.add({"kind": "optimize", "collection": "a"})
    plan.add({"kind": "create", "collection": "c", "distance": "Dot"})
    plan.add({"kind": "drop", "collection": "c"})
    plan.add({"kind": "delete", "collection": "a", "ids": plan.some("a", 60)})
    plan.add({"kind": "optimize", "collection": "a"})
    return plan.groups


def batch_of(points: Points) -> Batch:
    """Return points as the collection takes them."""
    vectors = np.array([kept.vector for kept in points.values()], dtype=np.float32)
    return Batch(
        ids=list(points),
        vectors=vectors,
        payloads=[json.dumps(kept.payload).encode() for kept in points.values()],
        texts=[kept.text for kept in points.values()],
        hashes=[
            content_hash(vector.tobytes() if kept.text is None else kept.text.encode())
            for kept, vector in zip(points.values(), vectors, strict=True)
        ],
    )


class Runner:
    """Runs operations on a store and acknowledges them."""

    def __init__(self, root: Path) -> None:
        self.directory = root / "data"
        self.said = os.open(root / ACKNOWLEDGED, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self.store = self.open()

    def open(self) -> Store:
        return Store(self.directory, SignFactory(), OPTIONS)

    def say(self, word: str, operation: Operation) -> None:
        os.write(self.said, json.dumps({word: operation.number}).encode() + b"\n")

    def run(self, operation: Operation) -> None:
        self.say("begin", operation)
        self.apply(operation)
        self.say("done", operation)

    def settle(self, operation: Operation) -> None:
        """Say what became of the operation that another process began and did not end."""
        there = self.store.get(operation.collection).points(list(operation.points), with_vector=True)
        sent = [
            point
            for point in there
            if point.vector is not None and tuple(point.vector.tolist()) == operation.points[point.id].vector
        ]
        self.say("done" if len(sent) == len(operation.points) else "undone", operation)

    def apply(self, operation: Operation) -> None:
        name = operation.collection
        if operation.kind == "create":
            self.store.create(name, CollectionConfig(DIMENSION, operation.distance))
        elif operation.kind == "drop":
            self.store.drop(name)
        elif operation.kind == "die":
            VectorAppender.sync = lambda _: os._exit(0)  # type: ignore[method-assign, assignment]
            self.store.get(name).upsert(batch_of(operation.points))
        elif operation.kind == "reopen":
            self.store.close()
            self.store = self.open()
        else:
            self.on_collection(operation, self.store.get(name))

    @staticmethod
    def on_collection(operation: Operation, collection: Collection) -> None:
        if operation.kind == "upsert":
            collection.upsert(batch_of(operation.points))
        elif operation.kind == "delete":
            collection.delete(operation.ids)
        elif operation.kind == "edit":
            collection.edit_payload(PayloadEdit("set", payload=operation.payload), ids=list(operation.ids))
        elif operation.kind == "seal":
            collection.seal()
        elif operation.kind == "optimize":
            maintenance.optimize(collection)
        else:
            raise ValueError(operation.kind)


def change_connections(statement: str) -> None:
    """Run a statement on every connection to a record that is made from now on."""
    connect = record.connect

    def changed(path: Path) -> sqlite3.Connection:
        connection = connect(path)
        connection.execute(statement)
        return connection

    record.connect = changed


def sabotage_syncs(how: str) -> None:
    """Break the store on purpose.

    `files`, `vectors` (names in that folder), `collections` (names in that folder) are not synced; `record`
    leaves SQLite's commits unsynced; `late` syncs vectors after the commit that counts on them.
    """
    if how == "files":
        durable.sync_file = lambda fd: None  # noqa: ARG005
    elif how in ("vectors", "collections"):
        sync = durable.sync_directory
        durable.sync_directory = lambda path: None if path.name == how else sync(path)
    elif how == "record":
        change_connections("PRAGMA synchronous=NORMAL")
    elif how == "late":
        sync_vectors, committed = VectorAppender.sync, VectorAppender.committed

        def sync_then_commit(appender: VectorAppender) -> None:
            sync_vectors(appender)
            committed(appender)

        VectorAppender.sync = lambda _: None  # type: ignore[method-assign, assignment]
        VectorAppender.committed = sync_then_commit  # type: ignore[method-assign, assignment]
    elif how != "none":
        raise ValueError(how)


def main() -> None:
    """Run one part of the operations and leave the store open, as a crash would."""
    root, sabotage, seed, part = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4]
    sabotage_syncs(sabotage)
    change_connections("PRAGMA wal_autocheckpoint=16")  # pages: SQLite moves its log into the database often
    runner = Runner(root)
    groups = operations(seed)
    dying = next(i for i, group in enumerate(groups) if group[0].kind == "die")
    if part == "second":
        runner.settle(groups[dying][0])
    for group in groups[: dying + 1] if part == "first" else groups[dying + 1 :]:
        threads = [threading.Thread(target=runner.run, args=(operation,)) for operation in group]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    sys.stdout.write("finished\n")
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
