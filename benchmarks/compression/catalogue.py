"""Every method that is compared, at every size."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.compression import faiss_peers, other_peers
from benchmarks.compression.coders import BinarizerCoder, Coder, Method, dimensions_for, training_free
from benchmarks.compression.sets import Floats

BUDGETS = (16, 32, 48, 96, 192)
SEEDS = 3
DIMENSION = 384

TRAINING_FREE = "Bitfold training-free"
SYMMETRIC = "Bitfold training-free, symmetric"
RECURRENT = "Bitfold recurrent"
SIGN = "sign, Hamming"


def splits() -> list[tuple[int, int]]:
    """Return the (bits, dimensions) that fit the budgets, and all dimensions at 1, 2 and 4 bits."""
    fitting = [(bits, dimensions_for(budget, bits)) for budget in BUDGETS for bits in (1, 2, 4)]
    return [(b, m) for b, m in fitting if m < DIMENSION] + [(b, DIMENSION) for b in (1, 2, 4)]


def ours() -> list[Method]:
    """Return what needs no training."""
    out = []
    for bits, m in splits():
        sizes = (bits, m)
        for family, symmetric in ((TRAINING_FREE, False), (SYMMETRIC, True)):
            fit = partial(_training_free, *sizes, None, symmetric)
            out.append(Method(f"{family}, {bits} x {m}", family, fit, SEEDS, ours=True))
    for prefix in (1, 2):
        fit = partial(_training_free, 4, DIMENSION, prefix, False)
        name = f"{TRAINING_FREE}, first {prefix} of 4 x {DIMENSION}"
        out.append(Method(name, f"{TRAINING_FREE}, prefix", fit, SEEDS, ours=True))
    return out


def _training_free(
    bits: int, m: int, prefix: int | None, symmetric: bool, documents: Floats, seed: int
) -> BinarizerCoder:
    binarizer = training_free(bits, None if m == DIMENSION else m, seed, documents)
    return BinarizerCoder(binarizer, prefix=prefix, symmetric=symmetric)


def peers() -> list[Method]:
    """Return baselines and peers, at native sizes and, where they can be cut to fewer dimensions, at equal bytes."""
    out = [Method(f"{SIGN}, {8 * b} bits", SIGN, partial(faiss_peers.sign, 8 * b), SEEDS) for b in BUDGETS]
    # RaBitQ: 8 bytes of factors at 1 bit, 20 at more. Its seeds are cheap at 1 bit only.
    for bits, sizes in ((1, (64, 192, 320, 384)), (2, (48, 112, 304, 384)), (4, (56, 152, 344, 384))):
        for m in sizes:
            out.append(_faiss(f"FAISS RaBitQ {bits} bit", f"{bits} x {m}", partial(faiss_peers.rabitq, bits, m), SEEDS))
    out += [_faiss("FAISS SQ4", f"4 x {m}", partial(faiss_peers.scalar, 4, m)) for m in (32, 64, 96, 192, 384)]
    out += [_faiss("FAISS SQ8", f"8 x {m}", partial(faiss_peers.scalar, 8, m)) for m in (96, 192, 384)]
    for parts in BUDGETS[:-1]:
        out.append(_faiss("FAISS PQ", f"{parts} parts", partial(faiss_peers.product, parts)))
        out.append(_faiss("FAISS OPQ", f"{parts} parts", partial(faiss_peers.optimized_product, parts)))
    library = "sentence-transformers binary"
    for rescore, added in ((False, ""), (True, ", rescored")):
        name = library + added
        out.append(Method(name, name, partial(other_peers.sentence_transformers, rescore)))
    binary = partial(other_peers.qdrant_binary, "OneBit", "Default")
    out.append(Method("Qdrant BQ, 1 bit, binary query", "Qdrant BQ, binary query", binary))
    for bits, encoding in (("1", "OneBit"), ("1.5", "OneAndHalfBits"), ("2", "TwoBits")):
        fit = partial(other_peers.qdrant_binary, encoding, "Scalar8Bits")
        out.append(Method(f"Qdrant BQ, {bits} bit, 8-bit query", "Qdrant BQ", fit))
    for bits in ("1", "2", "4"):
        fit = partial(other_peers.qdrant_turbo, f"Bits{bits}")
        out.append(Method(f"Qdrant TurboQuant, {bits} bit", "Qdrant TurboQuant", fit))
    return out


def _faiss(family: str, size: str, fit: Callable[[Floats, int], Coder], seeds: int = 1) -> Method:
    return Method(f"{family}, {size}", family, fit, seeds)


def learned(folder: Path | None, corpus: str) -> list[tuple[Method, int]]:
    """Return trained binarizers for one collection, with the seed of each.

    They lie in `folder/<corpus or "any">/<recipe>-<bits>x<dimensions>-seed<k>`, each as `train.py` left it; "any"
    holds those that serve every collection.
    """
    if folder is None:
        return []
    out = []
    for path in sorted([*(folder / corpus).glob("*-seed*"), *(folder / "any").glob("*-seed*")]):
        label, _, seed = path.name.rpartition("-seed")
        recipe, _, size = label.rpartition("-")
        bits, _, m = size.partition("x")
        family = f"{RECURRENT}, {recipe}"
        out.append((Method(f"{family}, {bits} x {m}", family, partial(_learned, path), ours=True), int(seed)))
    return out


def _learned(path: Path, documents: Floats, seed: int) -> BinarizerCoder:
    from models import binarizer_folder

    del documents, seed
    return BinarizerCoder(binarizer_folder.load_binarizer(path)[0])
