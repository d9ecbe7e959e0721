"""Runs the training of a binarizer in a process of its own, so that searches go on and a crash costs nothing.

The process runs what `bitfold train binarizer --vectors` runs; it goes on from its checkpoint when it is started
again. It tells how far it is in JSON lines on its stdout, and ends when its stdin does: with the server. Both ends of
these pipes are here.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import orjson

import service
from models.errors import ModelError
from service.documents import DocumentError
from service.errors import TrainingFailed

UNFINISHED: Final = "unfinished"  # folder, in that of the binarizer, for checkpoints
CRASHES: Final = 3  # after so many the process is not started again
_LOOK_SECONDS: Final = 0.2
_STOP_SECONDS: Final = 10.0
_LAST_WORDS: Final = 2000
_TELL_SECONDS: Final = 0.1

OnLine = Callable[[dict[str, Any]], None]
# How far it is: done, total, unit, message, and the step that this is the progress of.
Tell = Callable[[int, int, str, str, str], None]


def train_in_process(
    arguments: Sequence[str],
    *,
    log: Path,
    on_line: OnLine,
    check: Callable[[], None],
    nice: int = 0,
    command: Sequence[str] = (sys.executable, "-m", "service.cli"),
) -> None:
    """Run `bitfold train binarizer` with these arguments to its end, again if it crashes.

    Parameters
    ----------
    arguments : what stands behind `train binarizer`; paths are absolute.
    log : where its stderr goes.
    on_line : called with each line that it reports.
    check : called several times a second; when it raises, the process is ended and the error passed on.
    nice : how far it steps back behind this process.
    command : what the arguments are for.

    Raises
    ------
    TrainingFailed : it said why it cannot go on, or crashed too often.
    """
    full = [*command, "train", "binarizer", *arguments, "--child", str(nice)]
    for _ in range(CRASHES):
        status, error = _run(full, log, on_line, check)
        if status == 0:
            return
        if error is not None:
            raise TrainingFailed(str(error["message"]), hint=error.get("hint"))
        check()
    raise TrainingFailed(
        f"the process that trains ended {CRASHES} times with status {status}: {_last_words(log)}",
        hint="is there enough memory? a smaller sample needs less of it" if status == -signal.SIGKILL else None,
    )


def _run(
    command: list[str], log: Path, on_line: OnLine, check: Callable[[], None]
) -> tuple[int, dict[str, Any] | None]:
    """Run the process once; return its status, and the error that it reported if it did."""
    failure: dict[str, Any] | None = None
    with log.open("ab") as stderr:
        # From the folder of the packages, so that they are found however the server was started. In a group of its
        # own: Ctrl-C in a terminal is for the server, which ends the process when it stops.
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            cwd=Path(service.__file__).parent.parent,
            process_group=0,
        )
    with process:
        try:
            for line in _lines(process, check):
                if "error" in line:
                    failure = line["error"]
                else:
                    on_line(line)
        except BaseException:
            _end(process)
            raise
    return process.returncode, failure


def _lines(process: subprocess.Popen[bytes], check: Callable[[], None]) -> Iterator[dict[str, Any]]:
    """Yield what the process reports until it ends, however it does."""
    assert process.stdout is not None
    pending = b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while True:
            check()
            if not selector.select(_LOOK_SECONDS):
                continue
            received = os.read(process.stdout.fileno(), 1 << 16)
            if not received:
                return
            *complete, pending = (pending + received).split(b"\n")
            for line in complete:
                yield orjson.loads(line)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Let the process keep what it has, and make sure that it is gone."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()


def _last_words(log: Path) -> str:
    lines = log.read_text(errors="replace")[-_LAST_WORDS:].strip().splitlines()
    return lines[-1] if lines else "it said nothing"


@contextmanager
def told_to_parent(nice: int) -> Iterator[Tell]:
    """Tell the parent how far it is and what is wrong, step back behind it, and end when it ends.

    Runs in the process that trains; `nice` as in `train_in_process`.
    """
    told = 0.0

    def say(value: object) -> None:
        sys.stdout.buffer.write(orjson.dumps(value) + b"\n")
        sys.stdout.buffer.flush()

    def tell(done: int, total: int, unit: str, message: str, step: str) -> None:
        nonlocal told
        now = time.monotonic()
        if now - told >= _TELL_SECONDS or done == total:
            told = now
            say({"done": done, "total": total, "unit": unit, "message": message, "step": step})

    os.nice(nice)
    threading.Thread(target=_end_with_parent, name="bitfold-parent", daemon=True).start()
    try:
        yield tell
    except (ModelError, DocumentError, OSError) as error:
        say({"error": {"message": str(error), "hint": getattr(error, "hint", None)}})
        sys.exit(1)


def _end_with_parent() -> None:
    # Nothing is ever sent; not by `sys.stdin`, whose lock would be held when the interpreter ends.
    os.read(0, 1)
    os._exit(1)  # checkpoints are whole at any moment
