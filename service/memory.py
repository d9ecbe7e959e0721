"""What this process holds in memory, as the operating system counts it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

# Linux only; elsewhere nothing is said.
_STATUS: Final = Path("/proc/self/status")
_KEYS: Final = {"VmRSS": "resident", "RssAnon": "anonymous", "RssFile": "files"}


def process_memory() -> dict[str, int] | None:
    """Return bytes that are resident, and of these what is anonymous and what is of files; None where it is not told.

    Anonymous memory is the process's own. Pages of files (vectors, libraries) the system takes back when it likes.
    """
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    values = dict(line.split(":", 1) for line in lines)
    return {name: int(values[key].split()[0]) * 1024 for key, name in _KEYS.items() if key in values}
