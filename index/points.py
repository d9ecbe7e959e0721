"""What goes into a collection and what comes out: batches, points, hits. Plain data, no I/O."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from index.errors import InvalidInput, InvalidVector
from index.ids import PointId

Distance = Literal["Cosine", "Dot", "Euclid"]
VectorType = Literal["float32", "float16"]
IndexKind = Literal["lists", "graph"]

Float32s = NDArray[np.float32]
Rows = NDArray[np.int64]

MAX_DIMENSION = 65_536
BITS = (1, 2, 4)  # planes that a collection can keep
GRAPH_BITS = 4  # and with a graph must
MAX_NORM = 1e17  # a product of two such norms is still a finite float32
NUMPY_TYPES: dict[str, np.dtype[Any]] = {"float32": np.dtype("<f4"), "float16": np.dtype("<f2")}


def content_hash(data: bytes | memoryview) -> bytes:
    """Return 16 bytes that identify a text (UTF-8) or a vector (float32 bytes as received).

    Sent again, the same content has the same hash, so that it need not be encoded or written again.
    """
    return hashlib.blake2b(data, digest_size=16).digest()


@dataclass(frozen=True, slots=True)
class CollectionConfig:
    """What is fixed when a collection is made, and the caller's own attributes.

    Parameters
    ----------
    dimension : d, 1 to 65,536.
    distance : `Cosine` stores unit vectors; `Dot` and `Euclid` store vectors as they come.
    dtype : how full-precision vectors lie on disk; float16 only where vectors have unit length.
    attributes : a JSON object that belongs to the caller (encoder, space, metadata); may change later.
    bits : 1, 2 or 4, the planes that codes keep for each of their dimensions.
    code_dimension : dimensions that codes keep, 1 to d, before they are rounded up to a multiple of 8; None: all.
    store_vectors : False drops full-precision vectors once their codes are stored.
    index : what large segments get: inverted `lists`, built fast and light, or a `graph`, which is built four times
        slower and takes four bits a dimension and 112 bytes a point more (docs/benchmarks.md says when it pays).
    """

    dimension: int
    distance: Distance
    dtype: VectorType = "float32"
    attributes: Mapping[str, Any] = field(default_factory=dict)
    bits: int = 1
    code_dimension: int | None = None
    store_vectors: bool = True
    index: IndexKind = "lists"

    def __post_init__(self) -> None:
        """Check the values. Raises InvalidInput."""
        if not 1 <= self.dimension <= MAX_DIMENSION:
            raise InvalidInput(f"dimension {self.dimension} is outside 1..{MAX_DIMENSION}", param="dimension")
        if self.distance not in ("Cosine", "Dot", "Euclid"):
            raise InvalidInput(
                f"distance {self.distance!r} is unknown", param="distance", hint="use Cosine, Dot or Euclid"
            )
        if self.dtype not in NUMPY_TYPES:
            raise InvalidInput(f"dtype {self.dtype!r} is unknown", param="dtype", hint="use float32 or float16")
        if self.dtype == "float16" and self.distance != "Cosine":
            raise InvalidInput(
                f"float16 is for Cosine only, not {self.distance}: other norms overflow or lose digits",
                param="dtype",
                hint="use float32",
            )
        if self.index not in ("lists", "graph"):
            raise InvalidInput(f"index {self.index!r} is unknown", param="index", hint="use lists or graph")
        self.check_bits(self.bits)
        if self.code_dimension is not None and not 1 <= self.code_dimension <= self.dimension:
            raise InvalidInput(
                f"codes of {self.code_dimension} dimensions cannot be made of vectors of dimension {self.dimension}",
                param="code_dimension",
                hint=f"use 1 to {self.dimension}",
            )

    def check_bits(self, bits: int) -> None:
        """Raise InvalidInput unless the collection can keep codes of so many bits a dimension."""
        if bits not in BITS:
            raise InvalidInput(f"{bits} bits a dimension cannot be kept", param="bits", hint="use 1, 2 or 4")
        if self.index == "graph" and bits != GRAPH_BITS:
            raise InvalidInput(
                f"a graph is over codes of {GRAPH_BITS} bits a dimension, not {bits}",
                param="bits",
                hint=f"use bits {GRAPH_BITS}, or in a new collection index lists",
            )


@dataclass(frozen=True, slots=True)
class Batch:
    """Points to write, as columns of one length. When an id comes twice, the later one counts.

    Parameters
    ----------
    ids : canonical ids.
    vectors : (n, d) float32, as received: the collection normalises them if it has to.
    payloads : n JSON objects as UTF-8 bytes.
    texts : n texts, None where a point has none.
    hashes : n content hashes of 16 bytes.
    """

    ids: list[PointId]
    vectors: Float32s
    payloads: list[bytes]
    texts: list[str | None]
    hashes: list[bytes]

    def __len__(self) -> int:
        """Return n."""
        return len(self.ids)

    def last_of_each_id(self) -> Batch:
        """Return the points whose ids do not come again."""
        last = {point_id: position for position, point_id in enumerate(self.ids)}
        if len(last) == len(self):
            return self
        keep = sorted(last.values())
        return Batch(
            ids=[self.ids[i] for i in keep],
            vectors=self.vectors[keep],
            payloads=[self.payloads[i] for i in keep],
            texts=[self.texts[i] for i in keep],
            hashes=[self.hashes[i] for i in keep],
        )


@dataclass(frozen=True, slots=True)
class Stored:
    """What is known of a stored point without reading its vector."""

    row: int
    hash: bytes
    payload: bytes


@dataclass(frozen=True, slots=True)
class Point:
    """A stored point; `vector` is (d,) float32 (unit length under Cosine), None when not asked for."""

    id: PointId
    payload: bytes
    text: str | None
    vector: Float32s | None


class Hit(NamedTuple):
    """A search result, a tuple because many are made. `score`: higher is better, under Euclid the negative distance."""

    id: PointId
    score: float
    payload: bytes | None
    text: str | None
    vector: Float32s | None


@dataclass(frozen=True, slots=True)
class SearchParams:
    """How to search; None means the default.

    Parameters
    ----------
    exact : True scores every full-precision vector, False uses codes at any size, None decides by size.
    candidates : k1, at least 1: rows that each scan of codes proposes (per segment and norm band), or that a walk
        through a graph keeps (HNSW's ef), and how many of them, over all segments, have their further planes scored.
        Never fewer than are wanted or reranked.
    rerank : k2, the most full-precision vectors that a search of codes reads; hits beyond them have estimated
        scores, so 0 ranks by codes alone.
    bits : planes used, 1 to what the collection stores.
    symmetric : the query is coded too, on the same grid as the documents (BEBR's SDC).
    probes : inverted lists, at least 1, that are looked into in each segment that has lists; more under a filter.
    target_recall : share of the true ten best that are to be found, above 0 and below 1: what is not given of
        `candidates`, `rerank` and `probes` is chosen for it.
    """

    exact: bool | None = None
    candidates: int | None = None
    rerank: int | None = None
    bits: int | None = None
    symmetric: bool = False
    probes: int | None = None
    target_recall: float | None = None

    def __post_init__(self) -> None:
        """Check what can be checked without a collection. Raises InvalidInput."""
        for name, least in (("candidates", 1), ("rerank", 0), ("bits", 1), ("probes", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InvalidInput(f"{name} is {value}, but must be at least {least}", param=f"params.{name}")
        if self.target_recall is not None and not 0 < self.target_recall < 1:
            raise InvalidInput(
                f"target_recall is {self.target_recall}, but must be above 0 and below 1",
                param="params.target_recall",
                hint="use exact: true to find all",
            )
        if self.exact:
            for name in ("candidates", "rerank", "bits", "probes", "target_recall"):
                if getattr(self, name) is not None:
                    raise InvalidInput(
                        f"{name} is for codes, but exact asks for no codes to be used",
                        param=f"params.{name}",
                        hint="leave one of them out",
                    )


@dataclass(slots=True)
class Stages:
    """What one search did. Times are milliseconds, `bytes_read` counts full-precision vector bytes.

    `plan`: `read all` vectors or, in mode `exact` too, `read allowed` ones of a filter; `scan` all codes, or `probe`
    inverted lists or `walk` through a graph where a segment has one.
    `probed` inverted lists and `scanned` rows were looked at, walks through graphs were `walked` rows wide,
    `candidates` rows came out of the codes, `refined` rows had further planes scored, `reranked` rows were scored in
    full precision. `bits` planes were used (the most of any segment), 0 in mode `exact`. A filter left `filtered_to`
    rows, for which `payloads_read` had to be looked at because no payload index could tell; both are None without a
    filter. `target_recall` is what the widths of the stages were chosen for, None where nothing is measured yet.
    """

    mode: Literal["exact", "codes"] = "exact"
    plan: Literal["read all", "read allowed", "scan", "probe", "walk"] = "read all"
    bits: int = 0
    symmetric: bool = False
    target_recall: float | None = None
    probed: int = 0
    walked: int = 0
    scanned: int = 0
    candidates: int = 0
    refined: int = 0
    reranked: int = 0
    bytes_read: int = 0
    filtered_to: int | None = None
    payloads_read: int | None = None
    milliseconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The hits of one query, best first, and what was done to find them."""

    hits: list[Hit]
    stages: Stages


@dataclass(frozen=True, slots=True)
class BinarizerInfo:
    """A version of the binarizer: its content name, whether it was trained, and how many points it codes."""

    version: int
    name: str
    learned: bool
    points: int


@dataclass(frozen=True, slots=True)
class CodesOnlyLoss:
    """What codes alone lose, measured on a collection before it dropped its first vectors.

    `recall_at_k` is the share of the exact ten best that are among the k best by codes alone, 0 to 1, the mean over
    `queries` of the collection's own vectors, themselves left out, among `points` points. `bits` are the planes
    used, `measured_at` is an instant of ISO 8601.
    """

    recall_at_10: float
    recall_at_20: float
    recall_at_100: float
    points: int
    queries: int
    bits: int
    measured_at: str


@dataclass(frozen=True, slots=True)
class IndexInfo:
    """How large segments are searched: `points` of them are in inverted lists or a graph, as `kind` says.

    `building` is how much of the next one is done, 0 to 1, None while none is made.
    """

    kind: IndexKind
    points: int
    building: float | None


@dataclass(frozen=True, slots=True)
class CollectionInfo:
    """A collection's state; bytes are of files on disk, `indexed` counts points that have codes.

    `bits` and `code_dimension` (m) are of new codes; `codes_mapped` says that they stay in their files, because they
    did not fit under the memory limit when the collection was opened; `binarizers` are oldest first. `codes_only`
    reports what was lost by dropping full-precision vectors, None while none are dropped.
    """

    points: int
    indexed: int
    segments: int
    rows: int
    code_bytes_per_point: float
    vector_bytes: int
    record_bytes: int
    code_file_bytes: int
    read_only: str | None
    bits: int
    code_dimension: int
    codes_mapped: bool
    binarizers: list[BinarizerInfo]
    index: IndexInfo
    codes_only: CodesOnlyLoss | None


def prepare_vectors(vectors: Float32s, config: CollectionConfig) -> Float32s:
    """Check `(n, d)` vectors against a collection and bring them into the form it stores.

    Returns (n, d) float32, of unit length under Cosine. Raises InvalidVector naming the first bad row.
    """
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    if vectors.ndim != 2 or vectors.shape[1] != config.dimension:
        got = vectors.shape[1] if vectors.ndim == 2 else vectors.shape
        raise InvalidVector(
            f"the vector has {got} dimensions, the collection has {config.dimension}",
            param="vector",
            hint=f"send {config.dimension} numbers",
        )
    # float64: the square of a large float32 overflows, that of a small one vanishes. So norms are as finite as vectors.
    norms = np.sqrt(np.vecdot(vectors, vectors, dtype=np.float64))
    if not math.isfinite(np.add.reduce(norms)):
        raise InvalidVector(f"vector {int(np.argmin(np.isfinite(norms)))} holds NaN or infinite values", param="vector")
    if config.distance != "Cosine":
        if (norms > MAX_NORM).any():
            raise InvalidVector(
                f"vector {int(np.argmax(norms))} has a norm above {MAX_NORM:g}: its scores would overflow",
                param="vector",
                hint="scale the vectors down",
            )
        return vectors
    if not np.minimum.reduce(norms, initial=math.inf) > 0:
        raise InvalidVector(
            f"vector {int(np.argmin(norms))} is all zeros, which has no direction",
            param="vector",
            hint="Cosine needs non-zero vectors; leave this point out or use Dot",
        )
    return np.asarray(vectors / norms[:, None], dtype=np.float32)
