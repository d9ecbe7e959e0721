"""No acknowledged write is lost to a power cut: a run is recorded, and disks that a cut may leave are opened.

SIGKILL cannot show this, because the kernel still writes what a killed process has not synced.
"""

from __future__ import annotations

import functools
import itertools
import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import index.record
from index.collection import Collection
from index.points import SearchParams
from index.store import Store
from index.verify import verify
from tests.durability_replay import SURVIVALS, Disk, Event, Image, build_recorder, read_events
from tests.durability_workload import (
    ACKNOWLEDGED,
    DIMENSION,
    OPTIONS,
    Kept,
    Model,
    Operation,
    Plan,
    Points,
    SignFactory,
    batch_of,
    operations,
)

ROOT = Path(__file__).resolve().parent.parent
SEED = 20_261
CRASHES = 60

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="LD_PRELOAD needs Linux")


@dataclass(frozen=True)
class Recording:
    """A recorded run: the events, where the store lay, and how it ended up on the real disk."""

    root: Path
    events: list[Event]


@pytest.fixture(scope="module")
def recorder(tmp_path_factory) -> Path:
    if shutil.which("cc") is None and shutil.which("gcc") is None and shutil.which("clang") is None:
        pytest.skip("no C compiler: the recorder of file operations cannot be built")
    return build_recorder(tmp_path_factory.mktemp("recorder"))


def record(recorder: Path, folder: Path, sabotage: str) -> Recording:
    """Run the workload in fresh processes under the recorder."""
    root, log = (folder / "world").resolve(), folder / "recording"
    root.mkdir()
    environment = {
        **os.environ,
        "RECORD_ROOT": str(root),
        "RECORD_LOG": str(log),
        "LD_PRELOAD": str(recorder),
    }
    for part in ("first", "second"):
        command = [sys.executable, "-m", "tests.durability_workload", str(root), sabotage, str(SEED), part]
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=120
        )
        if "cannot be preloaded" in done.stderr:
            pytest.skip(f"the loader refuses the recorder: {done.stderr.strip()[:200]}")
        assert done.returncode == 0, done.stderr
        assert ("finished" in done.stdout) == (part == "second"), "the first process ends in its last operation"
    return Recording(root, read_events(log))


@dataclass
class Progress:
    """Follows acknowledgements: what must be there, and what may be."""

    model: Model
    under_way: dict[int, Operation]
    by_number: dict[int, Operation]

    @classmethod
    def at_start(cls) -> Progress:
        flat = itertools.chain.from_iterable(operations(SEED))
        return cls({}, {}, {operation.number: operation for operation in flat})

    def take(self, line: bytes) -> None:
        [(word, number)] = json.loads(line).items()
        operation = self.by_number[number]
        if word == "begin":
            self.under_way[number] = operation
        else:
            del self.under_way[number]
            if word == "done":
                self.model = operation.on_model(self.model)

    def allowed(self) -> list[Model]:
        """Every state in which each operation under way is wholly there or wholly absent."""
        waiting = list(self.under_way.values())
        found = []
        for count in range(len(waiting) + 1):
            for chosen in itertools.combinations(waiting, count):
                found.append(functools.reduce(lambda model, operation: operation.on_model(model), chosen, self.model))
        return found


@dataclass(frozen=True)
class Crash:
    """A moment at which the power goes: after the event of this number."""

    number: int
    disk: Disk
    progress: Progress


def crashes(recording: Recording, moments: set[int]) -> Iterator[Crash]:
    """Yield the disk and the promises at each of the moments; the disk goes on changing afterwards."""
    disk, progress = Disk(recording.root), Progress.at_start()
    said = str(recording.root / ACKNOWLEDGED)
    marker = None
    for number, event in enumerate(recording.events):
        if event.op == "O" and event.path == said:
            marker = event.fd
        elif event.op == "W" and event.fd == marker:
            progress.take(event.data)
        else:
            disk.apply(event)
        if number in moments:
            yield Crash(number, disk, progress)


def choose_moments(events: list[Event], count: int, rng: np.random.Generator) -> set[int]:
    """Pick moments: a third just before a sync, a third just after an acknowledgement, the rest anywhere."""
    syncs = [i - 1 for i, event in enumerate(events) if event.op == "S" and i]
    acknowledged = [i for i, event in enumerate(events) if event.data.startswith(b'{"done"')]
    chosen: set[int] = {len(events) - 1}
    for pool in (syncs, acknowledged, range(len(events))):
        chosen |= {int(i) for i in rng.choice(pool, size=min(count // 3, len(pool)), replace=False)}
    return chosen


def as_kept(collection: Collection) -> Points:
    """Read a collection back; the vectors as they are stored."""
    found, after = {}, None
    while True:
        points, after = collection.scroll(after=after, limit=50, with_vector=True, with_text=True)
        for point in points:
            assert point.vector is not None
            found[point.id] = Kept(tuple(point.vector.tolist()), json.loads(point.payload), point.text)
        if after is None:
            return found


def same(expected: Points, found: Points, cosine: bool) -> bool:
    """Compare what was sent with what came back."""
    ids = list(expected)
    if expected.keys() != found.keys():
        return False
    if any((expected[i].payload, expected[i].text) != (found[i].payload, found[i].text) for i in ids):
        return False
    sent = np.array([expected[i].vector for i in ids], dtype=np.float64).reshape(-1, DIMENSION)
    there = np.array([found[i].vector for i in ids], dtype=np.float64).reshape(-1, DIMENSION)
    if cosine:
        return np.allclose(sent / np.linalg.norm(sent, axis=1, keepdims=True), there, rtol=0, atol=1e-6)
    return np.array_equal(sent, there)


def search_problems(collection: Collection, points: Points) -> list[str]:
    """Search in both ways; every point must come up, scored by its own vector."""
    query = np.linspace(-1, 1, DIMENSION, dtype=np.float32)[None]
    if collection.config.distance == "Cosine":
        query /= np.linalg.norm(query)
    problems = []
    for exact in (True, False):
        [result] = collection.search(query, max(1, len(points)), params=SearchParams(exact=exact))
        scores = {hit.id: hit.score for hit in result.hits}
        if scores.keys() != points.keys():
            problems.append(f"{collection.name}: search exact={exact} found {len(scores)} of {len(points)}")
            continue
        for point_id, kept in points.items():
            if abs(float(query[0] @ np.array(kept.vector, dtype=np.float32)) - scores[point_id]) > 1e-4:
                problems.append(f"{collection.name}: point {point_id!r} has a wrong score, exact={exact}")
    return problems


def write_more(collection: Collection, problems: list[str]) -> None:
    """Writing goes on over the remains of unacknowledged rows, which must not shine through."""
    more = Plan(collection.view.tail.end_row).points([f"more-{n}" for n in range(30)])
    before = as_kept(collection)
    collection.upsert(batch_of(more))
    cosine = collection.config.distance == "Cosine"
    found = as_kept(collection)
    if any(found.get(point_id) != kept for point_id, kept in before.items()):
        problems.append(f"{collection.name}: writing after the crash changed what was there")
    if not same(more, {point_id: found[point_id] for point_id in more}, cosine):
        problems.append(f"{collection.name}: what was written after the crash came back changed")


def disk_problems(image: Image, folder: Path, allowed: list[Model]) -> list[str]:
    """Open one disk and say what is wrong with it."""
    image.write(folder)
    data = folder / "data"
    # Before the next start has tidied up, only codes may be damaged: they are never synced, and made again.
    early = verify_problems(data) if (data / "collections").is_dir() else []
    problems = [problem for problem in early if ".codes: " not in problem]
    store = Store(data, SignFactory(), OPTIONS)
    problems += [f"{name} is refused: {why}" for name, why in store.damaged.items()]
    found: Model = {}
    for name in store.names():
        collection = store.get(name)
        found[name] = as_kept(collection)
        problems += search_problems(collection, found[name])
    cosine = {name: store.get(name).config.distance == "Cosine" for name in store.names()}
    if not any(
        model.keys() == found.keys() and all(same(model[n], found[n], cosine[n]) for n in model) for model in allowed
    ):
        problems.append(f"the store holds {sizes(found)}, allowed were {[sizes(model) for model in allowed]}")
    for name in store.names():
        write_more(store.get(name), problems)
    store.close()
    if problems:
        return problems
    again = Store(data, SignFactory(), OPTIONS)
    for name in found:
        if len(as_kept(again.get(name))) != len(found[name]) + 30:
            problems.append(f"{name}: what was written after the crash is gone after a restart")
    again.close()
    return problems + verify_problems(data)


def verify_problems(data: Path) -> list[str]:
    return [f"verify: {problem.path}: {problem.message}" for problem in verify(data, SignFactory()).problems]


def sizes(model: Model) -> dict[str, int]:
    return {name: len(points) for name, points in model.items()}


def replay(recording: Recording, folder: Path, *, count: int, first_only: bool = False) -> tuple[int, list[str]]:
    """Check sampled crashes; return how many different disks were opened, and what was wrong."""
    rng = np.random.default_rng(SEED)
    opened, problems = 0, []
    for crash in crashes(recording, choose_moments(recording.events, count, rng)):
        allowed = crash.progress.allowed()
        seen = []
        for survival in SURVIVALS:
            image = Image(crash.disk, survival, rng)
            if image.entries in seen:
                continue
            seen.append(image.entries)
            opened += 1
            place = folder / f"{crash.number}-{len(seen)}"
            for problem in disk_problems(image, place, allowed):
                problems.append(f"after event {crash.number}, {survival.label}: {problem}")
            shutil.rmtree(place)
            if problems and first_only:
                return opened, problems
    return opened, problems


@pytest.fixture(autouse=True)
def _quick(caplog, monkeypatch) -> None:
    """The disks opened here need not outlive a power cut; warnings about lost codes are expected."""
    caplog.set_level(logging.CRITICAL, logger="index")
    connect = index.record.connect

    def unsynced(path: Path):
        connection = connect(path)
        connection.execute("PRAGMA synchronous=OFF")
        return connection

    monkeypatch.setattr("index.record.connect", unsynced)
    monkeypatch.setattr("index.durable.sync_file", lambda _: None)
    monkeypatch.setattr("index.durable.sync_directory", lambda _: None)


@pytest.fixture(scope="module")
def recording(recorder, tmp_path_factory) -> Recording:
    return record(recorder, tmp_path_factory.mktemp("run"), "none")


def test_the_recording_misses_nothing(recording) -> None:
    """Replayed to the end with everything kept, the recording is the real folder, byte for byte."""
    *_, last = crashes(recording, {len(recording.events) - 1})
    everything = next(survival for survival in SURVIVALS if survival.label == "everything")
    image = Image(last.disk, everything, np.random.default_rng(0))
    real = {
        path.relative_to(recording.root).as_posix(): None if path.is_dir() else path.read_bytes()
        for path in recording.root.rglob("*")
        if path.name != ACKNOWLEDGED and not path.name.endswith("-shm")
    }
    assert image.entries == real
    assert not last.progress.under_way
    assert len(last.progress.by_number) >= 30


def test_a_power_cut_loses_nothing_that_was_acknowledged(recording, tmp_path) -> None:
    opened, problems = replay(recording, tmp_path, count=CRASHES)
    assert problems == []
    assert opened >= 100


@pytest.mark.parametrize("sabotage", ["files", "vectors", "collections", "record", "late"])
def test_a_missing_sync_is_noticed(sabotage, recorder, tmp_path) -> None:
    (tmp_path / "run").mkdir()
    broken = record(recorder, tmp_path / "run", sabotage)
    _, problems = replay(broken, tmp_path, count=CRASHES, first_only=True)
    assert problems
