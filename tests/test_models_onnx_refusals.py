"""What ONNX Runtime does not serve here is said with the reason, and torch takes over; damaged files are named."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from models import CorruptModel, ModelError, load_encoder
from models.errors import UnsupportedRuntime
from models.folder import check_folder
from models.onnx_model import can_export, load_onnx
from tests.tiny_models import HIDDEN, VOCABULARY, Tiny, write_json, write_tokenizer

DENSE = "2_Dense/config.json"
SETTINGS = "sentence_bert_config.json"


@pytest.fixture
def model(tmp_path):
    return Tiny(tmp_path / "tiny", dense=True, prompts={"query": "query: "}).write()


def change(path, **settings):
    write_json(path, (json.loads(path.read_text()) if path.exists() else {}) | settings)


@pytest.mark.parametrize(
    ("file", "settings", "reason"),
    [
        ("config.json", {"model_type": "roberta"}, "its model_type is roberta"),
        ("config.json", {"hidden_act": "relu"}, "its hidden_act is relu"),
        ("config.json", {"hidden_act": "gelu_new"}, "its hidden_act is gelu_new"),
        ("config.json", {"position_embedding_type": "relative_key"}, "its position_embedding_type is relative_key"),
        ("config.json", {"is_decoder": True}, "its is_decoder is True"),
        ("config.json", {"vocab_size": 10**8}, "larger than a file of ONNX can be"),
        ("adapter_config.json", {}, "it has an adapter"),
        (SETTINGS, {"max_seq_length": 65}, "its window is 65 tokens, it has positions for 64"),
        (SETTINGS, {"something_new": 1}, f"{SETTINGS} sets something_new"),
        (SETTINGS, {"do_lower_case": True}, None),
        ("1_Pooling/config.json", {"pooling_mode_cls_token": True}, r"its pooling is cls\+mean"),
        ("1_Pooling/config.json", {"pooling_mode": "lasttoken"}, "its pooling is lasttoken"),
        ("1_Pooling/config.json", {"include_prompt": False}, "its pooling leaves the prompt out"),
        (DENSE, {"activation_function": "torch.nn.modules.activation.ReLU"}, "2_Dense ends in .*ReLU"),
        (DENSE, {"use_residual": True}, "2_Dense adds what it was given"),
        (DENSE, {"module_input_name": "token_embeddings"}, "2_Dense is no layer behind the pooling"),
        ("tokenizer_config.json", {"padding_side": "left"}, "pads or truncates on the left"),
        ("tokenizer_config.json", {"tokenizer_class": "XLMRobertaTokenizer"}, "names a XLMRobertaTokenizer"),
    ],
)
def test_reasons(model, file, settings, reason):
    assert can_export(check_folder(model.folder)) is None
    change(model.folder / file, **settings)
    found = can_export(check_folder(model.folder))
    if reason is None:
        assert found is None
        return
    assert re.search(reason, found)
    with pytest.raises(UnsupportedRuntime, match=reason):
        load_onnx(check_folder(model.folder))
    with pytest.raises(UnsupportedRuntime, match=f"cannot be served by ONNX Runtime: .*{reason}") as caught:
        load_encoder("mine", folder=model.folder, runtime="onnx")
    assert "torch" in caught.value.hint


def test_other_modules(model):
    modules = json.loads((model.folder / "modules.json").read_text())
    extra = {"idx": 3, "name": "3", "path": "3_LayerNorm", "type": "sentence_transformers.models.LayerNorm"}
    write_json(model.folder / "modules.json", [*modules, extra])
    assert can_export(check_folder(model.folder)) == "its modules are Transformer, Pooling, Dense, LayerNorm"
    extra["type"] = "sentence_transformers.models.Normalize"
    write_json(model.folder / "modules.json", [*modules, extra])
    assert can_export(check_folder(model.folder)) is None


def write_other(folder, kind):
    """A tiny random model of another architecture, in a whole folder."""
    import torch
    import transformers

    sizes = {"vocab_size": len(VOCABULARY), "max_position_embeddings": 64, "pad_token_id": 0}
    if kind == "distilbert":
        config = transformers.DistilBertConfig(**sizes, dim=HIDDEN, n_layers=2, n_heads=2, hidden_dim=32)
        network = transformers.DistilBertModel
    else:
        sizes |= {"hidden_size": HIDDEN, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
        name = {"roberta": "Roberta", "mpnet": "MPNet"}[kind]
        config = getattr(transformers, f"{name}Config")(**sizes)
        network = getattr(transformers, f"{name}Model")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network(config).save_pretrained(folder)
    write_tokenizer(folder)
    types = [("", "Transformer"), ("1_Pooling", "Pooling")]
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{name}"}
        for i, (path, name) in enumerate(types)
    ]
    write_json(folder / "modules.json", modules)
    write_json(folder / SETTINGS, {"max_seq_length": 12})
    write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": HIDDEN, "pooling_mode": "mean"})
    return folder


@pytest.mark.parametrize("kind", ["roberta", "distilbert", "mpnet"])
def test_other_architectures_are_torchs(tmp_path, kind):
    folder = write_other(tmp_path / kind, kind)
    assert can_export(check_folder(folder)) == f"its model_type is {kind}"
    encoder = load_encoder("mine", folder=folder)
    assert encoder.runtime == "torch"
    batch = encoder.encode_queries(["the cat", "a dog sat on the mat"]).vectors
    np.testing.assert_allclose(batch[:1], encoder.encode_queries(["the cat"]).vectors, atol=1e-5)
    with pytest.raises(UnsupportedRuntime, match=f"its model_type is {kind}"):
        load_encoder("mine", folder=folder, runtime="onnx")


def test_an_unnormalised_tokenizer_that_is_to_lowercase_is_torchs(model):
    file = model.folder / "tokenizer.json"
    written = json.loads(file.read_text())
    written["normalizer"]["lowercase"] = False
    write_json(file, written)
    assert can_export(check_folder(model.folder)) is None
    change(model.folder / SETTINGS, do_lower_case=True)
    assert can_export(check_folder(model.folder)) == "texts are to be lowercased, which tokenizer.json does not do"


def damage_bytes(path):
    path.write_bytes(path.read_bytes()[:-100])


def rewrite(path, edit):
    from safetensors.numpy import load_file, save_file

    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path)


def spoil(tensors):
    tensors["embeddings.LayerNorm.bias"][3] = np.nan


def drop(tensors):
    del tensors["encoder.layer.1.output.dense.weight"]


def shorten(tensors):
    tensors["encoder.layer.0.attention.self.query.weight"] = np.zeros((HIDDEN, 3), np.float32)


@pytest.mark.parametrize(
    ("file", "damage", "words"),
    [
        ("model.safetensors", damage_bytes, "model.safetensors is not a file of weights"),
        ("2_Dense/model.safetensors", damage_bytes, "2_Dense/model.safetensors is not a file of weights"),
        ("model.safetensors", lambda path: rewrite(path, drop), "no weights named encoder.layer.1.output.dense.weight"),
        ("model.safetensors", lambda path: rewrite(path, spoil), "embeddings.LayerNorm.bias is float32 .16,., not fin"),
        ("model.safetensors", lambda path: rewrite(path, shorten), r"query.weight is float32 \(16, 3\), not finite"),
        ("config.json", lambda path: path.write_text("{"), "config.json cannot be read as JSON"),
        ("config.json", lambda path: path.write_text("[]"), "config.json is not a JSON object"),
        ("config.json", lambda path: change(path, hidden_size=None), "has no hidden_size"),
        ("config.json", lambda path: change(path, num_hidden_layers=True), "has no num_hidden_layers"),
        ("config.json", lambda path: change(path, hidden_size=16.0), "has no hidden_size"),
        ("config.json", lambda path: change(path, num_attention_heads=3), "3 heads do not share 16 dimensions"),
        ("config.json", lambda path: change(path, vocab_size=99), r"word_embeddings.weight is float32 \(19, 16\)"),
        (SETTINGS, lambda path: change(path, max_seq_length="12"), "max_seq_length is '12'"),
        ("tokenizer.json", lambda path: path.write_text("{}"), "tokenizer.json is not a tokenizer"),
        (DENSE, lambda path: path.write_text("nothing"), "2_Dense/config.json cannot be read as JSON"),
    ],
)
def test_damage_is_named(model, file, damage, words):
    damage(model.folder / file)
    with pytest.raises(CorruptModel, match=words) as caught:
        load_onnx(check_folder(model.folder))
    assert "restore" in caught.value.hint
    with pytest.raises(ModelError):
        load_encoder("mine", folder=model.folder)


def test_tokens_beyond_the_table_are_damage(model):
    write_tokenizer(model.folder, VOCABULARY | {"zebra": len(VOCABULARY)})
    with pytest.raises(CorruptModel, match=f"has tokens beyond the model's {len(VOCABULARY)}"):
        load_onnx(check_folder(model.folder))


def test_a_batch_that_the_runtime_cannot_compute_is_a_typed_error(model, capfd):
    """Token ids come from the tokenizer and lie within the table; an id that does not is the runtime's error."""
    session = load_onnx(check_folder(model.folder))._sessions["query"]
    tokens = np.full((1, 3), len(VOCABULARY), dtype=np.int32)
    with pytest.raises(ModelError, match=r"ONNX Runtime fails at a batch of \(1, 3\)"):
        session.run(tokens, np.ones_like(tokens), 2)
    capfd.readouterr()
