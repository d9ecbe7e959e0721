"""Clients that write to a server until it dies, and know afterwards what it must hold.

Every writer owns its ids, so that what it was told is all there is to know about them. One operation of each
may be under way when the server dies: it must be wholly there or wholly absent; a bulk load may end between
two batches.
"""

from __future__ import annotations

import base64
import json
import threading
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

from tests.small_server import DIMENSION, direction

Id = int | str
BULK_BATCH = 32


@dataclass(frozen=True)
class Sent:
    """A point as it was sent: a vector or a text."""

    content: tuple[float, ...] | str
    payload: dict[str, Any]

    def vector(self) -> NDArray[np.float64]:
        """Return the unit vector that must come back."""
        values = direction(self.content) if isinstance(self.content, str) else np.array(self.content)
        return values / np.linalg.norm(values.astype(np.float64))

    def problem(self, found: dict[str, Any]) -> str | None:
        """Say what is different in the point that the server has."""
        if found["payload"] != self.payload:
            return f"payload {found['payload']} instead of {self.payload}"
        if found.get("text") != (self.content if isinstance(self.content, str) else None):
            return "another text"
        if not np.allclose(found["vector"], self.vector(), rtol=0, atol=1e-6):
            return "another vector"
        return None


Step = dict[Id, Sent | None]  # what one durable change sets; None deletes
Found = dict[Id, dict[str, Any]]


def fits(step: Step, found: Found) -> bool:
    """Say whether the server holds exactly what a step says of its ids."""
    return all(
        (found.get(i) is None) if sent is None else (i in found and sent.problem(found[i]) is None)
        for i, sent in step.items()
    )


class Writer:
    """One client of one collection."""

    def __init__(self, name: str, number: int, collection: str, *, texts: bool, seed: int) -> None:
        self.collection = collection
        self.kept: dict[Id, Sent] = {}
        self.touched: set[Id] = set()  # written or deleted since the last check
        self.operations = 0
        self.problems: list[str] = []
        self._name, self._number, self._texts = name, number, texts
        self._rng = np.random.default_rng([seed, number])
        self._flight: list[Step] = []
        self._made = 0

    # Writing

    def write(self, client: httpx.Client, stop: threading.Event, *, draining: threading.Event) -> None:
        """Send operations until the server is gone or `stop` is set."""
        kinds = [
            self._put,
            self._put,
            self._put_one,
            self._bulk,
            self._bulk,
            self._delete,
            self._delete_where,
        ]
        kinds += [self._set_payload, self._overwrite_payload]
        while not stop.is_set():
            kind = kinds[int(self._rng.integers(len(kinds)))]
            try:
                response = kind(client)
            except httpx.TransportError:
                return
            if response is None:
                continue
            if response.status_code != 200:
                # A server that was asked to stop may refuse; what became of the operation is looked at later.
                if not draining.is_set() or response.status_code != 503:
                    self.problems.append(f"{self._name}: {response.status_code} {response.text[:300]}")
                return
            self._acknowledged()

    def _acknowledged(self) -> None:
        for step in self._flight:
            self._apply(step)
        self._flight = []
        self.operations += 1

    def _apply(self, step: Step) -> None:
        for i, sent in step.items():
            self.touched.add(i)
            if sent is None:
                self.kept.pop(i, None)
            else:
                self.kept[i] = sent

    def _url(self, rest: str = "") -> str:
        return f"/collections/{self.collection}/points{rest}"

    def _new_id(self) -> Id:
        self._made += 1
        number = self._number * 1_000_000 + self._made
        if self._made % 3 == 0:
            return f"{self._name}/{number}"
        if self._made % 3 == 1:
            return number
        return str(uuid.UUID(int=number))

    def _sent(self) -> Sent:
        payload = {"writer": self._name, "n": int(self._rng.integers(1000)), "tags": ["ä", None, {"x": 1.5}]}
        if self._texts:
            return Sent(f"{self._name} {self._rng.integers(2**62)} söme words", payload)
        return Sent(tuple(self._rng.normal(size=DIMENSION).astype(np.float32).tolist()), payload)

    def _some(self, most: int) -> list[Id]:
        known = list(self.kept)
        count = min(len(known), int(self._rng.integers(1, most + 1)))
        return [known[i] for i in self._rng.choice(len(known), size=count, replace=False)] if count else []

    def _points(self, new: int, old: int) -> dict[Id, Sent]:
        ids = [self._new_id() for _ in range(new)] + (self._some(old) if old else [])
        return {i: self._sent() for i in ids}

    def _put(self, client: httpx.Client) -> httpx.Response:
        points = self._points(int(self._rng.integers(1, 25)), int(self._rng.integers(0, 12)))
        self._flight = [dict(points)]
        if self._texts or self._rng.random() < 0.5:
            return client.put(self._url(), json={"points": [self._row(i, sent) for i, sent in points.items()]})
        batch = {
            "ids": list(points),
            "vectors": [sent.content for sent in points.values()],
            "payloads": [sent.payload for sent in points.values()],
        }
        return client.put(self._url("?wait=true"), json={"batch": batch})

    def _put_one(self, client: httpx.Client) -> httpx.Response:
        points = self._points(1, 0)
        self._flight = [dict(points)]
        return client.put(self._url(), json={"points": [self._row(i, sent) for i, sent in points.items()]})

    def _row(self, i: Id, sent: Sent, *, packed: bool = False) -> dict[str, Any]:
        row: dict[str, Any] = {"id": i, "payload": sent.payload}
        if isinstance(sent.content, str):
            return row | {"text": sent.content}
        if packed:
            return row | {"vector": base64.b64encode(np.array(sent.content, "<f4").tobytes()).decode()}
        return row | {"vector": sent.content}

    def _bulk(self, client: httpx.Client) -> httpx.Response:
        points = self._points(int(self._rng.integers(20, 200)), int(self._rng.integers(0, 60)))
        self._flight = [{i: sent} for i, sent in points.items()]
        packed = bool(self._rng.random() < 0.5)
        lines = [json.dumps(self._row(i, sent, packed=packed)).encode() + b"\n" for i, sent in points.items()]
        pieces = [b"".join(lines[at : at + BULK_BATCH]) for at in range(0, len(lines), BULK_BATCH)]
        response = client.post(self._url("/bulk"), content=iter(pieces))
        if response.status_code == 200 and response.json()["result"]["accepted"] != len(points):
            self.problems.append(f"{self._name}: a bulk load was not accepted whole: {response.text[:300]}")
        return response

    def _delete(self, client: httpx.Client) -> httpx.Response | None:
        ids = self._some(15)
        if not ids:
            return None
        self._flight = [dict.fromkeys(ids)]
        return client.post(self._url("/delete"), json={"points": ids})

    def _delete_where(self, client: httpx.Client) -> httpx.Response:
        below = int(self._rng.integers(0, 120))
        doomed = [
            i for i, sent in self.kept.items() if sent.payload.get("writer") == self._name and sent.payload["n"] < below
        ]
        self._flight = [dict.fromkeys(doomed)]
        conditions = [
            {"key": "writer", "match": {"value": self._name}},
            {"key": "n", "range": {"lt": below}},
        ]
        return client.post(self._url("/delete"), json={"filter": {"must": conditions}})

    def _set_payload(self, client: httpx.Client) -> httpx.Response | None:
        ids, patch = self._some(15), {"set": int(self._rng.integers(10**9))}
        if not ids:
            return None
        self._flight = [{i: Sent(self.kept[i].content, self.kept[i].payload | patch) for i in ids}]
        return client.post(self._url("/payload"), json={"payload": patch, "points": ids})

    def _overwrite_payload(self, client: httpx.Client) -> httpx.Response | None:
        ids, payload = self._some(10), {"over": int(self._rng.integers(10**9))}
        if not ids:
            return None
        self._flight = [{i: Sent(self.kept[i].content, payload) for i in ids}]
        return client.put(self._url("/payload"), json={"payload": payload, "points": ids})

    # Checking

    def owns(self, i: Id) -> bool:
        """Say whether this writer made an id."""
        if isinstance(i, str) and "/" in i:
            return i.startswith(f"{self._name}/")
        return (uuid.UUID(i).int if isinstance(i, str) else i) // 1_000_000 == self._number

    def settle(self, found: Found) -> None:
        """Find out what became of the operation under way, and compare everything else."""
        mine = {i: point for i, point in found.items() if self.owns(i)}
        if self._flight:
            self._settle_flight(mine)
        for i in self.kept.keys() - mine.keys():
            self.problems.append(f"{self._name}: point {i!r} was acknowledged and is gone")
        for i in mine.keys() - self.kept.keys():
            self.problems.append(f"{self._name}: point {i!r} was deleted or never written and is there")
        for i in self.kept.keys() & mine.keys():
            if problem := self.kept[i].problem(mine[i]):
                self.problems.append(f"{self._name}: point {i!r} has {problem}")

    def _settle_flight(self, mine: Found) -> None:
        flight, self._flight = self._flight, []
        before: list[Step] = [{i: self.kept.get(i) for i in step} for step in flight]
        done = next((n for n, step in enumerate(flight) if not fits(step, mine)), len(flight))
        if not all(fits(step, mine) for step in before[done:]):
            self.problems.append(f"{self._name}: an unacknowledged operation is partly there")
        elif len(flight) > 1 and 0 < done < min(BULK_BATCH, len(flight)):
            self.problems.append(f"{self._name}: {done} lines are less than a batch of a bulk load")
        for step in flight[:done]:
            self._apply(step)

    def to_search(self, most: int) -> Sequence[tuple[Id, Sent]]:
        """Return points to search for: those written lately first."""
        lately = [i for i in self.touched if i in self.kept]
        self.touched.clear()
        chosen = [*lately, *self._some(20)][:most]
        return [(i, self.kept[i]) for i in dict.fromkeys(chosen)]


class Churner:
    """Makes a collection, writes a point, drops it, again and again."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.problems: list[str] = []
        self.operations = 0
        self._there = False
        self._point = False
        self._unsure = False

    def write(self, client: httpx.Client, stop: threading.Event, *, draining: threading.Event) -> None:
        """Send operations until the server is gone or `stop` is set."""
        path = f"/collections/{self.name}"
        vectors = {"vectors": {"size": 2, "distance": "Euclid"}}
        while not stop.is_set():
            self._unsure = True
            try:
                if not self._there:
                    response = client.put(path, json=vectors)
                elif not self._point:
                    response = client.put(f"{path}/points", json={"points": [{"id": 1, "vector": [3, 4]}]})
                else:
                    response = client.delete(path)
            except httpx.TransportError:
                return
            if response.status_code != 200:
                if not draining.is_set() or response.status_code != 503:
                    self.problems.append(f"{self.name}: {response.status_code} {response.text[:300]}")
                return
            self._unsure = False
            self.operations += 1
            self._there, self._point = self._next()
            stop.wait(0.02)

    def _next(self) -> tuple[bool, bool]:
        return (True, False) if not self._there else (True, True) if not self._point else (False, False)

    def settle(self, client: httpx.Client) -> None:
        """Compare the collection with what was acknowledged."""
        response = client.get(f"/collections/{self.name}/points/1")
        there = client.get(f"/collections/{self.name}/exists").json()["result"]["exists"]
        state = (there, response.status_code == 200)
        allowed = {(self._there, self._point)} | ({self._next()} if self._unsure else set())
        if state not in allowed:
            self.problems.append(f"{self.name}: {state} (exists, has its point), allowed {sorted(allowed)}")
        if state[1] and response.json()["result"]["vector"] != [3.0, 4.0]:
            self.problems.append(f"{self.name}: its point has another vector")
        self._there, self._point = state
        self._unsure = False
