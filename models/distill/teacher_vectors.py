"""What a teacher makes of many texts, on disk: shards of vectors that are computed once, in any number of sittings.

A shard is named by its texts and the teacher's space, so another list that begins alike shares it, and a changed
text or teacher never meets vectors of another.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.errors import ModelNotFound, TrainingCancelled
from models.safe_files import write_safely

SHARD = 4096
Floats = NDArray[np.float32]
Encode = Callable[[Sequence[str]], Floats]


@dataclass(frozen=True, slots=True)
class Encoding:
    """How far `TeacherVectors.fill` is: texts done of all, texts a second, seconds left."""

    done: int
    texts: int
    rate: float
    seconds_left: float


@dataclass(frozen=True)
class TeacherVectors:
    """The cache.

    Attributes
    ----------
    folder : where shards are; made when the first is written.
    space : the teacher's space.
    """

    folder: Path
    space: str

    def fill(
        self,
        texts: Sequence[str],
        encode: Encode,
        *,
        on_progress: Callable[[Encoding], None],
        cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        """Encode the texts whose vectors are missing, a shard of 4,096 at a time.

        Parameters
        ----------
        encode : texts to (n, d) float32.
        cancelled : asked after every shard; if it says so, what is done stays and TrainingCancelled is raised.
        """
        began, made, done = time.monotonic(), 0, 0
        for piece, path in self._shards(texts):
            done += len(piece)
            if path.exists():
                continue
            if cancelled():
                raise TrainingCancelled(f"cancelled after {done - len(piece)} of {len(texts)} texts")
            vectors = encode(piece)
            with write_safely(path) as file:
                # Unit vectors: half precision is off by less than 5e-4 of a coordinate.
                np.save(file, vectors.astype(np.float16))
            made += len(piece)
            rate = made / (time.monotonic() - began)
            on_progress(Encoding(done, len(texts), rate, (len(texts) - done) / rate))

    def read(self, texts: Sequence[str]) -> NDArray[np.float16]:
        """Return (n, d) float16; raises ModelNotFound where shards are missing."""
        paths = [path for _, path in self._shards(texts)]
        missing = [path.name for path in paths if not path.exists()]
        if missing:
            raise ModelNotFound(
                f"{self.folder} lacks {len(missing)} of {len(paths)} shards of teacher vectors ({missing[0]} first)",
                hint="let the training that makes them run to its end",
            )
        return np.concatenate([np.load(path) for path in paths])

    def done(self, texts: Sequence[str]) -> int:
        """Return how many texts have vectors, from the first on without a gap."""
        count = 0
        for piece, path in self._shards(texts):
            if not path.exists():
                break
            count += len(piece)
        return count

    def _shards(self, texts: Sequence[str]) -> Iterator[tuple[Sequence[str], Path]]:
        for start in range(0, len(texts), SHARD):
            piece = texts[start : start + SHARD]
            digest = hashlib.sha256(self.space.encode())
            for text in piece:
                digest.update(b"\0" + text.encode())
            yield piece, self.folder / f"{digest.hexdigest()[:32]}.npy"
