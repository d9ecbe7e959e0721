"""The command that trains a student of a teacher's space."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.console import INTERRUPTED, interruptions, progress_bar

if TYPE_CHECKING:
    from collections.abc import Callable

    from models.distill.options import StudentProgress
    from models.distill.teacher_vectors import Encoding


def student(
    out: Annotated[Path, typer.Option(help="Folder for the student; the same command continues there.")],
    texts: Annotated[
        list[Path], typer.Option(help="JSON lines with text, or a text a line, perhaps .gz; may be repeated.")
    ],
    teacher: Annotated[str, typer.Option(help="Preset or model hub id whose space the student shall read.")] = "minilm",
    cache: Annotated[
        Path | None, typer.Option(help="Folder for the teacher's vectors, which several students may share.")
    ] = None,
    most_texts: Annotated[int | None, typer.Option(min=1, help="Texts to train on; else all.")] = None,
    layers: Annotated[
        str | None, typer.Option(help="Layers of the teacher to start from, such as 0,5; '' for a static student.")
    ] = None,
    exits: Annotated[str | None, typer.Option(help="Layers it can end after, such as 1,2; else the last.")] = None,
    ffn: Annotated[int | None, typer.Option(min=1, help="Inner width of the feed-forward parts.")] = None,
    mix: Annotated[int | None, typer.Option(min=0, help="Width of the static exit's network; 0 for none.")] = None,
    window: Annotated[int | None, typer.Option(min=3, help="Tokens that layers read.")] = None,
    static_epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the texts for the static exit.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the texts for the layers.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Texts a step of the layers.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Of the layers, at its height.")] = None,
    held_out: Annotated[int | None, typer.Option(min=2, help="Texts that are measured with instead.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="The same seed and texts give the same student.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Of torch, and texts encoded at once.")] = None,
) -> None:
    """Train a small encoder that puts texts where a teacher puts them. Ctrl-C keeps the progress."""
    from models.distill.make import UNFINISHED, Sources, make_student
    from models.distill.options import StudentOptions
    from models.distill.plot import draw
    from models.errors import InvalidTraining, TrainingCancelled
    from models.loading import load_encoder, model_folder
    from models.metrics_log import NAME as METRICS
    from models.training_plot import NAME

    taken = _numbers(layers, "--layers")
    ends = _numbers(exits, "--exits")
    given: dict[str, Any] = {
        "layers": taken,
        "exits": ends if taken is None or ends is not None else (len(taken),) if taken else (),
        "ffn": ffn,
        "mix": mix,
        "window": window,
        "static_epochs": static_epochs,
        "epochs": epochs,
        "batch": batch,
        "rate": learning_rate,
        "held_out": held_out,
        "seed": seed,
        "threads": threads,
    }
    options = StudentOptions(**{name: value for name, value in given.items() if value is not None})
    sources = Sources(
        # Vectors to learn from are torch's, whatever serves the teacher.
        teacher=load_encoder(teacher, threads=threads, runtime="torch"),
        folder=model_folder(teacher),
        texts=texts,
        most_texts=most_texts,
        cache=cache or out / UNFINISHED / "teacher",
    )
    with _shown() as (on_encoding, on_progress), interruptions() as cancelled:
        try:
            told = make_student(
                sources, options, out, on_encoding=on_encoding, on_progress=on_progress, cancelled=cancelled.is_set
            )
        except TrainingCancelled:
            typer.echo(f"bitfold: the progress is kept in {out / UNFINISHED}; the same command will continue", err=True)
            raise typer.Exit(INTERRUPTED) from None
    try:
        draw(out / UNFINISHED / METRICS, out / NAME)
    except InvalidTraining as error:
        typer.echo(f"no plot: {error.hint}", err=True)
    shutil.copy(out / UNFINISHED / METRICS, out / METRICS)
    shutil.rmtree(out / UNFINISHED)
    typer.echo(describe(told, out))


def describe(told: dict[str, Any], out: Path) -> str:
    """Return what came out of a training, for a terminal."""
    found = told["held_out"]
    lines = [f"{found['texts']:,} texts; on held-out texts, against the teacher:"]
    figures = found["static"] | found.get("layers", {})
    lines += [f"  {name:<16} {value:.4f}" for name, value in figures.items()]
    return "\n".join([*lines, f"The student is in {out}"])


def _numbers(text: str | None, option: str) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a list of numbers such as 0,5", param_hint=option) from None


@contextmanager
def _shown() -> Iterator[tuple[Callable[[Encoding], None], Callable[[StudentProgress], None]]]:
    with progress_bar("texts") as bar:
        task = bar.add_task("reading texts", total=None)

        def on_encoding(found: Encoding) -> None:
            bar.update(task, description="teacher's vectors", completed=found.done, total=found.texts)

        def on_progress(found: StudentProgress) -> None:
            message = f"{found.phase}, loss {found.loss:.4f}, {found.rate:,.0f} texts/s"
            bar.update(task, description=message, completed=found.step, total=found.steps)

        yield on_encoding, on_progress
