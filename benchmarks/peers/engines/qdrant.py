"""The Qdrant engine in process (qdrant-edge-py): a graph over float vectors or codes, rescored from vectors on disk."""

from __future__ import annotations

from pathlib import Path

import qdrant_edge as q

from benchmarks.peers.engine import Ask, Clock, Engine, Floats, Points, Setting, grid
from benchmarks.peers.graph import GRAPH_LINKS, GRAPH_WIDTH

BATCH = 2_000
EF = (16, 32, 48, 64, 96, 128, 192, 256)
# Times the limit that the graph finds by codes before vectors rank them; 0: they do not. (1 would only order what
# codes found.)
OVERSAMPLING = {
    "none": (),
    "OneBit": (2.0, 4.0, 8.0, 16.0),
    "TwoBits": (2.0, 4.0, 8.0),
    "Bits1": (2.0, 4.0, 8.0),
    "Bits2": (0.0, 2.0, 4.0),
    "Bits4": (0.0, 1.5, 2.0, 4.0),
}


class QdrantShard(Engine):
    """One shard, optimized into one segment.

    Parameters
    ----------
    quantization : `none`, `binary` (queries of 8 bits) or `turbo`.
    bits : the name of its size in the library's enumeration.
    """

    packages = ("qdrant-edge-py",)
    float_paths = ("/vector_storage",)

    def __init__(self, threads: int, *, quantization: str, bits: str) -> None:
        super().__init__(threads)
        self._quantization, self._bits = quantization, bits

    def _codes(self) -> q.BinaryQuantizationConfig | q.TurboQuantQuantizationConfig | None:
        if self._quantization == "binary":
            return q.BinaryQuantizationConfig(
                encoding=getattr(q.BinaryQuantizationEncoding, self._bits),
                query_encoding=q.BinaryQuantizationQueryEncoding.Scalar8Bits,
                memory=q.Memory.Pinned,
            )
        if self._quantization == "turbo":
            return q.TurboQuantQuantizationConfig(bits=getattr(q.TurboQuantBitSize, self._bits), memory=q.Memory.Pinned)
        return None

    def build(self, points: Points, folder: Path, clock: Clock) -> None:
        """Upsert, flush, optimize; without a log, as one flush makes it durable."""
        codes = self._codes()
        config = q.EdgeConfig(
            vectors=q.EdgeVectorParams(
                size=points.vectors.shape[1],
                distance=q.Distance.Cosine,
                quantization_config=codes,
                memory=q.Memory.Cached if codes is None else q.Memory.Cold,
            ),
            hnsw_config=q.HnswIndexConfig(
                m=GRAPH_LINKS,
                ef_construct=GRAPH_WIDTH,
                full_scan_threshold=10_000,  # KB: where a filter leaves less, it scans
                max_indexing_threads=self.threads,
                memory=q.Memory.Pinned,
            ),
            optimizers=q.EdgeOptimizersConfig(indexing_threshold=1, default_segment_number=1, max_segment_size=1 << 40),
            wal_enabled=False,
        )
        shard = q.EdgeShard.create(str(folder / "shard"), config)
        shard.update(q.UpdateOperation.create_field_index("bucket", q.PayloadSchemaType.Integer))
        for start, vectors in points.blocks(BATCH):
            batch = [
                q.Point(start + i, vector, {"bucket": int(points.buckets[start + i])})
                for i, vector in enumerate(vectors.tolist())
            ]
            shard.update(q.UpdateOperation.upsert_points(batch))
        shard.flush()
        clock.searchable()
        shard.optimize()
        shard.flush()
        shard.close()

    def open(self, points: Points, folder: Path) -> None:
        """Load the shard; on one core it searches with one thread."""
        del points
        self._shard = q.EdgeShard.load(str(folder / "shard"))

    def settings(self) -> list[Setting]:
        """Sweep ef, and with codes the oversampling."""
        wider = OVERSAMPLING[self._bits or "none"]
        return grid(ef=EF, oversampling=wider) if wider else grid(ef=EF)

    def filtered_settings(self) -> list[Setting]:
        """Sweep ACORN too, Qdrant's own way through a graph under a filter, at the second oversampling."""
        wider = OVERSAMPLING[self._bits or "none"][1:2]
        return grid(ef=EF, oversampling=wider, acorn=(False, True)) if wider else grid(ef=EF, acorn=(False, True))

    def asker(self, setting: Setting, k: int, below: int | None) -> Ask:
        """See `Engine`."""
        shard, chosen, codes = self._shard, None, None
        if "oversampling" in setting:
            wider = setting["oversampling"]
            codes = q.QuantizationSearchParams(rescore=wider > 0, oversampling=wider or None)
        if below is not None:
            chosen = q.Filter(must=[q.FieldCondition("bucket", range=q.RangeFloat(lt=below))])
        acorn = q.AcornSearchParams(enable=True, max_selectivity=1.0) if setting.get("acorn") else None
        params = q.SearchParams(hnsw_ef=setting["ef"], quantization=codes, acorn=acorn)

        def ask(query: Floats) -> list[int]:
            request = q.SearchRequest(q.Query.Nearest(query.tolist()), k, filter=chosen, params=params)
            return [hit.id for hit in shard.search(request)]

        return ask

    def close(self) -> None:
        """Close the shard."""
        self._shard.close()
