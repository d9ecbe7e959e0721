"""Candidates for a collection's binarizer: whether one fits, whether it finds no less, and bringing it in."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from index.binarizer import Binarizer, BinarizerFactory
from index.collection import Collection
from index.errors import InvalidInput, VectorsDropped
from models.training_data import LEAST_VECTORS
from service.catalog import Catalog
from service.comparison import Comparison, compare
from service.errors import OtherSpace, WorseBinarizer

Float32s = NDArray[np.float32]

MOST_QUERIES: Final = 500  # stored vectors that stand for queries in a comparison
QUERY_SHARE: Final = 10  # and no more than one of so many
DATABASE_BYTES: Final = 64 << 20  # vectors among which they search
MOST_CODE_DIMENSIONS: Final = 4  # for each dimension of the vectors


class Candidates:
    """Compares binarizers with those in use, on vectors of the collection that they are for.

    Parameters
    ----------
    catalog : the collections.
    factory : reads stored binarizers.
    """

    def __init__(self, catalog: Catalog, factory: BinarizerFactory) -> None:
        self._catalog = catalog
        self._factory = factory

    def load(self, data: bytes) -> Binarizer:
        """Read a stored binarizer. Raises CorruptBinarizer."""
        return self._factory.load(data)

    def replace(self, name: str, data: bytes, *, space: str | None, force: bool) -> dict[str, Any]:
        """Use a binarizer that was trained elsewhere for new codes; return its name, version and the comparison.

        Parameters
        ----------
        data : the bytes of a `binarizer.safetensors`.
        space : the vector space that it was trained in, None where that is not known.
        force : use it though it finds less.

        Raises
        ------
        CorruptBinarizer, OtherSpace, InvalidInput : it does not fit; nothing is changed.
        VectorsDropped : there is nothing to compare it on, and it is not forced.
        WorseBinarizer : it finds less, on sampled queries, than the one in use.
        """
        candidate = self.load(data)
        with self._catalog.using(name) as collection:
            if candidate.dimension != collection.config.dimension:
                raise InvalidInput(
                    f"the binarizer is for vectors of dimension {candidate.dimension}, those of {name} have "
                    f"{collection.config.dimension}",
                    hint="train one on this collection's vectors",
                )
            check_dimensions(candidate.code_dimension, collection)
            own = collection.config.attributes.get("space")
            if None not in (own, space) and own != space:
                raise OtherSpace(
                    f"the binarizer was trained in the space {space}, collection {name} holds the space {own}",
                    param="space",
                    hint="train one on this collection's vectors",
                )
            comparison = None
            if not in_use(collection, candidate):
                if not force:
                    check_vectors(collection)
                comparison = self._compare_uploaded(collection, candidate)
                if comparison is not None and comparison.worse and not force:
                    raise WorseBinarizer(
                        f"{candidate.identity} finds less than the binarizer in use: {comparison}",
                        figures=asdict(comparison),
                        hint="use it all the same with force=true",
                    )
                collection.adopt(candidate)
            return {
                "name": candidate.identity,
                "version": max(collection.view.binarizers),
                "comparison": None if comparison is None else asdict(comparison),
            }

    def compare(
        self, collection: Collection, candidate: Binarizer, rows: NDArray[np.int64], queries: Float32s
    ) -> Comparison:
        """Compare with the newest binarizer, or what would be fitted, on queries that are stored in `rows`."""
        config = collection.config
        most = max(LEAST_VECTORS, DATABASE_BYTES // (4 * config.dimension))
        found, database = collection.sample(most, seed=1)
        database = database[~np.isin(found, rows)]
        current = collection.view.newest or self._factory.fit(
            database, 0, bits=config.bits, dimensions=config.code_dimension
        )
        return compare(current, candidate, queries, database, config.distance)

    def _compare_uploaded(self, collection: Collection, candidate: Binarizer) -> Comparison | None:
        """Compare on queries sampled now; None where there are no vectors, or too few points to ask anything."""
        info = collection.info()
        count = min(MOST_QUERIES, info.points // QUERY_SHARE)
        if not count or info.codes_only is not None:
            return None
        rows, vectors = collection.sample(count, seed=0)
        return self.compare(collection, candidate, rows, vectors)


def in_use(collection: Collection, candidate: Binarizer) -> bool:
    """Say whether a candidate is the newest binarizer already."""
    newest = collection.view.newest
    return newest is not None and newest.identity == candidate.identity


def check_dimensions(dimensions: int, collection: Collection) -> None:
    """Raise InvalidInput for codes that would be larger than the vectors in float16."""
    most = -(-MOST_CODE_DIMENSIONS * collection.config.dimension // 8) * 8
    if dimensions > most:
        raise InvalidInput(
            f"codes of {dimensions} dimensions are too long for vectors of dimension {collection.config.dimension}",
            param="dimensions",
            hint=f"choose 1 to {most}",
        )


def check_vectors(collection: Collection) -> None:
    """Raise VectorsDropped where vectors are gone: nothing can be trained on, compared or coded again."""
    if collection.info().codes_only is not None:
        raise VectorsDropped(
            f"collection {collection.name} has dropped its full-precision vectors (store_vectors is false), which this "
            "needs",
            hint="load the vectors into a collection that stores them",
        )
