"""Questions and answers of a search: what may be asked together, and how scores go over the wire.

Knows nothing of encoders or HTTP.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray

from index.collection import Collection
from index.filters import Filter, parse_filter
from index.ids import PointId
from index.points import Distance, Hit, Point, SearchParams, SearchResult, Stages
from service.errors import UnknownPoint

Float32s = NDArray[np.float32]
RawFilter = Mapping[str, Any] | None

PAGE_BYTES: Final = 64 << 20
FIRST_POINTS: Final = 128
_NUMBER_BYTES: Final = 12  # of a float32 in JSON, with its comma
_ROW_BYTES: Final = 64


@dataclass(frozen=True, slots=True)
class Query:
    """One nearest-neighbour question; exactly one of `vector`, `text` and `point` is set.

    Parameters
    ----------
    vector : (d,) float32.
    text : a text to encode with `encoder`, or with the collection's own if that is None.
    layers, dimensions : the size to encode it at; None: all of the encoder's.
    point : the id of a stored point, which is itself left out of the answer.
    filter : Qdrant's filter tree as parsed JSON.
    score_threshold : on the wire's scale: the least score, under Euclid the greatest distance.
    """

    limit: int
    vector: Float32s | None = None
    text: str | None = None
    encoder: str | None = None
    layers: int | None = None
    dimensions: int | None = None
    point: PointId | None = None
    offset: int = 0
    filter: RawFilter = None
    params: SearchParams = field(default_factory=SearchParams)
    score_threshold: float | None = None
    with_payload: bool = True
    with_text: bool = False
    with_vector: bool = False


@dataclass(frozen=True, slots=True)
class TextStage:
    """How the text of a query was encoded.

    Parameters
    ----------
    cached : whether its vector was known from an earlier query.
    truncated : whether it is longer than the model's window: the vector lacks its end.
    warning : what the asker should know about the size.
    """

    encoder: str
    layers: int
    dimensions: int
    cached: bool
    truncated: bool
    warning: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """Hits with scores as they go over the wire (Euclid: the distance), and what was done to find them.

    `text` is None where a query had no text.
    """

    hits: list[Hit]
    stages: Stages
    text: TextStage | None


def parsed(raw: RawFilter) -> Filter | None:
    """Return a filter, None for none; raises InvalidFilter."""
    return None if raw is None else parse_filter(raw)


def search_alike(
    collection: Collection,
    queries: Sequence[Query],
    vectors: Float32s,
    within: Float32s | None,
    wanted: Filter | None,
    deadline: float | None,
) -> list[SearchResult]:
    """Search for queries that `alike` put together; `vectors` is (nq, d) float32, `within` as `Collection.search`."""
    first = queries[0]
    k = max(q.offset + q.limit + (q.point is not None) for q in queries)
    return collection.search(
        vectors,
        k,
        filter=wanted,
        params=first.params,
        with_payload=first.with_payload,
        with_text=first.with_text,
        with_vector=first.with_vector,
        within=within,
        deadline=deadline,
    )


def bounded_page(
    read: Callable[[PointId | None, int], tuple[list[Point], PointId | None]], after: PointId | None, limit: int
) -> tuple[list[Point], PointId | None]:
    """Return a page of at most `limit` points, which ends early at about `PAGE_BYTES`, and the next id.

    Parameters
    ----------
    read : returns so many points from an id on, and the id behind them. Only a few are read at first: after that
        their size is known, and how many more will fit.
    """
    points, following = read(after, min(limit, FIRST_POINTS))
    size = sum(map(answer_bytes, points))
    while following is not None and len(points) < limit and size < PAGE_BYTES:
        fitting = (PAGE_BYTES - size) * len(points) // max(1, size)
        more, following = read(following, max(1, min(limit - len(points), fitting, 8 * len(points))))
        size += sum(map(answer_bytes, more))
        points += more
    return points, following


def answer_bytes(point: Point) -> int:
    """Return about how many bytes a point takes in an answer."""
    numbers = 0 if point.vector is None else len(point.vector)
    return len(point.payload) + len(point.text or "") + _NUMBER_BYTES * numbers + _ROW_BYTES


def stored_vector(collection: Collection, point: PointId) -> Float32s:
    """Return the (d,) vector of a point; raises UnknownPoint."""
    found = collection.points([point], with_vector=True)
    if not found or found[0].vector is None:
        raise UnknownPoint(
            f"there is no point {point!r} in {collection.name}",
            param="query",
            hint='1 and "1" are different ids',
        )
    return found[0].vector


def alike(queries: Sequence[Query]) -> list[list[int]]:
    """Group the positions of queries that differ only in what they look for and in how much of it."""
    if len(queries) == 1:
        return [[0]]
    groups: dict[object, list[int]] = {}
    for i, q in enumerate(queries):
        tree = orjson.dumps(q.filter, option=orjson.OPT_SORT_KEYS)
        # Encoders of one collection may be cut along different axes.
        cut = None if q.dimensions is None else (q.encoder, q.layers, q.dimensions)
        groups.setdefault((tree, cut, q.params, q.with_payload, q.with_text, q.with_vector), []).append(i)
    return list(groups.values())


def wire_hits(hits: list[Hit], query: Query, distance: Distance) -> list[Hit]:
    """Leave out the asked point, apply the threshold, cut the page, turn Euclid's scores into distances."""
    if query.point is not None:
        hits = [hit for hit in hits if hit.id != query.point or type(hit.id) is not type(query.point)]
    sign = -1.0 if distance == "Euclid" else 1.0
    if query.score_threshold is not None:
        hits = [hit for hit in hits if hit.score >= sign * query.score_threshold]
    page = hits[query.offset : query.offset + query.limit]
    if sign > 0:
        return page
    return [Hit(h.id, -h.score, h.payload, h.text, h.vector) for h in page]
