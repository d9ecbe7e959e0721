"""Binarizers of live collections: trained on a sample, compared with the one in use, swapped in or refused.

Joins collections, jobs and the process that trains. A crash at any line leaves the codes in use as they are, and a
job that goes on: each step first looks for what it left on disk or in the collection.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import orjson
from numpy.typing import NDArray

from index import durable, versions
from index.collection import Collection
from index.errors import InvalidInput, ReadOnlyCollection
from models.binarizer_folder import DESCRIPTION, WEIGHTS
from models.errors import TooFewVectors
from models.training_data import LEAST_VECTORS
from service.candidates import MOST_QUERIES, QUERY_SHARE, Candidates, check_dimensions, check_vectors, in_use
from service.catalog import Catalog
from service.jobs import Run
from service.trainer import UNFINISHED

Float32s = NDArray[np.float32]

SAMPLE: Final = 100_000  # vectors to train on, unless a request says otherwise
SAMPLE_BYTES: Final = 256 << 20  # and at most so many bytes of them, which this process holds for a moment
MOST_SAMPLE_BYTES: Final = 2 << 30  # that a request can ask for
WRITTEN_ROWS: Final = 8192
LEAST_POINTS: Final = -(-LEAST_VECTORS * QUERY_SHARE // (QUERY_SHARE - 1))


class Training:
    """Plans and runs jobs about binarizers.

    Parameters
    ----------
    catalog : the collections.
    candidates : what decides on a trained binarizer.
    train_apart : runs `bitfold train binarizer` to its end: `trainer.train_in_process`, or a stand-in.
    """

    def __init__(self, catalog: Catalog, candidates: Candidates, train_apart: Callable[..., None]) -> None:
        self._catalog = catalog
        self.candidates = candidates
        self._train_apart = train_apart

    # Before a job

    def plan_training(
        self,
        name: str,
        *,
        bits: int | None,
        dimensions: int | None,
        sample: int | None,
        epochs: int | None,
        seed: int,
        upgrade: bool,
        force: bool,
    ) -> tuple[float | None, dict[str, Any]]:
        """Check what is asked; return when the collection was made, and the parameters of a job.

        Raises UnknownCollection, TooFewVectors, VectorsDropped, or InvalidInput for bits, dimensions or a sample that
        are not possible.
        """
        with self._catalog.using(name) as collection:
            config = collection.config
            config.check_bits(collection.bits if bits is None else bits)
            check_dimensions(dimensions or config.dimension, collection)
            most = MOST_SAMPLE_BYTES // (4 * config.dimension)
            if sample is not None and not LEAST_VECTORS <= sample <= most:
                raise InvalidInput(
                    f"a sample of {sample} vectors of dimension {config.dimension} is not possible",
                    param="sample",
                    hint=f"choose {LEAST_VECTORS} to {most}",
                )
            check_vectors(collection)
            points = collection.info().points
            if points < LEAST_POINTS:
                raise TooFewVectors(
                    f"{name} has {points} points, too few to train a binarizer and to compare it",
                    hint=f"load at least {LEAST_POINTS} first",
                )
            return self._made(collection), {
                "bits": bits or collection.bits,
                "dimensions": dimensions or config.code_dimension,
                "sample": sample or max(LEAST_VECTORS, min(SAMPLE, SAMPLE_BYTES // (4 * config.dimension))),
                "epochs": epochs,
                "seed": seed,
                "upgrade": upgrade,
                "force": force,
            }

    def plan_upgrade(self, name: str) -> float | None:
        """Return when the collection was made. Raises UnknownCollection, VectorsDropped."""
        with self._catalog.using(name) as collection:
            check_vectors(collection)
            return self._made(collection)

    @staticmethod
    def _made(collection: Collection) -> float | None:
        return collection.config.attributes.get("created")

    # Jobs

    def train(self, run: Run) -> Literal["done", "rejected"]:
        """Train, compare, and use what was trained or reject it; then make old codes again. A runner of `Jobs`."""
        parameters = run.job.parameters
        with self._collection(run) as collection:
            trained = run.work / "binarizer"
            if not (trained / DESCRIPTION).exists():
                self._sample(run, collection)
                self._train(run, collection, trained)
            candidate = self.candidates.load((trained / WEIGHTS).read_bytes())
            description = orjson.loads((trained / DESCRIPTION).read_bytes())
            run.keep(name=candidate.identity, report=description["report"])
            if not in_use(collection, candidate):
                run.progress(0, 1, "", "comparing", step="comparing")
                with np.load(run.work / "queries.npz") as queries:
                    comparison = self.candidates.compare(collection, candidate, queries["rows"], queries["vectors"])
                run.keep(comparison=asdict(comparison))
                if comparison.worse and not parameters["force"]:
                    unfinished = shutil.ignore_patterns(UNFINISHED)
                    shutil.copytree(trained, run.folder / "binarizer", ignore=unfinished, dirs_exist_ok=True)
                    return "rejected"
                run.check()
                collection.adopt(candidate)
            run.keep(version=max(collection.view.binarizers))
            if parameters["upgrade"]:
                self._upgrade(run, collection)
        return "done"

    def upgrade(self, run: Run) -> Literal["done"]:
        """Make the codes of older binarizers again with the newest. A runner of `Jobs`."""
        with self._collection(run) as collection:
            self._upgrade(run, collection)
        return "done"

    @contextmanager
    def _collection(self, run: Run) -> Iterator[Collection]:
        """Give the collection that the job is about; raises UnknownCollection when it was dropped."""
        name = run.job.collection
        collection = self._catalog.get(name)
        if self._made(collection) != run.job.collection_created_at:
            raise self._catalog.dropped(name)
        with self._catalog.using(name, same=collection):
            yield collection

    def _check(self, run: Run, collection: Collection) -> None:
        """Raise what ends the job: a wish, a stop, a dropped collection."""
        run.check()
        if not self._catalog.is_open(collection):
            raise self._catalog.dropped(collection.name)

    def _sample(self, run: Run, collection: Collection) -> None:
        """Write what to train on and what to ask afterwards; nothing is in both."""
        if (run.work / "sample.npy").exists():
            return
        run.progress(0, 1, "", "sampling", step="sampling")
        parameters = run.job.parameters
        points = min(collection.info().points, parameters["sample"] + MOST_QUERIES)
        rows, vectors = collection.sample(points, parameters["seed"])
        asked = _some(len(rows), min(MOST_QUERIES, len(rows) // QUERY_SHARE), parameters["seed"])
        with durable.replacing(run.work / "queries.npz") as (_, path), path.open("wb") as file:
            np.savez(file, rows=rows[asked], vectors=vectors[asked])
        trained = np.delete(np.arange(len(rows)), asked)
        with durable.replacing(run.work / "sample.npy") as (_, path), path.open("wb") as file:
            header = {"descr": "<f4", "fortran_order": False, "shape": (len(trained), vectors.shape[1])}
            np.lib.format.write_array_header_1_0(file, header)
            for start in range(0, len(trained), WRITTEN_ROWS):  # a copy of all would double the memory
                file.write(vectors[trained[start : start + WRITTEN_ROWS]].astype("<f4", copy=False).tobytes())

    def _train(self, run: Run, collection: Collection, out: Path) -> None:
        parameters = run.job.parameters
        arguments = {
            "vectors": (run.work / "sample.npy").absolute(),
            "out": out.absolute(),
            "bits": parameters["bits"],
            "dimensions": parameters["dimensions"],
            "distance": collection.config.distance,
            "epochs": parameters["epochs"],
            "seed": parameters["seed"],
            "sample": parameters["sample"],
            "space": collection.config.attributes.get("space"),
        }
        run.progress(0, 1, "", "starting to train", step="starting")
        self._train_apart(
            [text for key, value in arguments.items() if value is not None for text in (f"--{key}", str(value))],
            log=run.work / "train.log",
            on_line=lambda line: run.progress(**line),
            check=lambda: self._check(run, collection),
        )

    def _upgrade(self, run: Run, collection: Collection) -> None:
        def on_progress(done: int, total: int) -> None:
            run.progress(done, total, "points", "making codes again", step="upgrade")

        if not versions.upgrade(collection, on_progress, lambda: run.interrupted):
            self._check(run, collection)
            raise ReadOnlyCollection(
                f"codes of {collection.name} cannot be made again: {collection.info().read_only}",
                hint="restart the service, then upgrade again",
            )


def _some(n: int, count: int, seed: int) -> NDArray[np.int64]:
    """Return so many of 0 to n - 1, ascending."""
    return np.sort(np.random.default_rng(seed).choice(n, count, replace=False))
