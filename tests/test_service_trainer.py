"""The process that trains, from both ends of its pipes: reports, errors, crashes, and who ends it when."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from service.errors import TrainingFailed
from service.trainer import CRASHES, train_in_process

ROOT = Path(__file__).parent.parent
TELL = 'print(\'{"done": 1, "total": 2, "unit": "steps", "message": "m", "step": "s"}\', flush=True)\n'


class Stop(Exception):
    pass


@pytest.fixture
def run(tmp_path):
    """Run a script in the place of `bitfold`; the lines that it reports come back."""

    def start(script, check=lambda: None):
        (tmp_path / "script.py").write_text(script)
        lines = []
        train_in_process(
            ["--seed", "3"],
            log=tmp_path / "log",
            on_line=lines.append,
            check=check,
            command=(sys.executable, str(tmp_path / "script.py")),
        )
        return lines

    return start


def test_what_is_reported_comes_back_and_what_is_asked_arrives(run, tmp_path):
    lines = run(f"import sys\n{TELL}open({str(tmp_path / 'seen')!r}, 'w').write(repr(sys.argv[1:]))")
    assert lines == [{"done": 1, "total": 2, "unit": "steps", "message": "m", "step": "s"}]
    assert (tmp_path / "seen").read_text() == repr(["train", "binarizer", "--seed", "3", "--child", "0"])


def test_an_error_that_it_reports_is_raised_and_nothing_is_tried_again(run, tmp_path):
    runs = tmp_path / "runs"
    error = '{"error": {"message": "too few", "hint": "more"}}'
    with pytest.raises(TrainingFailed, match="too few") as caught:
        run(f"open({str(runs)!r}, 'a').write('x')\nprint({error!r})\nraise SystemExit(1)")
    assert caught.value.hint == "more"
    assert runs.read_text() == "x"


def crashing(runs, times):
    """A script that reports something and then, so many times, kills itself in the middle of a line."""
    return (
        f"import os\nopen({str(runs)!r}, 'a').write('x')\n{TELL}"
        f"if os.path.getsize({str(runs)!r}) <= {times}:\n"
        "    print('{half', end='', flush=True)\n    os.kill(os.getpid(), 9)"
    )


def test_a_crash_is_followed_by_going_on(run, tmp_path):
    runs = tmp_path / "runs"
    assert len(run(crashing(runs, CRASHES - 1))) == CRASHES
    assert runs.read_text() == "x" * CRASHES


def test_a_process_that_always_crashes_is_given_up(run, tmp_path):
    runs = tmp_path / "runs"
    with pytest.raises(TrainingFailed, match=f"ended {CRASHES} times with status -9") as caught:
        run(crashing(runs, 99))
    assert "memory" in caught.value.hint
    assert runs.read_text() == "x" * CRASHES


def test_last_words_of_a_failure_are_shown(run):
    with pytest.raises(TrainingFailed, match="status 1: ZeroDivisionError: division by zero"):
        run("1 / 0")


def test_a_check_that_raises_ends_the_process_gently(run, tmp_path):
    kept, ready = tmp_path / "kept", tmp_path / "ready"

    def check():
        if ready.exists():
            raise Stop

    with pytest.raises(Stop):
        run(
            "import signal, sys, time\n"
            f"signal.signal(signal.SIGINT, lambda *_: (open({str(kept)!r}, 'w'), sys.exit(130)))\n"
            f"open({str(ready)!r}, 'w')\ntime.sleep(60)",
            check,
        )
    assert kept.exists()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="looks for the process in /proc")
@pytest.mark.parametrize("end", ["close", "kill"])
def test_the_process_ends_with_its_parent(end):
    child = (
        "import time; from service.trainer import told_to_parent\n"
        "with told_to_parent(0) as tell:\n    tell(1, 1, 'steps', 'm', 's'); time.sleep(60)"
    )
    parent = (
        "import subprocess, sys\n"
        f"child = subprocess.Popen([sys.executable, '-c', {child!r}], stdin=subprocess.PIPE, stdout=subprocess.PIPE)\n"
        "child.stdout.readline(); print(child.pid, flush=True); sys.stdin.read(); child.stdin.close(); child.wait()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    ) as process:
        pid = int(process.stdout.readline())
        if end == "kill":
            process.send_signal(signal.SIGKILL)
        process.stdin.close()
        process.wait(20)
    # A child that is no longer ours: gone when its entry is gone, or only its corpse is left.
    status = Path(f"/proc/{pid}/status")
    for _ in range(2000):
        if not status.exists() or "\nState:\tZ" in status.read_text():
            break
        subprocess.run(["sleep", "0.01"], check=True)
    else:
        pytest.fail("the process is still there")
