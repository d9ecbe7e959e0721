"""Calls of the HTTP API and the command line that several test files make, and checks of the answers."""

from __future__ import annotations

import time

import orjson
import pytest

from service.cli import main
from tests.conftest import WORDS

DIMENSION = len(WORDS)


def axis(i, value=1.0):
    vector = [0.0] * DIMENSION
    vector[i] = value
    return vector


def ok(response, status=200):
    assert response.status_code == status, response.text
    body = response.json()
    assert body["status"] == "ok"
    assert body["time"] >= 0
    return body["result"]


def refused(response, status, type_, param=None):
    body = response.json()
    assert (response.status_code, body["type"]) == (status, type_), body
    assert set(body) >= {"status", "time", "type", "param", "hint"}
    assert body["status"]["error"]
    if param is not None:
        assert body["param"] == param
    return body


def vectors(http, name, distance="Dot", size=DIMENSION):
    ok(http.put(f"/collections/{name}", json={"vectors": {"size": size, "distance": distance}}))
    return f"/collections/{name}"


def texts(http, name):
    ok(http.put(f"/collections/{name}", json={"encoder": "default"}))
    return f"/collections/{name}"


def put(http, path, *points):
    return ok(http.put(f"{path}/points", json={"points": list(points)}))


def load(http, path, rows, first=0):
    """Load an array of vectors in bulk; ids count from `first`."""
    lines = b"".join(orjson.dumps({"id": first + i, "vector": row}) + b"\n" for i, row in enumerate(rows.tolist()))
    result = ok(http.post(f"{path}/points/bulk", content=lines))
    assert result["accepted"] == len(rows), result


def ended(http, job, seconds=300):
    """Wait for a job and return it as it ended."""
    end = time.monotonic() + seconds
    while job["state"] in ("queued", "running"):
        assert time.monotonic() < end, job
        time.sleep(0.05)  # what trains gives way to everything else
        job = ok(http.get(f"/jobs/{job['id']}"))
    return job


def command(capsys, *arguments):
    """Run a command of the command line in this process; return exit status, stdout and stderr."""
    with pytest.raises(SystemExit) as done:
        main([str(argument) for argument in arguments])
    return (done.value.code or 0, *capsys.readouterr())
