"""Who is compared: engines and how each is built, by name."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from benchmarks.peers.engine import Engine


@dataclass(frozen=True, slots=True)
class Contestant:
    """One engine, built in one way.

    Attributes
    ----------
    module, cls : where its adapter is, below `benchmarks.peers.engines`.
    options : arguments of the adapter, beside the number of threads.
    usual : whether it takes part without being named.
    over_http : whether it is a server, which is compared with servers only.
    """

    module: str
    cls: str
    options: Mapping[str, object] = field(default_factory=dict)
    usual: bool = True
    over_http: bool = False

    def load(self, threads: int) -> Engine:
        """Import the library and make the adapter. Raises ImportError where it is not installed."""
        module = importlib.import_module(f"benchmarks.peers.engines.{self.module}")
        engine: Engine = getattr(module, self.cls)(threads, **self.options)
        return engine


def _qdrant(quantization: str, bits: str = "", *, usual: bool = True) -> Contestant:
    return Contestant("qdrant", "QdrantShard", {"quantization": quantization, "bits": bits}, usual)


CONTESTANTS = {
    "bitfold-1": Contestant("bitfold", "BitfoldStore", {"bits": 1}),
    "bitfold-2": Contestant("bitfold", "BitfoldStore", {"bits": 2}, usual=False),
    "bitfold-4": Contestant("bitfold", "BitfoldStore", {"bits": 4}),
    "bitfold-graph": Contestant("bitfold", "BitfoldStore", {"bits": 4, "index": "graph"}),
    "qdrant-float": _qdrant("none"),
    "qdrant-bq-1": _qdrant("binary", "OneBit"),
    "qdrant-bq-2": _qdrant("binary", "TwoBits"),
    "qdrant-turbo-1": _qdrant("turbo", "Bits1"),
    "qdrant-turbo-2": _qdrant("turbo", "Bits2"),
    "qdrant-turbo-4": _qdrant("turbo", "Bits4"),
    "lancedb-rq-1": Contestant("lance", "LanceTable", {"bits": 1}),
    "lancedb-rq-4": Contestant("lance", "LanceTable", {"bits": 4}),
    "usearch-f16": Contestant("usearch_graph", "UsearchGraph", {"dtype": "f16"}),
    "usearch-i8": Contestant("usearch_graph", "UsearchGraph", {"dtype": "i8"}),
    "usearch-b1": Contestant("usearch_graph", "UsearchGraph", {"dtype": "b1"}),
    "hnswlib": Contestant("hnswlib_graph", "HnswlibGraph"),
    "hnswlib-m32": Contestant("hnswlib_graph", "HnswlibGraph", {"links": 32, "width": 200}, usual=False),
    "faiss-hnsw": Contestant("faiss_graph", "FaissGraph", {"storage": "Flat"}),
    "faiss-hnsw-m32": Contestant("faiss_graph", "FaissGraph", {"storage": "Flat", "links": 32}, usual=False),
    "faiss-hnsw-sq8": Contestant("faiss_graph", "FaissGraph", {"storage": "SQ8"}, usual=False),
    "faiss-ivf-rabitq-1": Contestant("faiss_lists", "FaissLists", {"bits": 1}),
    "faiss-ivf-rabitq-4": Contestant("faiss_lists", "FaissLists", {"bits": 4}),
    "chromadb": Contestant("chroma", "ChromaCollection"),
    "bitfold-http": Contestant("bitfold_http", "BitfoldServer", {"bits": 1}, over_http=True),
    "chroma-http": Contestant("chroma_http", "ChromaServer", over_http=True),
}


def usual() -> list[str]:
    """Return the names of those that take part without being named."""
    return [name for name, one in CONTESTANTS.items() if one.usual]
