"""The command line: all commands, and those that need no server: serve, verify, demo, settings.

What is heavy is imported only in the command that needs it: parser processes import this module again.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from service import cli_data, cli_export, cli_jobs, cli_train
from service.console import AsJson, Url, print_json

app = typer.Typer(
    name="bitfold",
    help="Vector search with compressed embeddings.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

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
    from models.errors import ModelError
    from service.client import ClientError
    from service.documents import DocumentError
    from service.evaluation import EvaluationError
    from service.settings import SettingsError

    return isinstance(error, ClientError | DocumentError | EvaluationError | SettingsError | IndexingError | ModelError)


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
def verify(
    data_dir: Annotated[Path, typer.Argument(help="Data directory of a server that does not run.")],
    as_json: AsJson = False,
) -> None:
    """Check on disk everything that the storage promises; exit status 1 when something is wrong."""
    from index.verify import verify as check
    from models.binarizers import Binarizers

    report = check(data_dir, Binarizers())
    if as_json:
        problems = [{"path": str(problem.path), "message": problem.message} for problem in report.problems]
        print_json({"problems": problems, "checked": report.checked})
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


for command in (cli_data.index, cli_data.search, cli_data.collections, cli_jobs.upgrade, cli_jobs.jobs):
    app.command()(command)
app.command("eval")(cli_data.evaluate)
app.command()(cli_export.export)
app.add_typer(cli_train.app, name="train")

if __name__ == "__main__":
    main()
