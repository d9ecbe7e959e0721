"""The kernels in C: beside brute force, in every compiled variant; what they refuse; how they are compiled."""

from __future__ import annotations

import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from index.codes import pack, prefix_values, values
from index.graph import to_nibbles
from index.kernels import compile as compiling
from index.kernels import library, nibble_products, plane_products
from index.kernels.compile import variants


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
