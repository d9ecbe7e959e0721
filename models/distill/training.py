"""Trains a student of a teacher's space: exit 0 first, then layers that add to it what context says.

    texts, teacher's vectors of them -> static exit -> its vectors -> layers -> weights and a report

Each phase goes on where it was stopped, from checkpoints in `folder`, and ends with the same weights as one that
never was.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from models.distill.losses import alignment_loss, cosine_loss
from models.distill.network import ContextExits, StaticExit
from models.distill.options import StudentOptions, StudentProgress
from models.distill.phase import Phase, parameter_groups, run_phase
from models.distill.start import TeacherParts, context_start, static_start
from models.distill.tokens import Rows, Tokens, batches_by_length
from models.errors import InvalidSize, TooFewVectors
from models.metrics_log import NAME as LOG
from models.torch_threads import torch_threads
from models.training_checkpoint import Checkpoint, fingerprint

LEAST_TEXTS = 256
JUDGE_BATCH = 512
TOP = 10
LONG = 32  # tokens; longer texts are not what queries are like
JUDGEMENTS = 20  # in a phase
Floats = NDArray[np.float32]
Halves = NDArray[np.float16]


@dataclass(frozen=True, eq=False)
class DistillData:
    """What a student learns from.

    Attributes
    ----------
    tokens : of n texts.
    vectors : (n, d) float16, the teacher's unit vectors of the same texts.
    token_vectors : (vocabulary, d) float32, the teacher's of each token's text.
    teacher : its layers; None for a static student.
    """

    tokens: Tokens
    vectors: Halves
    token_vectors: Floats
    teacher: TeacherParts | None


@dataclass(frozen=True, eq=False)
class TrainedStudent:
    """The networks, and what was measured on held-out texts: phase -> figures."""

    static: StaticExit
    context: ContextExits | None
    report: dict[str, Any]


def train_student(
    data: DistillData,
    options: StudentOptions,
    *,
    folder: Path,
    on_progress: Callable[[StudentProgress], None] = lambda _: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> TrainedStudent:
    """Train, or go on training, a student.

    Parameters
    ----------
    folder : for checkpoints and the log of metrics.

    Raises
    ------
    TooFewVectors
        Fewer than 256 texts besides those held out.
    InvalidSize
        Layers, exits or widths that the teacher does not have, or that do not fit each other.
    TrainingCancelled
        `cancelled` said so; the same call goes on from there.
    """
    _check(data, options)
    training, held_out = split(len(data.tokens), options)
    arrays: dict[str, NDArray[Any] | None] = {
        "flat": data.tokens.flat,
        "offsets": data.tokens.offsets,
        "vectors": data.vectors,
    }
    marks = {"static": _static_settings(options), "layers": asdict(options) | {"checkpoint_steps": 0, "threads": 0}}
    checkpoints = {name: Checkpoint(folder / f"{name}.pt", fingerprint(mark, arrays)) for name, mark in marks.items()}
    run = partial(run_phase, log=folder / LOG, on_progress=on_progress, cancelled=cancelled)
    with torch_threads(options.threads):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            static = static_start(data.token_vectors, data.tokens, options)
            d = data.vectors.shape[1]
            context = context_start(data.teacher, data.tokens, d, options) if data.teacher else None
        phase = _static_phase(static, data, training, held_out, options)
        report = {"texts": len(training), "static": run(phase, checkpoint=checkpoints["static"])}
        if context is not None:
            phase = _context_phase(static, context, data, training, held_out, options)
            report["layers"] = run(phase, checkpoint=checkpoints["layers"])
    return TrainedStudent(static, context, report)


def _check(data: DistillData, options: StudentOptions) -> None:
    n, count = len(data.tokens), len(options.layers)
    if n - options.held_out < LEAST_TEXTS:
        raise TooFewVectors(
            f"{n} texts of which {options.held_out} are held out leave fewer than {LEAST_TEXTS} to train on",
            hint="give more texts",
        )
    if bool(count) != bool(options.exits) or (data.teacher is None) != (count == 0):
        raise InvalidSize("layers and exits go together: a static student has neither")
    ends = list(options.exits)
    if count and (ends != sorted(set(ends)) or ends[-1] != count or ends[0] < 1):
        raise InvalidSize(f"exits {list(options.exits)} must ascend from 1 on to the {count} layers there are")


def split(n: int, options: StudentOptions) -> tuple[Rows, Rows]:
    """Return which of n texts are trained on and which are held out, both ascending."""
    order = np.random.default_rng((options.seed, 0)).permutation(n)
    return np.sort(order[options.held_out :]), np.sort(order[: options.held_out])


def _static_settings(options: StudentOptions) -> dict[str, Any]:
    """Return what exit 0 depends on, so that layers can be trained anew over the same one."""
    names = ("seed", "static_window", "mix", "static_epochs", "static_batch", "static_rate", "warm_up", "held_out")
    return {name: getattr(options, name) for name in names}


def _static_phase(
    module: StaticExit, data: DistillData, training: Rows, held_out: Rows, options: StudentOptions
) -> Phase:
    batch = min(options.static_batch, len(training))
    each = len(training) // batch

    def vectors(rows: Rows) -> Tensor:
        ids, starts = data.tokens.bag(rows, options.static_window)
        return module(torch.from_numpy(ids), torch.from_numpy(starts))  # type: ignore[no-any-return]

    def loss(step: int) -> Tensor:
        epoch, place = divmod(step, each)
        order = np.random.default_rng((options.seed, 1, epoch)).permutation(training)
        rows = order[place * batch :][:batch]
        return cosine_loss(vectors(rows), _teacher(data, rows))

    small = [p for name, p in module.named_parameters() if name.startswith(("linear", "mix"))]
    groups = [
        {"params": [module.table.weight, module.weight], "lr": options.static_rate},
        {"params": small, "lr": options.static_rate / 4},
    ]
    steps = options.static_epochs * each
    return Phase(
        name="static",
        module=module,
        optimizer=torch.optim.Adam(groups),
        steps=steps,
        batch=batch,
        loss=loss,
        judge=lambda: {f"exit 0 {name}": value for name, value in _judged(vectors, data, held_out).items()},
        judge_steps=max(1, steps // JUDGEMENTS),
        warm_up=options.warm_up,
        clip=float("inf"),
        checkpoint_steps=options.checkpoint_steps,
    )


def _context_phase(
    static: StaticExit,
    module: ContextExits,
    data: DistillData,
    training: Rows,
    held_out: Rows,
    options: StudentOptions,
) -> Phase:
    bags = _static_vectors(static, data.tokens, options.static_window)
    lengths = np.minimum(data.tokens.lengths(), options.window - 2)
    short, long = training[lengths[training] <= LONG], training[lengths[training] > LONG]
    some = round(options.long_share * len(long))
    each = (len(short) + some) // options.batch
    order: tuple[int, list[Rows]] = (-1, [])

    def vectors(rows: Rows) -> dict[int, Tensor]:
        ids = torch.from_numpy(data.tokens.padded(rows, options.window))
        return module(ids, torch.from_numpy(bags[rows].astype(np.float32)))  # type: ignore[no-any-return]

    def loss(step: int) -> Tensor:
        nonlocal order
        epoch, place = divmod(step, each)
        if order[0] != epoch:
            rng = np.random.default_rng((options.seed, 2, epoch))
            seen = np.concatenate([short, rng.permutation(long)[:some]])
            order = (epoch, [seen[batch] for batch in batches_by_length(lengths[seen], options.batch, rng)])
        rows = order[1][place]
        teacher = _teacher(data, rows)
        return torch.stack([alignment_loss(found, teacher) for found in vectors(rows).values()]).sum()

    def at(layers: int) -> Callable[[Rows], Tensor]:
        return lambda rows: vectors(rows)[layers]

    def judge() -> dict[str, float]:
        return {
            f"exit {k} {name}": value for k in options.exits for name, value in _judged(at(k), data, held_out).items()
        }

    steps = options.epochs * each
    return Phase(
        name="layers",
        module=module,
        optimizer=torch.optim.AdamW(parameter_groups(module, options.rate, options.gate_rate, options.weight_decay)),
        steps=steps,
        batch=options.batch,
        loss=loss,
        judge=judge,
        judge_steps=max(1, steps // JUDGEMENTS),
        warm_up=options.warm_up,
        clip=options.clip,
        checkpoint_steps=options.checkpoint_steps,
    )


@torch.no_grad()
def _static_vectors(static: StaticExit, tokens: Tokens, window: int) -> Halves:
    parts = []
    for start in range(0, len(tokens), JUDGE_BATCH):
        rows = np.arange(start, min(start + JUDGE_BATCH, len(tokens)))
        ids, starts = tokens.bag(rows, window)
        found = F.normalize(static(torch.from_numpy(ids), torch.from_numpy(starts)), dim=1)
        parts.append(found.numpy().astype(np.float16))
    return np.concatenate(parts)


def _teacher(data: DistillData, rows: Rows) -> Tensor:
    return F.normalize(torch.from_numpy(data.vectors[rows].astype(np.float32)), dim=1)


@torch.no_grad()
def _judged(vectors: Callable[[Rows], Tensor], data: DistillData, rows: Rows) -> dict[str, float]:
    """Return on held-out texts the mean cosine, and the share of the teacher's ten nearest that the student finds.

    Both look among the teacher's vectors of the other held-out texts, as searches do.
    """
    teacher = _teacher(data, rows)
    own = torch.cat([F.normalize(vectors(rows[i : i + JUDGE_BATCH]), dim=1) for i in range(0, len(rows), JUDGE_BATCH)])
    k = min(TOP, len(rows) - 1)
    nearest = []
    for asked in (teacher, own):
        scores = asked @ teacher.T
        scores.fill_diagonal_(-2.0)
        nearest.append(scores.topk(k, dim=1).indices)
    same = (nearest[0][:, :, None] == nearest[1][:, None, :]).any(2).float().mean()
    return {"cosine": float((own * teacher).sum(1).mean()), "r10@10": float(same)}


def record(report: dict[str, Any], options: StudentOptions) -> dict[str, Any]:
    """Return the training record that lies beside a student: options and figures, as JSON can hold them."""
    kept: dict[str, Any] = json.loads(json.dumps({"options": asdict(options), "held_out": report}))
    return kept
