"""Starts the server, writes from several clients, kills it with SIGKILL, starts it again and checks it.

    python tests/kill_server.py --kills 200

The kills fall into loads, starts and stops. Half of them meet the server that users start, half one with
small numbers, which is always sealing, merging or compacting (`tests/small_server.py`). Ends with status 1
when an acknowledged write is lost, an unacknowledged one is partly there, a start fails, or a process is left
over.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import httpx
import numpy as np

ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

from tests.kill_writers import BULK_BATCH, Churner, Found, Writer  # noqa: E402
from tests.small_server import DIMENSION  # noqa: E402

Kind = Literal["usual", "small"]
PROGRAMS: dict[Kind, tuple[str, ...]] = {
    "usual": ("-c", "from service.cli import main; main()", "serve"),
    "small": ("-c", "from tests.small_server import main; main()"),
}
LISTENING = re.compile(r"running on http://127\.0\.0\.1:(\d+)")
START_SECONDS = 60.0
STOP_SECONDS = 45.0
REQUEST_SECONDS = 30.0
LEFT_OVER_SECONDS = 10.0
SEARCHES = 100


class StartFailed(Exception):
    """The server did not become ready; the message ends with its log."""


def group_members(group: int) -> list[int]:
    """Return the process ids in a process group, zombies aside; empty where there is no /proc."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, owner = path.read_text().rpartition(")")[2].split()[:3]
        except (OSError, ValueError):
            continue
        if int(owner) == group and state not in "ZX":
            found.append(int(path.parent.name))
    return found


class Server:
    """One server process at a time over one data directory; `settings` are further BITFOLD_* variables."""

    def __init__(self, kind: Kind, data_dir: Path, **settings: str) -> None:
        self.data_dir = data_dir
        self._settings = settings
        self.port = 0
        self.log = data_dir.with_name(f"{data_dir.name}.log")
        self._program = PROGRAMS[kind]
        self._process: subprocess.Popen[bytes] | None = None

    def spawn(self) -> None:
        """Start the process without waiting for it, as the leader of a process group of its own."""
        self.port = 0
        clean = {name: value for name, value in os.environ.items() if not name.startswith("BITFOLD_")}
        settings = {
            "BITFOLD_DATA_DIR": str(self.data_dir),
            "BITFOLD_PORT": "0",  # the server takes a free one and logs it
            "BITFOLD_ENCODER": "none",
            "BITFOLD_BULK_BATCH": str(BULK_BATCH),
            "BITFOLD_MAX_CONCURRENT_BULK": "8",
        }
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, *self._program],
                cwd=ROOT,
                env=clean | settings | self._settings,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def start(self) -> None:
        """Start the process and wait until it is ready; raises StartFailed."""
        self.spawn()
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise StartFailed(f"the server ended: {self.state()}")
            if self._is_ready():
                return
            time.sleep(0.05)
        self.kill()
        raise StartFailed(f"the server was not ready after {START_SECONDS:.0f} s: {self.state()}")

    def _is_ready(self) -> bool:
        said = LISTENING.search(self.log.read_text(errors="replace"))
        if said is None:
            return False
        self.port = int(said[1])
        with self.client(timeout=2.0) as client:
            try:
                return client.get("/readyz").status_code == 200
            except httpx.TransportError:
                return False

    @property
    def process(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("the server was never started")
        return self._process

    def client(self, *, timeout: float = REQUEST_SECONDS) -> httpx.Client:
        """Return a client that talks to this server and to nothing else."""
        return httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=timeout, trust_env=False)

    def state(self) -> str:
        """Return whether the process runs, and the end of its log."""
        return f"exit status {self.process.poll()}, log: {self.log.read_text(errors='replace')[-2000:]}"

    def ask_to_stop(self) -> None:
        """Send SIGTERM."""
        self.process.send_signal(signal.SIGTERM)

    def kill(self) -> list[int]:
        """Kill the server alone, and return which of its processes are still there some seconds later."""
        self.process.kill()
        self.process.wait(STOP_SECONDS)
        deadline = time.monotonic() + LEFT_OVER_SECONDS
        while (left := group_members(self.process.pid)) and time.monotonic() < deadline:
            time.sleep(0.05)
        return left

    def stop(self) -> int:
        """Stop the server as a service manager does; return its exit status."""
        self.ask_to_stop()
        return self.process.wait(STOP_SECONDS)

    def clean_up(self) -> None:
        """End whatever is left of the process group."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait(STOP_SECONDS)
        for left in group_members(self._process.pid):
            os.kill(left, signal.SIGKILL)


@dataclass
class Tally:
    """What a run did and found."""

    kills: int = 0
    operations: int = 0
    points: int = 0
    longest_start: float = 0.0
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.kills} kills, {self.operations} acknowledged operations, {self.points} points at the "
            f"end, longest start {self.longest_start:.1f} s, {len(self.problems)} problems"
        )


class Run:
    """Kills one server over and over.

    Parameters
    ----------
    load_seconds : longest load before a kill.
    """

    def __init__(self, kind: Kind, folder: Path, *, seed: int, writers: int = 4, load_seconds: float = 1.5) -> None:
        self.tally = Tally()
        self._kind = kind
        self._rng = np.random.default_rng(seed)
        self._server = Server(kind, folder / f"{kind}-data")
        self._load_seconds = load_seconds
        collections = ["a", "b", "texts"] if kind == "small" else ["a", "b"]
        self._writers = [
            Writer(f"w{n}", n, collections[n % len(collections)], texts=n % len(collections) == 2, seed=seed)
            for n in range(writers)
        ]
        self._collections = collections
        self._churner = Churner("churned")

    def run(self, kills: int) -> Tally:
        """Kill so many times; stops at the first kill that shows a problem."""
        try:
            self._start()
            self._create()
            while self.tally.kills < kills and not self.tally.problems:
                self._one_kill(kills)
            if not self.tally.problems:
                self._finish()
        except (StartFailed, httpx.HTTPError, subprocess.TimeoutExpired) as error:
            self.tally.problems.append(f"{type(error).__name__}: {error}; {self._server.state()}")
        finally:
            self._server.clean_up()
        return self.tally

    def _start(self) -> None:
        began = time.monotonic()
        self._server.start()
        self.tally.longest_start = max(self.tally.longest_start, time.monotonic() - began)

    def _create(self) -> None:
        with self._server.client() as client:
            for name in self._collections:
                body: dict[str, Any] = {"vectors": {"size": DIMENSION, "distance": "Cosine"}}
                if name == "texts":
                    body = {"encoder": "default"}
                client.put(f"/collections/{name}", json=body).raise_for_status()

    def _one_kill(self, kills: int) -> None:
        moment = str(self._rng.choice(["load", "load", "load", "stop"]))
        self._load_and_kill(moment)
        while self.tally.kills < kills and self._rng.random() < 0.2:
            self._server.spawn()
            time.sleep(float(self._rng.uniform(0.0, max(0.5, self.tally.longest_start))))
            self._kill()
        if self._rng.random() < 0.3:
            self._verify_in_place()
        self._start()
        self._check()

    def _kill(self) -> None:
        left = self._server.kill()
        self.tally.kills += 1
        if left:
            self.tally.problems.append(f"processes {left} outlive the server")

    def _load_and_kill(self, moment: str) -> None:
        stop, draining = threading.Event(), threading.Event()
        threads = [
            threading.Thread(target=self._write, args=(writer, stop, draining), daemon=True)
            for writer in (*self._writers, self._churner)
        ]
        for thread in threads:
            thread.start()
        time.sleep(float(self._rng.uniform(0.05, self._load_seconds)))
        if moment == "stop":
            draining.set()
            self._server.ask_to_stop()
            time.sleep(float(self._rng.uniform(0.0, 0.5)))
        self._kill()
        stop.set()
        for thread in threads:
            thread.join(REQUEST_SECONDS + 5)
            if thread.is_alive():
                self.tally.problems.append("a client hangs although the server is gone")

    def _write(self, writer: Writer | Churner, stop: threading.Event, draining: threading.Event) -> None:
        with self._server.client() as client:
            writer.write(client, stop, draining=draining)

    def _verify_in_place(self) -> None:
        from index.verify import verify

        problems = verify(self._server.data_dir).problems
        self.tally.problems += [f"after a kill: {problem.path}: {problem.message}" for problem in problems]

    def _check(self) -> None:
        with self._server.client() as client:
            damaged = client.get("/readyz").json()["result"]["collections_damaged"]
            if damaged:
                self.tally.problems.append(f"collections are refused: {damaged}")
                return
            for name in self._collections:
                found = read_all(client, name)
                for writer in self._writers:
                    if writer.collection == name:
                        writer.settle(found)
                self._check_count(client, name, len(found))
                self._check_searches(client, name, set(found))
            self._churner.settle(client)
        everyone: list[Writer | Churner] = [*self._writers, self._churner]
        self.tally.problems += [problem for writer in everyone for problem in writer.problems]
        self.tally.operations = sum(writer.operations for writer in everyone)
        self.tally.points = sum(len(writer.kept) for writer in self._writers)

    def _check_count(self, client: httpx.Client, name: str, expected: int) -> None:
        count = client.post(f"/collections/{name}/points/count", json={}).json()["result"]["count"]
        if count != expected:
            self.tally.problems.append(f"{name}: count says {count}, scrolling finds {expected}")

    def _check_searches(self, client: httpx.Client, name: str, there: set[int | str]) -> None:
        """Search for points by their own vectors, with and without codes: each must be its own best match."""
        wanted = [
            pair for writer in self._writers if writer.collection == name for pair in writer.to_search(4 * SEARCHES)
        ]
        for exact in (True, False):
            for at in range(0, len(wanted), SEARCHES):
                part = wanted[at : at + SEARCHES]
                searches = [
                    {"query": sent.vector().tolist(), "limit": 3, "params": {"exact": exact}} for _, sent in part
                ]
                response = client.post(f"/collections/{name}/points/query/batch", json={"searches": searches})
                response.raise_for_status()
                for (point_id, _), answer in zip(part, response.json()["result"], strict=True):
                    ids = [hit["id"] for hit in answer["points"]]
                    good = ids and ids[0] == point_id and abs(answer["points"][0]["score"] - 1) < 1e-4
                    if not good or not there.issuperset(ids) or len(ids) != min(3, len(there)):
                        self.tally.problems.append(f"{name}: search (exact={exact}) for {point_id!r} gave {ids}")

    def _finish(self) -> None:
        """Stop in the proper way and let the command line check the directory."""
        status = self._server.stop()
        if status != 0:
            self.tally.problems.append(f"SIGTERM ended the server with {status}: {self._server.state()}")
        command = [sys.executable, "-c", "from service.cli import main; main()", "verify"]
        done = subprocess.run(
            [*command, str(self._server.data_dir)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        if done.returncode != 0:
            self.tally.problems.append(f"bitfold verify: {done.stdout[-1500:]}{done.stderr[-500:]}")


def read_all(client: httpx.Client, name: str) -> Found:
    """Read a whole collection page by page."""
    found: Found = {}
    offset: int | str | None = None
    while True:
        body: dict[str, Any] = {"limit": 500, "with_vector": True, "with_text": True}
        if offset is not None:
            body["offset"] = offset
        response = client.post(f"/collections/{name}/points/scroll", json=body)
        response.raise_for_status()
        result = response.json()["result"]
        found |= {point["id"]: point for point in result["points"]}
        offset = result["next_page_offset"]
        if offset is None:
            return found


def main() -> int:
    """Read the arguments, kill, report; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kills", type=int, default=200, help="how many in all")
    parser.add_argument("--seed", type=int, default=1, help="what the random choices start from")
    parser.add_argument("--writers", type=int, default=4, help="clients that write at once")
    parser.add_argument("--load-seconds", type=float, default=1.5, help="longest load before a kill")
    parser.add_argument("--round", type=int, default=10, help="kills of one data directory")
    arguments = parser.parse_args()
    failed, done, began = 0, 0, time.monotonic()
    while done < arguments.kills and not failed:
        number = -(-done // arguments.round)
        kind: Kind = "small" if number % 2 == 0 else "usual"
        with tempfile.TemporaryDirectory() as folder:
            run = Run(
                kind,
                Path(folder),
                seed=arguments.seed + number,
                writers=arguments.writers,
                load_seconds=arguments.load_seconds,
            )
            tally = run.run(min(arguments.round, arguments.kills - done))
        done += tally.kills
        failed += len(tally.problems)
        sys.stdout.write(f"{done:4d}/{arguments.kills} {kind:5s} {time.monotonic() - began:6.0f} s: {tally}\n")
        for problem in tally.problems[:20]:
            sys.stdout.write(f"     {problem}\n")
        sys.stdout.flush()
    sys.stdout.write(f"{done} kills, {failed} problems\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
