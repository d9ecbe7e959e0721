"""Training of recurrent binary codes from cached vectors alone (BEBR, arXiv 2302.08714, embedding to embedding).

Queries are the vectors themselves, or are given; positives are neighbours mined from the vectors; the ranking of the
float vectors over the neighbours of a batch is distilled into the ranking of the codes. Importing this imports torch.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.recurrent import Recurrent
from models.torch_threads import torch_threads
from models.training_checkpoint import Checkpoint, fingerprint
from models.training_data import prepare
from models.training_older import Older, freeze
from models.training_options import Progress, Stage, TrainingOptions
from models.training_report import TrainingReport, report_on
from models.training_run import TrainingRun
from models.training_start import fitted_start


@dataclass(frozen=True)
class Trained:
    """A trained binarizer and what is known of it."""

    binarizer: Recurrent
    report: TrainingReport


def train(
    vectors: NDArray[Any],
    options: TrainingOptions,
    *,
    folder: Path,
    queries: NDArray[Any] | None = None,
    compatible_with: tuple[Older, NDArray[Any] | None] | None = None,
    on_progress: Callable[[Progress], None] = lambda _: None,
    cancelled: Callable[[], bool] = bool,
) -> Trained:
    """Train a binarizer, or go on with a training that stopped.

    What is returned is the best epoch on held-out queries, the start included, so on those it is never worse than its
    start. Whether it is better than the training-free code is judged on other held-out queries; the report says it.

    Parameters
    ----------
    vectors : (n, d) floats, at least 256.
    folder : for checkpoints. A training of the same vectors and options goes on from the last one, and on one
        machine with as many threads ends with the weights of an uninterrupted one.
    queries : (nq, d) floats, questions for instance; None lets the vectors be queries for each other.
    compatible_with : an older binarizer whose codes the new queries shall read, and the vectors that its embedding
        model has for the same rows if that is another one.
    on_progress : called after each step.
    cancelled : asked before each step.

    Raises
    ------
    TooFewVectors, ConstantVectors, InvalidVectors
        Vectors that nothing can be trained on, and why.
    InvalidSize
        Fewer code dimensions than the older binarizer's.
    TrainingCancelled
        After a checkpoint.
    """
    older, older_vectors = compatible_with or (None, None)
    settings = {**asdict(options), "older": older and older.identity}
    mark = fingerprint(settings, {"vectors": vectors, "queries": queries, "older": older_vectors})
    began = time.monotonic()

    def preparing(stage: Stage) -> Callable[[float], None]:
        return lambda share: on_progress(Progress(stage, 0, options.epochs, round(100 * share), 100))

    with torch_threads(options.threads):
        data = prepare(
            vectors,
            queries,
            dimensions=options.dimensions,
            distance=options.distance,
            neighbours=options.neighbours,
            most_anchors=options.anchors,
            seed=options.seed,
            cache=folder / f"neighbours-{mark[:16]}.npy",
            on_progress=preparing("neighbours"),
            cancelled=cancelled,
        )
        frozen = None if older is None else freeze(older, older_vectors, data, options.dimensions)
        run = TrainingRun(
            data,
            options,
            frozen,
            Checkpoint(folder / "checkpoint.pt", mark),
            began,
            lambda mean: fitted_start(data, mean, options, frozen, preparing("codes"), cancelled),
        )
        run.epochs(on_progress, cancelled)
        binarizer, coded = run.best()
        report = report_on(binarizer, coded, data, frozen, seed=options.seed)
    served = Recurrent(
        mean=binarizer.mean * np.float32(data.unit),
        forward=binarizer.forward,
        tower=binarizer.tower.in_units(data.unit),
        decoder=binarizer.decoder,
        sweeps=binarizer.sweeps,
        compatible_with=() if older is None else (older.identity,),
    )
    return Trained(served, replace(report, **run.summary(), options=asdict(options)))
