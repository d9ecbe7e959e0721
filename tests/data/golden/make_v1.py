"""Makes `v1/`: a small data directory in the first version of every disk format.

    python tests/data/golden/make_v1.py FOLDER

Run once, by the version that introduced the formats; what is in the repository is never made again, because
later versions must open what this one wrote. `tests/test_golden.py` compares it with the functions here.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT))

from index.maintenance import optimize  # noqa: E402
from tests.index_fakes import batch_of, config, open_store  # noqa: E402

DIMENSION = 8
DISTANCES = {"cosine-half": ("Cosine", "float16"), "dot": ("Dot", "float32"), "euclid": ("Euclid", "float32")}
COUNT = 90
STEP = 15


def vectors() -> np.ndarray:
    """(90, 8) float32 of exact fractions: the same on every machine."""
    i, j = np.meshgrid(np.arange(COUNT), np.arange(DIMENSION), indexing="ij")
    return (((i * 37 + j * j * 11 + i * j * 5) % 64 - 31.5) / 16).astype(np.float32)


def ids() -> list[int | str]:
    """Integers, UUIDs, strings."""
    kinds = [lambda i: i, lambda i: f"00000000-0000-4000-8000-{i:012x}", lambda i: f"naïve {i}"]
    return [kinds[i % 3](i) for i in range(COUNT)]


def payload(i: int) -> dict[str, object]:
    """The payload of the i-th point."""
    return {"n": i, "even": i % 2 == 0, "tags": ["é", None, 1.5]}


def text(i: int) -> str | None:
    """The text of the i-th point; every fifth has none."""
    return None if i % 5 == 0 else f"Text number {i}: größer."


def deleted(i: int) -> bool:
    """Which points are deleted before the vector files are compacted."""
    return i < 60 and i % 4 == 0


def make(folder: Path) -> None:
    """Write the data directory."""
    store = open_store(folder, file_bytes=20 * DIMENSION * 4, first_fit=30, tail_rows=30)
    for name, (distance, dtype) in DISTANCES.items():
        collection = store.create(name, config(distance, dimension=DIMENSION, dtype=dtype, made_by="v1"))
        for start in range(0, COUNT, STEP):
            part = range(start, start + STEP)
            collection.upsert(
                batch_of(
                    [ids()[i] for i in part],
                    vectors()[start : start + STEP],
                    [payload(i) for i in part],
                    [text(i) for i in part],
                )
            )
            if start == 60:
                collection.delete([ids()[i] for i in range(COUNT) if deleted(i)])
                optimize(collection)
        collection.delete([ids()[61]])
    store.close()


if __name__ == "__main__":
    make(Path(sys.argv[1]))
