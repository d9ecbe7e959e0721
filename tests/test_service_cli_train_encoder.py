"""The command train encoder: what it leaves behind, prints, continues and refuses."""

from __future__ import annotations

import json
import signal
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from service import cli_train_encoder
from tests.service_calls import command
from tests.toy_encoders import TOPICS, write_pairs

QUICK = ("--sizes", "1x4,2x32", "--batch", "8", "--steps", "6", "--seed", "3", "--threads", "1", "--device", "cpu")


pytestmark = pytest.mark.usefixtures("no_plot")


@pytest.fixture
def bitfold(capsys):
    return partial(command, capsys, "train", "encoder")


def test_the_command_trains_and_says_what_came_out(bitfold, toy, tmp_path):
    path = write_pairs(tmp_path / "pairs.jsonl", 100, negatives=1)
    options = ("--folder", toy, "--pairs", path, "--out", tmp_path / "out", *QUICK)
    status, out, err = bitfold(*options)
    assert (status, err) == (0, "")
    rows = out.splitlines()
    assert rows[0].split() == ["size", "mrr", "(before)", "recall@1", "(before)", "length", "(before)"]
    assert [row.split()[0] for row in rows[1:3]] == ["1x4", "2x32"]
    assert "examples, 6 steps" in rows[3]
    assert rows[4].startswith("no plot: install this project with its extra 'bench'")
    record = json.loads((tmp_path / "out" / "training.json").read_text())
    assert record["options"]["seed"] == 3
    assert [source["name"] for source in record["data"]["sources"]] == ["pairs.jsonl"]
    status, _, err = bitfold(*options)
    assert status == 1
    assert "holds an encoder already" in err


def test_the_command_pre_trains(bitfold, toy, tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(" ".join(f"d{(i * j) % TOPICS}" for j in range(1, 7)) for i in range(60)))
    status, out, _ = bitfold("--folder", toy, "--recipe", "smae", "--texts", path, "--out", tmp_path / "out", *QUICK)
    assert status == 0
    assert "masked" in out
    assert "bitfold train encoder --folder" in out


def test_ctrl_c_keeps_the_progress_and_the_same_command_continues(bitfold, toy, tmp_path, monkeypatch):
    path, steps, before = write_pairs(tmp_path / "pairs.jsonl", 100), [], signal.getsignal(signal.SIGINT)

    @contextmanager
    def interrupting(_):
        def show(progress):
            steps.append(progress.step)
            if steps == [1, 2]:
                signal.raise_signal(signal.SIGINT)

        yield show

    monkeypatch.setattr(cli_train_encoder, "_shown", interrupting)
    options = ("--folder", toy, "--pairs", path, "--out", tmp_path / "out", *QUICK)
    status, out, err = bitfold(*options)
    assert (status, out) == (130, "")
    assert "the same command will continue" in err
    assert steps == [1, 2]
    assert bitfold(*options)[0] == 0
    assert steps == [1, 2, 3, 4, 5, 6]
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        ((), 2, "starbucks trains on --pairs, not on --texts"),
        (("--recipe", "smae", "--pairs", "p.jsonl"), 2, "smae trains on --texts, not on --pairs"),
        (("--pairs", "p.jsonl", "--texts", "p.jsonl"), 2, "not on --texts"),
        (("--pairs", "p.jsonl", "--model", "minilm"), 2, "one of --model and --folder"),
        (("--pairs", "none.jsonl"), 1, "none.jsonl: there is no such file"),
        (("--pairs", "p.jsonl", "--sizes", "1by4"), 1, "'1by4' is not a size"),
        (("--pairs", "p.jsonl", "--sizes", "9x4"), 1, "the model has 1 to 2 layers"),
        (("--pairs", "p.jsonl", "--batch", "1"), 1, "batch is 1"),
        (("--pairs", "p.jsonl", "--recipe", "other"), 2, "other"),
        (("--pairs", "."), 1, "train.tsv: there is no such file"),
    ],
)
def test_commands_that_cannot_be(bitfold, toy, tmp_path, monkeypatch, options, status, message):
    monkeypatch.chdir(tmp_path)
    write_pairs(Path("p.jsonl"), 10)
    got, _, err = bitfold("--folder", toy, "--out", "out", *options)
    assert got == status
    assert message in " ".join(err.replace("│", " ").split())
    assert not Path("out").exists()
