"""LanceDB: inverted lists of RaBitQ codes, refined with vectors of its table."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import lancedb
import numpy as np
import pyarrow as pa
from lancedb.index import BTree, IvfRq

from benchmarks.peers.engine import Ask, Clock, Engine, Floats, Points, Setting, grid

NAME, VECTOR = "points", "vector"
LISTS = (0.02, 0.06, 0.12, 0.25, 0.5)  # shares of all lists
FILTERED_LISTS = (0.03, 0.12, 0.4, 1.0)  # the same under a filter, which leaves fewer points in each
REFINE = {1: (5, 10, 20), 4: (1, 2, 5)}  # times the limit, by bits


class LanceTable(Engine):
    """A table with an IVF_RQ index of so many bits, and a B-tree on the filtered column."""

    packages = ("lancedb",)

    def __init__(self, threads: int, *, bits: int) -> None:
        super().__init__(threads)
        self._bits = bits

    def build(self, points: Points, folder: Path, clock: Clock) -> None:
        """Write the table in one go, then index it; lists as many as LanceDB takes by itself, the root of n."""
        d = points.vectors.shape[1]
        schema = pa.schema([("id", pa.int64()), ("bucket", pa.int64()), (VECTOR, pa.list_(pa.float32(), d))])

        def batches() -> Iterator[pa.RecordBatch]:
            for start, vectors in points.blocks():
                end = start + len(vectors)
                columns = [
                    pa.array(np.arange(start, end)),
                    pa.array(points.buckets[start:end]),
                    pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), d),
                ]
                yield pa.record_batch(columns, schema=schema)

        reader = pa.RecordBatchReader.from_batches(schema, batches())
        table = lancedb.connect(str(folder)).create_table(NAME, reader)
        clock.searchable()
        lists = round(math.sqrt(len(points)))
        table.create_index(VECTOR, config=IvfRq(distance_type="cosine", num_partitions=lists, num_bits=self._bits))
        table.create_index("bucket", config=BTree())

    def open(self, points: Points, folder: Path) -> None:
        """Open the table and bring its indexes into memory."""
        self._lists = round(math.sqrt(len(points)))
        self._table = lancedb.connect(str(folder)).open_table(NAME)
        for index in self._table.list_indices():
            self._table.prewarm_index(index.name)

    def settings(self) -> list[Setting]:
        """Sweep how many lists are looked into, and how many vectors are read."""
        return self._swept(LISTS)

    def filtered_settings(self) -> list[Setting]:
        """Look into more lists."""
        return self._swept(FILTERED_LISTS)

    def _swept(self, shares: Sequence[float]) -> list[Setting]:
        return grid(nprobes=[max(1, round(share * self._lists)) for share in shares], refine=REFINE[self._bits])

    def asker(self, setting: Setting, k: int, below: int | None) -> Ask:
        """See `Engine`; filters come before the search."""
        table = self._table

        def ask(query: Floats) -> list[int]:
            search = table.search(query, vector_column_name=VECTOR).distance_type("cosine").limit(k)
            search = search.nprobes(setting["nprobes"]).refine_factor(setting["refine"]).select(["id", "_distance"])
            if below is not None:
                search = search.where(f"bucket < {below}", prefilter=True)
            ids: list[int] = search.to_arrow()["id"].to_pylist()
            return ids

        return ask
