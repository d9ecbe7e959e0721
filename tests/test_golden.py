"""Data written by earlier versions opens, with exactly what was stored."""

from __future__ import annotations

import importlib.util
import logging
import re
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import orjson
import pytest

from index.codes_file import load
from index.maintenance import optimize, upgrade
from index.points import SearchParams
from index.verify import verify
from tests.index_fakes import RotationFactory, check_hits, exact_scores, fill, open_store

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "data" / "golden"
TEXT = (ROOT / "docs" / "storage.md").read_text(encoding="utf-8")
READERS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


def load_maker(name):
    spec = importlib.util.spec_from_file_location(name, GOLDEN / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


maker = load_maker("make_v1")
second = load_maker("make_v2")
LEFT = [i for i in range(maker.COUNT) if not maker.deleted(i) and i != 61]
CODES = SearchParams(exact=False)


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(GOLDEN / "v1", tmp_path / "data")


@pytest.fixture
def folder_2(tmp_path):
    return shutil.copytree(GOLDEN / "v2", tmp_path / "data")


def expected_vectors(distance, dtype):
    vectors = maker.vectors()
    if distance == "Cosine":
        vectors = (vectors / np.linalg.norm(vectors.astype(np.float64), axis=1)[:, None]).astype(np.float32)
    return vectors.astype(dtype).astype(np.float32)


def test_the_files_are_what_they_should_be(folder):
    for name in maker.DISTANCES:
        files = sorted(path.name for path in (folder / "collections" / name / "vectors").iterdir())
        assert any("-" in file for file in files)
        assert any("-" not in file for file in files)
        assert list((folder / "collections" / name / "codes").iterdir())
    size = sum(path.stat().st_size for path in GOLDEN.rglob("*") if path.is_file())
    assert size < 600_000


def test_version_1_is_sound(folder):
    report = verify(folder, RotationFactory())
    assert report.problems == []
    assert report.checked["points"] == 3 * len(LEFT)


@pytest.mark.parametrize("name", maker.DISTANCES)
def test_version_1_opens(folder, name, caplog):
    distance, dtype = maker.DISTANCES[name]
    factory = RotationFactory()
    with caplog.at_level(logging.WARNING):
        store = open_store(folder, factory, first_fit=30, tail_rows=30)
    assert (caplog.text, factory.fits, store.damaged) == ("", 0, {})
    collection = store.get(name)
    config = collection.config
    assert (config.dimension, config.distance, config.dtype) == (maker.DIMENSION, distance, dtype)
    assert config.attributes == {"made_by": "v1"}

    ids, vectors = maker.ids(), expected_vectors(distance, dtype)
    points = collection.points(ids, with_vector=True, with_text=True)
    assert [point.id for point in points] == [ids[i] for i in LEFT]
    for i, point in zip(LEFT, points, strict=True):
        assert orjson.loads(point.payload) == maker.payload(i)
        assert point.text == maker.text(i)
        # The last bit of a normalised value may differ between machines.
        np.testing.assert_allclose(point.vector, vectors[i], rtol=1e-3 if dtype == "float16" else 1e-6)

    by_id = {ids[i]: vectors[i] for i in LEFT}
    for query in maker.vectors()[[3, 61, 88]] + np.float32(0.01):
        for params in (SearchParams(exact=True), SearchParams(exact=False)):
            hits = collection.search(query[None], 10, params=params)[0].hits
            check_hits(hits, query, by_id, 10, distance, 2e-3 if dtype == "float16" else 1e-5)
    store.close()


@pytest.mark.parametrize("name", maker.DISTANCES)
def test_version_1_can_be_written(folder, name):
    store = open_store(folder, first_fit=30, tail_rows=30)
    collection = store.get(name)
    fill(collection, 100, first=1000)
    collection.delete([maker.ids()[5]])
    optimize(collection)
    assert collection.count() == len(LEFT) + 99
    store.close()
    assert verify(folder, RotationFactory()).problems == []
    store = open_store(folder)
    assert store.get(name).count() == len(LEFT) + 99
    store.close()


def test_what_version_2_holds(folder_2):
    assert [i for i in range(maker.COUNT) if not second.gone(i)] == LEFT
    for name, (_, bits, newer) in second.COLLECTIONS.items():
        files = sorted((folder_2 / "collections" / name / "codes").iterdir())
        codes = [load(path) for path in files]
        assert all(path.read_bytes().startswith(b"BFCODES2") for path in files)
        held = {data.binarizer: data.planes.shape[1] for data in codes}
        assert held == ({1: bits, 2: newer[0]} if newer else {1: bits})
        vectors = len(list((folder_2 / "collections" / name / "vectors").iterdir()))
        assert vectors == (2 if newer else 1)


def test_version_2_is_sound(folder_2):
    report = verify(folder_2, RotationFactory())
    assert report.problems == []
    assert report.checked["points"] == 4 * len(LEFT)


@pytest.mark.parametrize("name", second.COLLECTIONS)
def test_version_2_opens_and_can_be_written(folder_2, name, caplog):
    distance, bits, newer = second.COLLECTIONS[name]
    factory = RotationFactory()
    with caplog.at_level(logging.WARNING):
        store = open_store(folder_2, factory, first_fit=30, tail_rows=30)
    assert (caplog.text, factory.fits, store.damaged) == ("", 0, {})
    collection = store.get(name)
    assert (collection.config.bits, collection.config.store_vectors) == (bits, newer is not None)
    assert [found.learned for found in collection.info().binarizers] == ([False, True] if newer else [False])
    ids, vectors = maker.ids(), expected_vectors(distance, "float32")
    points = collection.points(ids, with_text=True)
    assert [(point.id, point.text) for point in points] == [(ids[i], maker.text(i)) for i in LEFT]
    assert [orjson.loads(point.payload) for point in points] == [maker.payload(i) for i in LEFT]
    by_id = {ids[i]: vectors[i] for i in LEFT}
    kept = [i for i in LEFT if newer or i >= second.FILE_ROWS]
    for i, point in zip(kept, collection.points([ids[i] for i in kept], with_vector=True), strict=True):
        np.testing.assert_allclose(point.vector, vectors[i], rtol=1e-6)
    for query in maker.vectors()[[3, 61, 88]] + np.float32(0.01):
        for params in (CODES, SearchParams(exact=False, symmetric=True)):
            hits = collection.search(query[None], 10, params=params)[0].hits
            if newer:
                check_hits(hits, query, by_id, 10, distance)
            assert len({hit.id for hit in hits} & set(by_id)) == 10
        everything = collection.search(query[None], 200, params=SearchParams(exact=False, rerank=0))[0].hits
        expected = exact_scores(query, vectors[LEFT], distance)
        by_code = {hit.id: hit.score for hit in everything}
        assert np.corrcoef([by_code[ids[i]] for i in LEFT], expected)[0, 1] > (0.97 if bits == 4 else 0.75)
    fill(collection, 100, first=1000)
    collection.delete([ids[5]])
    optimize(collection)
    assert collection.count() == len(LEFT) + 99
    if newer:
        assert upgrade(collection)
        assert {segment.binarizer for segment in collection.view.segments} == {2}
    store.close()
    assert verify(folder_2, RotationFactory()).problems == []
    store = open_store(folder_2)
    assert store.get(name).count() == len(LEFT) + 99
    store.close()


def test_the_documented_readers_read(folder):
    vector_reader, point_reader = READERS
    for name, (distance, dtype) in maker.DISTANCES.items():
        path = folder / "collections" / name / "record.db"
        scope = {"path": path}
        exec(point_reader, scope)
        points = scope["points"]
        scope["found"].connection.close()
        assert {i: data for i, (_, data) in points.items()} == {maker.ids()[i]: maker.payload(i) for i in LEFT}
        db = sqlite3.connect(path)
        file, first_row, rows = db.execute("SELECT name, first_row, rows FROM files ORDER BY first_row").fetchall()[-1]
        db.close()
        scope = {"path": path.parent / "vectors" / file, "rows": rows}
        exec(vector_reader, scope)
        expected = expected_vectors(distance, dtype)
        seen = 0
        for i in LEFT:
            row = points[maker.ids()[i]][0]
            if row >= first_row:
                np.testing.assert_allclose(scope["vectors"][row - first_row], expected[i], rtol=1e-3)
                seen += 1
        assert seen >= 10


@pytest.mark.parametrize(("version", "name"), [("v1", "dot"), ("v2", "codes-only")])
def test_the_documented_tables_are_the_schema(tmp_path, version, name):
    data = shutil.copytree(GOLDEN / version, tmp_path / "data")
    db = sqlite3.connect(data / "collections" / name / "record.db")
    for (table,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
        part = TEXT[TEXT.index(f"| `{table}` |") :]
        for _, column, *_ in db.execute(f"PRAGMA table_info({table})"):
            assert f"`{column}`" in part
    db.close()
