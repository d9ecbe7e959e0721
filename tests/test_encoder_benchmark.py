"""The grid of encoders: its measures against a server's, its arithmetic against obvious oracles, its pages."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.compression.results import Results
from benchmarks.embeddings import judged_texts
from benchmarks.encoders import bars, quality, tables
from benchmarks.encoders.contestants import DIMENSIONS, FULL, INT8, PEER, STATIC, STUDENT, TEACHER, Exit, Ours
from benchmarks.encoders.report import fill_pages
from benchmarks.encoders.speed import DOCUMENTS, QUERY
from benchmarks.encoders.summary import Measured, full
from models.errors import InvalidText
from models.presets import MINILM_SPACE, shipped_fold
from models.sizes import Sizes
from tests.conftest import FakeEncoder
from tests.service_calls import command
from tests.small_server import DIMENSION, Encoded, direction

EXITS = [Exit(TEACHER, 6), Exit(INT8, 6), Exit(STUDENT, 2), Exit(STUDENT, 1), Exit(STATIC, 0)]
COSTS = {TEACHER: 4.0, INT8: 3.0, STUDENT: 0.5, STATIC: 0.04, PEER: 9.0}


VOCABULARY = [f"word{i}" for i in range(60)]


class Bag(FakeEncoder):
    """Adds up a random direction for each word, so that no two texts score alike; cut to its own prefixes."""

    def __init__(self) -> None:
        super().__init__(name="bag", dimension=DIMENSION, sizes=Sizes((0, 1), (6, 12, DIMENSION)), fold=None)

    def _encode(self, texts, layers, dimensions):
        words = [text.split()[:1] if layers == 0 else text.split() for text in texts]
        vectors = np.array([np.sum([direction(word) for word in each], axis=0) for each in words])[:, :dimensions]
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return Encoded(vectors.astype(np.float32), np.zeros(len(texts), bool))


@pytest.fixture
def data_set(tmp_path):
    """Random documents; questions that share three words with each of their two answers."""
    rng = np.random.default_rng(4)
    folder = tmp_path / "words"
    (folder / "qrels").mkdir(parents=True)
    documents = [rng.choice(VOCABULARY, 12).tolist() for _ in range(150)]
    answers = rng.choice(150, (12, 2), replace=False)
    questions = [[*documents[a][:3], *documents[b][:3]] for a, b in answers]
    for name, texts in (("corpus", documents), ("queries", questions)):
        rows = [{"_id": f"{name[0]}{i}", "text": " ".join(words)} for i, words in enumerate(texts)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    judged = "".join(f"q{i}\tc{j}\t{grade}\n" for i, pair in enumerate(answers) for grade, j in enumerate(pair, 1))
    (folder / "qrels" / "test.tsv").write_text(f"query-id\tcorpus-id\tscore\n{judged}")
    return folder


@pytest.mark.parametrize(("layers", "dimensions"), [(1, 24), (1, 12), (0, 12)])
def test_the_grid_agrees_with_an_evaluation_through_the_server(serve, data_set, capsys, layers, dimensions):
    server, encoder = serve(Bag()), Ours(Bag())
    options = ("--encoder", "bag", "--query", f"bag:{layers}:{dimensions}", "--json", "--url", server.url)
    status, out, err = command(capsys, "eval", data_set, *options)
    assert status == 0, err
    (report,) = json.loads(out)
    texts = judged_texts(data_set)
    queries = encoder.encode_queries(texts.queries, layers=layers, dimensions=dimensions)
    documents = encoder.encode_documents(texts.documents)
    short = quality.unit(documents * (np.arange(DIMENSION) < dimensions))
    row = quality.measure(texts, queries, short)
    assert (report["layers"], report["dimensions"]) == (layers, dimensions)
    assert np.mean(row["ndcg"]) == pytest.approx(report["exact_ndcg_at_10"], abs=1e-4)
    assert np.mean(row["recall"]) == pytest.approx(report["exact_recall_at_100"], abs=1e-4)
    assert 0.01 < report["exact_ndcg_at_10"] < 0.98
    assert report["exact_recall_at_100"] > 0.5


def test_a_text_without_direction_finds_nothing():
    class Picky:
        dimension = 2

        def encode_documents(self, texts):
            for index, text in enumerate(texts):
                if not text:
                    raise InvalidText("empty", index=index)
            return type("Encoded", (), {"vectors": np.array([[len(text), 0.0] for text in texts], np.float32)})

    found = Ours(Picky()).encode_documents(["ab", "", "abc", ""])
    assert found.tolist() == [[2, 0], [0, 0], [3, 0], [0, 0]]
    assert Ours(Picky()).encode_documents(["", ""]).tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize("folded", [True, False])
def test_cut_documents_are_what_is_left_scaled_to_length_one(folded):
    vectors = np.random.default_rng(1).standard_normal((5, 384)).astype(np.float32)
    asked = np.random.default_rng(2).standard_normal((3, 384)).astype(np.float32)
    vectors[3] = 0
    axes = shipped_fold(MINILM_SPACE).axes if folded else np.eye(384, dtype=np.float32)
    assert quality.cut(vectors, 384, folded=folded) is vectors
    short = vectors @ axes[:64].T
    norms = np.linalg.norm(short, axis=1, keepdims=True)
    expected = (asked @ axes[:64].T) @ (short / np.where(norms > 0, norms, 1)).T
    np.testing.assert_allclose(asked @ quality.cut(vectors, 64, folded=folded).T, expected, atol=2e-5)


def measured(quality_of=lambda _, size: {TEACHER: 0.5, STUDENT: 0.48, STATIC: 0.45}.get(size[0], 0.5)):
    """A whole grid, made up."""
    rng = np.random.default_rng(0)

    def row(documents, size):
        level = quality_of(documents, size) * (1 - 0.2 * (documents != TEACHER)) * (1 - 30 / (size[2] + 60) + 30 / 444)
        values = np.clip(rng.normal(level, 0.05, 200), 0, 1).tolist()
        return {"ndcg": values, "recall": values}

    sizes = [(one.name, one.layers, k) for one in EXITS for k in DIMENSIONS]
    grid = [(documents, *size) for documents in (TEACHER, STUDENT, STATIC) for size in sizes]
    grid += [(TEACHER, quality.PREFIX, 6, k) for k in DIMENSIONS[:-1]] + [(TEACHER, PEER, 6, FULL)]
    names = ("documents", "queries", "layers", "dimensions")
    rows = [
        {"version": "v", "set": name, **dict(zip(names, key, strict=True)), **row(key[0], key[1:])}
        for name in (*quality.SETS, "limit-small")
        for key in grid
    ]
    speed = [
        {"version": "v", "machine": "a machine", "what": what, "threads": threads, "name": name, "layers": layers}
        | {"dimensions": k, "rounds": [value * (1 + 0.1 * i) for i in range(3)]}
        for threads in (1, 2)
        for name, layers, k in [*sizes, (PEER, 6, FULL)]
        for what, value in ((QUERY, COSTS[name] * (1 + (layers == 2))), (DOCUMENTS, 1000 / COSTS[name]))
    ]
    sizes_of = [{"version": "v", "name": name, "disk": 20e6, "memory": 90e6} for name in COSTS]
    return rows, speed, sizes_of


def test_what_is_kept_and_its_interval():
    rows, speed, footprint = measured()
    found = Measured.gather("v", rows, speed, footprint)
    one = Exit(STUDENT, 2)
    means = [np.mean([found.value(name, TEACHER, full(e)) for name in quality.SETS]) for e in (one, Exit(TEACHER, 6))]
    share, low, high = found.kept(TEACHER, full(one))
    assert share == pytest.approx(means[0] / means[1])
    assert low < share < high < low + 0.05
    assert found.kept(TEACHER, full(Exit(TEACHER, 6))) == (1, 1, 1)
    assert found.milliseconds(full(one)) == pytest.approx(1.1)
    assert Measured.gather("other", rows, speed, footprint).kept(TEACHER, full(one)) is None


def test_bars_are_judged():
    rows, speed, footprint = measured()
    found = Measured.gather("v", rows, speed, footprint)
    lines = {bar: (said, verdict) for bar, said, verdict in bars.check(found, EXITS)}
    (student,) = (line for bar, line in lines.items() if bar.startswith("student, 2 layers: at most 1/4"))
    share = found.kept(TEACHER, full(Exit(STUDENT, 2)))[0]
    assert 0.95 < share < 0.98
    assert student[0].startswith(f"1/4.0 of the time, {share:.1%} (")
    assert student[1] == "pass"
    (static,) = (line for bar, line in lines.items() if bar.startswith("static: at most 1/100"))
    assert static[0].startswith("1/225 of the time, ")
    assert static[1] == "pass", "but .45 of .5 is not the aim"
    (symmetric,) = (line for bar, line in lines.items() if bar.startswith("static for documents too"))
    assert symmetric[0].startswith("100 times the rate, 7")
    (served,) = (line for bar, line in lines.items() if bar.startswith("minilm, one thread"))
    assert "1/2.2 of the time (4.40 ms against 9.90 ms)" in served[0]
    slow = Measured.gather("v", rows, [{**row, "rounds": [9.0]} for row in speed], footprint)
    assert {verdict for bar, _, verdict in bars.check(slow, EXITS) if "time" in bar} == {"**miss**"}
    nothing = Measured.gather("other", rows, speed, footprint)
    assert {verdict for _, _, verdict in bars.check(nothing, EXITS)} == {bars.NOT_MEASURED}


def test_pages_have_a_place_for_every_part_and_blank_cells_for_what_was_not_measured(tmp_path):
    docs = Path(__file__).parent.parent / "docs"
    for name in ("encoders.md", "encoders-tables.md"):
        (tmp_path / name).write_text((docs / name).read_text())
    rows, speed, footprint = measured()
    fill_pages(Measured.gather("v", rows, [], footprint), EXITS, tmp_path)
    page = (tmp_path / "encoders.md").read_text()
    assert "| student, 2 layers |" in page
    assert "not measured" in page
    assert "| minilm | 6 | 128 |  |" in (tmp_path / "encoders-tables.md").read_text()
    fill_pages(Measured.gather("v", rows, speed, footprint), EXITS, tmp_path)
    assert "| minilm | 6 | 128 | 4.400 |" in (tmp_path / "encoders-tables.md").read_text()
    lines = tables.grid_table(Measured.gather("v", rows, speed, footprint), TEACHER).splitlines()
    assert len(lines) == 2 + 5 * 5 + 4 + 1
    assert len({line.count("|") for line in lines}) == 1


def test_results_name_their_student(tmp_path):
    results = Results(tmp_path / "quality.jsonl", quality.KEYS)
    for version in ("a", "b"):
        key = dict(zip(quality.KEYS, (version, "scifact", TEACHER, STATIC, 0, 64), strict=True))
        results.add({**key, "ndcg": [1.0]})
    assert len(list(Results(tmp_path / "quality.jsonl", quality.KEYS))) == 2
