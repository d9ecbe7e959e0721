"""Calls of the HTTP API that several test files make, and checks of its answers."""

from __future__ import annotations

from tests.conftest import WORDS

DIMENSION = len(WORDS)


def axis(i, value=1.0):
    vector = [0.0] * DIMENSION
    vector[i] = value
    return vector


def ok(response):
    assert response.status_code == 200, response.text
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
