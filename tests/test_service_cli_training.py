"""The commands train binarizer, upgrade and jobs against a live server: what they leave behind, print and continue."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace

import numpy as np
import orjson
import pytest

from index.options import StoreOptions
from models.binarizer_folder import load_binarizer, save_binarizer
from models.binarizer_training import train
from models.training_options import TrainingOptions
from service import cli_jobs, cli_train
from tests.conftest import FakeEncoder, running
from tests.service_calls import command, ended, load, ok

D = 16
RNG = np.random.default_rng(12)
CENTRES = RNG.normal(size=(40, D))
ROWS = (CENTRES[RNG.integers(0, 40, 700)] + 0.3 * RNG.normal(size=(700, D))).astype(np.float32)
OPTIONS = StoreOptions(exact_below=100, first_fit=256, tail_rows=128, save_rows=64)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with running(tmp_path_factory.mktemp("cli"), FakeEncoder(), options=OPTIONS) as server:
        yield server


@pytest.fixture
def bitfold(server, monkeypatch, capsys):
    for variable in [variable for variable in os.environ if variable.startswith("BITFOLD_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("BITFOLD_URL", server.url)
    return partial(command, capsys)


def create(server, name, bits):
    ok(server.http.put(f"/collections/{name}", json={"vectors": {"size": D, "distance": "Cosine"}, "bits": bits}))
    load(server.http, f"/collections/{name}", ROWS)
    return name


@pytest.fixture
def collection(server, name):
    return create(server, name, 2)


def binarizers(server, collection):
    return {
        each["name"]: each["points"]
        for each in ok(server.http.get(f"/collections/{collection}"))["codes"]["binarizers"]
    }


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Folders of binarizers: `good` with two bits, `poor` with one in eight dimensions, `words` of another space."""
    folder = tmp_path_factory.mktemp("trained")
    for name, rows, space, size in (
        ("good", ROWS, None, {"bits": 2}),
        ("poor", ROWS, None, {"bits": 1, "dimensions": 8}),
        ("words", ROWS[:, :8], "other/8", {"bits": 1}),
    ):
        made = train(rows, TrainingOptions(epochs=1, sweeps=0, **size), folder=folder / "work" / name)
        save_binarizer(folder / name, made.binarizer, made.report, space=space)
    return folder


def identity(folder):
    return load_binarizer(folder)[0].identity


def test_upgrade_brings_a_binarizer_and_waits(bitfold, server, name, trained):
    create(server, name, 1)
    (old,) = binarizers(server, name)
    coded = binarizers(server, name)[old]
    good = identity(trained / "good")
    status, out, err = bitfold("upgrade", "-c", name, "--binarizer", trained / "good")
    assert (status, err) == (0, "")
    assert f"{good} is version 2" in out
    assert "difference +" in out
    assert out.strip().endswith("done")
    assert binarizers(server, name) == {good: coded}
    assert bitfold("upgrade", "-c", name)[0] == 0, "nothing is left to do"


def test_upgrade_with_a_binarizer_that_finds_less(bitfold, server, collection, trained):
    before = binarizers(server, collection)
    status, _, err = bitfold("upgrade", "-c", collection, "--binarizer", trained / "poor")
    assert status == 1
    assert "finds less" in err
    assert binarizers(server, collection) == before
    assert bitfold("upgrade", "-c", collection, "--binarizer", trained / "poor", "--force")[0] == 0
    assert list(binarizers(server, collection)) == [identity(trained / "poor")]


def test_upgrade_without_a_file_or_a_collection(bitfold, collection, tmp_path):
    status, _, err = bitfold("upgrade", "-c", collection, "--binarizer", tmp_path)
    assert status == 1
    assert f"no binarizer in {tmp_path}" in err
    status, _, err = bitfold("upgrade", "-c", "none")
    assert status == 1
    assert "does not exist" in err


def held_until(release):
    def upgrade(_collection, _on_progress, cancelled):
        while not release.wait(0.01):
            if cancelled():
                return False
        return True

    return upgrade


def test_an_interrupted_upgrade_goes_on_in_the_server_and_is_found_again(bitfold, collection, monkeypatch):
    release = threading.Event()
    monkeypatch.setattr("service.training.versions.upgrade", held_until(release))

    def interrupted(_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(cli_jobs, "time", SimpleNamespace(sleep=interrupted))
        status, _, err = bitfold("upgrade", "-c", collection)
    assert status == 130
    number = err.split("job ")[1].split()[0]
    assert f"job {number} goes on in the server; `bitfold jobs {number} --cancel` ends it" in err
    with monkeypatch.context() as patch:
        patch.setattr(cli_jobs, "time", SimpleNamespace(sleep=lambda _: release.set()))
        status, out, _ = bitfold("upgrade", "-c", collection)
    assert (status, out.split()[0], out.split()[-1]) == (0, number, "done"), "the same job"


def test_jobs_are_listed_shown_and_cancelled(bitfold, server, collection, monkeypatch):
    monkeypatch.setattr("service.training.versions.upgrade", held_until(threading.Event()))
    number = ok(server.http.post(f"/collections/{collection}/upgrade"), 202)["id"]
    status, out, _ = bitfold("jobs")
    assert status == 0
    assert out.splitlines()[0].split()[:3] == [number, "upgrade", collection]
    assert orjson.loads(bitfold("jobs", "--json")[1])[0]["id"] == number
    assert bitfold("jobs", number, "--cancel")[0] == 0
    assert ended(server.http, ok(server.http.get(f"/jobs/{number}")))["state"] == "cancelled"
    assert bitfold("jobs", number, "--wait")[0] == 1
    assert "cancelled" in bitfold("jobs", number)[1]
    assert orjson.loads(bitfold("jobs", number, "--json")[1])["state"] == "cancelled"
    assert bitfold("jobs", "--wait")[0] == 2
    status, _, err = bitfold("jobs", "99999")
    assert status == 1
    assert "no job '99999'" in err


def test_train_from_a_file(bitfold, tmp_path, server, collection):
    np.save(tmp_path / "v.npy", ROWS)
    out_folder = tmp_path / "out"
    options = ("--bits", "2", "--dimensions", "16", "--epochs", "2", "--seed", "5", "--space", "words/16")
    status, out, err = bitfold("train", "binarizer", "--vectors", tmp_path / "v.npy", "--out", out_folder, *options)
    assert (status, err) == (0, "")
    assert "r10@10" in out
    described = orjson.loads((out_folder / "binarizer.json").read_bytes())
    assert f"The learned code is {described['report']['verdict']} than" in out
    trained, _ = load_binarizer(out_folder)
    assert (trained.bits, trained.code_dimension, trained.dimension, trained.learned) == (2, 16, D, True)
    assert described["space"] == "words/16"
    assert sorted(path.name for path in out_folder.iterdir()) == ["binarizer.json", "binarizer.safetensors"]
    status, _, err = bitfold("train", "binarizer", "--vectors", tmp_path / "v.npy", "--out", out_folder, *options)
    assert status == 1
    assert "holds a binarizer already" in err
    assert bitfold("upgrade", "-c", collection, "--binarizer", out_folder, "--force")[0] == 0
    assert list(binarizers(server, collection)) == [trained.identity]


def test_a_binarizer_of_another_space_is_refused(bitfold, server, name, trained):
    ok(server.http.put(f"/collections/{name}", json={"encoder": "default"}))
    status, _, err = bitfold("upgrade", "-c", name, "--binarizer", trained / "words")
    assert status == 1
    assert "the space other/8" in err


def test_train_from_a_collection_and_compatibly(bitfold, collection, tmp_path, trained):
    out = tmp_path / "out"
    options = ("--out", out, "--epochs", "1", "--compatible-with", trained / "good")
    assert bitfold("train", "binarizer", "-c", collection, *options)[0] == 0
    made = load_binarizer(out)[0]
    assert (made.bits, made.code_dimension) == (2, D), "as the collection keeps"
    assert made.reads(load_binarizer(trained / "good")[0])


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        ((), 2, "give one of --vectors and --collection"),
        (("--vectors", "none.npy"), 1, "there is no such file"),
        (("--vectors", "v.npy", "--older-vectors", "v.npy"), 2, "--compatible-with"),
        (("--vectors", "v.npy", "--compatible-with", "none"), 1, "no binarizer in none"),
        (("--vectors", "v.npy", "--sample", "100"), 1, "too few"),
        (("--vectors", "v.npy", "--bits", "9"), 1, "9 bits"),
        (("--vectors", "same.npy"), 1, "the same"),
        (("--vectors", "nan.npy"), 1, "not finite"),
    ],
)
def test_trainings_that_cannot_be(bitfold, tmp_path, monkeypatch, options, status, message):
    monkeypatch.chdir(tmp_path)
    np.save("v.npy", ROWS)
    np.save("same.npy", np.ones((400, 4), np.float32))
    np.save("nan.npy", np.full((400, 4), np.nan, np.float32))
    got, _, err = bitfold("train", "binarizer", "--out", "out", *options)
    assert got == status
    assert message in " ".join(err.replace("│", " ").split())
    assert not (tmp_path / "out" / "binarizer.safetensors").exists()


def test_ctrl_c_keeps_the_progress_and_the_same_command_continues(bitfold, tmp_path, monkeypatch):
    np.save(tmp_path / "v.npy", ROWS)
    steps = []

    @contextmanager
    def interrupting():
        def tell(done, *what):
            steps.append((what[-1], done))
            if steps[-1] == ("training", 2):
                signal.raise_signal(signal.SIGINT)

        yield tell

    monkeypatch.setattr(cli_train, "_shown", interrupting)
    options = ("--vectors", tmp_path / "v.npy", "--out", tmp_path / "out", "--epochs", "2")
    status, out, err = bitfold("train", "binarizer", *options)
    assert (status, out) == (130, "")
    assert "the same command will continue" in err
    assert steps[-1] == ("training", 2)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["unfinished"]
    del steps[:]
    status, out, _ = bitfold("train", "binarizer", *options)
    assert status == 0
    assert "r10@10" in out
    assert next(step for step in steps if step[0] == "training") == ("training", 3)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
