"""Students with layers as they are served, and as one ONNX graph, against their plain meaning."""

from __future__ import annotations

import json
import threading

import numpy as np
import pytest

from models import CorruptModel, load_encoder
from models.onnx_session import OnnxSession
from models.static_model import StaticModel
from models.student_folder import read_static_table, read_student
from models.student_graph import build_student_graph, most_tokens
from models.student_onnx import StudentModel
from models.student_reference import reference_vectors
from models.student_weights import StudentWeights
from tests.student_folders import AROUND, WINDOW, random_student, write_random_student
from tests.tiny_models import VOCABULARY, WORDS

TEXTS = ["the cat sat", "dog", "zebra", "red " * 8, "red " * 9, "the cat " * 8, "blue : road"]


@pytest.fixture
def write(tmp_path):
    def build(name="student", **settings):
        return write_random_student(tmp_path / name, **settings)

    return build


def tokens_of(text):
    return [VOCABULARY.get(word, VOCABULARY["[UNK]"]) for word in text.split()]


@pytest.mark.parametrize("mix", [0, 6])
@pytest.mark.parametrize("static_window", [3, 12])
def test_every_exit_is_what_the_arrays_mean(write, mix, static_window):
    folder = write(mix=mix, static_window=static_window)
    model, weights = StudentModel(folder), read_student(folder)
    assert (model.runtime, model.exits, model.dimension, model.max_tokens) == ("onnx", (0, 1, 3), 12, WINDOW)
    seen = []
    for layers in (0, 1, 3):
        expected = reference_vectors(weights, [tokens_of(text) for text in TEXTS], layers, around=AROUND)
        found = model.embed(TEXTS, "query", layers)[0]
        np.testing.assert_allclose(found, expected, atol=2e-5)
        np.testing.assert_array_equal(model.embed(TEXTS, "document", layers)[0], found)
        seen.append(found)
    assert min(np.abs(seen[i] - seen[j]).max() for i, j in ((0, 1), (0, 2), (1, 2))) > 0.1


def test_the_share_of_exit_0_is_of_its_direction(write):
    """Longer tables change exit 0 in length alone, and the exits behind it not at all."""
    weights = random_student()
    longer = {**weights.arrays, "static.table": 4 * weights.arrays["static.table"]}
    no_share = longer | {f"exits.{k}.gate": np.zeros((), dtype=np.float32) for k in (1, 3)}
    found = {}
    for name, arrays in (("one", weights.arrays), ("longer", longer), ("none", no_share)):
        folder = write(name, weights=StudentWeights(weights.shape, arrays))
        found[name] = StudentModel(folder).embed(TEXTS, "query", 3)[0]
    np.testing.assert_allclose(found["longer"], found["one"], atol=2e-5)
    static = StaticModel(folder).embed(TEXTS, "query", 0)[0]
    static /= np.linalg.norm(static, axis=1, keepdims=True)
    gate = np.float32(np.float16(weights.arrays["exits.3.gate"]))
    np.testing.assert_allclose(found["one"] - found["none"], gate * static, atol=1e-3)


def test_a_batch_is_a_loop_and_cut_texts_are_named(write):
    model = StudentModel(write())
    for layers, most in ((0, 12), (1, WINDOW - 2), (3, WINDOW - 2)):
        vectors, truncated = model.embed(TEXTS, "query", layers)
        alone = [model.embed([text], "query", layers) for text in TEXTS]
        np.testing.assert_allclose(vectors, np.concatenate([one for one, _ in alone]), atol=1e-5)
        lengths = [len(tokens_of(text)) for text in TEXTS]
        assert truncated.tolist() == [bool(one[0]) for _, one in alone] == [length > most for length in lengths]
        special = 2 if layers else 0
        assert model.count_tokens(TEXTS, "query", layers) == [min(length, most) + special for length in lengths]


@pytest.mark.parametrize("mix", [0, 6])
def test_a_text_without_words(write, mix):
    """It has no static vector, so no share of one; the layers read the two tokens around it."""
    model = StudentModel(write(mix=mix))
    assert not model.embed([""], "query", 0)[0].any()
    expected = reference_vectors(read_student(write("again", mix=mix)), [[]], 3, around=AROUND)
    np.testing.assert_allclose(model.embed([""], "query", 3)[0], expected, atol=2e-5)


@pytest.mark.parametrize(("weights", "least"), [("int8", 0.99), ("int8-all", 0.98)])
def test_whole_numbers_stay_close(write, weights, least):
    folder = write()
    rng = np.random.default_rng(1)
    texts = [" ".join(rng.choice(WORDS, rng.integers(1, 9))) for _ in range(100)]
    for layers in (1, 3):
        expected, found = (
            StudentModel(folder, weights=kind).embed(texts, "query", layers)[0] for kind in ("float32", weights)
        )
        norms = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
        assert ((found * expected).sum(axis=1) / norms).mean() > least
        assert np.abs(found - expected).max() > 1e-5


def test_loaded_by_its_folder(write):
    folder = write()
    encoder = load_encoder("mine", folder=folder)
    assert (encoder.space, encoder.runtime, encoder.sizes.layers) == ("words/12", "onnx", (0, 1, 3))
    expected = reference_vectors(read_student(folder), [tokens_of(text) for text in TEXTS], 1, around=AROUND)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    # Layers are computed in 8 bits, the table is not.
    assert (encoder.encode_queries(TEXTS, layers=1).vectors * expected).sum(axis=1).min() > 0.995
    table = reference_vectors(read_student(folder), [tokens_of(text) for text in TEXTS], 0, around=AROUND)
    table /= np.linalg.norm(table, axis=1, keepdims=True)
    np.testing.assert_allclose(encoder.encode_queries(TEXTS, layers=0).vectors, table, atol=1e-5)


def test_several_threads(write):
    model = StudentModel(write())
    expected = {layers: model.embed(TEXTS, "query", layers)[0] for layers in (0, 1, 3)}
    failures = []

    def work(layers):
        try:
            for _ in range(10):
                np.testing.assert_allclose(model.embed(TEXTS, "query", layers)[0], expected[layers], atol=1e-5)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(layers,)) for layers in (0, 1, 3, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_a_tokenizer_without_special_tokens_is_refused(write):
    with pytest.raises(CorruptModel, match="puts 0 tokens around a text, a student expects two"):
        StudentModel(write(around=False))


def test_damaged_weights_are_named(write):
    folder = write()
    file = folder / "student.safetensors"
    file.write_bytes(file.read_bytes()[:-50])
    with pytest.raises(CorruptModel, match=r"student\.safetensors is not the weights of a student"):
        StudentModel(folder)
    written = json.loads((folder / "student.json").read_text())
    written["shape"]["exits"] = [1, 3]
    (folder / "student.json").write_text(json.dumps(written))
    with pytest.raises(CorruptModel, match="exits must ascend from 0"):
        StudentModel(folder)


def padded(texts, most):
    rows = []
    for text in texts:
        rows.append([AROUND[0], *tokens_of(text)[: most - 2], AROUND[1]])
    length = max(map(len, rows))
    tokens = np.zeros((len(rows), length), dtype=np.int32)
    mask = np.zeros_like(tokens)
    for row, ids in enumerate(rows):
        tokens[row, : len(ids)], mask[row, : len(ids)] = ids, 1
    # What lies beyond a text is not read.
    tokens[mask == 0] = VOCABULARY["cat"]
    return tokens, mask


@pytest.mark.parametrize("static_window", [3, 12])
@pytest.mark.parametrize("mix", [0, 6])
@pytest.mark.parametrize("exits", [(0, 1, 3), (1, 3), (3,), (0,)])
def test_one_graph_of_all_exits(write, static_window, mix, exits):
    folder = write(mix=mix, static_window=static_window)
    model, weights = StudentModel(folder), read_student(folder)
    graph = build_student_graph(weights, read_static_table(folder), last=AROUND[1], exits=exits)
    session = OnnxSession(graph)
    most = most_tokens(weights.shape)
    assert most == max(WINDOW, static_window + 2)
    for layers in exits:
        expected = model.embed(TEXTS, "query", layers)[0]
        np.testing.assert_allclose(session.run(*padded(TEXTS, most), layers), expected, atol=2e-5)
        for text, vector in zip(TEXTS, expected, strict=True):
            np.testing.assert_allclose(session.run(*padded([text], most), layers)[0], vector, atol=2e-5)
