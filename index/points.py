"""What goes into a collection and what comes out: batches, points, hits. Plain data, no I/O."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from index.errors import InvalidInput, InvalidVector
from index.ids import PointId

Distance = Literal["Cosine", "Dot", "Euclid"]
VectorType = Literal["float32", "float16"]

Float32s = NDArray[np.float32]
Rows = NDArray[np.int64]

MAX_DIMENSION = 65_536
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
    """

    dimension: int
    distance: Distance
    dtype: VectorType = "float32"
    attributes: Mapping[str, Any] = field(default_factory=dict)

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


@dataclass(frozen=True, slots=True)
class Hit:
    """A search result. `score`: higher is better, under Euclid the negative distance."""

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
    candidates : k1, rows that each scan of codes proposes (per segment and norm band).
    rerank : k2, rows whose full-precision vectors are read.
    """

    exact: bool | None = None
    candidates: int | None = None
    rerank: int | None = None


@dataclass(slots=True)
class Stages:
    """What one search did. Times are milliseconds, `bytes_read` counts full-precision vector bytes."""

    mode: Literal["exact", "codes"] = "exact"
    bits: int = 0
    scanned: int = 0
    candidates: int = 0
    reranked: int = 0
    bytes_read: int = 0
    filtered_to: int | None = None
    milliseconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The hits of one query, best first, and what was done to find them."""

    hits: list[Hit]
    stages: Stages


@dataclass(frozen=True, slots=True)
class CollectionInfo:
    """A collection's state; bytes are of files on disk, `indexed` counts points that have codes."""

    points: int
    indexed: int
    segments: int
    rows: int
    code_bytes_per_point: float
    vector_bytes: int
    record_bytes: int
    code_file_bytes: int
    read_only: str | None


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
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        raise InvalidVector(f"vector {int(np.argmin(finite))} holds NaN or infinite values", param="vector")
    # float64: the square of a large float32 overflows, that of a small one vanishes.
    norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))
    if config.distance != "Cosine":
        if (norms > MAX_NORM).any():
            raise InvalidVector(
                f"vector {int(np.argmax(norms))} has a norm above {MAX_NORM:g}: its scores would overflow",
                param="vector",
                hint="scale the vectors down",
            )
        return vectors
    if not (norms > 0).all():
        raise InvalidVector(
            f"vector {int(np.argmin(norms))} is all zeros, which has no direction",
            param="vector",
            hint="Cosine needs non-zero vectors; leave this point out or use Dot",
        )
    return np.asarray(vectors / norms[:, None], dtype=np.float32)
