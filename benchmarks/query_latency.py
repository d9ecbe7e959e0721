"""How long does one short query take, in process, against sentence-transformers on the same threads?

    python -m benchmarks.query_latency --encoders minilm,student,static --against sentence-transformers --threads 1,2

Encoders are served as Bitfold serves them, single queries one after the other: tokenizing, model, unit length. A name
may be followed by a folder (`mine=FOLDER`), the layers to run (`student:1`) and `@int8` (`minilm@int8`). The reference
is the whole of `SentenceTransformer.encode` for one text, float32, of the same files as the first encoder, or of
`--reference`. The number of threads is torch's for one query, and for ours what the server is told to encode with;
Bitfold gives a single query one thread in any case.

Every round asks the same queries of every one in turn, so that other work on the machine falls on all alike. Printed
are milliseconds: wall time with its quartiles, and CPU time of all threads. `times as fast` is the reference's median
of a round over theirs: the median of all rounds, and the lowest and highest. Only the steady state counts: loading,
and a first round, are left out. On a machine that is busy, more threads of torch than free cores wait for each other.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import machine, spread, table
from models import load_encoder
from models.loading import QueryWeights, model_folder

REFERENCE = "sentence-transformers"
QUERIES = """\
how do vaccines work
a city destroyed by a volcano
python sort a dictionary by value
symptoms of iron deficiency
who discovered penicillin
what is the capital of australia
transmission of viruses by aerosols
convert string to date in pandas
does vitamin d prevent colds
how are diamonds formed
treatment of severe pneumonia in adults
read a large csv file line by line
""".splitlines()
Ask = Callable[[str], object]


def ours(stated: str, threads: int) -> Ask:
    """Return what encodes one query by `NAME[=FOLDER][:LAYERS][@int8]`."""
    sized, _, weights = stated.partition("@")
    named, _, layers = sized.partition(":")
    name, _, folder = named.partition("=")
    weights_of: dict[str, QueryWeights] = {"": "float32", "int8": "int8"}
    encoder = load_encoder(
        name, folder=Path(folder) if folder else None, threads=threads, query_weights=weights_of[weights]
    )
    count = int(layers) if layers else None
    return lambda text: encoder.encode_queries([text], layers=count).vectors


def theirs(folder: Path) -> Ask:
    """Return what encodes one query by sentence-transformers."""
    import torch
    from sentence_transformers import SentenceTransformer

    kwargs = {"dtype": torch.float32}
    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True, model_kwargs=kwargs)
    return lambda text: model.encode([text], normalize_embeddings=True, show_progress_bar=False)


def measure(asked: dict[str, Ask], texts: list[str], rounds: int) -> dict[str, tuple[NDArray[np.float64], ...]]:
    """Return name -> wall and CPU milliseconds, (rounds, queries) each."""
    shape = rounds + 1, len(texts)
    found = {name: (np.empty(shape), np.empty(shape)) for name in asked}
    for number in range(rounds + 1):
        for place, text in enumerate(texts):
            for name, ask in asked.items():
                wall, cpu = time.perf_counter(), time.process_time()
                ask(text)
                found[name][0][number, place] = 1e3 * (time.perf_counter() - wall)
                found[name][1][number, place] = 1e3 * (time.process_time() - cpu)
    return {name: (wall[1:], cpu[1:]) for name, (wall, cpu) in found.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoders", default="minilm")
    parser.add_argument("--against", choices=[REFERENCE, "nothing"], default=REFERENCE)
    parser.add_argument("--reference", type=Path, help="model folder for the reference")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--queries", type=Path, help="a text a line, in place of those built in")
    given = parser.parse_args()
    texts = given.queries.read_text(encoding="utf-8").splitlines() if given.queries else QUERIES
    rows = []
    for threads in map(int, given.threads.split(",")):
        asked = {}
        if given.against == REFERENCE:
            import torch

            first = given.encoders.partition(",")[0].partition("@")[0].partition(":")[0].partition("=")
            asked[REFERENCE] = theirs(given.reference or (Path(first[2]) if first[2] else model_folder(first[0])))
        asked |= {stated: ours(stated, threads) for stated in given.encoders.split(",")}
        if given.against == REFERENCE:
            torch.set_num_threads(threads)  # last: loading an encoder in torch sets it too
        found = measure(asked, texts, given.rounds)
        for name, (wall, cpu) in found.items():
            faster = ""
            if REFERENCE in found and name != REFERENCE:
                faster = spread(np.median(found[REFERENCE][0], axis=1) / np.median(wall, axis=1))
            low, middle, high = np.percentile(wall, (25, 50, 75))
            rows.append([threads, name, f"{middle:.3f}", f"{low:.3f} to {high:.3f}", f"{np.median(cpu):.3f}", faster])
    print(machine())
    print(table(["threads", "encoder", "wall ms", "quartiles", "CPU ms", "times as fast"], rows))


if __name__ == "__main__":
    main()
