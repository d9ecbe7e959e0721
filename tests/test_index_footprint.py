"""Bytes of a collection: counted beside what its arrays and files are, foretold beside what comes of it."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
from pyroaring import BitMap

from index.fields.bitmaps import bytes_of
from index.fields.field import KINDS, FieldIndex
from index.footprint import footprint, foretell
from index.indexing import fill, index_field, save_fields
from index.maintenance import optimize
from index.paths import parse_path
from index.points import NUMPY_TYPES
from tests.index_fakes import batch_of, config, open_store, vectors_of

N = 3000
KIND_VALUES = {
    "bool": lambda i: i % 2 == 0,
    "keyword": lambda i: f"colour {i % 16}",
    "uuid": lambda i: f"00000000-0000-0000-0000-{i:012d}",
    "integer": lambda i: i * 7919 % 1_000_003,
    "float": lambda i: i / 7,
    "datetime": lambda i: f"20{i % 24:02d}-{1 + i % 12:02d}-{1 + i % 28:02d}T00:00:00Z",
    "text": lambda i: " ".join(f"w{i * k % 997}" for k in range(1, 9)),
}


def filled(store, made, n=N, payload=lambda i: {"n": i}):
    collection = store.create("c", made)
    for start in range(0, n, 500):
        ids = list(range(start, min(n, start + 500)))
        vectors = vectors_of(len(ids), start, dimension=made.dimension)
        collection.upsert(batch_of(ids, vectors, [payload(i) for i in ids]))
    optimize(collection)
    return collection


@pytest.fixture
def store(tmp_path):
    store = open_store(tmp_path, first_fit=500, tail_rows=200, save_rows=1)
    yield store
    store.close()


@pytest.mark.parametrize("distance", ["Cosine", "Dot", "Euclid"])
@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize(("dimension", "code_dimension"), [(64, None), (60, 24)])
def test_what_is_foretold_comes(store, distance, bits, dimension, code_dimension):
    made = replace(config(distance, dimension=dimension, bits=bits), code_dimension=code_dimension)
    collection = filled(store, made)
    found = footprint(collection)
    told = foretell(N, made, collection.options)
    for part in ("codes", "ids", "factors"):
        # Every row has its code, and blocks are filled up. How norms are spread cannot be foretold.
        rel = 0.15 if part == "ids" and distance != "Cosine" else 0.02
        assert found.memory[part] == pytest.approx(told.memory[part], rel=rel), part
    assert found.disk["vectors"] == pytest.approx(told.disk["vectors"], rel=0.05)  # short vectors: headers count
    assert found.disk["codes"] == pytest.approx(told.disk["codes"], rel=0.02)
    assert found.disk["vectors"] >= N * dimension * NUMPY_TYPES[made.dtype].itemsize


def test_counted_is_what_lies_there(store, tmp_path):
    collection = filled(store, config("Cosine", dimension=32))
    index_field(collection, parse_path("n"), "integer")
    assert fill(collection)
    save_fields(collection)
    found = footprint(collection)
    folder = tmp_path / "collections" / "c"
    for name, part in (("vectors", "vectors"), ("codes", "codes"), ("fields", "payload_indexes")):
        sizes = [os.stat(path).st_size for path in (folder / name).iterdir()]
        assert found.disk[part] == sum(sizes) > 0
    (segment,) = collection.view.segments
    assert found.memory["codes"] + found.memory["ids"] + found.memory["factors"] == pytest.approx(
        segment.bytes_per_point * N + segment.ids.nbytes, rel=0.02
    )
    assert found.memory["payload_indexes"] == collection.fields.memory_bytes() > 8 * N
    collection.delete(list(range(100)))
    assert footprint(collection).memory["rows"] == -(-N // 8)


def test_the_newest_vectors_are_counted_as_they_are_held(store):
    made = config("Cosine", dimension=32)
    collection = filled(store, made, n=400)
    assert footprint(collection).memory["codes"] == 0 or collection.view.segments
    told = foretell(400, made, collection.options)
    assert told.memory["codes"] == told.memory["binarizers"] == told.disk["codes"] == 0
    assert told.memory["tail"] >= 400 * 32 * 4


@pytest.mark.parametrize("kind", KINDS)
def test_payload_indexes_are_foretold(store, kind):
    value = KIND_VALUES[kind]
    collection = filled(store, config("Cosine", dimension=8), n=20_000, payload=lambda i: {"k": value(i)})
    index_field(collection, parse_path("k"), kind)
    assert fill(collection)
    save_fields(collection)
    found = footprint(collection)
    told = foretell(20_000, collection.config, collection.options, payload_indexes={"k": kind})
    for counted, expected in ((found.memory, told.memory), (found.disk, told.disk)):
        assert expected["payload_indexes"] / 2 < counted["payload_indexes"] < 2 * expected["payload_indexes"] + 20_000


def test_bitmaps_and_indexes_grow_with_what_is_in_them():
    assert bytes_of(BitMap()) < bytes_of(BitMap(range(0, 60_000, 7))) < bytes_of(BitMap(range(0, 600_000, 7)))
    index = FieldIndex(parse_path("k"), "keyword")
    sizes = [index.memory_bytes()]
    for row in range(2000):
        index.add(row, {"k": f"name {row}"})
        if row % 1000 == 999:
            sizes.append(index.memory_bytes())
    assert sizes == sorted(set(sizes))
