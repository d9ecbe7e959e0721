"""How many bytes more points will add to a collection, beside what it takes now. More points never add less."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from index.collection import Collection
from index.fields.field import FieldKind
from index.footprint import foretell
from index.points import CollectionConfig


def memory_growth(
    collection: Collection, points: int, *, taken: int, payload_indexes: Mapping[str, FieldKind] | None = None
) -> int:
    """Return the bytes in memory that so many new points will add, at most on their way and at rest.

    Parameters
    ----------
    taken : bytes that the collection takes in memory now, or a moment ago.
    payload_indexes : field -> kind.
    """
    view, config, options = collection.view, _as_coded(collection), collection.options

    def peak(count: int) -> int:
        # Points wait as float vectors for the first binarizer: that may take more than all codes do afterwards. Once
        # there is a binarizer, few points have codes, too.
        counts = (max(count, options.first_fit),) if view.binarizers else (count, min(count, options.first_fit - 1))
        return max(sum(foretell(n, config, options, payload_indexes=payload_indexes).memory.values()) for n in counts)

    # What is foretold counts from nothing. Where the collection takes more than that, new points come on top of it.
    return peak(view.points + points) - min(taken, peak(view.points))


def disk_growth(
    collection: Collection,
    points: int,
    *,
    payload_bytes: float,
    text_bytes: float,
    payload_indexes: Mapping[str, FieldKind] | None = None,
) -> int:
    """Return the bytes on disk that so many new points will add at rest.

    Parameters
    ----------
    payload_bytes, text_bytes : of a new point, mean.
    payload_indexes : field -> kind.
    """
    config = _as_coded(collection)

    def size(count: int) -> int:
        found = foretell(
            count,
            config,
            collection.options,
            payload_bytes=payload_bytes,
            text_bytes=text_bytes,
            payload_indexes=payload_indexes,
        )
        return sum(found.disk.values())

    return size(collection.view.points + points) - size(collection.view.points)


def _as_coded(collection: Collection) -> CollectionConfig:
    """Return the configuration with the codes that new points get: those of a binarizer that was brought in, too."""
    config, newest = collection.config, collection.view.newest
    if newest is None:
        return config
    return replace(config, bits=newest.bits, code_dimension=min(newest.code_dimension, config.dimension))
