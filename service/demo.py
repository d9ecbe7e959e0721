"""The demonstration: the sample corpus and five searches in it. Knows only the client and a console."""

from __future__ import annotations

import json
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.markup import escape

from service.client import Client, ClientError
from service.documents import read_documents
from service.settings import ClientSettings, load_client_settings, load_settings
from service.upload import Tally, upload

CORPUS: Final = Path(__file__).parent / "sample" / "corpus.jsonl"
COLLECTION: Final = "sample"
_START_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Example:
    """A search to show."""

    text: str
    filter: Mapping[str, Any] | None = None


EXAMPLES: Final = (
    Example("Why do lumps of ice drop from summer thunderclouds?"),
    Example("What drug was found thanks to a dirty laboratory dish?"),
    Example("How did scholars learn to read ancient Egyptian writing?"),
    Example("Where in the solar system is there a mountain far higher than Everest?"),
    Example(
        "a discovery that saved many lives",
        {
            "must": [
                {"key": "topic", "match": {"any": ["medicine", "biology", "plants"]}},
                {"key": "year", "range": {"lt": 1900}},
            ]
        },
    ),
)


def run_demo(settings: ClientSettings, console: Console) -> None:
    """Load the sample corpus into the running server, or into a temporary one, and show searches.

    Raises
    ------
    ClientError : the server refused something.
    """
    with Client(settings) as client:
        try:
            client.collections()
        except ClientError as error:
            if error.type != "unreachable":
                raise
        else:
            _show(client, console)
            return
    console.print(f"No server answers at {settings.url}: starting a temporary one.")
    with _temporary_server() as url, Client(load_client_settings(url=url)) as client:
        _show(client, console)
    console.print("\nThat server is stopped and its data are gone. To keep one running: [bold]make serve[/bold]")


def _show(client: Client, console: Console) -> None:
    if not client.exists(COLLECTION):
        client.create_texts(COLLECTION, "default")
    tally = Tally()
    started = time.monotonic()
    with closing(read_documents(CORPUS)) as documents:
        upload(client, COLLECTION, documents, tally=tally, on_progress=lambda _: None)
    seconds = time.monotonic() - started
    console.print(
        f"Collection [bold]{COLLECTION}[/bold] at {client.url}: {tally.accepted} documents in "
        f"{seconds:.1f} s, {tally.unchanged} of them were there already."
    )
    for example in EXAMPLES:
        started = time.perf_counter()
        result = client.search(COLLECTION, example.text, limit=3, filter=example.filter)
        milliseconds = (time.perf_counter() - started) * 1000
        console.print(f"\n[bold cyan]{escape(example.text)}[/bold cyan]  ({milliseconds:.0f} ms)")
        if example.filter is not None:
            console.print(f"  filter: {escape(json.dumps(example.filter))}")
        for point in result["points"]:
            payload = point.get("payload") or {}
            about = ", ".join(str(payload[key]) for key in ("topic", "region", "year") if payload.get(key))
            console.print(f"  {point['score']:.3f}  {escape(str(payload.get('title')))}  [dim]({escape(about)})[/dim]")


@contextmanager
def _temporary_server() -> Iterator[str]:
    """Run a server in a thread on a free port over an empty directory; yield its address."""
    import uvicorn  # heavy, as is the application

    from service.app import create_app, server_config

    with tempfile.TemporaryDirectory(prefix="bitfold-demo-") as directory, socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = int(listener.getsockname()[1])
        settings = load_settings(host="127.0.0.1", port=port, data_dir=Path(directory), log_level="warning")
        server = uvicorn.Server(server_config(create_app(settings), settings))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="demo-server")
        thread.start()
        try:
            deadline = time.monotonic() + _START_SECONDS
            while not server.started:
                if not thread.is_alive() or time.monotonic() > deadline:
                    raise ClientError("the temporary server did not start", hint="its messages are above")
                time.sleep(0.05)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.should_exit = True
            thread.join()
