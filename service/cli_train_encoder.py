"""The command that trains a truncatable encoder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from service.console import INTERRUPTED, interruptions, progress_bar

if TYPE_CHECKING:
    from collections.abc import Callable

    from models.matryoshka.options import EncoderProgress, EncoderTrainingOptions
    from models.matryoshka.pairs import Pairs
    from models.matryoshka.training import TrainedEncoder

_MOST_CHARACTERS = 2000  # of a text to pre-train on: more than a model's window in most languages


def encoder(
    out: Annotated[Path, typer.Option(help="Folder for the encoder; the same command continues there.")],
    recipe: Annotated[
        Literal["starbucks", "2dmse", "smae"],
        typer.Option(
            help="A fixed list of sizes; random layers and dimensions; or pre-training on texts for a fixed list."
        ),
    ] = "starbucks",
    model: Annotated[str | None, typer.Option(help="Preset or model hub id to start from; else minilm.")] = None,
    folder: Annotated[Path | None, typer.Option(help="Model folder to start from instead.")] = None,
    pairs: Annotated[
        list[Path] | None,
        typer.Option(help="JSON lines with query, positive and perhaps negatives, or a BEIR folder; may be repeated."),
    ] = None,
    split: Annotated[str, typer.Option(help="Judgements of a BEIR folder to train on: qrels/SPLIT.tsv.")] = "train",
    texts: Annotated[
        list[Path] | None, typer.Option(help="For smae: JSON lines with text, or a text a line; may be repeated.")
    ] = None,
    sizes: Annotated[
        str | None, typer.Option(help="Such as 1x32,2x64,6x384: layers x dimensions, the full size among them.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the data.")] = None,
    steps: Annotated[int | None, typer.Option(help="Steps at most.")] = None,
    batch: Annotated[int | None, typer.Option(help="Pairs, or texts, a step.")] = None,
    negatives: Annotated[int | None, typer.Option(help="Most hard negatives of a pair in a step.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="At its height; else what suits the recipe.")] = None,
    scores: Annotated[
        Literal["cosine", "dot"] | None, typer.Option(help="How vectors are compared; Bitfold serves cosine.")
    ] = None,
    documents: Annotated[
        Literal["same", "full"] | None,
        typer.Option(help="Documents that queries of a size are trained against: of the same size, or of all layers."),
    ] = None,
    temperature: Annotated[float | None, typer.Option(help="Of scores; else 0.05 for cosine, 1 for dot.")] = None,
    query_tokens: Annotated[int | None, typer.Option(help="Queries are cut there.")] = None,
    document_tokens: Annotated[int | None, typer.Option(help="Documents are cut there.")] = None,
    cache_gradients: Annotated[
        bool | None, typer.Option("--cache-gradients", help="Large batches in little memory, at a third more time.")
    ] = None,
    held_out: Annotated[int | None, typer.Option(help="Most pairs, or texts, to validate with.")] = None,
    validate_steps: Annotated[int | None, typer.Option(help="Steps between validations; else one an epoch.")] = None,
    patience: Annotated[int | None, typer.Option(help="Validations without a better one that end it.")] = None,
    checkpoint_steps: Annotated[int | None, typer.Option(help="Steps between checkpoints.")] = None,
    log_steps: Annotated[int | None, typer.Option(help="Steps between lines of the log.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed and data give the same encoder.")] = None,
    device: Annotated[
        Literal["auto", "cpu", "cuda"] | None, typer.Option(help="auto: an accelerator if there is one.")
    ] = None,
    precision: Annotated[
        Literal["auto", "float32", "bf16"] | None, typer.Option(help="auto: bf16 on an accelerator that has it.")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Of torch; else one per core.")] = None,
) -> None:
    """Train an encoder that can be cut to fewer layers and dimensions. Ctrl-C keeps the progress."""
    if model is not None and folder is not None:
        raise typer.BadParameter("give one of --model and --folder", param_hint="--model")
    wanted, other = (texts, pairs) if recipe == "smae" else (pairs, texts)
    if not wanted or other:
        name, wrong = ("--texts", "--pairs") if recipe == "smae" else ("--pairs", "--texts")
        raise typer.BadParameter(f"{recipe} trains on {name}, not on {wrong}", param_hint=name)
    from models.matryoshka.options import EncoderTrainingOptions
    from models.matryoshka.size_list import parse_sizes

    given: dict[str, Any] = {
        "sizes": None if sizes is None else parse_sizes(sizes),
        "epochs": epochs,
        "steps": steps,
        "batch": batch,
        "negatives": negatives,
        "learning_rate": learning_rate,
        "scores": scores,
        "documents": documents,
        "temperature": temperature,
        "query_tokens": query_tokens,
        "document_tokens": document_tokens,
        "cache_gradients": cache_gradients,
        "held_out": held_out,
        "validate_steps": validate_steps,
        "patience": patience,
        "checkpoint_steps": checkpoint_steps,
        "log_steps": log_steps,
        "seed": seed,
        "device": device,
        "precision": precision,
        "threads": threads,
    }
    options = EncoderTrainingOptions(
        recipe=recipe, **{name: value for name, value in given.items() if value is not None}
    )
    from models.loading import model_folder

    # What costs nothing to check comes first; then the data, and only then the model.
    data = _read(wanted, split, options)
    trained = _train(folder or model_folder(model or "minilm"), data, options, out, wanted)
    typer.echo(describe(trained))


def _read(paths: Sequence[Path], split: str, options: EncoderTrainingOptions) -> Pairs | list[str]:
    if options.recipe == "smae":
        from models.distill.texts import read_texts

        return read_texts(paths, most_characters=_MOST_CHARACTERS, seed=options.seed)
    from models.matryoshka.pairs import read_pairs

    return read_pairs(paths, split=split)


def _train(
    folder: Path, data: Pairs | Sequence[str], options: EncoderTrainingOptions, out: Path, sources: Sequence[Path]
) -> TrainedEncoder:
    from models.errors import TrainingCancelled
    from models.matryoshka.training import UNFINISHED, train_encoder

    with _shown(options.recipe) as show, interruptions() as cancelled:
        try:
            return train_encoder(
                folder,
                data,
                options,
                out=out,
                sources=[_source(path) for path in sources],
                on_progress=show,
                cancelled=cancelled.is_set,
            )
        except TrainingCancelled:
            typer.echo(f"bitfold: the progress is kept in {out / UNFINISHED}; the same command will continue", err=True)
            raise typer.Exit(INTERRUPTED) from None


def _source(path: Path) -> dict[str, Any]:
    import hashlib

    if path.is_dir():
        return {"name": path.resolve().name}
    with path.open("rb") as file:
        return {"name": path.name, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def describe(trained: TrainedEncoder) -> str:
    """Return what came out of a training, for a terminal."""
    from models.training_plot import HOW_TO_GET

    record, lines = trained.record, []
    before, after = record["before"], record["after"]
    if after is not None:
        measures = list(next(iter(after.values())))
        heads = "".join(f"{measure:>12}{'(before)':>10}" for measure in measures)
        lines.append(f"{'size':<12}{heads}")
        for size, figures in after.items():
            cells = "".join(f"{figures[name]:>12.4f}{before[size][name]:>10.4f}" for name in measures)
            lines.append(f"{size:<12}{cells}")
    lines += [
        f"{record['recipe']}: {record['examples']} examples, {record['steps']} steps, kept those up to "
        f"{record['kept_step']}, {record['seconds']:.0f} s on {record['device']}",
        f"plot: {trained.plot}" if trained.plot else f"no plot: {HOW_TO_GET}",
        f"Continue with it: bitfold train encoder --folder {trained.folder} --pairs FILE --out ANOTHER"
        if record["recipe"] == "smae"
        else f"The encoder is in {trained.folder}",
    ]
    return "\n".join(lines)


@contextmanager
def _shown(recipe: str) -> Iterator[Callable[[EncoderProgress], None]]:
    with progress_bar("steps") as bar:
        task = bar.add_task(f"{recipe}: starting", total=None)

        def show(progress: EncoderProgress) -> None:
            message = f"{recipe}, epoch {progress.epoch} of {progress.epochs}, loss {progress.loss:.3f}"
            if progress.quality is not None:
                message += f", held out {progress.quality:.4f}"
            bar.update(
                task,
                description=f"{message}, {progress.rate:.0f} texts/s",
                completed=progress.step,
                total=progress.steps,
            )

        yield show
