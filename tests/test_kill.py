"""SIGKILL at random moments loses nothing: five kills here, two hundred with `tests/kill_server.py`."""

from __future__ import annotations

import sys

import httpx
import pytest

from tests.kill_server import Run
from tests.kill_writers import BULK_BATCH, Found, Sent, Writer

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL and process groups are POSIX")

VECTOR = (3.0, 4.0, *[0.0] * 22)


@pytest.mark.parametrize(("kind", "kills"), [("small", 3), ("usual", 2)])
def test_a_killed_server_comes_back_with_every_acknowledged_write(kind, kills, tmp_path) -> None:
    tally = Run(kind, tmp_path, seed=7, writers=3, load_seconds=1.0).run(kills)
    assert tally.problems == []
    assert tally.kills == kills
    assert tally.operations > 0


class Obedient(httpx.BaseTransport):
    """Acknowledges so many requests, then is gone."""

    def __init__(self, answers: int) -> None:
        self.answers = answers

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if not self.answers:
            raise httpx.ReadError("gone")
        self.answers -= 1
        lines = request.read().count(b"\n")
        return httpx.Response(200, json={"result": {"accepted": lines}})


class Never:
    """An event that is not set."""

    def is_set(self) -> bool:
        return False


def wrote(answers: int) -> Writer:
    """Return a writer whose server acknowledged so many operations and died over the next one."""
    writer = Writer("w1", 1, "a", texts=False, seed=3)
    with httpx.Client(base_url="http://127.0.0.1", transport=Obedient(answers)) as client:
        writer.write(client, Never(), draining=Never())  # type: ignore[arg-type]
    return writer


def as_found(points: dict) -> Found:
    return {
        i: {
            "id": i,
            "payload": sent.payload,
            "vector": sent.vector().tolist(),
            **({"text": sent.content} if isinstance(sent.content, str) else {}),
        }
        for i, sent in points.items()
    }


def test_what_was_acknowledged_and_nothing_else_is_right() -> None:
    writer = wrote(30)
    assert writer.operations == 30
    writer.settle(as_found(writer.kept))
    assert writer.problems == []


def test_a_lost_point_a_returned_one_and_a_changed_one_are_noticed() -> None:
    for change, problem in (
        (lambda found, i: found.pop(i), "is gone"),
        (lambda found, i: found.update({1_999_999: found[i]}), "deleted or never written"),
        (lambda found, i: found[i].update(payload={}), "payload"),
        (lambda found, i: found[i].update(text="x"), "text"),
        (lambda found, i: found[i].update(vector=[1.0] * 24), "vector"),
    ):
        writer = wrote(30)
        writer._flight = []
        found = as_found(writer.kept)
        change(found, next(iter(writer.kept)))
        writer.settle(found)
        assert len(writer.problems) == 1
        assert problem in writer.problems[0]


@pytest.mark.parametrize("there", [0, 1, 2])
def test_a_batch_that_is_partly_there_is_noticed(there) -> None:
    writer = wrote(0)
    new = {1_000_001: Sent(VECTOR, {"n": 1}), 1_000_002: Sent(VECTOR, {"n": 2})}
    writer._flight = [{i: sent for i, sent in new.items()}]
    writer.settle(as_found(dict(list(new.items())[:there])))
    assert bool(writer.problems) == (there == 1)


@pytest.mark.parametrize(
    ("there", "good"), [(0, True), (BULK_BATCH - 1, False), (BULK_BATCH, True), (3 * BULK_BATCH, True)]
)
def test_a_bulk_load_may_end_between_batches_only(there, good) -> None:
    writer = wrote(0)
    new = {1_000_001 + n: Sent(VECTOR, {"n": n}) for n in range(3 * BULK_BATCH)}
    writer._flight = [{i: sent} for i, sent in new.items()]
    writer.settle(as_found(dict(list(new.items())[:there])))
    assert bool(writer.problems) != good
