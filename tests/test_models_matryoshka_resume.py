"""Trainings of truncatable encoders that stopped, were killed or are others: the same weights, or a refusal."""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from models.errors import InvalidTraining, TrainingCancelled
from models.matryoshka.pairs import read_pairs
from models.matryoshka.training import train_encoder
from models.metrics_log import MetricsLog, read_log
from tests.toy_encoders import SHORT, equal, weights, write_pairs

pytestmark = pytest.mark.usefixtures("no_plot")


@pytest.fixture(scope="module")
def hard_pairs(tmp_path_factory):
    return read_pairs([write_pairs(tmp_path_factory.mktemp("pairs") / "hard.jsonl", 120, negatives=3)])


@pytest.mark.parametrize("recipe", ["starbucks", "2dmse", "smae"])
def test_a_training_that_stopped_ends_with_the_same_weights(lively, hard_pairs, tmp_path, recipe):
    """Cancelled in the middle of a round, behind the last checkpoint, and started anew."""
    data = hard_pairs.texts if recipe == "smae" else hard_pairs
    options = replace(SHORT, recipe=recipe)
    whole = train_encoder(lively, data, options, out=tmp_path / "whole")
    stopped, seen = tmp_path / "stopped", []
    for step in (1, 5, 7):
        with pytest.raises(TrainingCancelled, match=f"after {step} of 9 steps"):
            train_encoder(
                lively,
                data,
                options,
                out=stopped,
                on_progress=lambda progress: seen.append(progress.step),
                cancelled=lambda step=step: bool(seen) and seen[-1] == step,
            )
        assert not (stopped / "modules.json").exists()
    ended = train_encoder(lively, data, options, out=stopped, on_progress=lambda progress: seen.append(progress.step))
    assert seen == list(range(1, 10))
    assert equal(weights(ended.folder), weights(whole.folder))
    assert not equal(weights(ended.folder), weights(lively))
    assert ended.record["quality"] == whole.record["quality"]
    logs = [read_log(made.folder / "metrics.jsonl") for made in (ended, whole)]
    for line in (line for log in logs for line in log):
        line.pop("texts_per_s", None)
    assert logs[0] == logs[1]
    assert not (stopped / "unfinished").exists()


KILLED = """
import os, signal, sys
from dataclasses import replace
from pathlib import Path
from tests.toy_encoders import SHORT
from models.matryoshka.pairs import read_pairs
from models.matryoshka.training import train_encoder

def die(progress):
    if progress.step == 8:
        os.kill(os.getpid(), signal.SIGKILL)

folder, pairs, out = map(Path, sys.argv[1:])
train_encoder(folder, read_pairs([pairs]), SHORT, out=out, on_progress=die)
"""


def test_a_training_that_was_killed_ends_with_the_same_weights(lively, tmp_path):
    path = write_pairs(tmp_path / "pairs.jsonl", 120)
    out = tmp_path / "killed"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", KILLED, str(lively), str(path), str(out)],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert read_log(out / "metrics.jsonl")[-1]["step"] == 8
    seen = []
    ended = train_encoder(
        lively, read_pairs([path]), SHORT, out=out, on_progress=lambda progress: seen.append(progress.step)
    )
    assert seen == [7, 8, 9], "the last checkpoint was at step 6"
    whole = train_encoder(lively, read_pairs([path]), SHORT, out=tmp_path / "whole")
    assert equal(weights(ended.folder), weights(whole.folder))
    steps = [line["step"] for line in read_log(out / "metrics.jsonl")]
    assert steps == [line["step"] for line in read_log(whole.folder / "metrics.jsonl")]


def test_a_checkpoint_of_another_training_is_not_touched(toy, hard_pairs, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(TrainingCancelled):
        train_encoder(toy, hard_pairs, SHORT, out=out, cancelled=lambda: True)
    kept = (out / "unfinished" / "checkpoint.pt").read_bytes()
    with pytest.raises(InvalidTraining, match=r"checkpoint\.pt is the checkpoint of another training, or damaged"):
        train_encoder(toy, hard_pairs, replace(SHORT, seed=1), out=out)
    assert (out / "unfinished" / "checkpoint.pt").read_bytes() == kept
    (out / "unfinished" / "checkpoint.pt").write_bytes(kept[:-100])
    with pytest.raises(InvalidTraining, match="or damaged"):
        train_encoder(toy, hard_pairs, SHORT, out=out)
    (out / "unfinished" / "checkpoint.pt").write_bytes(kept)
    faster = replace(SHORT, checkpoint_steps=5, log_steps=1)
    assert train_encoder(toy, hard_pairs, faster, out=out).record["steps"] == 9, "these change nothing"
    with pytest.raises(InvalidTraining, match="holds an encoder already"):
        train_encoder(toy, hard_pairs, SHORT, out=out)


def test_the_log_forgets_what_will_be_made_again(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path, -1)
    for step in range(5):
        log.write({"step": step})
    with path.open("ab") as file:
        file.write(b'{"step": 5, "lo')  # killed while it wrote
    MetricsLog(path, 3).write({"step": 4, "again": True})
    assert read_log(path) == [{"step": 0}, {"step": 1}, {"step": 2}, {"step": 3}, {"step": 4, "again": True}]
    MetricsLog(path, -1)
    assert read_log(path) == []
