"""Which encoders serve a collection, and the contract that both are of its space. Knows nothing of HTTP.

Vectors of two spaces do not compare: whatever would bring them together is refused, never answered wrongly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from index.collection import Collection
from models import UnknownEncoder
from service.encoders import MAX_WAIT, Encoders, Pair
from service.errors import NoEncoder, OtherSpace
from service.text_encoder import Side, TextEncoder


@dataclass(frozen=True, slots=True)
class Declared:
    """What a collection of texts declares in its attributes.

    Parameters
    ----------
    fold : identity of the rotation that its short queries were cut by when it was made; None where there was none,
        or where the collection is older than folds.
    """

    encoders: Pair
    space: str
    fold: str | None


def declared(attributes: Mapping[str, Any]) -> Declared | None:
    """Return what a collection declares; None for a collection of vectors."""
    document = attributes.get("encoder")
    if document is None:
        return None
    encoders = Pair(document, attributes.get("query_encoder") or document)
    return Declared(encoders, str(attributes.get("space")), attributes.get("fold"))


def declaration(encoders: Encoders, wanted: str | Pair) -> tuple[int, dict[str, Any]]:
    """Load the encoders of a new collection; return their dimension, and the attributes that `declared` reads.

    Parameters
    ----------
    wanted : the name of a pair or of one encoder for both sides, or two encoders.

    Raises
    ------
    OtherSpace
        They are of two spaces.
    UnknownEncoder, EncoderUnavailable
        See `Encoders.get`.
    """
    pair = encoders.pair(wanted) if isinstance(wanted, str) else Pair(*map(encoders.canonical, wanted))
    _check_pair(pair, encoders.space(pair.document), encoders.space(pair.query))
    document, query = encoders.get(pair.document), encoders.get(pair.query)
    _check_pair(pair, document.space, query.space)
    attributes: dict[str, Any] = {"encoder": pair.document, "space": document.space}
    if pair.query != pair.document:
        attributes["query_encoder"] = pair.query
    if query.fold is not None:
        attributes["fold"] = query.fold
    return document.dimension, attributes


def _check_pair(pair: Pair, document: str | None, query: str | None) -> None:
    if None not in (document, query) and document != query:
        raise OtherSpace(
            f"encoder {pair.document} makes vectors of the space {document}, encoder {pair.query} of the space {query}",
            param="encoder",
            hint="take two encoders of one space: GET /encoders shows the space of each",
        )


def encoder_for(
    collection: Collection, encoders: Encoders, side: Side, name: str | None = None, *, wait: float = MAX_WAIT
) -> TextEncoder:
    """Return the collection's encoder of a side, or another one by name if it is of the same space.

    Parameters
    ----------
    name : an encoder, or a pair, of which the encoder of that side is meant; None: the collection's own.
    wait : as in `Encoders.get`.

    Raises
    ------
    NoEncoder
        The collection takes vectors.
    OtherSpace
        The encoder makes vectors that do not compare with the collection's.
    UnknownEncoder, EncoderUnavailable
        See `Encoders.get`.
    """
    own = declared(collection.config.attributes)
    if own is None:
        raise NoEncoder(
            f"collection {collection.name} takes vectors, not texts",
            hint='send vectors, or create a collection with {"encoder": "default"}',
        )
    if name is not None:
        wanted: str = getattr(encoders.pair(name), side)
    else:
        wanted = getattr(own.encoders, side)
        if not encoders.has(wanted):
            raise UnknownEncoder(
                f"encoder {wanted} of collection {collection.name} is not known to this server",
                hint="send vectors, name another encoder of its space, or restore the server's setting or model folder",
            )
    # Before it is loaded, where its space is known before that; and as it is.
    _check_space(collection, wanted, encoders.space(wanted), own.space)
    encoder = encoders.get(wanted, wait=wait)
    _check_space(collection, wanted, encoder.space, own.space)
    return encoder


def _check_space(collection: Collection, name: str, found: str | None, own: str) -> None:
    if found not in (None, own):
        raise OtherSpace(
            f"encoder {name} makes vectors of the space {found}, collection {collection.name} holds the space {own}",
            hint="use an encoder of the collection's space, or load the texts into a new collection",
        )


def refusal(attributes: Mapping[str, Any], encoders: Encoders) -> str | None:
    """Say why a collection refuses texts, as far as that is known without loading; None where it takes them."""
    own = declared(attributes)
    failures = encoders.failures()
    for name in dict.fromkeys(own.encoders if own else ()):
        if not encoders.has(name):
            return f"encoder {name} is not known to this server"
        space = encoders.space(name)
        if own is not None and space not in (None, own.space):
            return f"encoder {name} is of the space {space}, the collection holds the space {own.space}"
        if name in failures:
            return f"encoder {name} failed to load: {failures[name]}"
    return None
