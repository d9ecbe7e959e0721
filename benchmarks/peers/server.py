"""A contestant's server: a process on a free loopback port that ends with the process that started it."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import httpx

PR_SET_PDEATHSIG = 1  # of prctl(2)
READY_SECONDS, END_SECONDS = 120.0, 60.0
POLL_SECONDS = 0.05
BUSY = 0.05  # of a core: a server that uses less does nothing


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Server:
    """A process that answers on a port; make it on the main thread, with whose end the system kills it.

    Parameters
    ----------
    command : program and arguments.
    environment : of the process.
    port : that the command listens on.
    ready : path that answers 200 once it serves.

    Raises
    ------
    RuntimeError : it ended before it served, or took too long.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], port: int, ready: str) -> None:
        libc, parent = ctypes.CDLL(None, use_errno=True), os.getpid()

        def end_with_parent() -> None:
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:  # it ended before this was asked for
                os._exit(1)

        self.port, self.url = port, f"http://127.0.0.1:{port}"
        self._process = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, preexec_fn=end_with_parent
        )
        try:
            self._wait(ready)
        except BaseException:
            self.end()
            raise

    def _wait(self, ready: str) -> None:
        end = time.monotonic() + READY_SECONDS
        while time.monotonic() < end:
            if self._process.poll() is not None:
                raise RuntimeError(f"the server ended with status {self._process.returncode}")
            try:
                if httpx.get(self.url + ready, trust_env=False).status_code == httpx.codes.OK:
                    return
            except httpx.TransportError:
                pass
            time.sleep(POLL_SECONDS)
        raise RuntimeError("the server did not become ready")

    def processes(self) -> list[int]:
        """Return the ids of the process and of those that its threads started."""
        pid = self._process.pid
        started = (path.read_text().split() for path in Path(f"/proc/{pid}/task").glob("*/children"))
        return [pid, *(int(child) for children in started for child in children)]

    def wait_quiet(self, seconds: float) -> float:
        """Wait until it has done next to nothing for so many seconds; return how long ago it last did something."""
        worked, spent = time.monotonic(), self._cpu_seconds()
        while True:
            time.sleep(seconds / 10)
            now, used = time.monotonic(), self._cpu_seconds()
            if used - spent > BUSY * seconds / 10:
                worked = now
            elif now - worked >= seconds:
                return now - worked
            spent = used

    def _cpu_seconds(self) -> float:
        ticks = 0
        for pid in self.processes():
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])  # utime, stime
        return ticks / os.sysconf("SC_CLK_TCK")

    def end(self) -> None:
        """Let it stop by itself, and kill it if it does not."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
