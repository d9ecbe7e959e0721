"""Vectors to train on: from arrays, from documents of every kind, from a server; and an even sample of many."""

from __future__ import annotations

import base64

import numpy as np
import orjson
import pytest

from service.client import Client
from service.documents import DocumentError, Fields
from service.settings import ClientSettings
from service.vector_sources import fetch_vectors, read_vectors
from tests.service_calls import ok

RNG = np.random.default_rng(3)
ROWS = RNG.normal(size=(2500, 3)).astype(np.float32)


def read(path, sample=10_000, seed=0, **fields):
    return read_vectors(path, Fields(**fields), sample=sample, seed=seed)


def lines(path, rows, **extra):
    path.write_bytes(b"".join(orjson.dumps({"id": i, "vector": row, **extra}) + b"\n" for i, row in enumerate(rows)))
    return path


@pytest.mark.parametrize("dtype", ["<f4", "<f2", "<f8", ">f4"])
def test_arrays_of_any_float_become_float32(tmp_path, dtype):
    np.save(tmp_path / "a.npy", ROWS.astype(dtype))
    found = read(tmp_path / "a.npy")
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, ROWS.astype(dtype).astype(np.float32))


def test_documents_hold_the_same_vectors(tmp_path):
    lists = lines(tmp_path / "a.ndjson", ROWS.tolist(), payload={"a": 1})
    np.testing.assert_array_equal(read(lists), ROWS)
    coded = [base64.b64encode(row.tobytes()).decode() for row in ROWS]
    np.testing.assert_array_equal(read(lines(tmp_path / "b.jsonl", coded)), ROWS)
    named = tmp_path / "c.jsonl"
    named.write_bytes(b"\n".join(orjson.dumps({"key": i, "emb": row}) for i, row in enumerate(ROWS.tolist())))
    np.testing.assert_array_equal(read(named, id="key", vector="emb"), ROWS)


def test_parquet_holds_the_same_vectors(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = pyarrow.table({"id": list(range(len(ROWS))), "vector": ROWS.tolist()})
    parquet.write_table(table, tmp_path / "a.parquet")
    np.testing.assert_array_equal(read(tmp_path / "a.parquet"), ROWS)


@pytest.mark.parametrize("kind", ["npy", "ndjson"])
def test_a_sample_is_even_and_repeats_with_its_seed(tmp_path, kind):
    rows = np.arange(5000, dtype=np.float32)[:, None] + np.zeros(2, np.float32)
    path = tmp_path / f"a.{kind}"
    if kind == "npy":
        np.save(path, rows)
    else:
        lines(path, rows.tolist())
    found = read(path, sample=1000, seed=1)[:, 0]
    assert len(found) == 1000
    assert (np.diff(found) > 0).all(), "in the order of the file, none twice"
    np.testing.assert_array_equal(found, read(path, sample=1000, seed=1)[:, 0])
    assert not np.array_equal(found, read(path, sample=1000, seed=2)[:, 0])
    counts = np.histogram(found, bins=5, range=(0, 5000))[0]
    assert counts.min() > 140, counts  # 200 are expected, the standard deviation is 11


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.npy", b"\x93NUMPY", "not an array that can be read"),
        ("a.npy", None, "there is no such file"),
        ("a.jsonl", b'{"id": 1, "text": "words"}\n', "have texts, not vectors"),
        ("a.jsonl", b'{"id": 1, "vector": [1, 2]}\n\n{"id": 2, "vector": [1]}\n', r"a\.jsonl:3: vector has 1 dim"),
        ("a.jsonl", b'{"id": 1, "vector": [1, 2]}\n{"id": 2, "text": "words"}\n', r"a\.jsonl:2: text"),
        ("a.jsonl", b"", "no documents"),
        ("a.docx", b"", "format is not known"),
    ],
)
def test_files_that_are_refused(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DocumentError, match=message):
        read(tmp_path / name)


@pytest.mark.parametrize("array", [np.zeros(3), np.zeros((2, 3, 1)), np.zeros((2, 3), int), np.zeros((2, 2), "<U1")])
def test_arrays_that_are_refused(tmp_path, array):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(DocumentError, match=r"not floats of shape \(n, d\)"):
        read(tmp_path / "a.npy")


def test_vectors_of_a_collection_are_fetched_exactly(shared_server, http, name):
    ok(http.put(f"/collections/{name}", json={"vectors": {"size": 3, "distance": "Dot"}}))
    body = b"".join(orjson.dumps({"id": i, "vector": row.tolist()}) + b"\n" for i, row in enumerate(ROWS))
    ok(http.post(f"/collections/{name}/points/bulk", content=body))
    steps = []
    with Client(ClientSettings(url=shared_server.url)) as client:

        def fetch(sample):
            return fetch_vectors(client, name, sample=sample, seed=0, on_progress=lambda *step: steps.append(step))

        np.testing.assert_array_equal(fetch(10_000), ROWS)
        assert steps == [(0, 2500), (1000, 2500), (2000, 2500), (2500, 2500)]
        some = fetch(200)
        assert {tuple(row) for row in some.tolist()} <= {tuple(row) for row in ROWS.tolist()}
        assert len({tuple(row) for row in some.tolist()}) == 200
        ok(http.post(f"/collections/{name}/points/delete", json={"filter": {}}))
        assert len(fetch(200)) == 0
