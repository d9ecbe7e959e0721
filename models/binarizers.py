"""The factory of all kinds of binarizers: fits training-free ones, reads whatever kind some bytes are."""

from __future__ import annotations

from models.binarizer import TrainingFree, TrainingFreeFactory
from models.grid import Floats
from models.recurrent import Recurrent, load_recurrent
from models.serialization import MAGIC

AnyBinarizer = TrainingFree | Recurrent


class Binarizers:
    """Implements the index's `BinarizerFactory`."""

    def __init__(self) -> None:
        self._training_free = TrainingFreeFactory()

    def fit(self, vectors: Floats, seed: int, *, bits: int = 1, dimensions: int | None = None) -> TrainingFree:
        """Fit a training-free binarizer; parameters and errors are those of `TrainingFreeFactory.fit`."""
        return self._training_free.fit(vectors, seed, bits=bits, dimensions=dimensions)

    def load(self, data: bytes) -> AnyBinarizer:
        """Read what the `to_bytes` of any kind wrote. Raises CorruptBinarizer."""
        if data[: len(MAGIC)] == MAGIC:
            return self._training_free.load(data)
        return load_recurrent(data)
