"""A background job as plain data, and the file that keeps it. Knows nothing of what runs it."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final, Literal

import orjson

from index import durable

FILE: Final = "job.json"
State = Literal["queued", "running", "done", "rejected", "failed", "cancelled"]
FINISHED: Final = frozenset(("done", "rejected", "failed", "cancelled"))


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the present step of a job is; `rate` is `unit` a second, None while it is not known."""

    done: int = 0
    total: int = 0
    unit: str = ""
    message: str = ""
    rate: float | None = None
    eta_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """A job as of one moment. Times are seconds since 1970.

    Parameters
    ----------
    id : a number, counted up, as text.
    kind : which runner does it.
    collection, collection_created_at : what it is about; another collection of that name is another one.
    parameters : what was asked.
    cancelling : somebody asked to cancel it, and it has not ended yet.
    starts : how often it was begun without the server being stopped in an orderly way meanwhile.
    figures : what it measured.
    error : `{type, message, hint}` where it failed.
    """

    id: str
    kind: str
    collection: str
    collection_created_at: float | None
    parameters: dict[str, Any]
    created: float
    state: State = "queued"
    started: float | None = None
    finished: float | None = None
    cancelling: bool = False
    starts: int = 0
    progress: Progress = field(default_factory=Progress)
    figures: dict[str, Any] = field(default_factory=dict)
    error: dict[str, Any] | None = None


def write_job(folder: Path, job: Job) -> None:
    """Write what is known of a job into its folder; durable when this returns. Raises DiskFull."""
    durable.replace_file(folder / FILE, orjson.dumps(job, option=orjson.OPT_INDENT_2))


def read_job(folder: Path) -> Job:
    """Read the job of a folder.

    Raises FileNotFoundError where there is none, and OSError, ValueError, TypeError or KeyError where it is damaged.
    """
    value = orjson.loads((folder / FILE).read_bytes())
    known = {item.name for item in fields(Job)}
    value = {key: item for key, item in value.items() if key in known}
    return Job(**{**value, "id": folder.name, "progress": Progress(**value["progress"])})
