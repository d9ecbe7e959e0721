"""Learned recurrent binary codes at serving time: NumPy alone, whatever they were trained with.

Knows no torch, no packing of bits, no files. Training is in `models/binarizer_training.py`.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from models.decoding import polish
from models.errors import CorruptBinarizer, InvalidVectors
from models.grid import MAX_BITS, Floats, Levels, prefix_of, values_of
from models.recurrent_forward import INPUT_SCALE, Affine, Block, Forward, unit_inputs

KIND: Final = "recurrent"
FORMAT: Final = 1
METADATA: Final = "bitfold"
MOST_SWEEPS: Final = 64
CHUNK_ROWS: Final = 16384
# Smallest cosine between a code and its own document, both in code space, that a factor is computed with: a
# code that points elsewhere would get a factor without bounds.
LEAST_COSINE: Final = np.float32(0.1)


class Named(Protocol):
    """A binarizer, as far as compatibility is concerned."""

    @property
    def identity(self) -> str:
        """Its content name."""


class Recurrent:
    """A trained map of vectors of dimension d to codes of m dimensions; implements the index's `Binarizer`.

    Documents go through `forward`, queries through the float `tower`. `<q, v>` is estimated as
    `factor_p(v) * <tower(q), v_p> + <q, mean>`, v_p the values of the first p planes.

    Parameters
    ----------
    mean : (d,) float32.
    forward : from `unit_inputs` to m dimensions.
    tower : queries to m dimensions; a linear one has no bias.
    decoder : (d, m) float32 that gives back the direction of `v - mean`; the levels of the forward pass are then
        polished for it (`models/decoding.py`) in `sweeps` sweeps. None leaves them as they are.
    compatible_with : identities of the binarizers whose codes the tower reads too.
    """

    learned = True

    def __init__(
        self,
        *,
        mean: Floats,
        forward: Forward,
        tower: Block,
        decoder: Floats | None = None,
        sweeps: int = 0,
        compatible_with: Sequence[str] = (),
    ) -> None:
        self.mean = np.array(mean, dtype=np.float32)
        self.mean.flags.writeable = False
        self.dimension = len(self.mean)
        self.dimensions = len(forward.first.straight.weight)
        self.code_dimension = -(-self.dimensions // 8) * 8
        self.bits = forward.bits
        self.forward = forward
        self.tower = tower
        self.decoder = decoder
        self.sweeps = sweeps
        self.compatible_with = tuple(compatible_with)

    @cached_property
    def identity(self) -> str:
        """`recurrent-<bits>b-<hash of the contents>`; equal bytes, equal identity."""
        return f"{KIND}-{self.bits}b-{_digest(*_parts(self))[:6]}"

    def encode(self, vectors: Floats) -> tuple[Levels, Floats]:
        """Return levels and correction factors of documents (n, d); beside them, memory is that of 16,384 rows.

        Returns
        -------
        levels : (n, m) uint8, 0 in the dimensions that round m up to a multiple of 8.
        factors : (n, bits) float32. Column p - 1 makes the estimate of `<v - mean, v - mean>` from the first p planes
            exact: `|x|^2 / <tower(x), v_p>` for x = v - mean; 0 for x = 0.
        """
        checked = self._checked(vectors)
        levels = np.zeros((len(checked), self.code_dimension), dtype=np.uint8)
        factors = np.empty((len(checked), self.bits), dtype=np.float32)
        for rows in _chunks(len(checked)):
            levels[rows, : self.dimensions] = self._levels(checked[rows] - self.mean)
            factors[rows] = self.factors(checked[rows], levels[rows])
        return levels, factors

    def factors(self, vectors: Floats, levels: Levels) -> Floats:
        """Return the (n, bits) correction factors of documents (n, d) with known levels (n, m), see `encode`."""
        centred = self._checked(vectors) - self.mean
        kept = levels[:, : self.dimensions]
        squares = _dot(centred, centred)
        mapped = self.tower(centred)
        lengths = np.linalg.norm(mapped, axis=1)
        factors = np.zeros((len(levels), self.bits), dtype=np.float32)
        for planes in range(1, self.bits + 1):
            values = values_of(prefix_of(kept, self.bits, planes), planes)
            least = LEAST_COSINE * lengths * np.linalg.norm(values, axis=1)
            products = np.maximum(_dot(mapped, values), least)
            np.divide(squares, products, out=factors[:, planes - 1], where=products > 0)
        return factors

    def queries(self, vectors: Floats) -> Floats:
        """Return (nq, m) float32 queries in code space, 0 where m is rounded up.

        A query cut to fewer dimensions is filled up with zeros first, which a linear tower reads as it should.

        Raises
        ------
        InvalidVectors
            A query that ends in 0, so one cut short, and a tower that is not linear: it was trained on whole ones.
        """
        checked = self._checked(vectors)
        if self.tower.layers and (checked[:, -1] == 0).any():
            row = int(np.argmax(checked[:, -1] == 0))
            raise InvalidVectors(
                f"query {row} ends in 0: this binarizer's query tower is not linear and reads no cut queries",
                hint="send all dimensions, or train with query_hidden=0",
            )
        mapped = np.zeros((len(checked), self.code_dimension), dtype=np.float32)
        for rows in _chunks(len(checked)):
            mapped[rows, : self.dimensions] = self.tower(checked[rows])
        return mapped

    def query_levels(self, vectors: Floats) -> tuple[Levels, Floats]:
        """Return queries coded like documents: (nq, m) uint8 levels and (nq,) float32 scales.

        The scale makes `scale * values` the nearest to what `queries` returns. Queries are not centred here either.
        """
        mapped = self.queries(vectors)[:, : self.dimensions]
        checked = self._checked(vectors)
        levels = np.zeros((len(checked), self.code_dimension), dtype=np.uint8)
        scales = np.empty(len(checked), dtype=np.float32)
        for rows in _chunks(len(checked)):
            levels[rows, : self.dimensions] = self._levels(checked[rows])
            values = values_of(levels[rows, : self.dimensions], self.bits)
            scales[rows] = _dot(mapped[rows], values) / _dot(values, values)
        return levels, scales

    def reads(self, older: Named) -> bool:
        """Say whether `queries(q)[:, :older.code_dimension]` scores the codes of an older binarizer."""
        return older.identity in self.compatible_with

    def to_bytes(self) -> bytes:
        """Return a safetensors file; `load_recurrent` gives back a binarizer with exactly the same results.

        Its metadata has one key, `bitfold` (safetensors writes several in any order), a JSON object: `config` and
        `sha256`, the digest of config and tensors, because the format has no checksum.
        """
        config, tensors = _parts(self)
        header = {"config": config, "sha256": _digest(config, tensors)}
        return bytes(save_tensors(tensors, metadata={METADATA: json.dumps(header, sort_keys=True)}))

    def _levels(self, centred: Floats) -> Levels:
        inputs = unit_inputs(centred)
        levels = self.forward.levels(inputs)
        if self.decoder is None:
            return levels
        return polish(inputs[:, :-1] / INPUT_SCALE, levels, self.decoder, self.bits, self.sweeps)

    def _checked(self, vectors: Floats) -> Floats:
        array = np.ascontiguousarray(vectors, dtype=np.float32)
        if array.ndim != 2 or array.shape[1] != self.dimension:
            raise InvalidVectors(f"vectors have shape {array.shape}, not (n, {self.dimension})")
        return array


def _dot(a: Floats, b: Floats) -> Floats:
    products: Floats = np.einsum("ij,ij->i", a, b)
    return products


def _chunks(n: int) -> Iterator[slice]:
    for start in range(0, n, CHUNK_ROWS):
        yield slice(start, start + CHUNK_ROWS)


def load_recurrent(data: bytes) -> Recurrent:
    """Read what `Recurrent.to_bytes` wrote.

    Raises
    ------
    CorruptBinarizer
        Damaged, cut, of another kind or of a newer format.
    """
    try:
        (length,) = struct.unpack_from("<Q", data)
        header = json.loads(json.loads(data[8 : 8 + length])["__metadata__"][METADATA])
        config = header["config"]
        if config["binarizer"] != KIND or config["format"] != FORMAT:
            raise CorruptBinarizer(
                f"a binarizer of kind {config['binarizer']!r} in format {config['format']!r}, not {KIND!r} in {FORMAT}"
            )
        tensors = load_tensors(data)
        if header["sha256"] != _digest(config, tensors):
            raise CorruptBinarizer("a stored binarizer is damaged: its checksum does not match")
        return _assembled(config, tensors)
    except (KeyError, TypeError, ValueError, RecursionError, struct.error, SafetensorError) as error:
        if isinstance(error, CorruptBinarizer):
            raise
        raise CorruptBinarizer(f"these bytes are not a stored binarizer: {error}") from error


def _parts(binarizer: Recurrent) -> tuple[dict[str, Any], dict[str, Floats]]:
    """Return what makes a binarizer: a JSON object and named float32 arrays."""
    forward = binarizer.forward
    blocks = {"first": forward.first, "tower": binarizer.tower}
    blocks |= {f"reconstruct.{i}": block for i, block in enumerate(forward.reconstruct)}
    blocks |= {f"refine.{i}": block for i, block in enumerate(forward.refine)}
    tensors = {"mean": binarizer.mean}
    if binarizer.decoder is not None:
        tensors["decoder"] = binarizer.decoder
    for name, block in blocks.items():
        for i, layer in enumerate((block.straight, *block.layers)):
            tensors |= {f"{name}.{i}.weight": layer.weight, f"{name}.{i}.bias": layer.bias}
    config = {
        "binarizer": KIND,
        "format": FORMAT,
        "bits": binarizer.bits,
        "sweeps": binarizer.sweeps,
        "layers": {name: len(block.layers) for name, block in blocks.items()},
        "compatible_with": list(binarizer.compatible_with),
    }
    return config, {name: np.ascontiguousarray(array, dtype="<f4") for name, array in sorted(tensors.items())}


def _assembled(config: dict[str, Any], tensors: dict[str, NDArray[Any]]) -> Recurrent:
    """Return the binarizer of `_parts`; ValueError where sizes do not fit each other."""
    bits, counts = int(config["bits"]), config["layers"]
    if not 1 <= bits <= MAX_BITS:
        raise ValueError(f"{bits} bits")
    mean, decoder, sweeps = tensors["mean"], tensors.get("decoder"), int(config["sweeps"])
    d, m = mean.size, len(tensors["first.0.weight"])
    for name, shape in (("mean", (d,)), ("decoder", (d, m))):
        array = tensors.get(name)
        if array is not None and (array.dtype != np.float32 or array.shape != shape or not np.isfinite(array).all()):
            raise ValueError(f"the {name} does not fit the layers")
    if not d or not m or not 0 <= sweeps <= MOST_SWEEPS:
        raise ValueError(f"{d} dimensions, {m} code dimensions, {sweeps} sweeps")

    def block(name: str, inputs: int, outputs: int) -> Block:
        layers = [_layer(tensors, f"{name}.{i}") for i in range(counts[name] + 1)]
        chain = [inputs, *(len(layer.weight) for layer in layers[1:])]
        expected = [(outputs, inputs), *zip(chain[1:], chain[:-1], strict=True)]
        if [layer.weight.shape for layer in layers] != expected or (counts[name] and chain[-1] != outputs):
            raise ValueError(f"the layers of {name} do not fit each other")
        return Block(layers[0], tuple(layers[1:]))

    forward = Forward(
        first=block("first", d + 1, m),
        reconstruct=tuple(block(f"reconstruct.{i}", m, d + 1) for i in range(bits - 1)),
        refine=tuple(block(f"refine.{i}", d + 1, m) for i in range(bits - 1)),
    )
    return Recurrent(
        mean=mean,
        forward=forward,
        tower=block("tower", d, m),
        decoder=decoder,
        sweeps=sweeps,
        compatible_with=config["compatible_with"],
    )


def _layer(tensors: dict[str, NDArray[Any]], name: str) -> Affine:
    weight, bias = tensors[f"{name}.weight"], tensors[f"{name}.bias"]
    if weight.dtype != np.float32 or weight.ndim != 2 or bias.dtype != np.float32 or bias.shape != weight.shape[:1]:
        raise ValueError(f"{name} is not a linear layer")
    if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
        raise ValueError(f"{name} has values that are not finite")
    return Affine(weight, bias)


def _digest(config: dict[str, Any], tensors: dict[str, NDArray[Any]]) -> str:
    """Return the SHA-256 over the config and every tensor's name, shape and bytes."""
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for name, array in sorted(tensors.items()):
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
