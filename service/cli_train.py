"""The command that trains a binarizer; the server runs it too, as a child, for its jobs."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from service import cli_train_encoder, cli_train_student
from service.console import INTERRUPTED, Url, interruptions, progress_bar

if TYPE_CHECKING:
    from models.training_options import Progress, TrainingOptions
    from models.training_report import TrainingReport
    from service.documents import Fields
    from service.trainer import Tell
    from service.vector_sources import Float32s

app = typer.Typer(help="Train what search uses on your own vectors.", no_args_is_help=True)
app.command()(cli_train_encoder.encoder)
app.command()(cli_train_student.student)

_STAGES = {"neighbours": "looking for neighbours", "codes": "fitting codes"}


@app.callback()
def train() -> None:
    """Train what search uses on your own vectors."""


@app.command()
def binarizer(
    out: Annotated[Path, typer.Option(help="Folder for the binarizer; the same command continues there.")],
    vectors: Annotated[
        Path | None, typer.Option(help=".npy with a vector a row, or documents with vectors: NDJSON, CSV, Parquet.")
    ] = None,
    collection: Annotated[
        str | None, typer.Option("--collection", "-c", help="Collection of the running server to take vectors from.")
    ] = None,
    queries: Annotated[
        Path | None, typer.Option(help="Vectors of questions to train with; else the vectors ask for each other.")
    ] = None,
    bits: Annotated[int | None, typer.Option(help="Bits a dimension; else the collection's, or 2.")] = None,
    dimensions: Annotated[
        int | None, typer.Option(help="Dimensions of the codes; else the collection's, or all of the vectors'.")
    ] = None,
    distance: Annotated[
        Literal["Cosine", "Dot", "Euclid"] | None, typer.Option(help="Else the collection's, or Cosine.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the vectors, at most.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed and vectors give the same binarizer.")] = 0,
    sample: Annotated[int, typer.Option(min=1, help="Vectors to train on, at most.")] = 100_000,
    compatible_with: Annotated[
        Path | None, typer.Option(help="Folder of an older binarizer whose codes the new one's queries shall read.")
    ] = None,
    older_vectors: Annotated[
        Path | None, typer.Option(help="The older one's vectors of the same rows, if another model made them.")
    ] = None,
    space: Annotated[
        str | None, typer.Option(help="Name of the vectors' space; a collection of another space refuses them.")
    ] = None,
    id_field: Annotated[str | None, typer.Option(help="Field of a document that holds the id.")] = None,
    vector_field: Annotated[str | None, typer.Option(help="Field of a document that holds the vector.")] = None,
    url: Url = None,
    child: Annotated[int | None, typer.Option(hidden=True, help="Run as a child, and step back so far.")] = None,
) -> None:
    """Train a binarizer, and say how it compares with the code that needs no training. Ctrl-C keeps the progress."""
    if (vectors is None) == (collection is None):
        raise typer.BadParameter("give one of --vectors and --collection", param_hint="--vectors")
    if older_vectors is not None and compatible_with is None:
        raise typer.BadParameter("only counts with --compatible-with", param_hint="--older-vectors")
    from models.binarizer_folder import DESCRIPTION
    from models.training_options import TrainingOptions
    from service.documents import DocumentError, Fields

    if (out / DESCRIPTION).exists():
        raise DocumentError(f"{out}: holds a binarizer already; name another folder with --out")
    fields = Fields(id_field, None, vector_field)
    with _shown() if child is None else _told(child) as tell:
        wanted: dict[str, Any] = {"bits": bits, "dimensions": dimensions, "distance": distance, "epochs": epochs}
        if vectors is not None:
            rows = _read(vectors, fields, sample, seed)
        else:
            rows, own = _fetched(collection or "", out, sample, seed, url, tell)
            space = space or own["space"]
            wanted = {key: own.get(key) if value is None else value for key, value in wanted.items()}
        options = TrainingOptions(seed=seed, **{key: value for key, value in wanted.items() if value is not None})
        asked = None if queries is None else _read(queries, fields, sample, seed)
        older = None if compatible_with is None else _older(compatible_with, older_vectors, fields, sample, seed)
        report = _train(rows, options, out, space, asked, older, tell)
    if child is None:
        typer.echo(describe(report, out))


def _told(nice: int) -> AbstractContextManager[Tell]:
    from service.trainer import told_to_parent

    return told_to_parent(nice)


def _read(path: Path, fields: Fields, sample: int, seed: int) -> Float32s:
    from service.vector_sources import read_vectors

    return read_vectors(path, fields, sample=sample, seed=seed)


def _older(folder: Path, vectors: Path | None, fields: Fields, sample: int, seed: int) -> tuple[Any, Float32s | None]:
    from models.binarizer_folder import load_binarizer

    return load_binarizer(folder)[0], None if vectors is None else _read(vectors, fields, sample, seed)


def _fetched(
    collection: str, out: Path, sample: int, seed: int, url: str | None, tell: Tell
) -> tuple[Float32s, dict[str, Any]]:
    """Return vectors of a collection, and what it keeps; a command that continues takes what it fetched before."""
    import numpy as np
    import orjson

    from service.client import Client
    from service.settings import load_client_settings
    from service.vector_sources import fetch_vectors

    with Client(load_client_settings(url=url)) as client:
        info = client.info(collection)
        own = {
            "bits": info["codes"]["bits"],
            "dimensions": info["codes"]["code_dimensions"],
            "distance": info["config"]["params"]["vectors"]["distance"],
            "space": info["space"],
        }
        source = {"server": client.url, "collection": collection, "created_at": info["created_at"]}
        identity = orjson.dumps(source | {"sample": sample, "seed": seed})
        array, note = out / "vectors.npy", out / "vectors.json"
        if note.exists() and note.read_bytes() == identity:
            return np.load(array), own
        rows = fetch_vectors(
            client,
            collection,
            sample=sample,
            seed=seed,
            on_progress=lambda done, total: tell(done, total, "vectors", f"fetching from {collection}", "fetching"),
        )
    out.mkdir(parents=True, exist_ok=True)
    note.unlink(missing_ok=True)
    np.save(array, rows)
    note.write_bytes(identity)
    return rows, own


def _train(
    rows: Float32s,
    options: TrainingOptions,
    out: Path,
    space: str | None,
    queries: Float32s | None,
    older: tuple[Any, Float32s | None] | None,
    tell: Tell,
) -> TrainingReport:
    from models.binarizer_folder import save_binarizer
    from models.binarizer_training import train
    from models.errors import TrainingCancelled
    from service.trainer import UNFINISHED

    def on_progress(progress: Progress) -> None:
        if progress.stage != "training":
            tell(progress.step, progress.steps, "%", _STAGES[progress.stage], progress.stage)
            return
        done = (progress.epoch - 1) * progress.steps + progress.step
        message = f"epoch {progress.epoch} of {progress.epochs} at most"
        if progress.recall is not None:
            message += f", held-out r10@100 {progress.recall:.4f}"
        tell(done, progress.epochs * progress.steps, "steps", message, progress.stage)

    work = out / UNFINISHED
    with interruptions() as cancelled:
        try:
            trained = train(
                rows,
                options,
                folder=work,
                queries=queries,
                compatible_with=older,
                on_progress=on_progress,
                cancelled=cancelled.is_set,
            )
        except TrainingCancelled:
            typer.echo(f"bitfold: the progress is kept in {work}; the same command will continue", err=True)
            raise typer.Exit(INTERRUPTED) from None
        save_binarizer(out, trained.binarizer, trained.report, space=space)
    shutil.rmtree(work, ignore_errors=True)
    for name in ("vectors.json", "vectors.npy"):
        (out / name).unlink(missing_ok=True)
    return trained.report


def describe(report: TrainingReport, out: Path) -> str:
    """Return what came out of a training, for a terminal."""
    lines = [f"{'held-out queries':<18}{'learned':>9}{'untrained':>11}"]
    for name, value in report.learned.items():
        lines.append(f"{name:<18}{value:>9.4f}{report.training_free[name]:>11.4f}")
    mean, low, high = report.difference
    lines += [
        f"{report.bits} bits in {report.code_dimension} dimensions each; "
        f"{report.vectors} vectors, {report.queries} queries, seed {report.seed}, {report.seconds:.0f} s",
        f"The learned code is {report.verdict} than the untrained one: {mean:+.4f} ({low:+.4f} to {high:+.4f})",
        f"Use it: bitfold upgrade --collection NAME --binarizer {out}"
        if report.verdict == "better"
        else f"It is kept in {out}; to use it would gain nothing.",
    ]
    return "\n".join(lines)


@contextmanager
def _shown() -> Iterator[Tell]:
    with progress_bar("") as bar:
        task = bar.add_task("starting", total=None)
        last = ""

        def tell(done: int, total: int, unit: str, message: str, step: str) -> None:
            nonlocal last
            if step != last:
                bar.reset(task)
                last = step
            bar.update(task, description=f"{message} ({unit})", completed=done, total=total)

        yield tell
