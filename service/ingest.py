"""From received points to durable ones: skip what is there already, encode what is new, write one batch.

Knows nothing of HTTP or JSON bodies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from index.collection import Collection
from index.ids import PointId
from index.points import Batch, Stored
from models import InvalidText
from service.encoders import TextEncoder

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
    the encoder refuses is reported and the others are written; else it raises InvalidText and nothing is.
    """
    outcome = Outcome()
    outcome.accepted = len(incoming.ids)
    # Of an id that comes twice the last counts: an earlier one must not undo what a later left unchanged.
    latest = sorted({point_id: i for i, point_id in enumerate(incoming.ids)}.values())
    stored = collection.stored([incoming.ids[i] for i in latest])
    changed = [i for i in latest if not _same(incoming, i, stored.get(incoming.ids[i]))]
    outcome.unchanged = len(latest) - len(changed)
    while changed:
        try:
            batch = _batch(collection, incoming, changed, stored, encoder, outcome)
        except _NoVector as error:
            if not skip_bad:
                raise error.reason from None
            outcome.refused.append((error.position, str(error.reason)))
            outcome.accepted -= 1
            changed.remove(error.position)
            continue
        collection.upsert(batch)
        break
    return outcome


class _NoVector(Exception):
    """The encoder refused the text at a position of the incoming points."""

    def __init__(self, position: int, reason: InvalidText) -> None:
        super().__init__(position)
        self.position = position
        self.reason = reason


def _same(incoming: Incoming, i: int, stored: Stored | None) -> bool:
    return stored is not None and stored.hash == incoming.hashes[i] and stored.payload == incoming.payloads[i]


def _batch(
    collection: Collection,
    incoming: Incoming,
    rows: Sequence[int],
    stored: dict[PointId, Stored],
    encoder: TextEncoder | None,
    outcome: Outcome,
) -> Batch:
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
        try:
            encoded = encoder.encode_documents([incoming.texts[rows[place]] or "" for place in to_encode])
        except InvalidText as error:
            raise _NoVector(rows[to_encode[error.index]], error) from error
        vectors[to_encode] = encoded.vectors
        outcome.truncated = [rows[to_encode[j]] for j in np.flatnonzero(encoded.truncated)]
    return Batch(
        ids=[incoming.ids[i] for i in rows],
        vectors=vectors,
        payloads=[incoming.payloads[i] for i in rows],
        texts=[incoming.texts[i] for i in rows],
        hashes=[incoming.hashes[i] for i in rows],
    )


def _known_vectors(
    collection: Collection, incoming: Incoming, rows: Sequence[int], stored: dict[PointId, Stored]
) -> dict[PointId, Float32s]:
    """Return the stored vectors of texts that did not change; text and vector are read together."""
    wanted: dict[PointId, str] = {}
    for i in rows:
        text, there = incoming.texts[i], stored.get(incoming.ids[i])
        if text is not None and there is not None and there.hash == incoming.hashes[i]:
            wanted[incoming.ids[i]] = text
    if not wanted:
        return {}
    points = collection.points(list(wanted), with_vector=True, with_text=True)
    return {p.id: p.vector for p in points if p.vector is not None and p.text == wanted[p.id]}
