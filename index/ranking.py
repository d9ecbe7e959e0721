"""What exact search and the funnel over codes share: a query's best rows, times of stages, the deadline."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from index.errors import DeadlineExceeded
from index.points import Float32s, Rows, Stages


@dataclass(frozen=True, slots=True)
class Ranking:
    """Rows and scores of one query's best points, best first."""

    rows: Rows
    scores: Float32s
    stages: Stages


class Clock:
    """Takes the time of stages and watches the deadline. What several queries do together costs each its share."""

    def __init__(self, stages: Sequence[Stages], deadline: float | None) -> None:
        self._stages = stages
        self._deadline = deadline
        self._at = time.perf_counter()

    def lap(self, name: str, of_which: tuple[str, float] | None = None) -> None:
        """Add the time since the last lap, or since the clock was made, to a stage, some seconds of it to another."""
        now = time.perf_counter()
        spent = (now - self._at) * 1e3 / len(self._stages)
        self._at = now
        for stages in self._stages:
            told = stages.milliseconds
            told[name] = told.get(name, 0.0) + spent
            if of_which is not None:
                other, seconds = of_which
                told[name] -= seconds * 1e3
                told[other] = told.get(other, 0.0) + seconds * 1e3

    def check(self) -> None:
        """Raise DeadlineExceeded when the time is up."""
        check_deadline(self._deadline)


def check_deadline(deadline: float | None) -> None:
    """Raise DeadlineExceeded when `time.monotonic()` is past the deadline."""
    if deadline is not None and time.monotonic() > deadline:
        raise DeadlineExceeded("the search took longer than it may", hint="narrow it, or raise the search timeout")


def joined(parts: list[tuple[Rows, Float32s]]) -> tuple[Rows, Float32s]:
    """Return the rows and scores of several parts as one."""
    if len(parts) == 1:
        return parts[0]
    if not parts:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32)
    return np.concatenate([rows for rows, _ in parts]), np.concatenate([scores for _, scores in parts])
