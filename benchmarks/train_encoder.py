"""Do sizes that are trained together beat sizes drawn at random, on a real encoder and text that it was not trained on?

    python -m benchmarks.train_encoder --work DIR --steps 100

Trains all-MiniLM-L6-v2 on the same pairs (titles with their passages, terms with their definitions, out of
distill-open) by the recipes starbucks and 2dmse, and measures nDCG@10 at every size on SciFact, CoSQA and COVID-QA,
beside the model as it was. Queries and documents have the same size, both are cut, then normalised.

Of each set 2,000 documents are searched, all judged ones among them: enough to compare models with each other, not
with figures of whole sets.

What is done is kept in DIR, so that the same command goes on where it was stopped. A step costs about eight seconds of
one core, a model's evaluation about a quarter of an hour.
"""

from __future__ import annotations

import argparse
import gzip
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.common import machine, table
from benchmarks.embeddings import JudgedTexts, judged_texts
from models.backend import Task
from models.folder import check_folder
from models.loading import model_folder
from models.matryoshka.network import SizedEncoder, Vectors
from models.matryoshka.options import EncoderProgress, EncoderTrainingOptions, Recipe
from models.matryoshka.pairs import Pairs, read_pairs
from models.matryoshka.size_list import Size, parse_sizes, written
from models.matryoshka.training import train_encoder
from models.safe_files import write_safely
from service.evaluation import ndcg

SETS = ("scifact", "cosqa", "covidqa")
SIZES = "1x32,2x64,3x96,4x128,5x256,6x384"
KINDS = ("passage", "definition")
RECIPES: tuple[Recipe, ...] = ("starbucks", "2dmse")
START = "minilm"
PIECE = 32


def make_pairs(source: Path, out: Path, count: int) -> Pairs:
    """Return `count` pairs of title and text, half of them passages, half definitions, written once."""
    if not out.exists():
        rows: dict[str, list[dict[str, str]]] = {kind: [] for kind in KINDS}
        with gzip.open(source, "rt", encoding="utf-8") as file:
            for row in map(json.loads, file):
                if row["kind"] in rows and row["title"].strip() and row["text"].strip():
                    rows[row["kind"]].append({"query": row["title"], "positive": row["text"]})
        rng = np.random.default_rng(0)
        chosen = [found[i] for found in rows.values() for i in rng.permutation(len(found))[: count // len(KINDS)]]
        with write_safely(out) as file:
            file.writelines(json.dumps(chosen[i]).encode() + b"\n" for i in rng.permutation(len(chosen)))
    return read_pairs([out])


def train(recipe: Recipe, pairs: Pairs, out: Path, a: argparse.Namespace) -> Path:
    """Return the folder of a trained encoder; go on with it if it was begun."""
    if not (out / "modules.json").exists():
        options = EncoderTrainingOptions(
            recipe=recipe,
            sizes=parse_sizes(SIZES),
            epochs=1000,
            steps=a.steps,
            batch=a.batch,
            learning_rate=a.learning_rate,
            document_tokens=a.document_tokens,
            held_out=200,
            validate_steps=max(1, a.steps // 3),
            checkpoint_steps=20,
            threads=a.threads,
            seed=a.seed,
        )
        train_encoder(model_folder(START), pairs, options, out=out, on_progress=lambda p: show(recipe, p))
    return out


def show(recipe: str, progress: EncoderProgress) -> None:
    """Print a line now and then."""
    if progress.step % 10 == 0 or progress.step == progress.steps:
        left = progress.seconds_left / 60
        print(f"{recipe}: {progress.step} of {progress.steps}, loss {progress.loss:.2f}, {left:.0f} min", flush=True)


def encode(encoder: SizedEncoder, texts: Sequence[str], task: Task, exits: Sequence[int]) -> Vectors:
    """Return the vectors of texts after every exit, all of one pass."""
    out = {layers: np.empty((len(texts), encoder.dimension), np.float32) for layers in exits}
    with torch.inference_mode():
        for rows in encoder.pieces(texts, PIECE):
            # Nothing is cut short but by the model's own window.
            for layers, vectors in encoder.vectors([texts[i] for i in rows], task, exits, tokens=10_000).items():
                out[layers][rows] = vectors.numpy()
    return {layers: torch.from_numpy(vectors) for layers, vectors in out.items()}


def evaluate(encoder: SizedEncoder, texts: JudgedTexts, sizes: Sequence[Size]) -> dict[str, float]:
    """Return size -> nDCG@10 of one evaluation set."""
    exits = sorted({layers for layers, _ in sizes})
    kept = encode(encoder, texts.documents, "document", exits)
    asked = encode(encoder, texts.queries, "query", exits)
    found = {}
    for layers, k in sizes:
        cut = [torch.nn.functional.normalize(side[layers][:, :k], dim=1) for side in (asked, kept)]
        best = (cut[0] @ cut[1].T).topk(min(10, len(kept[layers])), dim=1).indices.tolist()
        gains = [ndcg(row, judged, 10) for row, judged in zip(best, texts.relevant, strict=True)]
        found[written((layers, k))] = float(np.mean(gains))
    return found


def measured(name: str, folder: Path, a: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Return set -> size -> nDCG@10 of a model, from the file of results where it is there."""
    path = a.work / f"{name}-{a.documents}.json"
    results: dict[str, dict[str, float]] = json.loads(path.read_text()) if path.exists() else {}
    encoder: SizedEncoder | None = None
    for each in SETS:
        if each not in results:
            encoder = encoder or SizedEncoder(check_folder(folder), torch.device("cpu"), torch.float32)
            texts = judged_texts(a.data / each, documents=a.documents)
            results[each] = evaluate(encoder, texts, parse_sizes(SIZES))
            with write_safely(path) as file:
                file.write(json.dumps(results, indent=2).encode())
            print(f"{name}, {each}: {results[each]}", flush=True)
    return results


def main() -> None:
    """Do what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for pairs, encoders and results")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the sets and distill-open")
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=RECIPES)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--pairs", type=int, default=40_000)
    parser.add_argument("--learning-rate", type=float, default=5e-5)
    parser.add_argument("--document-tokens", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--documents", type=int, default=2000, help="of each set: the judged ones and the first others")
    a = parser.parse_args()
    a.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(a.threads)
    pairs = make_pairs(a.data / "distill-open.jsonl.gz", a.work / f"pairs-{a.pairs}.jsonl", a.pairs)
    found = {"untrained": measured("untrained", model_folder(START), a)}
    for recipe in a.recipes:
        name = f"{recipe}-{a.steps}x{a.batch}-{a.seed}"
        found[recipe] = measured(name, train(recipe, pairs, a.work / name, a), a)
    rows = [
        [name, *(f"{np.mean([by_set[each][size] for each in SETS]):.4f}" for size in SIZES.split(","))]
        for name, by_set in found.items()
    ]
    for each in SETS:
        rows += [
            [f"{name}, {each}", *(f"{by_set[each][size]:.4f}" for size in SIZES.split(","))]
            for name, by_set in found.items()
        ]
    print(
        f"{machine()}, {a.threads} threads; {a.steps} steps of {a.batch} pairs; nDCG@10 among {a.documents} documents "
        "a set, means over three sets first\n"
    )
    print(table(["model", *SIZES.split(",")], rows))


if __name__ == "__main__":
    main()
