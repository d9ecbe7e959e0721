"""Queries to vectors of a collection's space: vectors as they came, stored points, texts through an encoder.

A text may be encoded at a smaller size than the documents were. What comes of it is a whole vector whose product with a
document's is that of their two prefixes, and the axes of these prefixes, so that the search can compare directions in
them: one stored copy of the documents serves queries of every size.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from index.collection import Collection
from models import InvalidText, UnsupportedSize
from service.encoders import Encoders
from service.ingest import check_width
from service.queries import Query, TextStage, stored_vector
from service.query_encoding import QueryEncoding
from service.spaces import declared, encoder_for
from service.text_encoder import Float32s, TextEncoder


class QueryVectors:
    """Turns queries into vectors.

    Parameters
    ----------
    encoders : those of the process.
    encoding : merges the texts of all requests, and knows those that were asked before.
    """

    def __init__(self, encoders: Encoders, encoding: QueryEncoding) -> None:
        self._encoders = encoders
        self._encoding = encoding

    def of(
        self, collection: Collection, queries: Sequence[Query], deadline: float | None
    ) -> tuple[Float32s, list[TextStage | None], list[Float32s | None]]:
        """Return vectors of n queries, how each text was encoded, and what part of the space it was cut to.

        Returns
        -------
        vectors : (n, d) float32.
        stages : None where there was no text.
        within : (s, d) float32, orthonormal rows; None where the vector is whole.

        Raises
        ------
        InvalidText
            A text has no vector; `index` is the position of its query.
        UnsupportedSize
            The encoder does not have the size; `index` is the position of the first query that asks for it.
        InvalidVector, UnknownPoint, DeadlineExceeded
            A vector of another dimension; no such point; encoders are busy.
        NoEncoder, OtherSpace, UnknownEncoder, EncoderUnavailable
            See `spaces.encoder_for`.
        """
        dimension = collection.config.dimension
        vectors = np.empty((len(queries), dimension), np.float32)
        stages: list[TextStage | None] = [None] * len(queries)
        within: list[Float32s | None] = [None] * len(queries)
        sizes: dict[tuple[str | None, int | None, int | None], list[int]] = {}
        for i, query in enumerate(queries):
            if query.vector is not None:
                check_width(query.vector.shape[-1], dimension)
                vectors[i] = query.vector
            elif query.text is not None:
                sizes.setdefault((query.encoder, query.layers, query.dimensions), []).append(i)
            elif query.point is not None:
                vectors[i] = stored_vector(collection, query.point)
        for (name, layers, dimensions), members in sizes.items():
            # Threads for reads must not all wait for a model that loads: whoever asked tries again.
            encoder = encoder_for(collection, self._encoders, "query", name, wait=0)
            try:
                size = encoder.resolve(layers, dimensions)
            except UnsupportedSize as error:
                raise UnsupportedSize(str(error), index=members[0], hint=error.hint) from error
            texts = [queries[i].text or "" for i in members]
            try:
                vectors[members], of_texts, axes = self._encode(collection, encoder, size, texts, deadline)
            except InvalidText as error:
                raise InvalidText(str(error), index=members[error.index], hint=error.hint) from error
            for i, stage in zip(members, of_texts, strict=True):
                stages[i], within[i] = stage, axes
        return vectors, stages, within

    def _encode(
        self,
        collection: Collection,
        encoder: TextEncoder,
        size: tuple[int, int],
        texts: list[str],
        deadline: float | None,
    ) -> tuple[Float32s, list[TextStage], Float32s | None]:
        layers, dimensions = size
        encoded = self._encoding.encode(encoder, texts, layers=layers, dimensions=dimensions, deadline=deadline)
        vectors, axes, warning = encoded.vectors, None, None
        if dimensions < encoder.dimension:
            axes = encoder.axes(dimensions)
            vectors, warning = vectors @ axes, _fold_warning(collection, encoder)
        stages = [
            TextStage(encoder.name, layers, dimensions, cached, truncated, warning)
            for cached, truncated in zip(encoded.cached.tolist(), encoded.truncated.tolist(), strict=True)
        ]
        return vectors, stages, axes


def _fold_warning(collection: Collection, encoder: TextEncoder) -> str | None:
    """Say that short queries are cut otherwise than when the collection was made; its vectors are the same."""
    own = declared(collection.config.attributes)
    if own is None or own.fold in (None, encoder.fold):
        return None
    return (
        f"params.dimensions cuts by the fold {encoder.fold or 'none'} of encoder {encoder.name}; when collection "
        f"{collection.name} was made it was {own.fold}: short queries may find other points than then"
    )
