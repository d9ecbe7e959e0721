"""A power cut at any instant while vectors are dropped or codes that are truth merge: every point is there.

What `tests/test_durability_replay.py` shows for collections that keep their vectors, with the same recorder.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import orjson
import pytest

import index.record
from index import dropping
from index.maintenance import optimize
from index.verify import verify
from tests.codes_only import check_everything
from tests.durability_codes_only import ACKNOWLEDGED, model_after, open_store, script
from tests.durability_replay import SURVIVALS, Disk, Image, build_recorder, read_events
from tests.index_fakes import RotationFactory

ROOT = Path(__file__).resolve().parent.parent
CRASHES = 16

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="LD_PRELOAD needs Linux")


@pytest.fixture(scope="module")
def recorder(tmp_path_factory):
    if shutil.which("cc") is None and shutil.which("gcc") is None and shutil.which("clang") is None:
        pytest.skip("no C compiler: the recorder of file operations cannot be built")
    return build_recorder(tmp_path_factory.mktemp("recorder"))


@pytest.fixture(autouse=True)
def _quick(caplog, monkeypatch):
    """The disks opened here need not outlive a power cut."""
    caplog.set_level(logging.CRITICAL, logger="index")
    connect = index.record.connect

    def unsynced(path):
        connection = connect(path)
        connection.execute("PRAGMA synchronous=OFF")
        return connection

    monkeypatch.setattr("index.record.connect", unsynced)
    monkeypatch.setattr("index.durable.sync_file", lambda _: None)
    monkeypatch.setattr("index.durable.sync_directory", lambda _: None)
    monkeypatch.setattr(dropping, "QUERIES", 4)


def record(recorder, folder, sabotage):
    """Run the workload under the recorder; return where it lay and the events."""
    root, log = (folder / "world").resolve(), folder / "recording"
    root.mkdir()
    environment = {**os.environ, "RECORD_ROOT": str(root), "RECORD_LOG": str(log), "LD_PRELOAD": str(recorder)}
    command = [sys.executable, "-m", "tests.durability_codes_only", str(root), sabotage]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=120)
    if "cannot be preloaded" in done.stderr:
        pytest.skip(f"the loader refuses the recorder: {done.stderr.strip()[:200]}")
    assert done.returncode == 0, done.stderr
    return root, read_events(log)


def choose_from(events):
    """Return the numbers of the events that rename or remove the collection's files, and of those before a sync."""
    names = [i for i, event in enumerate(events) if event.op in "RU" and "/c/" in event.path]
    syncs = [i - 1 for i, event in enumerate(events) if event.op == "S" and i]
    return names, syncs


def problems_of(image, place, allowed):
    image.write(place)
    problems = []
    store = open_store(place / "data")
    problems += [f"{name} is refused: {why}" for name, why in store.damaged.items()]
    if not problems:
        found = None
        if store.names():
            points, _ = store.get("c").scroll(limit=1000)
            found = {point.id: orjson.loads(point.payload)["at"] for point in points}
        fitting = [m for m in allowed if found == (None if m is None else {i: at for i, (_, at) in m.items()})]
        if not fitting:
            problems.append(f"{len(found or [])} points that no promise allows")
        elif fitting[0] is not None:
            vectors = {i: vector for i, (vector, _) in fitting[0].items()}
            try:
                check_everything(store.get("c"), vectors)
                optimize(store.get("c"))
                check_everything(store.get("c"), vectors)
            except AssertionError as error:
                problems.append(f"scores: {str(error)[:200]}")
    store.close()
    if not problems:
        problems += [f"verify: {p.path}: {p.message}" for p in verify(place / "data", RotationFactory()).problems]
    return problems


def replay(root, events, folder, *, first_only=False):
    """Open what a power cut may leave at sampled moments; return how many disks there were, and what was wrong."""
    rng = np.random.default_rng(7)
    names, syncs = choose_from(events)
    moments = {len(events) - 1}
    for pool in (names, syncs, range(len(events))):
        moments |= {int(i) for i in rng.choice(pool, min(CRASHES, len(pool)), replace=False)}
    disk, done, begun, marker = Disk(root), None, None, None
    opened, problems = 0, []
    for number, event in enumerate(events):
        if event.op == "O" and event.path == str(root / ACKNOWLEDGED):
            marker = event.fd
        elif event.op == "W" and event.fd == marker:
            [(word, of)] = json.loads(event.data).items()
            begun = model_after(done, of) if word == "begin" else begun
            done = begun if word == "done" else done
        else:
            disk.apply(event)
        if number not in moments:
            continue
        seen = []
        for survival in SURVIVALS:
            image = Image(disk, survival, rng)
            if image.entries in seen or not any(path.startswith("data/") for path in image.entries):
                continue
            seen.append(image.entries)
            opened += 1
            place = folder / f"{number}-{len(seen)}"
            found = problems_of(image, place, [done, begun])
            problems += [f"after event {number}, {survival.label}: {problem}" for problem in found]
            shutil.rmtree(place)
            if problems and first_only:
                return opened, problems
    return opened, problems


def test_a_power_cut_loses_no_point(recorder, tmp_path):
    root, events = record(recorder, tmp_path, "none")
    opened, problems = replay(root, events, tmp_path)
    assert problems == []
    assert opened >= 100
    assert len(script()) > 10


@pytest.mark.parametrize("sabotage", ["contents", "names", "early"])
def test_a_missing_sync_is_noticed(sabotage, recorder, tmp_path):
    root, events = record(recorder, tmp_path, sabotage)
    _, problems = replay(root, events, tmp_path, first_only=True)
    assert problems
