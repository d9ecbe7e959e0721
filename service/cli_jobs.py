"""Commands about the jobs of a running server: upgrade, jobs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.console import AsJson, Collection, Url, print_json, progress_bar

if TYPE_CHECKING:
    from service.client import Client

_POLL_SECONDS = 0.5


def upgrade(
    collection: Collection,
    binarizer: Annotated[
        Path | None, typer.Option(help="Folder of a trained binarizer to use from now on; else the newest in use.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Use it though it finds less on sampled queries.")] = False,
    url: Url = None,
) -> None:
    """Make a collection's old codes again with its newest binarizer, and wait for that."""
    from service.client import Client
    from service.settings import load_client_settings

    with Client(load_client_settings(url=url)) as client:
        if binarizer is not None:
            _bring(client, collection, binarizer, force=force)
        _follow(client, _queued(client, collection))


def _bring(client: Client, collection: str, folder: Path, *, force: bool) -> None:
    from models.binarizer_folder import load_binarizer

    trained, description = load_binarizer(folder)
    result = client.put_binarizer(collection, trained.to_bytes(), space=description.get("space"), force=force)
    typer.echo(f"{result['name']} is version {result['version']} of {collection}'s binarizer")
    if result["comparison"] is not None:
        typer.echo(_comparison(result["comparison"]))


def _queued(client: Client, collection: str) -> dict[str, Any]:
    """Return a new upgrade, or the one that waits or runs already: the command was interrupted and given again."""
    from service.client import ClientError

    try:
        return client.upgrade(collection)
    except ClientError as error:
        if error.type != "job_exists":
            raise
        same = ("upgrade", collection)
        unfinished = [job for job in client.jobs() if (job["kind"], job["collection"]) == same and not _ended(job)]
        if not unfinished:
            raise
        return unfinished[0]


def _comparison(figures: dict[str, Any]) -> str:
    """Return a table of what two binarizers find."""
    rows = [f"{'':<18}{'before':>9}{'now':>9}"]
    for name, before in figures["current"].items():
        rows.append(f"{name.replace('_', ' '):<18}{before:>9.4f}{figures['candidate'][name]:>9.4f}")
    interval = f"{figures['low']:+.4f} to {figures['high']:+.4f}"
    rows.append(f"difference {figures['difference']:+.4f} ({interval}, {figures['queries']} queries)")
    return "\n".join(rows)


def jobs(
    job: Annotated[str | None, typer.Argument(help="Number of a job; else all are listed.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the job with a progress bar.")] = False,
    cancel: Annotated[bool, typer.Option("--cancel", help="Cancel the job.")] = False,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """List the jobs of the running server, or show, wait for or cancel one."""
    from service.client import Client
    from service.settings import load_client_settings

    if job is None and (wait or cancel):
        raise typer.BadParameter("name the job", param_hint="JOB")
    with Client(load_client_settings(url=url)) as client:
        if job is None:
            found = client.jobs()
            if as_json:
                print_json(found)
            else:
                typer.echo("\n".join(map(_line, found)) or "no jobs yet")
            return
        one = client.cancel(job) if cancel else client.job(job)
        if wait:
            _follow(client, one)
        elif as_json:
            print_json(one)
        else:
            typer.echo(_line(one))


def _ended(job: dict[str, Any]) -> bool:
    return job["state"] not in ("queued", "running")


def _line(job: dict[str, Any]) -> str:
    progress = job["progress"]
    line = f"{job['id']:>4}  {job['kind']:<8}{job['collection']:<20} {job['state']}"
    if job["state"] == "running" and progress["total"]:
        line += f"  {progress['message']} {progress['done']}/{progress['total']} {progress['unit']}"
        if progress["eta_seconds"] is not None:
            line += f", {progress['eta_seconds']:.0f} s left"
    if job["error"] is not None:
        line += f"  {job['error']['message']}"
    return line


def _follow(client: Client, job: dict[str, Any]) -> None:
    """Show a job's progress until it has ended; exit status 1 when that is not done."""
    try:
        with progress_bar("") as bar:
            task = bar.add_task(job["state"], total=None)
            while not _ended(job):
                progress = job["progress"]
                what = progress["message"] or job["state"]
                bar.update(task, description=what, completed=progress["done"], total=progress["total"] or None)
                time.sleep(_POLL_SECONDS)
                job = client.job(job["id"])
    except KeyboardInterrupt:
        number = job["id"]
        typer.echo(f"bitfold: job {number} goes on in the server; `bitfold jobs {number} --cancel` ends it", err=True)
        raise typer.Exit(130) from None
    typer.echo(_line(job))
    if "comparison" in job["figures"]:
        typer.echo(_comparison(job["figures"]["comparison"]))
    if job["state"] != "done":
        raise typer.Exit(1)
