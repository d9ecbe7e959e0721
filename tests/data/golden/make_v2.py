"""Makes `v2/`: a small data directory in the second version of the format of codes.

    python tests/data/golden/make_v2.py FOLDER

Run once, by the version that introduced several bits a dimension, several binarizers and collections of codes only,
for the same reason as `make_v1.py`, whose points these are. Three collections hold segments of two binarizers, the
newer one learned; in the fourth the vectors of the first file are dropped.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from make_v1 import COUNT, DIMENSION, STEP, deleted, ids, payload, text, vectors  # noqa: E402

from index.maintenance import optimize  # noqa: E402
from tests.index_fakes import batch_of, config, open_store, trained  # noqa: E402

# Distance, bits of the collection, and bits and code dimensions of the binarizer that it adopts.
COLLECTIONS = {
    "cosine": ("Cosine", 4, (4, 8)),
    "dot": ("Dot", 2, (4, 8)),
    "euclid": ("Euclid", 1, (2, 5)),
    "codes-only": ("Cosine", 4, None),
}
ADOPTED_AT = 60
FILE_ROWS = 45


def gone(i: int) -> bool:
    """Which points are deleted at the end."""
    return deleted(i) or i == 61


def make(folder: Path) -> None:
    """Write the data directory."""
    store = open_store(folder, file_bytes=40 * DIMENSION * 4, first_fit=30, tail_rows=30)
    for name, (distance, bits, newer) in COLLECTIONS.items():
        wanted = config(distance, dimension=DIMENSION, bits=bits, made_by="v2")
        collection = store.create(name, replace(wanted, store_vectors=newer is not None))
        for start in range(0, COUNT, STEP):
            if newer and start == ADOPTED_AT:
                collection.seal()
                stored = collection.sample(COUNT, 0)[1]
                collection.adopt(trained(stored, bits=newer[0], rows=newer[1], seed=1))
            part = range(start, start + STEP)
            collection.upsert(
                batch_of(
                    [ids()[i] for i in part],
                    vectors()[start : start + STEP],
                    [payload(i) for i in part],
                    [text(i) for i in part],
                )
            )
        if newer is None:
            optimize(collection)
        collection.delete([ids()[i] for i in range(COUNT) if gone(i)])
    store.close()


if __name__ == "__main__":
    make(Path(sys.argv[1]))
