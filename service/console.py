"""What the commands of the command line share: options, a progress bar, printing."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

if TYPE_CHECKING:
    from rich.progress import Progress

Url = Annotated[str | None, typer.Option(help="Address of the server; else BITFOLD_URL, else host and port.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Collection = Annotated[str, typer.Option("--collection", "-c", help="Name of the collection.")]

INTERRUPTED: Final = 130  # exit status


def print_json(value: object) -> None:
    """Print a value as indented JSON."""
    import orjson

    typer.echo(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode())


@contextmanager
def progress_bar(unit: str) -> Iterator[Progress]:
    """Show a bar with rate and remaining time on stderr; nothing where that is no terminal."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text("" if speed is None else f"{speed:,.0f} {unit}/s", style="progress.data.speed")

    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        Rate(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    ) as progress:
        yield progress


@contextmanager
def interruptions() -> Iterator[threading.Event]:
    """Turn Ctrl-C and SIGTERM into an event; the second one ends the process as usual."""
    event = threading.Event()
    before: dict[int, Any] = {}

    def set_event(number: int, _: object) -> None:
        event.set()
        signal.signal(number, before[number])

    for number in (signal.SIGINT, signal.SIGTERM):
        before[number] = signal.signal(number, set_event)
    try:
        yield event
    finally:
        for interruption, handler in before.items():
            signal.signal(interruption, handler)
