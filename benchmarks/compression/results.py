"""The file of results: one JSON line a measurement, so that a run goes on where it stopped."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Row = dict[str, Any]


class Results:
    """Measurements by key; a later line of the same key replaces an earlier one.

    Parameters
    ----------
    path : JSON lines; a torn last line is ignored.
    keys : the fields that name a measurement.
    """

    def __init__(self, path: Path, keys: tuple[str, ...]) -> None:
        self._path = path
        self._keys = keys
        self._rows: dict[tuple[object, ...], Row] = {}
        if path.exists():
            for line in path.read_text().splitlines():
                try:
                    row = json.loads(line)
                except json.JSONDecodeError:
                    continue
                self._rows[self._key(row)] = row

    def __contains__(self, key: tuple[object, ...]) -> bool:
        """Say whether a key was measured."""
        return key in self._rows

    def __iter__(self) -> Iterator[Row]:
        """Go through all rows."""
        return iter(self._rows.values())

    def add(self, row: Row) -> None:
        """Keep a row, and write it before returning."""
        self._rows[self._key(row)] = row
        self._path.parent.mkdir(parents=True, exist_ok=True)
        torn = self._path.exists() and self._path.read_bytes()[-1:] not in (b"", b"\n")
        with self._path.open("a") as file:
            file.write(("\n" if torn else "") + json.dumps(row) + "\n")

    def _key(self, row: Row) -> tuple[object, ...]:
        return tuple(row[name] for name in self._keys)
