"""The command that writes an encoder for other runtimes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer


def export(
    out: Annotated[Path, typer.Option(help="Folder for the files: new, empty, or an earlier export.")],
    encoder: Annotated[str | None, typer.Option(help="Preset or model hub id.")] = None,
    folder: Annotated[Path | None, typer.Option(help="Model or student folder instead.")] = None,
    weights: Annotated[
        Literal["float32", "int8"], typer.Option(help="int8: a third of the size, vectors slightly off.")
    ] = "float32",
) -> None:
    """Write an encoder as an ONNX file with its tokenizer, for ONNX Runtime anywhere."""
    if encoder is None and folder is None:
        raise typer.BadParameter("name an encoder, or give a --folder", param_hint="--encoder")
    from models.loading import LoadOptions, load_encoder, load_folder, model_folder
    from models.onnx_export import MODEL, export_onnx

    if encoder is None and folder is not None:
        # A folder may be called like a preset and be none.
        name = folder.resolve().name
        loaded = load_folder(name, folder, LoadOptions(threads=1), label=name)
    else:
        name = str(encoder)
        loaded = load_encoder(name, folder=folder, threads=1)
    found = export_onnx(loaded, folder or model_folder(name), out, weights=weights)
    exits = ", ".join(map(str, found.description["exits"]))
    typer.echo(f"{name}, space {loaded.space}, layers {exits}, {weights}: {found.size / 1e6:.1f} MB in {out / MODEL}")
    typer.echo(f"least cosine with the encoder itself, over a few texts: {found.least_cosine:.6f}")
