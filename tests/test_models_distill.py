"""Students of tiny teachers: what they start from, that training goes on where it stopped, what is written."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from models.distill.losses import alignment_loss, cosine_loss
from models.distill.make import UNFINISHED, Sources, make_student
from models.distill.options import StudentOptions
from models.distill.phase import read_log
from models.distill.start import TeacherParts, context_start, static_start
from models.distill.tokens import Tokens
from models.distill.training import DistillData, split, train_student
from models.errors import InvalidSize, ModelError, TooFewVectors, TrainingCancelled
from models.loading import load_encoder
from models.metrics_log import NAME as METRICS
from tests.tiny_models import VOCABULARY, WORDS, Tiny

OPTIONS = StudentOptions(
    window=12, mix=8, static_epochs=3, static_batch=64, layers=(0, 1), exits=(2,), ffn=24, epochs=2, batch=16,
    held_out=64, checkpoint_steps=5, threads=1,
)  # fmt: skip


def sentences(n, seed=0):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, rng.integers(1, 9))) for _ in range(n)]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return Tiny(tmp_path_factory.mktemp("teacher") / "tiny").write()


def data_of(teacher, texts, *, layers=True):
    """Tokens by the vocabulary alone, vectors by the loaded teacher."""
    encoder = load_encoder("tiny", folder=teacher.folder, threads=1, runtime="torch")
    ids = [[VOCABULARY[word] for word in text.split()] for text in texts]
    flat = np.concatenate(ids).astype(np.int32)
    tokens = Tokens(flat, np.concatenate([[0], np.cumsum([len(one) for one in ids])]), 2, 3)
    vectors = encoder.encode_documents(texts).vectors
    words = encoder.encode_documents(list(VOCABULARY)).vectors
    parts = TeacherParts.read(teacher.folder) if layers else None
    return DistillData(tokens, vectors.astype(np.float16), words, parts)


def test_losses_are_what_they_say():
    vectors = torch.tensor([[3.0, 0.0], [0.0, 2.0]])
    teacher = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert cosine_loss(vectors, teacher).item() == pytest.approx(0.5)
    assert alignment_loss(vectors, teacher).item() == pytest.approx(np.sqrt(2) / 2)


def test_all_layers_of_the_teacher_are_the_teacher(teacher):
    texts = sentences(300)
    data = data_of(teacher, texts)
    options = StudentOptions(window=12, layers=(0, 1), exits=(2,), ffn=32, held_out=8)
    network = context_start(data.teacher, data.tokens, 16, options).eval()
    rows = np.arange(20)
    with torch.no_grad():
        found = network(torch.from_numpy(data.tokens.padded(rows, 12)), torch.zeros(20, 16))[2].numpy()
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    np.testing.assert_allclose(found, np.stack([teacher.oracle(text)[0] for text in texts[:20]]), atol=1e-5)


def test_a_narrower_student_keeps_the_units_that_add_most(teacher):
    data = data_of(teacher, sentences(300))
    start = {
        ffn: context_start(
            data.teacher, data.tokens, 16, StudentOptions(window=12, layers=(0, 1), exits=(2,), ffn=ffn)
        ).eval()
        for ffn in (32, 24, 8)
    }
    ids = torch.from_numpy(data.tokens.padded(np.arange(100), 12))
    with torch.no_grad():
        whole, some, few = (network(ids, torch.zeros(100, 16))[2] for network in start.values())
    assert (some - whole).norm() < (few - whole).norm()
    assert start[8].layers[0].up.weight.shape == (8, 16)


def test_the_static_exit_is_its_folded_table(teacher):
    data = data_of(teacher, sentences(300))
    exit_ = static_start(data.token_vectors, data.tokens, StudentOptions(mix=0))
    torch.nn.init.normal_(exit_.linear.weight, generator=torch.Generator().manual_seed(0))
    rows = np.arange(10)
    ids, starts = data.tokens.bag(rows, 100)
    with torch.no_grad():
        found = exit_(torch.from_numpy(ids), torch.from_numpy(starts)).numpy()
    table = exit_.folded().numpy()
    for row, vector in zip(rows, found, strict=True):
        total = table[data.tokens.flat[data.tokens.offsets[row] : data.tokens.offsets[row + 1]]].sum(0)
        np.testing.assert_allclose(vector, total / np.linalg.norm(total), atol=1e-5)


def test_common_tokens_start_with_less_weight():
    tokens = Tokens(np.array([5] * 90 + [6] * 10, np.int32), np.array([0, 100]), 2, 3)
    exit_ = static_start(np.eye(8, dtype=np.float32), tokens, StudentOptions(mix=0))
    weights = torch.nn.functional.softplus(exit_.weight)
    assert weights[5] < weights[6] < weights[7] < 1


def test_training_brings_a_student_closer_and_goes_on_where_it_was_cancelled(teacher, tmp_path):
    data = data_of(teacher, sentences(400))
    whole = train_student(data, OPTIONS, folder=tmp_path / "whole")
    log = read_log(tmp_path / "whole" / METRICS)
    static = [line for line in log if line["phase"] == "static"]
    layers = [line for line in log if line["phase"] == "layers"]
    assert static[-1]["loss"] < static[0]["loss"]
    assert layers[-1]["exit 2 cosine"] > layers[0]["exit 2 cosine"]
    assert whole.report["layers"]["exit 2 cosine"] > whole.report["static"]["exit 0 cosine"]
    for stop in (1, 8, 20, 40):
        steps = []
        with pytest.raises(TrainingCancelled, match="was cancelled at step"):
            train_student(
                data, OPTIONS, folder=tmp_path / f"{stop}", on_progress=steps.append,
                cancelled=lambda steps=steps, stop=stop: len(steps) >= stop,
            )  # fmt: skip
        again = train_student(data, OPTIONS, folder=tmp_path / f"{stop}")
        for one, other in ((whole.static, again.static), (whole.context, again.context)):
            for name, tensor in one.state_dict().items():
                torch.testing.assert_close(other.state_dict()[name], tensor, rtol=0, atol=0)
        assert [line["step"] for line in read_log(tmp_path / f"{stop}" / METRICS)] == [line["step"] for line in log]


@pytest.mark.parametrize("part", [0, 1])
def test_held_out_texts_are_not_trained_on(teacher, tmp_path, part):
    """A vector that is not a number spoils whatever is trained on it."""
    options = replace(OPTIONS, mix=0, static_epochs=1, layers=(), exits=())
    data = data_of(teacher, sentences(400), layers=False)
    training, held_out = split(400, options)
    assert sorted([*training, *held_out]) == list(range(400))
    data.vectors[(training, held_out)[part][0]] = np.nan
    static = train_student(data, options, folder=tmp_path).static
    assert torch.isfinite(static.linear.weight).all() == bool(part)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"layers": ()}, InvalidSize, "a static student has neither"),
        ({"exits": (1,)}, InvalidSize, "must ascend from 1 on to the 2 layers"),
        ({"layers": (0, 7)}, InvalidSize, "no layer 7"),
        ({"ffn": 64}, InvalidSize, "wider than the teacher's 32"),
        ({"window": 500}, InvalidSize, "longer than the teacher's 64"),
        ({"held_out": 300}, TooFewVectors, "400 texts of which 300 are held out"),
    ],
)
def test_what_cannot_be_trained_is_refused(teacher, tmp_path, change, error, words):
    with pytest.raises(error, match=words):
        train_student(data_of(teacher, sentences(400)), replace(OPTIONS, **change), folder=tmp_path)


def test_a_teacher_that_is_no_bert_has_no_layers_to_give(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "roberta"}))
    with pytest.raises(ModelError, match="no BERT with GELU"):
        TeacherParts.read(tmp_path)


def sources_of(teacher, tmp_path, n=400):
    path = tmp_path / "texts.txt"
    # Distinct texts: sentences may repeat.
    path.write_text("\n".join(sorted({text for text in sentences(3 * n)})[:n]) + "\n")
    encoder = load_encoder("tiny", folder=teacher.folder, threads=1, runtime="torch")
    return Sources(teacher=encoder, folder=teacher.folder, texts=[path], most_texts=n, cache=tmp_path / "cache")


def test_what_is_written_is_what_was_trained(teacher, tmp_path):
    sources = sources_of(teacher, tmp_path)
    seen = []
    told = make_student(sources, OPTIONS, tmp_path / "out", on_encoding=seen.append)
    assert seen
    assert told["options"]["layers"] == [0, 1]
    assert told["texts"][0]["name"] == "texts.txt"
    page = (tmp_path / "out" / "README.md").read_text()
    assert f"| exit 2 cosine | {told['held_out']['layers']['exit 2 cosine']:.4f} |" in page
    assert told["texts"][0]["sha256"] in page
    student = load_encoder("mine", folder=tmp_path / "out", threads=1)
    assert student.space == sources.teacher.space
    assert student.sizes.layers == (0, 2)
    texts = sentences(50, seed=5)
    wanted = sources.teacher.encode_queries(texts).vectors
    for layers, name in ((0, "static"), (2, "layers")):
        found = student.encode_queries(texts, layers=layers).vectors
        # Close to what was measured on held-out texts, though quantised.
        assert (found * wanted).sum(1).mean() > told["held_out"][name][f"exit {layers} cosine"] - 0.1
    # A second student of the same texts asks the teacher for nothing.
    make_student(sources, OPTIONS, tmp_path / "again", on_encoding=lambda _: pytest.fail("encoded again"))
    one, two = ((tmp_path / name / "student.safetensors").read_bytes() for name in ("out", "again"))
    assert one == two
    assert (tmp_path / "out" / UNFINISHED / METRICS).exists()


def test_a_static_student(teacher, tmp_path):
    options = StudentOptions(mix=0, static_epochs=2, static_batch=64, layers=(), exits=(), held_out=64, threads=1)
    make_student(sources_of(teacher, tmp_path), options, tmp_path / "out")
    student = load_encoder("mine", folder=tmp_path / "out", threads=1)
    assert student.sizes.layers == (0,)
    assert student.runtime == "numpy"
