"""The comparison's own arithmetic: rankings, gains, intervals and the file of results against obvious oracles."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.compression.coders import BinarizerCoder, dimensions_for, projection
from benchmarks.compression.measures import measure, paired_interval
from benchmarks.compression.results import Results
from benchmarks.compression.sets import BLOCK_ROWS, Corpus, exact, nearest
from benchmarks.compression.tables import fill
from index.codes import pack, prefix_values
from models.binarizer import TrainingFreeFactory

RNG = np.random.default_rng(0)


def unit(n: int, d: int) -> np.ndarray:
    vectors = RNG.standard_normal((n, d), dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_nearest_over_blocks_is_a_full_sort():
    documents, queries = unit(BLOCK_ROWS + 500, 8), unit(5, 8)
    wanted = np.argsort(-(queries @ documents.T), axis=1, kind="stable")[:, :30]
    assert np.array_equal(exact(queries, documents, 30), wanted)


def test_nearest_of_fewer_documents_than_wanted_returns_all():
    documents, queries = unit(7, 8), unit(3, 8)
    found = nearest(queries, 7, 100, lambda rows: documents[rows])
    assert np.array_equal(np.sort(found, axis=1), np.tile(np.arange(7), (3, 1)))


@pytest.mark.parametrize("prefix", [1, 2, 4])
def test_a_coder_ranks_by_factor_times_prefix_value(prefix):
    documents, queries = unit(400, 32), unit(6, 32)
    binarizer = TrainingFreeFactory().fit(documents, 0, bits=4, dimensions=24)
    coder = BinarizerCoder(binarizer, prefix=prefix)
    coder.add(documents[:150])
    coder.add(documents[150:])
    levels, factors = binarizer.encode(documents)
    values = prefix_values(pack(levels, 4), prefix) * factors[:, prefix - 1].astype(np.float16)[:, None]
    scores = binarizer.queries(queries) @ values.T
    found = coder.search(queries, 20)
    assert np.allclose(np.take_along_axis(scores, found, 1), -np.sort(-scores, axis=1)[:, :20], atol=1e-5)
    assert coder.bytes_a_vector == prefix * (24 / 8 + 2)


def test_sizes_fit_their_budget_and_one_more_byte_a_plane_does_not():
    for budget in (16, 32, 48, 96, 192):
        for bits in (1, 2, 4):
            m = dimensions_for(budget, bits)
            assert bits * (m / 8 + 2) <= budget < bits * ((m + 8) / 8 + 2)


def test_projection_to_more_dimensions_keeps_inner_products_on_average():
    documents = unit(300, 16)
    mapped = projection(documents, 32, 0).plain(documents)
    assert np.allclose(mapped @ mapped.T, 2 * documents @ documents.T, atol=1e-4)


def test_measures_of_a_known_ranking():
    documents, queries = np.eye(200, dtype=np.float32), np.eye(200, dtype=np.float32)[:2]
    truth = np.array([np.arange(10), np.arange(10, 20)])
    corpus = Corpus("toy", documents, queries, [{0: 1}, {1: 1}], truth)
    ranking = np.array([np.arange(100), np.arange(100)])
    found = measure(corpus, lambda n: ranking[:, :n])
    assert found["r10@10"] == [1.0, 0.0]
    assert found["r10@20"] == [1.0, 1.0]
    assert found["nDCG@10 codes"] == [1.0, round(1 / np.log2(3), 5)]
    assert found["nDCG@10 rerank 100"] == [1.0, 1.0]


def test_interval_of_a_difference():
    better = RNG.random((3, 200))
    mean, low, high = paired_interval([(better, better - 0.1)])
    assert mean == pytest.approx(0.1)
    assert low < 0.1 < high
    assert low > 0
    noise = RNG.standard_normal((1, 400))
    mean, low, high = paired_interval([(noise, np.zeros((1, 400)))])
    assert low < 0 < high
    assert high - low == pytest.approx(2 * 1.96 / np.sqrt(400), rel=0.2)


def test_results_survive_a_torn_line_and_replace_by_key(tmp_path):
    path = tmp_path / "results.jsonl"
    results = Results(path, ("a",))
    results.add({"a": 1, "value": 1})
    with path.open("a") as file:
        file.write('{"a": 2, "val')
    results = Results(path, ("a",))
    assert (1,) in results
    assert (2,) not in results
    results.add({"a": 1, "value": 3})
    assert [row["value"] for row in Results(path, ("a",))] == [3]


def test_fill_replaces_a_part_and_refuses_an_unknown_one(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- part: x -->\nold\n<!-- end -->\nafter\n")
    fill(page, {"x": "new"})
    fill(page, {"x": r"newer \1"})
    assert page.read_text() == "before\n<!-- part: x -->\n\nnewer \\1\n\n<!-- end -->\nafter\n"
    with pytest.raises(ValueError, match="no place for 'y'"):
        fill(page, {"y": ""})
