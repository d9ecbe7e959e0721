"""The kernels in C: beside brute force, in every compiled variant; what they refuse; how they are compiled."""

from __future__ import annotations

import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from index.code_index import to_blocks
from index.codes import pack, pack_bits, prefix_values, values
from index.kernels import (
    Candidates,
    address,
    best,
    estimates,
    finish,
    highest,
    library,
    nearest,
    nibble_products,
    plane_products,
    scan,
    to_nibbles,
    vector_scores,
)
from index.kernels import compile as compiling
from index.kernels.compile import variants
from tests.index_fakes import rounding


def random_levels(n, m, bits, seed=0):
    return np.random.default_rng(seed).integers(0, 1 << bits, (n, m), dtype=np.uint8)


def query_of(m, seed=0):
    return np.random.default_rng(seed).standard_normal(m).astype(np.float32)


@pytest.fixture(params=sorted(variants()))
def variant(request, monkeypatch):
    """Every compiled variant that this machine can run."""
    if request.param != "any" and request.param != library.best_variant():
        pytest.skip(f"this machine has no {request.param}")
    monkeypatch.setattr(library, "kernels", lambda: library.load(request.param))


@pytest.mark.usefixtures("variant")
@pytest.mark.parametrize("m", [8, 16, 24, 136, 384, 1024])
@pytest.mark.parametrize("n", [0, 1, 3, 33, 500])
def test_scores_of_planes_are_products_with_prefix_values(n, m):
    query = query_of(m)
    # Components are rounded by 1 / 57,600 of the greatest; values are at most 2.
    close = {"rtol": 1e-5, "atol": 6 * float(np.abs(query).max(initial=0)) / 57_600 * m**0.5 + 1e-5}
    positions = np.random.default_rng(n).integers(0, max(n, 1), 2 * n)
    for bits in (1, 2, 4):
        planes = pack(random_levels(n, m, bits, seed=m), bits)
        for p in range(1, bits + 1):
            got = plane_products(planes, p, positions, query)
            assert got.dtype == np.float32
            np.testing.assert_allclose(got, (prefix_values(planes, p) @ query)[positions], **close)
        if bits == 4:
            later = plane_products(planes[:, 1:], 3, positions, query)
            np.testing.assert_allclose(later, (prefix_values(planes[:, 1:], 3) @ query)[positions], **close)
            got = nibble_products(to_nibbles(planes), positions, query)
            np.testing.assert_allclose(got, (prefix_values(planes, 4) @ query)[positions], **close)


@pytest.mark.usefixtures("variant")
@pytest.mark.parametrize("bits", [1, 2, 4])
def test_products_with_levels_are_exact(bits):
    """Queries of levels are whole numbers to the kernels: sums are off by the rounding of one float."""
    m = 1024
    levels = random_levels(300, m, bits)
    query = values(random_levels(1, m, bits, seed=9), bits)[0]
    expected = values(levels, bits).astype(np.float64) @ query.astype(np.float64)
    got = plane_products(pack(levels, bits), bits, np.arange(300), query)
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-3)


@pytest.mark.usefixtures("variant")
def test_what_the_kernels_refuse():
    planes = pack(random_levels(5, 16, 4), 4)
    for positions in ([5], [0, -1], [2**40]):
        with pytest.raises(IndexError, match="a position is not within 0 to 4"):
            plane_products(planes, 4, np.array(positions), query_of(16))
        with pytest.raises(IndexError, match="a position is not within 0 to 4"):
            nibble_products(to_nibbles(planes), np.array(positions), query_of(16))
    with pytest.raises(ValueError, match=r"a query of shape \(24,\) does not fit rows of 16 dimensions"):
        plane_products(planes, 4, np.arange(5), query_of(24))
    with pytest.raises(ValueError, match="a row must be in one piece"):
        plane_products(planes[:, ::2], 2, np.arange(5), query_of(16))
    with pytest.raises(ImportError, match=r"kernels-none\.so is not compiled.*python -m index\.kernels\.compile"):
        library.load("none")


@pytest.mark.usefixtures("variant")
def test_a_query_of_zeros_and_of_extremes():
    planes = pack(random_levels(50, 64, 4), 4)
    at = np.arange(50)
    np.testing.assert_array_equal(plane_products(planes, 4, at, np.zeros(64, dtype=np.float32)), np.zeros(50))
    for scale in (1e-20, 1e20):
        query = query_of(64) * np.float32(scale)
        expected = prefix_values(planes, 4) @ query
        np.testing.assert_allclose(plane_products(planes, 4, at, query), expected, rtol=1e-3, atol=1e-3 * scale)


# Scans


def blocks_of(codes, bands):
    """Lists of codes as a scan wants them: blocks, places, starts, sizes."""
    blocks, places, starts = [], [], []
    for band in bands:
        starts.append(32 * len(np.concatenate([np.zeros((0, codes.shape[1], 32)), *blocks])))
        made = to_blocks(codes[band])
        blocks.append(made)
        places.append(np.pad(band, (0, 32 * len(made) - len(band))))
    sizes = np.array([len(band) for band in bands], dtype=np.int64)
    return np.concatenate(blocks), np.concatenate(places).astype(np.uint32), np.array(starts, dtype=np.int64), sizes


@pytest.mark.usefixtures("variant")
@pytest.mark.parametrize("m", [8, 40, 384, 4096])
@pytest.mark.parametrize("k", [1, 7, 100, 5000])
@pytest.mark.parametrize("filtered", [False, True])
def test_scans_find_the_best_within_rounding_alone_and_together(m, k, filtered):
    rng = np.random.default_rng(m + k)
    n = 3000
    codes = rng.integers(0, 256, (n, m // 8), dtype=np.uint8)
    cuts = np.sort(rng.choice(n, 6, replace=False))
    bands = [np.sort(band) for band in np.split(rng.permutation(n), cuts)]
    laid = blocks_of(codes, bands)
    allowed = rng.random(n) < 0.3 if filtered else np.ones(n, dtype=bool)
    bitmap = pack_bits(allowed) if filtered else None
    queries = rng.standard_normal((5, m)).astype(np.float32)
    lists = [rng.permutation(len(bands))[: rng.integers(1, 8)] for _ in queries]
    together = scan(*laid, queries, lists, k, bitmap)
    values = 2.0 * np.unpackbits(codes, axis=1, bitorder="little") - 1
    for query, chosen, (positions, products) in zip(queries, lists, together, strict=True):
        [(own, own_products)] = scan(*laid, query[None], [chosen], k, bitmap)
        np.testing.assert_array_equal(np.sort(own_products), np.sort(products))
        clear = products > products.min()
        assert set(positions[clear].tolist()) <= set(own.tolist())
        inside = np.concatenate([bands[i] for i in chosen])
        inside = inside[allowed[inside]]
        assert len(positions) == min(k, len(inside)) == len(set(positions.tolist()))
        assert set(positions.tolist()) <= set(inside.tolist())
        truth, slack = values @ query, rounding(query)
        assert np.abs(products - truth[positions]).max(initial=0) <= slack
        # Errors of many components cancel: the bound is far.
        assert np.abs(products - truth[positions]).max(initial=0) <= 0.08 * np.linalg.norm(query)
        if len(positions):
            assert truth[positions].min() >= np.sort(truth[inside])[::-1][len(positions) - 1] - 2 * slack


@pytest.mark.parametrize("m", [8, 384])
def test_variants_scan_alike(m):
    rng = np.random.default_rng(m)
    codes = rng.integers(0, 256, (500, m // 8), dtype=np.uint8)
    blocks, _, starts, sizes = blocks_of(codes, [np.arange(500)])
    found = []
    for variant in {"any", library.best_variant()}:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(library, "kernels", lambda variant=variant: library.load(variant))
            [(positions, products)] = scan(blocks, None, starts, sizes, query_of(m)[None], [np.zeros(1, int)], 60, None)
            order = np.argsort(positions)
            found.append((positions[order], products[order]))
    np.testing.assert_array_equal(found[0][0], found[-1][0])
    np.testing.assert_allclose(found[0][1], found[-1][1], rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("variant")
@pytest.mark.parametrize("scale", [0, 1e-30, 1e30])
def test_a_scan_with_queries_of_zeros_and_of_extremes(scale):
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 256, (100, 8), dtype=np.uint8)
    blocks, _, starts, sizes = blocks_of(codes, [np.arange(100)])
    query = query_of(64) * np.float32(scale)
    query[:60] = 0  # one table has it all
    [(positions, products)] = scan(blocks, None, starts, sizes, query[None], [np.zeros(1, int)], 10, None)
    values = 2.0 * np.unpackbits(codes, axis=1, bitorder="little") - 1
    assert len(positions) == 10
    np.testing.assert_allclose(products, (values @ query)[positions], rtol=0.02, atol=np.abs(query).max() / 60)


@pytest.mark.usefixtures("variant")
@pytest.mark.parametrize("d", [1, 8, 33, 384])
@pytest.mark.parametrize("count", [1, 5, 300])
def test_the_nearest_rows_are_those_of_the_largest_products(d, count):
    rng = np.random.default_rng(d)
    rows = rng.integers(-127, 128, (200, d), dtype=np.int8)
    steps = rng.random(d).astype(np.float32) + 0.5
    query = rng.integers(-127, 128, d).astype(np.float32)
    query[0] = 127
    found = nearest(rows, steps, query / steps, count)
    truth = rows.astype(np.int64) @ query.astype(np.int64)
    assert found.tolist() == np.lexsort((np.arange(200), -truth))[:count].tolist()
    assert nearest(rows, steps, np.zeros(d, np.float32), 3).tolist() == [0, 1, 2]


# What comes after


@pytest.mark.usefixtures("variant")
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("more", [False, True])
def test_estimates_are_the_formula(half, more):
    rng = np.random.default_rng(0)
    n = 300
    kinds = np.float16 if half else np.float32
    factors = (rng.standard_normal((n, 3)) * 10.0 ** rng.integers(-8, 4, (n, 3))).astype(kinds)
    factors[:4] = [[0.0], [-0.0], [6e-8 if half else 1e-40], [65504]]
    factors = np.asfortranarray(factors)
    beta = rng.standard_normal(n).astype(np.float32) if more else None
    offsets = np.sort(rng.choice(10_000, n, replace=False)).astype(np.uint32) if more else None
    positions = rng.permutation(n)
    sums = rng.standard_normal(n).astype(np.float32)
    rows, got = estimates(Candidates(positions, sums, factors[:, 1], beta, offsets, 7000, 0.25, 1.5, -0.125))
    expected = factors[positions, 1].astype(np.float64) * (sums + 0.25) * 1.5 - 0.125
    np.testing.assert_allclose(got, expected + (0 if beta is None else beta[positions]), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(rows, 7000 + (positions if offsets is None else offsets[positions].astype(int)))


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 60), st.integers(0, 80), st.integers(1, 5))
def test_the_best_are_those_of_a_sort(seed, n, k, different):
    rng = np.random.default_rng(seed)
    rows = rng.permutation(10 * n)[:n].astype(np.int64)
    scores = rng.integers(0, different, n).astype(np.float32)
    order = np.lexsort((rows, -scores))[:k]
    got_rows, got_scores = best(rows, scores, k)
    assert got_rows.tolist() == rows[order].tolist()
    assert got_scores.tolist() == scores[order].tolist()
    assert highest(rows, scores, k).tolist() == np.sort(rows[order]).tolist()


def described(vectors, first_row, rows=None):
    """A file as `vector_scores` wants to know of it."""
    end = first_row + len(vectors) if rows is None else int(rows[-1]) + 1
    table = (0, 0) if rows is None else (address(rows), len(rows))
    return (address(vectors), first_row, end, vectors.itemsize, *table)


@pytest.mark.usefixtures("variant")
@pytest.mark.parametrize("d", [1, 7, 16, 33, 384])
@pytest.mark.parametrize("distance", [False, True])
def test_scores_of_vectors_are_products_or_distances(d, distance):
    rng = np.random.default_rng(d)
    kinds = [np.float32, np.float16, np.float32]
    parts = [rng.standard_normal((count, d)).astype(kind) for count, kind in zip((40, 30, 50), kinds, strict=True)]
    held = np.sort(rng.choice(np.arange(100, 400), 30, replace=False)).astype(np.int64)
    files = np.array([described(parts[0], 0), described(parts[1], 100, held), described(parts[2], 1000)])
    rows = np.concatenate([np.arange(40), held, np.arange(1000, 1050)])
    vectors = np.concatenate(parts).astype(np.float64)
    query = rng.standard_normal(d).astype(np.float32)
    truth = -np.linalg.norm(vectors - query, axis=1) if distance else vectors @ query
    for share in (1.0, 0.3, 0.0):
        some = np.flatnonzero(rng.random(len(rows)) < share)
        got, seconds = vector_scores(files, rows[some], query, distance=distance)
        assert 0 <= seconds < 10
        np.testing.assert_allclose(got, truth[some], rtol=1e-4, atol=1e-4)
    gap = int(np.setdiff1d(np.arange(100, held[-1]), held)[0])
    for wrong in ([40], [gap], [held[-1] + 1], [1050], [5, 3000], [1000, 5]):
        with pytest.raises(IndexError, match="a row is in no file, or rows do not ascend"):
            vector_scores(files, np.array(wrong), query, distance=distance)


@pytest.mark.usefixtures("variant")
@pytest.mark.parametrize("distance", [False, True])
@pytest.mark.parametrize(
    ("n", "read", "k"), [(0, 0, 5), (1, 1, 5), (60, 60, 10), (60, 20, 10), (60, 7, 10), (60, 20, 20)]
)
def test_finishing_at_once_is_finishing_step_by_step(distance, n, read, k):
    rng = np.random.default_rng(read + k)
    vectors = rng.standard_normal((500, 24)).astype(np.float32)
    files = np.array([described(vectors, 1000)])
    offsets = np.sort(rng.choice(500, 400, replace=False)).astype(np.uint32)
    factors, beta = rng.random((400, 1)).astype(np.float16), rng.random(400).astype(np.float32)
    positions, sums = rng.permutation(400)[:n], rng.standard_normal(n).astype(np.float32)
    candidates = Candidates(positions, sums, factors[:, 0], beta, offsets, 1000, 0.25, 1.5, -0.125)
    query = query_of(24, 5)
    chosen = highest(*estimates(candidates), read)
    expected = best(chosen, vector_scores(files, chosen, query, distance=distance)[0], k)
    *got, seconds = finish(candidates, read, k, files, query, distance=distance)
    for mine, other in zip(got, expected, strict=True):
        np.testing.assert_array_equal(mine, other)
    assert 0 <= seconds < 10
    if n:
        with pytest.raises(IndexError, match="a row is in no file"):
            finish(candidates, read, k, np.array([described(vectors, 9000)]), query, distance=distance)


def test_threads_score_at_once():
    planes = pack(random_levels(700, 64, 1), 1)
    at = np.arange(len(planes))
    queries = [query_of(64, seed) for seed in range(40)]
    alone = [plane_products(planes, 1, at, query) for query in queries]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda query: plane_products(planes, 1, at, query), queries))
    np.testing.assert_array_equal(together, alone)


@pytest.fixture
def source(tmp_path, monkeypatch):
    """A folder with a copy of the source, which is what gets compiled."""
    for path in compiling.FOLDER.glob("*.[ch]"):
        shutil.copy(path, tmp_path)
    monkeypatch.setattr(compiling, "FOLDER", tmp_path)
    return tmp_path


@pytest.fixture
def nowhere(source, monkeypatch):
    """A machine without a compiler."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    return source


@pytest.mark.usefixtures("source")
def test_compiling_makes_every_variant(tmp_path):
    if compiling.system_compiler() is None:
        pytest.skip("this machine has no compiler")
    made = compiling.compile_all()
    assert sorted(path.name for path in made) == sorted(f"kernels-{variant}.so" for variant in variants())
    assert sorted(tmp_path.glob("kernels-*")) == sorted(made)
    library.load.cache_clear()
    assert library.load("any")._name == str(tmp_path / "kernels-any.so")
    library.load.cache_clear()


def test_without_a_compiler_it_says_what_to_install(nowhere, monkeypatch):
    monkeypatch.setattr(compiling.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(SystemExit, match=r"no C compiler: install gcc or clang.*pip install ziglang"):
        compiling.compile_all()
    assert {path.suffix for path in nowhere.iterdir()} == {".c", ".h"}


def test_the_package_that_brings_a_compiler_is_used_where_the_system_has_none(nowhere, monkeypatch):
    monkeypatch.setattr(compiling.importlib.util, "find_spec", lambda name: name)
    assert compiling.compiler()[:4] == [sys.executable, "-m", "ziglang", "cc"]
    assert nowhere.exists()


def test_a_compiler_that_fails_is_named(source, monkeypatch):
    (source / "scan.c").write_text("#error no")
    monkeypatch.setenv("CC", f"{sys.executable} -c 'raise SystemExit(1)'")
    with pytest.raises(SystemExit, match=r"the kernels were not compiled by: .*kernels-any\.partial"):
        compiling.compile_all()


def test_what_was_not_compiled_is_told_when_a_store_is_opened(tmp_path):
    """An import alone must not fail: compiling imports the package."""
    script = (
        "from pathlib import Path; from index.kernels import compile as c; c.FOLDER = Path('nowhere');"
        "from index.options import StoreOptions; from index.store import Store;"
        f"Store(Path({str(tmp_path)!r}), None, StoreOptions(background=False))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 1
    assert "ImportError: kernels-" in done.stderr.splitlines()[-1]
    assert "python -m index.kernels.compile" in done.stderr.splitlines()[-1]
