"""The log of a training: JSON lines of steps and validations, as if it had never been interrupted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from models.safe_files import write_safely

NAME: Final = "metrics.jsonl"


class MetricsLog:
    """One file; lines are written as they come.

    Parameters
    ----------
    path : `metrics.jsonl`.
    kept : lines up to this step stay, later ones go: the steps that made them are made again. -1 starts anew.
    """

    def __init__(self, path: Path, kept: int) -> None:
        self._path = path
        lines = [line for line in read_log(path) if line["step"] <= kept] if path.exists() else []
        with write_safely(path) as file:
            file.writelines(_line(line) for line in lines)

    def write(self, values: Mapping[str, Any]) -> None:
        """Append a line."""
        with self._path.open("ab") as file:
            file.write(_line(values))


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a log; a last one that was cut off by a crash is left out."""
    found = []
    for line in path.read_bytes().splitlines(keepends=True):
        if not line.endswith(b"\n"):
            break
        found.append(json.loads(line))
    return found


def _line(values: Mapping[str, Any]) -> bytes:
    return json.dumps(values).encode() + b"\n"
