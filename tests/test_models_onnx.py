"""ONNX Runtime against torch on tiny random folders: the same vectors, the same word on what was cut."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import threading

import numpy as np
import pytest

from models import UnsupportedSize, load_encoder
from models.folder import check_folder
from models.onnx_model import load_onnx
from models.sentence_model import SentenceModel
from tests.tiny_models import HIDDEN, WORDS, Tiny, write_json

TEXTS = ["the cat sat on the mat", "a dog", "red road blue road", "", "zebra", "the " * 9 + "cat", "red " * 30]


@pytest.fixture
def tiny(tmp_path):
    def build(name="tiny", **settings):
        return Tiny(folder=tmp_path / name, **settings).write()

    return build


def sentences(n, seed=0):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, rng.integers(1, 15))) for _ in range(n)]


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def cosines(some, others):
    return (unit(some) * unit(others)).sum(axis=1)


def change(path, **settings):
    write_json(path, json.loads(path.read_text()) | settings)


@pytest.mark.parametrize(("pooling", "dense"), [*itertools.product(["mean", "cls"], [False, True])])
def test_every_exit_is_torchs(tiny, pooling, dense):
    folder = check_folder(tiny(pooling=pooling, dense=dense, prompts={"query": "query: "}).folder)
    fast, slow = load_onnx(folder), SentenceModel(folder)
    assert (fast.runtime, fast.pooling, fast.exits) == ("onnx", pooling, slow.exits)
    assert (fast.dimension, fast.max_tokens, fast.prompts) == (slow.dimension, slow.max_tokens, slow.prompts)
    seen = []
    for task, layers in itertools.product(("query", "document"), (1, 2)):
        found, expected = fast.embed(TEXTS, task, layers), slow.embed(TEXTS, task, layers)
        np.testing.assert_allclose(found[0], expected[0], atol=1e-5)
        assert found[0].dtype == np.float32
        assert found[1].tolist() == expected[1].tolist()
        assert 0 < found[1].sum() < len(TEXTS)
        assert fast.count_tokens(TEXTS, task, layers) == slow.count_tokens(TEXTS, task, layers)
        seen.append(found[0])
    assert min(np.abs(one - other).max() for one, other in itertools.combinations(seen, 2)) > 1e-2


def test_as_loaded_by_name_it_is_the_oracle(tiny):
    model = tiny(dense=True)
    encoder = load_encoder("mine", folder=model.folder)
    assert encoder.runtime == "onnx"
    expected = [model.oracle(text) for text in TEXTS]
    encoded = encoder.encode_documents(TEXTS)
    np.testing.assert_allclose(encoded.vectors, [vector for vector, _ in expected], atol=1e-5)
    assert encoded.truncated.tolist() == [cut for _, cut in expected]
    torch = load_encoder("mine", folder=model.folder, runtime="torch")
    assert torch.runtime == "torch"
    assert torch.space == encoder.space


@pytest.mark.parametrize("weights", ["float32", "int8", "int8-all"])
def test_a_batch_is_a_loop(tiny, weights):
    model = load_onnx(check_folder(tiny().folder), weights=weights)
    texts = sentences(40)
    batch, cut = model.embed(texts, "document", 2)
    alone = [model.embed([text], "document", 2) for text in texts]
    # A rounding may fall to the other side where a product is added up in another order, hence the spread of int8.
    np.testing.assert_allclose(
        batch, np.concatenate([one for one, _ in alone]), atol=1e-5 if weights == "float32" else 1e-2
    )
    assert cut.tolist() == [bool(one[0]) for _, one in alone]


@pytest.mark.parametrize(("weights", "least"), [("int8", 0.998), ("int8-all", 0.996)])
def test_whole_numbers_stay_close(tiny, weights, least):
    folder = check_folder(tiny(dense=True).folder)
    exact, rounded = load_onnx(folder), load_onnx(folder, weights=weights)
    texts = sentences(100)
    for layers in (1, 2):
        expected, found = (model.embed(texts, "document", layers)[0] for model in (exact, rounded))
        assert cosines(found, expected).mean() > least
        assert np.abs(found - expected).max() > 1e-5


def test_queries_may_have_weights_of_their_own(tiny):
    folder = check_folder(tiny().folder)
    mixed = load_onnx(folder, weights="float32", query_weights="int8")
    for task, weights in (("document", "float32"), ("query", "int8")):
        expected = load_onnx(folder, weights=weights).embed(TEXTS, task, 2)[0]
        np.testing.assert_array_equal(mixed.embed(TEXTS, task, 2)[0], expected)


def test_queries_in_whole_numbers_as_loaded_by_name(tiny):
    model = tiny()
    exact = load_encoder("mine", folder=model.folder)
    rounded = load_encoder("mine", folder=model.folder, query_weights="int8")
    assert rounded.space == exact.space
    texts = sentences(20)
    found, expected = rounded.encode_documents(texts).vectors, exact.encode_documents(texts).vectors
    np.testing.assert_array_equal(found, expected)
    found, expected = rounded.encode_queries(texts).vectors, exact.encode_queries(texts).vectors
    assert 1e-5 < np.abs(found - expected).max()
    assert cosines(found, expected).mean() > 0.998
    with pytest.raises(ValueError, match="query_weights int8 does not go with torch"):
        load_encoder("mine", folder=model.folder, query_weights="int8", runtime="torch")
    with pytest.raises(ValueError, match="query_weights must be float32 or int8, not 'int4'"):
        load_encoder("mine", folder=model.folder, query_weights="int4")


@pytest.mark.parametrize("temperature", [0.5, 2.0])
@pytest.mark.parametrize("weights", ["float32", "int8-all"])
def test_temperature_is_torchs(tiny, temperature, weights):
    folder = check_folder(tiny().folder)
    found = load_onnx(folder, temperature=temperature, weights=weights).embed(TEXTS, "query", 2)[0]
    expected = SentenceModel(folder, temperature=temperature).embed(TEXTS, "query", 2)[0]
    if weights == "float32":
        np.testing.assert_allclose(found, expected, atol=1e-5)
    as_trained = load_onnx(folder, weights=weights).embed(TEXTS, "query", 2)[0]
    assert cosines(found, expected).min() > 0.99
    assert cosines(found, expected).mean() > cosines(as_trained, expected).mean()


def test_only_the_exits_that_are_asked_for(tiny):
    folder = check_folder(tiny().folder)
    model = load_onnx(folder, exits=())
    assert model.exits == (2,)
    with pytest.raises(UnsupportedSize, match="cannot end after 1 layers"):
        model.embed(["cat"], "query", 1)
    assert load_onnx(folder, exits=[1]).exits == (1, 2)
    with pytest.raises(UnsupportedSize, match="the model has 2 layers, it cannot end after 0, 3"):
        load_onnx(folder, exits=[0, 3])


def weights_of(model):
    from safetensors.numpy import load_file

    return load_file(model.folder / "model.safetensors")


def test_weights_in_halves_parts_and_under_a_prefix(tiny):
    from safetensors.numpy import save_file

    model = tiny()
    expected = load_onnx(check_folder(model.folder)).embed(TEXTS, "query", 2)[0]
    tensors = {f"bert.{name}": tensor for name, tensor in weights_of(model).items()}
    (model.folder / "model.safetensors").unlink()
    names = sorted(tensors)
    files = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, kept in files.items():
        save_file({name: tensors[name] for name in kept}, model.folder / file)
    index = {"weight_map": {name: file for file, kept in files.items() for name in kept}}
    write_json(model.folder / "model.safetensors.index.json", index)
    found = load_onnx(check_folder(model.folder)).embed(TEXTS, "query", 2)[0]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_short_floats_are_torchs(tiny, kind):
    import torch
    from safetensors.torch import load_file, save_file

    model = tiny()
    file = model.folder / "model.safetensors"
    save_file({name: one.to(getattr(torch, kind)) for name, one in load_file(file).items()}, file, {"format": "pt"})
    change(model.folder / "config.json", dtype=kind)
    folder = check_folder(model.folder)
    expected = SentenceModel(folder).embed(TEXTS, "query", 2)[0]
    np.testing.assert_allclose(load_onnx(folder).embed(TEXTS, "query", 2)[0], expected, atol=1e-5)


def test_several_threads_get_the_vectors_of_one(tiny):
    model = load_onnx(check_folder(tiny(prompts={"query": "query: "}).folder), threads=2)
    texts = sentences(20)
    expected = {task: model.embed(texts, task, 2)[0] for task in ("query", "document")}
    failures = []

    def work(task):
        try:
            for _ in range(5):
                np.testing.assert_allclose(model.embed(texts, task, 2)[0], expected[task], atol=1e-5)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(task,)) for task in ("query", "document") * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_a_window_that_the_folder_does_not_state(tiny):
    model = tiny()
    change(model.folder / "sentence_bert_config.json", max_seq_length=None)
    folder = check_folder(model.folder)
    texts = ["cat " * n for n in (10, 62, 63, 100)]
    fast, slow = load_onnx(folder), SentenceModel(folder)
    assert fast.max_tokens == slow.max_tokens == 64
    found, expected = fast.embed(texts, "query", 2), slow.embed(texts, "query", 2)
    assert found[1].tolist() == expected[1].tolist() == [False, False, True, True]
    np.testing.assert_allclose(found[0], expected[0], atol=1e-5)


def test_serving_needs_neither_torch_nor_transformers(tiny):
    script = (
        "import sys; from pathlib import Path; from models import load_encoder;"
        f"encoder = load_encoder('mine', folder=Path({str(tiny().folder)!r}));"
        "assert encoder.encode_queries(['the cat']).vectors.shape == (1, 16);"
        "print([name for name in ('torch', 'transformers', 'sentence_transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert HIDDEN == 16
