"""Commands that load and search a running server: index, search, collections, eval."""

from __future__ import annotations

import itertools
import secrets
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from service.console import AsJson, Collection, Url, print_json, progress_bar

if TYPE_CHECKING:
    from service.client import Client
    from service.documents import Fields
    from service.evaluation_run import Evaluation
    from service.upload import Tally

_SHOWN_ERRORS = 10


def index(
    file: Annotated[Path, typer.Argument(help="NDJSON, BEIR corpus.jsonl, CSV, TSV or Parquet; .gz too.")],
    collection: Collection,
    encoder: Annotated[str, typer.Option(help="Encoder of a new collection of texts.")] = "default",
    query_encoder: Annotated[
        str | None, typer.Option(help="Encoder of its queries, of the same space; else the same one.")
    ] = None,
    distance: Annotated[
        Literal["Cosine", "Dot", "Euclid"], typer.Option(help="Distance of a new collection of vectors.")
    ] = "Cosine",
    bits: Annotated[int | None, typer.Option(help="Bits a dimension that a new collection keeps: 1, 2 or 4.")] = None,
    code_dimensions: Annotated[
        int | None, typer.Option(help="Dimensions of a new collection's codes; else all of the vectors'.")
    ] = None,
    store_vectors: Annotated[
        bool, typer.Option(help="Whether a new collection keeps full-precision vectors beside its codes.")
    ] = True,
    search_index: Annotated[
        Literal["lists", "graph"], typer.Option("--index", help="What large segments of a new collection get.")
    ] = "lists",
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
    codes: dict[str, Any] = {"bits": bits, "code_dimensions": code_dimensions}
    codes = {key: value for key, value in codes.items() if value is not None}
    if not store_vectors:
        codes["store_vectors"] = False
    if search_index != "lists":
        codes["index"] = search_index
    with Client(load_client_settings(url=url)) as client:
        found = client.exists(collection)
        if not found and create:
            sides = encoder if query_encoder is None else {"document": encoder, "query": query_encoder}
            _create(client, collection, file, fields, encoder=sides, distance=distance, codes=codes)
        elif codes:
            given = ", ".join(codes)
            typer.echo(f"bitfold: {collection} exists: {given} count only when a collection is made", err=True)
        tally = _load(client, collection, file, fields, resume=found)
    _print_tally(tally, file)
    if tally.rejected:
        raise typer.Exit(1)


def _create(
    client: Client,
    collection: str,
    file: Path,
    fields: Fields,
    *,
    encoder: str | dict[str, str],
    distance: str,
    codes: dict[str, Any],
) -> None:
    from service.documents import first_dimension

    dimension = first_dimension(file, fields)
    if dimension is None:
        client.create_texts(collection, encoder, codes)
    else:
        client.create_vectors(collection, dimension, distance, codes)


def _load(client: Client, collection: str, file: Path, fields: Fields, *, resume: bool) -> Tally:
    from service.documents import estimate_count, format_of, read_documents
    from service.upload import Checkpoint, Tally, upload

    total = estimate_count(file)
    # A cell of a table may have many lines: of one, nobody knows how many documents it has before its end.
    known = total if format_of(file) in ("ndjson", "parquet") else None
    info = client.info(collection)
    # A collection that was dropped and made again under its name has none of the documents.
    made = {"collection": collection, "created_at": info["created_at"]}
    checkpoint = Checkpoint(file, {"server": client.url, **made, "fields": asdict(fields)})
    tally = checkpoint.load() if resume and info["points_count"] else None
    if tally is not None:
        typer.echo(f"continuing after {tally.sent} documents, as {checkpoint.path} says", err=True)
    tally = tally or Tally()
    saved = True
    with closing(read_documents(file, fields)) as documents, progress_bar("documents") as progress:
        remaining = itertools.islice(documents, tally.sent, None)
        task = progress.add_task(file.name, total=max(total, 1), completed=tally.sent)

        def on_progress(tally: Tally) -> None:
            nonlocal saved
            saved = checkpoint.save(tally)
            progress.update(task, completed=tally.sent, total=max(total, tally.sent))

        try:
            upload(client, collection, remaining, tally=tally, on_progress=on_progress, total=known)
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


def search(
    text: Annotated[str, typer.Argument(help="What to look for.")],
    collection: Collection,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many points to find.")] = 10,
    filter: Annotated[str | None, typer.Option(help="Filter as JSON, in Qdrant's form.")] = None,
    exact: Annotated[
        bool | None, typer.Option("--exact/--codes", help="Score every vector, or use codes; else by size.")
    ] = None,
    bits: Annotated[int | None, typer.Option(min=1, max=8, help="Bits a dimension to use; else all stored.")] = None,
    encoder: Annotated[str | None, typer.Option(help="Encoder of the text; else the collection's for queries.")] = None,
    layers: Annotated[int | None, typer.Option(min=0, help="Layers that the encoder runs; else all.")] = None,
    dimensions: Annotated[int | None, typer.Option(min=1, help="Dimensions of the query's vector; else all.")] = None,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Search a collection by text."""
    import orjson

    from service.client import Client
    from service.settings import load_client_settings

    condition = _json_object(filter, "--filter")
    wanted = {"exact": exact, "bits": bits, "layers": layers, "dimensions": dimensions}
    params = {key: value for key, value in wanted.items() if value is not None}
    with Client(load_client_settings(url=url)) as client:
        result = client.search(collection, text, encoder=encoder, limit=limit, filter=condition, params=params or None)
    if as_json:
        print_json(result)
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


def collections(as_json: AsJson = False, url: Url = None) -> None:
    """List the collections of the running server."""
    from service.client import Client, ClientError, encoder_name
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
        print_json(infos)
        return
    for name, info in infos.items():
        if "error" in info:
            typer.echo(f"{name}: {info['error']}")
            continue
        vectors = info["config"]["params"]["vectors"]
        kind = f"encoder {encoder_name(info)}" if info["encoder"] else "vectors"
        typer.echo(
            f"{name}: {info['points_count']} points, {info['indexed_vectors_count']} with codes; "
            f"{vectors['size']}-d {vectors['distance']}, {kind}"
        )
    if not infos:
        typer.echo("no collections yet; `bitfold demo` or `bitfold index FILE --collection NAME` makes one")


def evaluate(
    directory: Annotated[Path, typer.Argument(help="BEIR data set: corpus.jsonl, queries.jsonl, qrels/.")],
    split: Annotated[str, typer.Option(help="Which qrels: qrels/SPLIT.tsv.")] = "test",
    collection: Annotated[
        str | None,
        typer.Option("--collection", "-c", help="Collection to use and keep; else a temporary one."),
    ] = None,
    encoder: Annotated[str, typer.Option(help="Encoder of a new collection.")] = "default",
    query: Annotated[
        list[str] | None,
        typer.Option(help="NAME[:LAYERS[:DIMENSIONS]], who encodes queries; several are compared: student:0:128."),
    ] = None,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Load a data set into the running server and measure search with codes against exact search."""
    from service.client import Client
    from service.evaluation_run import AskedBy
    from service.evaluation_run import evaluate as measure
    from service.settings import load_client_settings

    try:
        asked_by = [AskedBy.parse(text) for text in query or [""]]
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--query") from None

    # A name that nobody else has: the temporary collection is dropped at the end.
    name = collection or f"eval-{secrets.token_hex(8)}"
    with Client(load_client_settings(url=url)) as client, progress_bar("done") as progress:
        tasks: dict[str, Any] = {}

        def on_progress(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=total)
            progress.update(tasks[what], completed=done, total=max(done, total))

        try:
            reports = measure(
                client,
                directory,
                split=split,
                collection=name,
                encoder=encoder,
                asked_by=asked_by,
                on_progress=on_progress,
            )
        finally:
            if collection is None:
                client.drop(name)
    if as_json:
        print_json([asdict(report) for report in reports])
    else:
        typer.echo(_table(reports[0]) if len(reports) == 1 else _grid(reports))


def _table(report: Evaluation) -> str:
    rows = [
        ("", "codes", "exact"),
        ("nDCG@10", f"{report.ndcg_at_10:.4f}", f"{report.exact_ndcg_at_10:.4f}"),
        ("recall@100", f"{report.recall_at_100:.4f}", f"{report.exact_recall_at_100:.4f}"),
        ("recall@10 of exact", f"{report.recall_at_10_of_exact:.4f}", ""),
        ("code bytes per point", f"{report.code_bytes_per_point:.1f}", ""),
        ("queries per second", f"{report.queries_per_second:.1f}", ""),
    ]
    size = f"{report.query_encoder}, {report.layers} layers, {report.dimensions} dimensions"
    encode = "" if report.encode_milliseconds is None else f", {report.encode_milliseconds:.2f} ms each"
    head = (
        f"{report.data_set} ({report.split}): {report.documents} documents by {report.encoder}, "
        f"{report.queries} queries by {size}{encode}"
    )
    notes = [f"loaded in {report.load_seconds:.1f} s; {report.truncated} texts exceed the encoder's window"]
    if report.mode != "codes":
        notes.append("note: the server scored exactly throughout; there are no codes in this collection")
    return "\n".join([head, *(f"{a:<22}{b:>9}{c:>9}".rstrip() for a, b, c in rows), *notes])


def _grid(reports: list[Evaluation]) -> str:
    """Return a row for each encoder and size of the queries."""
    first = reports[0]
    head = f"{first.data_set} ({first.split}): {first.documents} documents by {first.encoder}, {first.queries} queries"
    names = ("layers", "dimensions", "nDCG@10", "exact", "recall@100", "encode ms")
    columns = f"{'queries by':<24}" + "".join(f"{name:>11}" for name in names)
    rows = [
        f"{report.query_encoder:<24}{report.layers:>11}{report.dimensions:>11}{report.ndcg_at_10:>11.4f}"
        f"{report.exact_ndcg_at_10:>11.4f}{report.recall_at_100:>11.4f}"
        + ("" if report.encode_milliseconds is None else f"{report.encode_milliseconds:>11.2f}")
        for report in reports
    ]
    return "\n".join([head, columns, *rows])
