"""From received points to durable ones: skip what is there already, encode what is new, write one batch.

Knows nothing of HTTP or JSON bodies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from index.collection import Collection
from index.errors import InvalidVector, VectorsDropped
from index.ids import PointId
from index.points import Batch, Stored
from models import InvalidText
from service.text_encoder import TextEncoder, without_number

Float32s = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Incoming:
    """Received points as columns; a point has a text (`texts[i]`) or a vector (row i of `vectors`).

    Parameters
    ----------
    ids : canonical ids; an id may come twice, the later one counts.
    texts : what to encode, None where a vector was sent.
    vectors : (n, d) float32, rows of points with text unused; None when all points have texts.
    payloads : JSON objects as bytes.
    hashes : content hashes.
    """

    ids: list[PointId]
    texts: list[str | None]
    vectors: Float32s | None
    payloads: list[bytes]
    hashes: list[bytes]


@dataclass(slots=True)
class Outcome:
    """What became of a block of points; positions are those in `Incoming`."""

    accepted: int = 0
    unchanged: int = 0
    truncated: list[int] = field(default_factory=list)
    refused: list[tuple[int, str]] = field(default_factory=list)


def ingest(
    collection: Collection, incoming: Incoming, encoder: TextEncoder | None, *, skip_bad: bool = False
) -> Outcome:
    """Make points durable and return what became of each.

    A text that is stored already under its id is not encoded again: nothing is written when its payload is
    the same too, and its vector is written again beside a new payload when not. With `skip_bad` a text that
    the encoder refuses is reported and the others are written; else it raises InvalidText, which names the point and
    its position, and nothing is.
    """
    if incoming.vectors is not None:
        check_width(incoming.vectors.shape[1], collection.config.dimension)
    outcome = Outcome()
    # Of an id that comes twice the last counts: an earlier one must not undo what a later left unchanged.
    latest = sorted({point_id: i for i, point_id in enumerate(incoming.ids)}.values())
    stored = collection.stored([incoming.ids[i] for i in latest])
    changed = [i for i in latest if not _same(incoming, i, stored.get(incoming.ids[i]))]
    outcome.unchanged = len(latest) - len(changed)
    vectors = _vectors(collection, incoming, changed, stored, encoder, outcome, skip_bad=skip_bad)
    if outcome.refused:
        refused = {i for i, _ in outcome.refused}
        kept = [place for place, i in enumerate(changed) if i not in refused]
        vectors, changed = vectors[kept], [changed[place] for place in kept]
    if changed:
        collection.upsert(
            Batch(
                ids=[incoming.ids[i] for i in changed],
                vectors=vectors,
                payloads=[incoming.payloads[i] for i in changed],
                texts=[incoming.texts[i] for i in changed],
                hashes=[incoming.hashes[i] for i in changed],
            )
        )
    outcome.accepted = len(incoming.ids) - len(outcome.refused)
    return outcome


def check_width(width: int, dimension: int) -> None:
    """Raise InvalidVector for vectors that were read for a collection of another dimension."""
    if width != dimension:
        raise InvalidVector(
            f"the vectors have {width} dimensions, the collection has {dimension}",
            param="vector",
            hint=f"send {dimension} numbers",
        )


def _same(incoming: Incoming, i: int, stored: Stored | None) -> bool:
    return stored is not None and stored.hash == incoming.hashes[i] and stored.payload == incoming.payloads[i]


def _vectors(
    collection: Collection,
    incoming: Incoming,
    rows: Sequence[int],
    stored: dict[PointId, Stored],
    encoder: TextEncoder | None,
    outcome: Outcome,
    *,
    skip_bad: bool,
) -> Float32s:
    """Return (len(rows), d) vectors: received, known already, or encoded; those of refused texts are zero."""
    vectors = np.zeros((len(rows), collection.config.dimension), np.float32)
    known = _known_vectors(collection, incoming, rows, stored)
    to_encode: list[int] = []
    for place, i in enumerate(rows):
        if incoming.texts[i] is None:
            if incoming.vectors is not None:
                vectors[place] = incoming.vectors[i]
        elif (vector := known.get(incoming.ids[i])) is not None:
            vectors[place] = vector
        else:
            to_encode.append(place)
    if to_encode and encoder is not None:
        texts = {place: incoming.texts[rows[place]] or "" for place in to_encode}
        try:
            truncated, refused = _encode(encoder, texts, vectors, skip_bad=skip_bad)
        except InvalidText as error:
            row = rows[error.index]
            raise InvalidText(f"point {incoming.ids[row]!r}: {error}", index=row, hint=error.hint) from error
        outcome.truncated = [rows[place] for place in truncated]
        outcome.refused = [(rows[place], reason) for place, reason in refused]
    return vectors


def _encode(
    encoder: TextEncoder, texts: Mapping[int, str], vectors: Float32s, *, skip_bad: bool
) -> tuple[list[int], list[tuple[int, str]]]:
    """Put the vectors of texts into the rows that are their keys; return the cut ones and the refused ones.

    An encoder names one text that it refuses, and gives nothing of the others: they are tried again in two
    halves, so that n texts are encoded at most log2(n) times, however many of them are bad.
    """
    truncated: list[int] = []
    refused: list[tuple[int, str]] = []
    waiting = [list(texts)]
    while waiting:
        places = waiting.pop()
        try:
            encoded = encoder.encode_documents([texts[place] for place in places])
        except InvalidText as error:
            if not skip_bad:
                raise InvalidText(without_number(error), index=places[error.index], hint=error.hint) from error
            refused.append((places.pop(error.index), without_number(error)))
            half = len(places) // 2
            waiting += [part for part in (places[half:], places[:half]) if part]
        else:
            vectors[places] = encoded.vectors
            truncated += [places[j] for j in np.flatnonzero(encoded.truncated)]
    return truncated, refused


def _known_vectors(
    collection: Collection, incoming: Incoming, rows: Sequence[int], stored: dict[PointId, Stored]
) -> dict[PointId, Float32s]:
    """Return the stored vectors of texts that did not change; text and vector are read together.

    Where a collection has dropped vectors there are none to write again: texts are encoded once more.
    """
    wanted: dict[PointId, str] = {}
    for i in rows:
        text, there = incoming.texts[i], stored.get(incoming.ids[i])
        if text is not None and there is not None and there.hash == incoming.hashes[i]:
            wanted[incoming.ids[i]] = text
    if not wanted:
        return {}
    try:
        points = collection.points(list(wanted), with_vector=True, with_text=True)
    except VectorsDropped:
        return {}
    return {p.id: p.vector for p in points if p.vector is not None and p.text == wanted[p.id]}
