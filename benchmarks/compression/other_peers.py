"""sentence-transformers' binary codes with its rescoring, and the Qdrant engine in process (qdrant-edge-py)."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from benchmarks.compression.sets import Floats, Positions

MULTIPLIER = 4
POINTS_A_CALL = 2_000


class SentenceTransformersCoder:
    """`quantize_embeddings(..., "ubinary")` and `semantic_search_faiss`.

    Parameters
    ----------
    d : dimension of the vectors.
    rescore : fetch `4 n` by Hamming distance and order them by the float query against the bits.
    """

    def __init__(self, d: int, *, rescore: bool) -> None:
        self.rescores = rescore
        self.index = faiss.IndexBinaryFlat(d)
        self.bytes_a_vector = float(self.index.code_size)

    def add(self, vectors: Floats) -> None:
        """Encode and keep."""
        from sentence_transformers.util.quantization import quantize_embeddings

        self.index.add(quantize_embeddings(vectors, precision="ubinary"))

    def search(self, queries: Floats, n: int) -> Positions:
        """Search as the library does."""
        from sentence_transformers.util.quantization import semantic_search_faiss

        found = semantic_search_faiss(
            queries,
            corpus_index=self.index,
            corpus_precision="ubinary",
            top_k=n,
            rescore=self.rescores,
            rescore_multiplier=MULTIPLIER,
        )[0]
        return np.array([[hit["corpus_id"] for hit in row] for row in found], dtype=np.int64)


def sentence_transformers(rescore: bool, documents: Floats, seed: int) -> SentenceTransformersCoder:
    """Make the coder; there is nothing to fit."""
    del seed
    return SentenceTransformersCoder(documents.shape[1], rescore=rescore)


class QdrantCoder:
    """One shard of the Qdrant engine without a graph, so that every search scans all codes.

    Vectors are kept beside the codes, but searches do not rescore. What a vector costs is read off the size
    of the engine's file of codes.
    """

    rescores = False

    def __init__(self, d: int, quantization: Any) -> None:  # noqa: ANN401
        from qdrant_edge import (
            Distance,
            EdgeConfig,
            EdgeOptimizersConfig,
            EdgeShard,
            EdgeVectorParams,
            HnswIndexConfig,
        )

        self._folder = Path(tempfile.mkdtemp(prefix="bench-qdrant-"))
        self._count = 0
        self._indexed = False
        parameters = EdgeVectorParams(
            size=d,
            distance=Distance.Cosine,
            quantization_config=quantization,
            hnsw_config=HnswIndexConfig(m=0, ef_construct=4, full_scan_threshold=1 << 30),
        )
        config = EdgeConfig(
            vectors=parameters,
            optimizers=EdgeOptimizersConfig(indexing_threshold=1, default_segment_number=1),
            max_search_threads=1,
            wal_enabled=False,
        )
        self._shard = EdgeShard.create(str(self._folder / "shard"), config)
        weakref.finalize(self, _remove, self._shard, self._folder)

    @property
    def bytes_a_vector(self) -> float:
        """Bytes of code a vector, with what Qdrant stores beside each."""
        self._index()
        return sum(path.stat().st_size for path in self._folder.rglob("quantized.data")) / self._count

    def add(self, vectors: Floats) -> None:
        """Upsert points; codes are made by the first search."""
        from qdrant_edge import Point, UpdateOperation

        for start in range(0, len(vectors), POINTS_A_CALL):
            rows = vectors[start : start + POINTS_A_CALL].tolist()
            points = [Point(self._count + i, row) for i, row in enumerate(rows)]
            self._shard.update(UpdateOperation.upsert_points(points))
            self._count += len(rows)
        self._indexed = False

    def search(self, queries: Floats, n: int) -> Positions:
        """Scan the codes for every query."""
        from qdrant_edge import QuantizationSearchParams, Query, SearchParams, SearchRequest

        self._index()
        params = SearchParams(quantization=QuantizationSearchParams(rescore=False))
        out = np.full((len(queries), n), -1, dtype=np.int64)
        for i, query in enumerate(queries.tolist()):
            found = [hit.id for hit in self._shard.search(SearchRequest(Query.Nearest(query), n, params=params))]
            out[i, : len(found)] = found
        return out

    def _index(self) -> None:
        if not self._indexed:
            self._shard.flush()
            self._shard.optimize()
            self._indexed = True


def _remove(shard: Any, folder: Path) -> None:  # noqa: ANN401
    shard.close()
    shutil.rmtree(folder)


def qdrant_binary(encoding: str, query: str, documents: Floats, seed: int) -> QdrantCoder:
    """Qdrant's binary quantization; names as in its enumerations."""
    from qdrant_edge import BinaryQuantizationConfig, BinaryQuantizationEncoding, BinaryQuantizationQueryEncoding

    del seed
    config = BinaryQuantizationConfig(
        encoding=getattr(BinaryQuantizationEncoding, encoding),
        query_encoding=getattr(BinaryQuantizationQueryEncoding, query),
    )
    return QdrantCoder(documents.shape[1], config)


def qdrant_turbo(bits: str, documents: Floats, seed: int) -> QdrantCoder:
    """Qdrant's TurboQuant."""
    from qdrant_edge import TurboQuantBitSize, TurboQuantQuantizationConfig

    del seed
    return QdrantCoder(documents.shape[1], TurboQuantQuantizationConfig(bits=getattr(TurboQuantBitSize, bits)))
