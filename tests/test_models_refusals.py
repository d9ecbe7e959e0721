"""Model folders that are refused or damaged, and texts that have no vector."""

from __future__ import annotations

import socket

import numpy as np
import pytest

from models import InvalidText, ModelError, ModelNotFound, UnsafeModel, load_encoder
from tests.tiny_models import VOCABULARY, Tiny, write_json, write_tokenizer


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def refuse(*_args, **_kwargs):
        raise AssertionError("a test tried to reach the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def tiny(tmp_path):
    def build(name="tiny", **settings):
        return Tiny(folder=tmp_path / name, **settings).write()

    return build


def load(model, name="mine"):
    return load_encoder(name, folder=model.folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pkl", "model.ckpt"])
@pytest.mark.parametrize("place", ["", "2_Dense"])
def test_pickle_weights_are_refused(tiny, name, place):
    model = tiny(dense=True)
    folder = model.folder / place
    (folder / "model.safetensors").rename(folder / name)
    with pytest.raises(UnsafeModel, match=rf"{place}.* pickle \({name}\)") as caught:
        load(model)
    assert "safetensors" in caught.value.hint


def test_pickles_beside_safetensors_are_never_read(tiny):
    model = tiny(dense=True)
    for place in ("", "2_Dense"):
        (model.folder / place / "pytorch_model.bin").write_bytes(b"not even a pickle")
    assert load(model).encode_documents(["the cat"]).vectors.shape == (1, 6)


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("modules.json", "modules.json"),
        ("config.json", "config.json"),
        ("model.safetensors", "model.safetensors"),
        ("tokenizer.json", "tokenizer.json"),
        ("1_Pooling/config.json", "1_Pooling has no config.json"),
        ("2_Dense/config.json", "2_Dense has no config.json"),
        ("2_Dense/model.safetensors", "2_Dense has no model.safetensors"),
    ],
)
def test_missing_files_are_named(tiny, name, missing):
    model = tiny(dense=True)
    (model.folder / name).unlink()
    with pytest.raises(ModelNotFound, match=missing) as caught:
        load(model)
    assert str(model.folder) in str(caught.value)


def test_missing_folder(tmp_path):
    with pytest.raises(ModelNotFound, match="no model folder at .*nowhere"):
        load_encoder("mine", folder=tmp_path / "nowhere")


@pytest.mark.parametrize("kind", ["modeling.Custom", "os.system", "sentence_transformers"])
def test_modules_outside_the_library_are_refused(tiny, kind):
    model = tiny()
    (model.folder / "modeling.py").write_text("raise SystemExit('ran')")
    write_json(model.folder / "modules.json", [{"name": "0", "path": "", "type": kind}])
    with pytest.raises(UnsafeModel, match=kind):
        load(model)


@pytest.mark.parametrize("path", ["../other", "/tmp", "a/../../b", "..\\other"])
def test_modules_outside_the_folder_are_refused(tiny, path):
    model = tiny()
    write_json(
        model.folder / "modules.json",
        [{"name": "0", "path": path, "type": "sentence_transformers.models.Dense"}],
    )
    with pytest.raises(UnsafeModel, match="outside the folder"):
        load(model)


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("modules.json", "[", r"modules\.json cannot be read"),
        ("modules.json", "{}", "not a list of modules"),
        ("modules.json", "[{}]", "without type or path"),
        (
            "modules.json",
            '[{"name": "0", "path": "", "type": "sentence_transformers.no.Such"}]',
            "cannot be loaded",
        ),
        ("config_sentence_transformers.json", '{"prompts": ["x"]}', "prompts is not an object"),
        (
            "config_sentence_transformers.json",
            '{"default_prompt_name": "x"}',
            "'x' is not one of the prompts",
        ),
        ("model.safetensors", "garbage", r"cannot be loaded|is not a file of weights"),
        ("tokenizer.json", "garbage", r"cannot be (loaded|read)"),
        ("config.json", "{}", "cannot be loaded"),
    ],
)
@pytest.mark.parametrize("runtime", ["auto", "torch"])
def test_damaged_files_are_model_errors(tiny, name, content, match, runtime):
    model = tiny()
    (model.folder / name).write_text(content)
    with pytest.raises(ModelError, match=match) as caught:
        load_encoder("mine", folder=model.folder, runtime=runtime)
    assert str(model.folder) in str(caught.value)


def test_damaged_weights_are_noticed_at_load(tiny):
    from safetensors.torch import load_file, save_file

    model = tiny()
    weights = load_file(model.folder / "model.safetensors")
    name = "embeddings.word_embeddings.weight"
    save_file(weights | {name: weights[name] * float("nan")}, model.folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match="not finite"):
        load(model)


def test_texts_without_a_vector(tiny):
    encoder = load(tiny())
    with pytest.raises(InvalidText, match="text 1 is not valid Unicode at character 2") as caught:
        encoder.encode_documents(["fine", "ab\ud800"])
    assert caught.value.index == 1
    with pytest.raises(TypeError, match="not one str"):
        encoder.encode_documents("text")
    with pytest.raises(TypeError, match="text 0 is int"):
        encoder.encode_documents([3])


def test_static_embeddings_have_no_window_and_no_vector_for_nothing(tmp_path):
    import torch
    from safetensors.torch import save_file

    weights = torch.from_numpy(np.random.default_rng(0).standard_normal((len(VOCABULARY), 8)).astype(np.float32))
    folder = tmp_path / "static"
    kind = "sentence_transformers.models.StaticEmbedding"
    write_json(folder / "modules.json", [{"idx": 0, "name": "0", "path": "", "type": kind}])
    write_tokenizer(folder)
    save_file({"embedding.weight": weights}, folder / "model.safetensors")
    encoder = load_encoder("bag", folder=folder)
    assert encoder.max_tokens is None
    assert encoder.space.endswith("/8/bag")
    encoded = encoder.encode_documents(["cat", "the cat " * 500])
    expected = weights[VOCABULARY["cat"]].numpy()
    np.testing.assert_allclose(encoded.vectors[0], expected / np.linalg.norm(expected), atol=1e-6)
    assert not encoded.truncated.any()
    with pytest.raises(InvalidText, match="no direction for text 1"):
        encoder.encode_documents(["cat", ""])
