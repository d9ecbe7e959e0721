"""Contestants over HTTP: their servers end with who started them, their memory counts, their tables are theirs."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks.compression.results import Results
from benchmarks.peers import child, http_engine, report
from benchmarks.peers.contestants import CONTESTANTS
from benchmarks.peers.datasets import load, real
from benchmarks.peers.memory import peak, resident
from benchmarks.peers.server import Server, free_port
from benchmarks.peers.summary import Asked, Turn, gather

HELD = 64 << 20
# A server that answers 200 to everything, holds some memory, and does nothing by itself.
PLAIN = f"""
import http.server, sys
held = bytearray(b"x") * {HELD}
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def log_message(self, *_):
        pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
STARTER = f"""
import os, sys, time
from benchmarks.peers.server import Server, free_port
port = free_port()
server = Server([sys.executable, "-c", {PLAIN!r}, str(port)], os.environ, port, "/")
print(server.processes()[0], flush=True)
time.sleep(60)
"""


def plain(program=PLAIN):
    port = free_port()
    return Server([sys.executable, "-c", program, str(port)], os.environ, port, "/")


def alive(pid):
    """Zombies that nobody waits for are not alive."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_server_ends_with_the_process_that_started_it():
    starter = subprocess.Popen([sys.executable, "-c", STARTER], stdout=subprocess.PIPE, text=True)
    with starter:
        pid = int(starter.stdout.readline())
        assert alive(pid)
        starter.send_signal(signal.SIGKILL)
    end = time.monotonic() + 10
    while alive(pid) and time.monotonic() < end:
        time.sleep(0.05)
    assert not alive(pid)


def test_the_memory_of_a_server_is_its_own_and_it_ends_when_told():
    server = plain()
    try:
        (pid,) = server.processes()
        assert server.wait_quiet(0.5) >= 0.5
        own, both = resident([pid], []), resident([pid, os.getpid()], [])
        assert HELD < own.anonymous < both.anonymous
        assert peak([pid]) >= own.anonymous
    finally:
        server.end()
    assert not alive(pid)


def test_what_is_at_work_is_not_quiet():
    busy = PLAIN.replace("held =", "import threading, time\nend = time.time() + 2\nheld =").replace(
        "http.server.HTTPServer",
        "threading.Thread(target=lambda: [None for _ in iter(lambda: time.time() < end, False)]).start()\n"
        "http.server.HTTPServer",
    )
    began = time.monotonic()
    server = plain(busy)
    try:
        server.wait_quiet(0.5)
        assert time.monotonic() - began > 2
    finally:
        server.end()


def test_a_server_that_ends_at_once_is_an_error():
    with pytest.raises(RuntimeError, match="status 7"):
        plain("raise SystemExit(7)")


@pytest.mark.parametrize(
    ("name", "library", "sweep"),
    [("bitfold-http", "uvicorn", {"TARGETS": (0.9, 0.99)}), ("chroma-http", "chromadb", {"EF": (4, 256)})],
)
def test_a_server_is_built_and_asked(tmp_path, monkeypatch, name, library, sweep):
    pytest.importorskip(library)
    rng = np.random.default_rng(0)
    for file, n in (("points.npy", 900), ("queries.npy", 8)):
        vectors = rng.standard_normal((n, 64)).astype(np.float32)
        np.save(tmp_path / file, vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    dataset = real(tmp_path, tmp_path / "points.npy", tmp_path / "queries.npy", limit=None)
    module = importlib.import_module(f"benchmarks.peers.engines.{CONTESTANTS[name].module}")
    for constant, value in ({"QUIET_SECONDS": 1.0} | sweep).items():
        monkeypatch.setattr(module, constant, value, raising=False)
    monkeypatch.setattr(http_engine, "SETTLE_SECONDS", 0.1)
    monkeypatch.setattr(child, "SHARES", (1.0, 0.1))
    monkeypatch.setenv("BITFOLD_API_KEY", "not-for-this-server")

    data, results = load(tmp_path, dataset), Results(tmp_path / "results.jsonl", child.KEYS)
    task = child.Task("build", tmp_path, dataset, name, run=1, threads=1, passes=1, queries=0)
    engine = CONTESTANTS[name].load(1)
    pids = []
    processes = engine.processes
    monkeypatch.setattr(engine, "processes", lambda: pids.extend(found := processes()) or found)
    try:
        child.build(task, engine, data)
        child.search(task, engine, data, results)
        with pytest.raises(RuntimeError, match="404"):
            engine.call("GET", "/nothing/is/here")
    finally:
        engine.stop()
    engine.stop()  # nothing runs: nothing to do
    with pytest.raises(RuntimeError, match="no server runs"):
        processes()
    assert len(set(pids)) >= 3  # built, empty, asked: each a process of its own
    assert os.getpid() not in pids
    assert not any(map(alive, pids))

    (turns,) = gather(results).values()
    (turn,) = turns
    assert turn.over_http
    assert turn.highest(1.0).recall > 0.95
    assert turn.highest(0.1).recall > 0.95
    assert [len(turn.asked[share]) for share in (1.0, 0.1)] == [2, 2]
    assert turn.build["searchable"] <= turn.build["optimized"]
    assert turn.build["disk"] > 900 * 64 * 4  # the vectors are in its own files


def test_servers_have_tables_and_figures_of_their_own(tmp_path):
    pytest.importorskip("matplotlib")
    one = Asked("ef 1", 0.99, 100.0, 90.0, 110.0, 1.0, 2.0)
    build = {"points": 10, "searchable": 1.0, "optimized": 2.0, "disk": 10, "versions": {}, "machine": "m"}
    memory = {"anonymous": 10, "files": 0, "filters": True}
    turns = [Turn(name, build, memory, {1.0: [one], 0.5: [one]}) for name in ("bitfold-1", "chroma-http")]
    made = report.parts("set", turns)
    own = {name: content for name, content in made.items() if " http" in name}
    assert len(own) == len(made) - len(own) == 4
    assert all("chroma-http" not in content for name, content in made.items() if name not in own)
    assert all("bitfold-1" not in content for content in own.values())
    assert "chroma-http" in made["peers set http"]
    assert "peers set http" not in report.parts("set", turns[:1])
    report.figures("set", turns, tmp_path)
    assert "chroma-http" not in (tmp_path / "peers-set-curves.svg").read_text()
    assert "chroma-http" in (tmp_path / "peers-set-http-curves.svg").read_text()
