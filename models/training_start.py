"""Where the training of a binarizer starts: linear blocks that give a training-free or a fitted code. NumPy only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from models.decoding import fit_decoder, polish, query_matrix
from models.errors import TrainingCancelled
from models.grid import GAUSSIAN_STEP, Floats, levels_of, prefix_of, values_of
from models.recurrent_forward import INPUT_SCALE
from models.rotation import principal_axes, random_rotation
from models.training_data import TrainingData
from models.training_older import OlderCodes
from models.training_options import TrainingOptions

LEAST_COMPLETION: Final = 0.1
SWEEPS_A_ROUND: Final = 2
# Half way between reading the older codes best and reading the new ones best (measured; either end loses more).
OLDER_SHARE: Final = np.float32(0.5)


@dataclass(frozen=True)
class LinearStart:
    """The linear map that a block starts from.

    Attributes
    ----------
    weight : (outputs, inputs) float32.
    bias : (outputs,) float32.
    """

    weight: Floats
    bias: Floats


@dataclass(frozen=True)
class ForwardStart:
    """The blocks of a recurrent binarization, all of them linear.

    Attributes
    ----------
    first : d + 1 inputs (`recurrent_forward.unit_inputs`) to m.
    reconstruct, refine : bits - 1 each, m to d + 1 and d + 1 to m.
    """

    first: LinearStart
    reconstruct: tuple[LinearStart, ...]
    refine: tuple[LinearStart, ...]


@dataclass(frozen=True)
class Start:
    """Everything that training starts from.

    Attributes
    ----------
    tower : d to m.
    decoder : (d, m) float32 that levels are polished for, None where they are not.
    """

    forward: ForwardStart
    tower: LinearStart
    decoder: Floats | None = None


def fitted_start(
    data: TrainingData,
    mean: Floats,
    options: TrainingOptions,
    older: OlderCodes | None,
    on_progress: Callable[[float], None],
    cancelled: Callable[[], bool],
) -> Start:
    """Return the training-free code of the training documents or, with sweeps, the code fitted to them.

    With an older code, the first dimensions start from its query tower.

    Raises
    ------
    TrainingCancelled
    """
    centred = data.documents[data.training] - mean
    lengths = np.linalg.norm(centred, axis=1, keepdims=True)
    directions = np.divide(centred, lengths, out=np.zeros_like(centred), where=lengths > 0)
    m = options.dimensions or data.documents.shape[1]
    if older is None:
        rows = rotation_rows(directions, m, options.seed)
    else:
        rows = compatible_rows(directions, older.tower, m, options.seed)
    units = grid_units(directions, rows, options.bits)[:, None]
    if not options.sweeps:
        tower = _towards_older(rows * units, older)
        return Start(grid_start(directions, rows / units, options.bits), _linear(tower))
    levels = levels_of(directions @ (rows / units).T, options.bits)
    for i in range(options.rounds):
        if cancelled():
            raise TrainingCancelled("cancelled while codes and decoder were fitted to each other")
        decoder = fit_decoder(directions, values_of(levels, options.bits))
        levels = polish(directions, levels, decoder, options.bits, SWEEPS_A_ROUND)
        on_progress((i + 1) / options.rounds)
    values = values_of(levels, options.bits)
    decoder = fit_decoder(directions, values)
    forward = grid_start(directions, predictor(directions, values), options.bits)
    tower = query_matrix(decoder, directions, values, options.evenness)
    return Start(forward, _linear(_towards_older(tower, older)), decoder)


def empty_start(dimension: int, options: TrainingOptions) -> Start:
    """Return a start of the same shapes for weights that will be loaded."""
    m = options.dimensions or dimension
    down = LinearStart(np.ones((m, dimension + 1), dtype=np.float32), np.zeros(m, dtype=np.float32))
    up = LinearStart(np.ones((dimension + 1, m), dtype=np.float32), np.zeros(dimension + 1, dtype=np.float32))
    forward = ForwardStart(down, (up,) * (options.bits - 1), (down,) * (options.bits - 1))
    return Start(forward, _linear(np.ones((m, dimension), dtype=np.float32)))


def _towards_older(tower: Floats, older: OlderCodes | None) -> Floats:
    """Return a tower whose first rows are moved towards the older one's, all of it at the older one's size.

    Factors of older codes are what they are; those of new codes follow whatever size the tower has.
    """
    if older is None:
        return tower
    m = len(older.tower)
    size = np.float32(np.linalg.norm(older.tower) / np.linalg.norm(tower[:m]))
    first = OLDER_SHARE * older.tower + (1 - OLDER_SHARE) * size * tower[:m]
    return np.concatenate([first, size * tower[m:]])


def _linear(weight: Floats) -> LinearStart:
    return LinearStart(weight, np.zeros(len(weight), dtype=np.float32))


def grid_start(directions: Floats, weight: Floats, bits: int) -> ForwardStart:
    """Return the blocks whose codes are the grid levels of `weight @ direction`.

    W and every R_i apply the weight, B_i is its pseudo-inverse: R_i of the residual is `weight @ direction` minus the
    value so far, on a scale on which it lies in -1 .. 1 as long as the direction is inside the grid. There the clipped
    sign lets gradients pass. Levels are exact up to the length of the reconstructions, which varies a little.

    Parameters
    ----------
    directions : (n, d) float32, a sample of `d - mean`, each of length 1.
    weight : (m, d) float32, m <= d, of full rank.
    bits : u + 1.
    """
    levels = levels_of(directions @ weight.T, bits)
    back = np.linalg.pinv(weight.astype(np.float64)).astype(np.float32)
    first = np.pad(weight / INPUT_SCALE, ((0, 0), (0, 1)))
    prefixes = range(1, bits)
    return ForwardStart(
        first=_linear(first),
        reconstruct=tuple(_to_inputs(back, values_of(prefix_of(levels, bits, p), p)) for p in prefixes),
        refine=tuple(_linear(np.float32(2 ** (p - 1)) * first) for p in prefixes),
    )


def grid_units(directions: Floats, rows: Floats, bits: int) -> Floats:
    """Return (m,) float32, one unit of the grid along each of the rows (m, d), the best one for a Gaussian."""
    spread = np.sqrt(np.mean((directions @ rows.T) ** 2, axis=0))
    spread = np.maximum(spread, 1e-3 * spread.max())
    # Levels are GAUSSIAN_STEP standard deviations apart, and 2 / 2^u in units of the grid's values.
    return np.asarray(GAUSSIAN_STEP[bits] * 2 ** (bits - 2) * spread, dtype=np.float32)


def predictor(directions: Floats, values: Floats) -> Floats:
    """Return the (m, d) least squares map of directions (n, d) to the values (n, m) of their codes."""
    # `fit_decoder` takes values of about size 1.
    size = np.float32(np.sqrt(np.mean(directions**2)))
    return np.asarray(fit_decoder(values, directions / size) / size, dtype=np.float32)


def _to_inputs(decoder: Floats, values: Floats) -> LinearStart:
    """Return a decoder of directions, (d, m), as one of unit inputs; the bias completes the length to 1 on average."""
    scaled = INPUT_SCALE * decoder
    square = float(np.mean(np.sum((values @ scaled.T) ** 2, axis=1)))
    completion = np.zeros(len(decoder) + 1, dtype=np.float32)
    completion[-1] = np.sqrt(max(1 - square, LEAST_COMPLETION**2))
    return LinearStart(np.pad(scaled, ((0, 1), (0, 0))), completion)


def rotation_rows(centred: Floats, outputs: int, seed: int) -> Floats:
    """Return (outputs, d) orthonormal rows to start from: principal axes, rotated randomly among themselves."""
    axes = principal_axes(centred, np.zeros(centred.shape[1], dtype=np.float32), outputs)
    mixed = random_rotation(outputs, outputs, np.random.default_rng(seed))
    return np.ascontiguousarray(mixed.apply(np.ascontiguousarray(axes.T)).T)


def compatible_rows(centred: Floats, older_tower: Floats, outputs: int, seed: int) -> Floats:
    """Return (outputs, d) rows of length 1 that begin with those of an older query tower, (m_old, d), m_old <= outputs.

    The other rows code what those leave over of centred vectors (n, d).
    """
    lengths = np.linalg.norm(older_tower, axis=1, keepdims=True)
    first: Floats = older_tower / np.maximum(lengths, np.finfo(np.float32).tiny)
    if len(first) == outputs:
        return first
    basis = np.linalg.qr(first.T.astype(np.float64))[0].astype(np.float32)
    left: Floats = centred - (centred @ basis @ basis.T).astype(np.float32)
    return np.concatenate([first, rotation_rows(left, outputs - len(first), seed)])
