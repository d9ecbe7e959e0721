"""What the benchmarks share: synthetic vectors, a server to measure, tables with machine and spread."""

from __future__ import annotations

import base64
import http.client
import json
import os
import platform
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SPECTRUM = 0.75  # variance of component i falls as i ** -0.75, as measured on all-MiniLM-L6-v2 of SciFact and CoSQA
MEAN = 0.4  # length of the mean vector of such embeddings


class TextLike:
    """Unit vectors with the spectrum, the mean and the neighbourhoods of text embeddings. Not real text.

    A vector is mean + topic + own part; 50 vectors share a topic on average. Queries are such vectors too, drawn
    around the topics of the corpus.
    """

    def __init__(self, n: int, d: int, seed: int = 0) -> None:
        self._rng = np.random.default_rng(seed)
        self.dimension = d
        self._scale = (np.arange(1, d + 1) ** (-SPECTRUM / 2)).astype(np.float32)
        self._scale /= np.linalg.norm(self._scale)
        mean = self._rng.standard_normal(d).astype(np.float32)
        self._mean = MEAN * mean / np.linalg.norm(mean)
        self._topics = self._normal(max(1, n // 50)) * np.float32(0.7)

    def _normal(self, n: int) -> NDArray[np.float32]:
        return self._rng.standard_normal((n, self.dimension), dtype=np.float32) * self._scale

    def draw(self, n: int) -> NDArray[np.float32]:
        """Return (n, d) unit vectors."""
        topics = self._topics[self._rng.integers(0, len(self._topics), n)]
        vectors = self._mean + topics + np.float32(0.6) * self._normal(n)
        return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32)


def machine() -> str:
    """Describe the machine in one line."""
    model = "unknown CPU"
    flags = ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
        if line.startswith("flags"):
            flags = "AVX-512" if "avx512f" in line else "AVX2" if "avx2" in line else "no AVX2"
    memory = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal"))
    gib = int(memory.split()[1]) / 1024**2
    return f"{model}, {os.cpu_count()} cores, {flags}, {gib:.0f} GiB, Python {platform.python_version()}"


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def percentiles(milliseconds: Sequence[float]) -> tuple[float, float]:
    """Return p50 and p99."""
    return float(np.percentile(milliseconds, 50)), float(np.percentile(milliseconds, 99))


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Write repeated measurements as `median (least to greatest)`."""
    low, middle, high = (f"{float(f(values)):.{digits}f}" for f in (np.min, np.median, np.max))
    return f"{middle} ({low} to {high})"


def ndjson(first: int, vectors: NDArray[np.float32]) -> bytes:
    """Write vectors as bulk lines with base64 float32."""
    lines = [
        b'{"id":%d,"vector":"%s","payload":{"n":%d}}\n' % (first + i, base64.b64encode(v.tobytes()), (first + i) % 100)
        for i, v in enumerate(vectors)
    ]
    return b"".join(lines)


def bodies(queries: NDArray[np.float32]) -> list[bytes]:
    """Return ready-made search bodies."""
    return [
        json.dumps({"query": [round(float(x), 6) for x in query], "limit": 10, "params": {"exact": False}}).encode()
        for query in queries
    ]


def anonymous_bytes(pid: int) -> int:
    """Return the anonymous resident memory of a process and its children: what page cache cannot give back."""
    total = 0
    for number in [pid, *_children(pid)]:
        for line in Path(f"/proc/{number}/smaps_rollup").read_text().splitlines():
            if line.startswith("Anonymous:"):
                total += int(line.split()[1]) * 1024
    return total


def _children(pid: int) -> list[int]:
    """Return the processes that any thread of a process started."""
    return [int(child) for path in Path(f"/proc/{pid}/task").glob("*/children") for child in path.read_text().split()]


@dataclass(slots=True)
class Client:
    """One keep-alive connection that sends ready-made bodies."""

    connection: http.client.HTTPConnection

    def call(self, method: str, path: str, body: object = None, content_type: str = "application/json") -> dict:
        """Send JSON (or bytes as they are, or an iterator of bytes) and return the parsed answer."""
        data = body if body is None or isinstance(body, bytes) or hasattr(body, "__next__") else json.dumps(body)
        self.connection.request(method, path, data, {"Content-Type": content_type})
        response = self.connection.getresponse()
        answer = json.loads(response.read())
        if response.status != 200:
            raise RuntimeError(f"{method} {path}: {response.status} {answer}")
        return answer

    def timed(self, path: str, body: bytes) -> float:
        """Post a body and return the milliseconds until its answer was read."""
        start = time.perf_counter()
        self.connection.request("POST", path, body, {"Content-Type": "application/json"})
        response = self.connection.getresponse()
        response.read()
        if response.status != 200:
            raise RuntimeError(f"{path}: {response.status}")
        return (time.perf_counter() - start) * 1e3


@dataclass(frozen=True, slots=True)
class Server:
    """A real server in its own process."""

    pid: int
    port: int

    def client(self) -> Client:
        """Return a new connection."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        connection.connect()
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return Client(connection)

    def wait_indexed(self, name: str, *, segments: int = 3, timeout: float = 600) -> dict:
        """Wait until upkeep has merged all points but a tail into a few segments and laid these out."""
        end = time.monotonic() + timeout
        while True:
            info = self.client().call("GET", f"/collections/{name}")["result"]
            quiet = info["segments_count"] <= segments and info["index"]["building"] is None
            if quiet or time.monotonic() > end:
                return info
            time.sleep(0.5)


@contextmanager
def server(data_dir: Path, **settings: str) -> Iterator[Server]:
    """Start `bitfold serve` on a free port, wait until it is ready, stop it with SIGTERM."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        **os.environ,
        "BITFOLD_DATA_DIR": str(data_dir),
        "BITFOLD_PORT": str(port),
        "BITFOLD_LOG_LEVEL": "warning",
        **settings,
    }
    process = subprocess.Popen([sys.executable, "-m", "service.cli", "serve"], env=environment)
    try:
        running = Server(process.pid, port)
        _wait_ready(process, port)
        yield running
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=120)


def _wait_ready(process: subprocess.Popen[bytes], port: int) -> None:
    end = time.monotonic() + 120
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with {process.returncode}")
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/readyz")
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        time.sleep(0.1)
    raise RuntimeError("the server did not become ready")
