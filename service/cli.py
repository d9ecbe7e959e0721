"""The command line: reads arguments, calls the rest, prints.

Every command but `serve` and `verify` is a client of a server. What is heavy is imported only in the command
that needs it: parser processes import this module again.
"""

from __future__ import annotations

import itertools
import secrets
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from rich.progress import Progress

    from service.client import Client
    from service.documents import Fields
    from service.evaluation import Evaluation
    from service.upload import Tally

app = typer.Typer(
    name="bitfold",
    help="Vector search with compressed embeddings.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Url = Annotated[str | None, typer.Option(help="Address of the server; else BITFOLD_URL, else host and port.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Collection = Annotated[str, typer.Option("--collection", "-c", help="Name of the collection.")]

_SHOWN_ERRORS = 10
_TRIM_SECONDS = 15.0


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit: 0 done, 1 failed or lines were refused, 2 wrong usage, 130 interrupted."""
    try:
        app(args=None if arguments is None else list(arguments))
    except Exception as error:
        if not _is_ours(error):
            raise
        hint = getattr(error, "hint", None)
        typer.echo(f"bitfold: {error}" + (f"\n         {hint}" if hint else ""), err=True)
        sys.exit(1)


def _is_ours(error: Exception) -> bool:
    """Say whether an error has a message for the user; all others keep their traceback."""
    from index.errors import IndexingError
    from service.client import ClientError
    from service.documents import DocumentError
    from service.evaluation import EvaluationError
    from service.settings import SettingsError

    return isinstance(error, ClientError | DocumentError | EvaluationError | SettingsError | IndexingError)


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="TCP port.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Directory of all collections.")] = None,
    encoder: Annotated[str | None, typer.Option(help="What `default` stands for; `none`: no texts.")] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error.")] = None,
    allow_insecure: Annotated[
        bool | None, typer.Option("--allow-insecure", help="Allow a reachable address without an API key.")
    ] = None,
) -> None:
    """Run the server; options win over BITFOLD_* variables. SIGTERM and Ctrl-C let requests finish."""
    import logging
    import signal

    import uvicorn

    from service.settings import load_settings

    settings = load_settings(
        host=host,
        port=port,
        data_dir=data_dir,
        encoder=encoder,
        log_level=log_level,
        allow_insecure=allow_insecure,
    )
    from service.app import create_app, server_config
    from service.process import allow_open_files, return_memory_early, share_cores

    return_memory_early(trim_seconds=_TRIM_SECONDS)
    share_cores()
    allow_open_files()
    logging.basicConfig(level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    name = f"[{settings.host}]" if ":" in settings.host else settings.host
    typer.echo(f"Bitfold serves {settings.data_dir.absolute()}; API docs: http://{name}:{settings.port}/docs")
    server = uvicorn.Server(server_config(create_app(settings), settings))
    # uvicorn stops on these and then raises them again, which would end a clean stop with a failure.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    server.run()
    if not server.started:
        raise typer.Exit(1)


@app.command()
def index(
    file: Annotated[Path, typer.Argument(help="NDJSON, BEIR corpus.jsonl, CSV, TSV or Parquet; .gz too.")],
    collection: Collection,
    encoder: Annotated[str, typer.Option(help="Encoder of a new collection of texts.")] = "default",
    distance: Annotated[
        Literal["Cosine", "Dot", "Euclid"], typer.Option(help="Distance of a new collection of vectors.")
    ] = "Cosine",
    create: Annotated[bool, typer.Option(help="Create the collection if there is none.")] = True,
    id_field: Annotated[str | None, typer.Option(help="Field that holds the id.")] = None,
    text_field: Annotated[str | None, typer.Option(help="Field that holds the text.")] = None,
    vector_field: Annotated[str | None, typer.Option(help="Field that holds the vector.")] = None,
    url: Url = None,
) -> None:
    """Load a file into a collection of the running server; the same command continues an interrupted load."""
    from service.client import Client
    from service.documents import Fields
    from service.settings import load_client_settings

    fields = Fields(id_field, text_field, vector_field)
    with Client(load_client_settings(url=url)) as client:
        found = client.exists(collection)
        if not found and create:
            _create(client, collection, file, fields, encoder, distance)
        tally = _load(client, collection, file, fields, resume=found)
    _print_tally(tally, file)
    if tally.rejected:
        raise typer.Exit(1)


def _create(client: Client, collection: str, file: Path, fields: Fields, encoder: str, distance: str) -> None:
    from service.documents import first_dimension

    dimension = first_dimension(file, fields)
    if dimension is None:
        client.create_texts(collection, encoder)
    else:
        client.create_vectors(collection, dimension, distance)


def _load(client: Client, collection: str, file: Path, fields: Fields, *, resume: bool) -> Tally:
    from service.documents import estimate_count, read_documents
    from service.upload import Checkpoint, Tally, upload

    total = estimate_count(file)
    info = client.info(collection)
    # A collection that was dropped and made again under its name has none of the documents.
    made = {"collection": collection, "created_at": info["created_at"]}
    checkpoint = Checkpoint(file, {"server": client.url, **made, "fields": asdict(fields)})
    tally = checkpoint.load() if resume and info["points_count"] else None
    if tally is not None:
        typer.echo(f"continuing after {tally.sent} documents, as {checkpoint.path} says", err=True)
    tally = tally or Tally()
    saved = True
    with closing(read_documents(file, fields)) as documents, _progress("documents") as progress:
        remaining = itertools.islice(documents, tally.sent, None)
        task = progress.add_task(file.name, total=max(total, 1), completed=tally.sent)

        def on_progress(tally: Tally) -> None:
            nonlocal saved
            saved = checkpoint.save(tally)
            progress.update(task, completed=tally.sent, total=max(total, tally.sent))

        try:
            upload(client, collection, remaining, tally=tally, on_progress=on_progress)
        except BaseException:
            progress.stop()
            then = "continue" if saved else f"begin again ({checkpoint.path} cannot be written)"
            done = f"{tally.sent} documents of about {total} are done"
            typer.echo(f"bitfold: {done}; the same command will {then}", err=True)
            raise
        progress.update(task, completed=tally.sent, total=tally.sent)
    checkpoint.remove()
    return tally


def _print_tally(tally: Tally, file: Path) -> None:
    typer.echo(
        f"{tally.sent} documents: {tally.accepted} accepted ({tally.unchanged} unchanged), "
        f"{tally.rejected} rejected, {tally.truncated} longer than the encoder's window"
    )
    for error in tally.errors[:_SHOWN_ERRORS]:
        name = "" if error["id"] is None else f" (id {error['id']!r})"
        typer.echo(f"{file}:{error['line']}{name}: {error['message']}", err=True)
    if tally.rejected > _SHOWN_ERRORS:
        typer.echo(f"... and {tally.rejected - _SHOWN_ERRORS} more", err=True)
    if tally.truncated:
        shown = tally.truncated_lines[:_SHOWN_ERRORS]
        more = ", ..." if tally.truncated > len(shown) else ""
        lines = ", ".join(map(str, shown))
        typer.echo(f"{file}: of these lines only the start can be found: {lines}{more}", err=True)


@contextmanager
def _progress(unit: str) -> Iterator[Progress]:
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


@app.command()
def search(
    text: Annotated[str, typer.Argument(help="What to look for.")],
    collection: Collection,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many points to find.")] = 10,
    filter: Annotated[str | None, typer.Option(help="Filter as JSON, in Qdrant's form.")] = None,
    exact: Annotated[
        bool | None, typer.Option("--exact/--codes", help="Score every vector, or use codes; else by size.")
    ] = None,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Search a collection by text."""
    import orjson

    from service.client import Client
    from service.settings import load_client_settings

    condition = _json_object(filter, "--filter")
    params = None if exact is None else {"exact": exact}
    with Client(load_client_settings(url=url)) as client:
        result = client.search(collection, text, limit=limit, filter=condition, params=params)
    if as_json:
        typer.echo(orjson.dumps(result, option=orjson.OPT_INDENT_2).decode())
        return
    for point in result["points"]:
        payload = {key: value for key, value in (point.get("payload") or {}).items() if value is not None}
        typer.echo(f"{point['score']:.4f}  {point['id']}  {_one_line(point.get('text') or '')}")
        if payload:
            typer.echo(f"        {_one_line(orjson.dumps(payload).decode())}")


def _json_object(value: str | None, option: str) -> dict[str, Any] | None:
    import orjson

    if value is None:
        return None
    try:
        parsed = orjson.loads(value)
    except orjson.JSONDecodeError as error:
        raise typer.BadParameter(f"not JSON: {error}", param_hint=option) from None
    if not isinstance(parsed, dict):
        raise typer.BadParameter("not a JSON object", param_hint=option)
    return parsed


def _one_line(text: str, width: int = 160) -> str:
    text = " ".join(text.split())
    return text if len(text) <= width else text[: width - 3] + "..."


@app.command()
def collections(as_json: AsJson = False, url: Url = None) -> None:
    """List the collections of the running server."""
    import orjson

    from service.client import Client, ClientError
    from service.settings import load_client_settings

    infos: dict[str, dict[str, Any]] = {}
    with Client(load_client_settings(url=url)) as client:
        for name in client.collections():
            try:
                infos[name] = client.info(name)
            except ClientError as error:
                if error.status is None:
                    raise
                infos[name] = {"error": str(error)}
    if as_json:
        typer.echo(orjson.dumps(infos, option=orjson.OPT_INDENT_2).decode())
        return
    for name, info in infos.items():
        if "error" in info:
            typer.echo(f"{name}: {info['error']}")
            continue
        vectors = info["config"]["params"]["vectors"]
        kind = f"encoder {info['encoder']}" if info["encoder"] else "vectors"
        typer.echo(
            f"{name}: {info['points_count']} points, {info['indexed_vectors_count']} with codes; "
            f"{vectors['size']}-d {vectors['distance']}, {kind}"
        )
    if not infos:
        typer.echo("no collections yet; `bitfold demo` or `bitfold index FILE --collection NAME` makes one")


@app.command("eval")
def evaluate(
    directory: Annotated[Path, typer.Argument(help="BEIR data set: corpus.jsonl, queries.jsonl, qrels/.")],
    split: Annotated[str, typer.Option(help="Which qrels: qrels/SPLIT.tsv.")] = "test",
    collection: Annotated[
        str | None,
        typer.Option("--collection", "-c", help="Collection to use and keep; else a temporary one."),
    ] = None,
    encoder: Annotated[str, typer.Option(help="Encoder of a new collection.")] = "default",
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Load a data set into the running server and measure search with codes against exact search."""
    import orjson

    from service.client import Client
    from service.evaluation import evaluate as measure
    from service.settings import load_client_settings

    # A name that nobody else has: the temporary collection is dropped at the end.
    name = collection or f"eval-{secrets.token_hex(8)}"
    with Client(load_client_settings(url=url)) as client, _progress("done") as progress:
        tasks: dict[str, Any] = {}

        def on_progress(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=total)
            progress.update(tasks[what], completed=done, total=max(done, total))

        try:
            report = measure(client, directory, split=split, collection=name, encoder=encoder, on_progress=on_progress)
        finally:
            if collection is None:
                client.drop(name)
    typer.echo(orjson.dumps(asdict(report), option=orjson.OPT_INDENT_2).decode() if as_json else _table(report))


def _table(report: Evaluation) -> str:
    rows = [
        ("", "codes", "exact"),
        ("nDCG@10", f"{report.ndcg_at_10:.4f}", f"{report.exact_ndcg_at_10:.4f}"),
        ("recall@100", f"{report.recall_at_100:.4f}", f"{report.exact_recall_at_100:.4f}"),
        ("recall@10 of exact", f"{report.recall_at_10_of_exact:.4f}", ""),
        ("code bytes per point", f"{report.code_bytes_per_point:.1f}", ""),
        ("queries per second", f"{report.queries_per_second:.1f}", ""),
    ]
    head = (
        f"{report.data_set} ({report.split}), encoder {report.encoder}: {report.documents} documents, "
        f"{report.queries} queries"
    )
    notes = [f"loaded in {report.load_seconds:.1f} s; {report.truncated} texts exceed the encoder's window"]
    if report.mode != "codes":
        notes.append("note: the server scored exactly throughout; there are no codes in this collection")
    return "\n".join([head, *(f"{a:<22}{b:>9}{c:>9}".rstrip() for a, b, c in rows), *notes])


@app.command()
def verify(
    data_dir: Annotated[Path, typer.Argument(help="Data directory of a server that does not run.")],
    as_json: AsJson = False,
) -> None:
    """Check on disk everything that the storage promises; exit status 1 when something is wrong."""
    import orjson

    from index.verify import verify as check
    from models import TrainingFreeFactory

    report = check(data_dir, TrainingFreeFactory())
    if as_json:
        problems = [{"path": str(problem.path), "message": problem.message} for problem in report.problems]
        typer.echo(orjson.dumps({"problems": problems, "checked": report.checked}).decode())
    else:
        for problem in report.problems:
            typer.echo(f"{problem.path}: {problem.message}")
        checked = ", ".join(f"{count} {what}" for what, count in report.checked.items())
        typer.echo(f"checked: {checked or 'nothing'}; problems: {len(report.problems)}")
    if report.problems:
        raise typer.Exit(1)


@app.command()
def demo(url: Url = None) -> None:
    """Load the sample corpus and show searches, in the running server or else in a temporary one."""
    from rich.console import Console

    from service.demo import run_demo
    from service.settings import load_client_settings

    run_demo(load_client_settings(url=url), Console(highlight=False, soft_wrap=True))


@app.command()
def settings() -> None:
    """Print all settings as a table in Markdown."""
    from service.settings import settings_table

    typer.echo(settings_table())


if __name__ == "__main__":
    main()
