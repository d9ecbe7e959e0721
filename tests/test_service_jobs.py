"""Jobs: their order, their states on disk, cancelling, restarts after stops and kills."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import orjson
import pytest

from index.errors import DiskFull
from service import job as job_module
from service import jobs as jobs_module
from service.errors import JobExists, UnknownJob
from service.job import FINISHED
from service.jobs import MAX_STARTS, Jobs

WAIT = 20


def describe(error):
    return {"type": type(error).__name__, "message": str(error), "hint": None}


class Work:
    """A runner that waits to be told how to end: `finish`, or by being interrupted."""

    def __init__(self):
        self.begun = []
        self.entered = threading.Semaphore(0)
        self.release = threading.Event()
        self.ends = "done"

    def __call__(self, run):
        self.begun.append(run.job.id)
        (run.work / "scratch").write_text("x")
        (run.folder / "result").write_text("x")
        run.progress(1, 4, "steps", "working", step="work")
        self.entered.release()
        while not self.release.wait(0.01):
            run.check()
        if isinstance(self.ends, Exception):
            raise self.ends
        run.keep(found=1)
        return self.ends

    def wait(self):
        assert self.entered.acquire(timeout=WAIT)


@pytest.fixture
def work():
    return Work()


@pytest.fixture
def open_jobs(tmp_path, work):
    opened = []

    def start(run=True):
        opened.append(Jobs(tmp_path / "jobs", {"train": work, "upgrade": work}, describe=describe))
        if run:
            opened[-1].start()
        return opened[-1]

    yield start
    for jobs in opened:
        jobs.close()


def finished(jobs, job_id):
    done = threading.Event()
    while jobs.get(job_id).state not in FINISHED:
        assert not done.wait(0.005)
    return jobs.get(job_id)


def on_disk(tmp_path, job_id):
    return orjson.loads((tmp_path / "jobs" / job_id / "job.json").read_bytes())


def test_a_job_runs_and_is_kept_with_what_it_found(open_jobs, work, tmp_path):
    jobs = open_jobs()
    job = jobs.submit("train", "c", 1.5, {"bits": 2})
    assert (job.id, job.state, on_disk(tmp_path, "1")["parameters"]) == ("1", "queued", {"bits": 2})
    work.wait()
    running = jobs.get("1")
    assert (running.state, running.progress.done, running.progress.total) == ("running", 1, 4)
    assert on_disk(tmp_path, "1")["state"] == "running"
    work.release.set()
    done = finished(jobs, "1")
    assert (done.state, done.figures, done.error) == ("done", {"found": 1}, None)
    assert done.created <= done.started <= done.finished
    jobs.close()
    assert sorted(path.name for path in (tmp_path / "jobs" / "1").iterdir()) == ["job.json", "result"]
    assert open_jobs().get("1") == done


def test_one_runs_at_a_time_in_the_order_of_arrival(open_jobs, work):
    jobs = open_jobs()
    for name in "abc":
        jobs.submit("train", name, None, {})
    work.wait()
    assert [job.state for job in jobs.all()] == ["queued", "queued", "running"]
    work.release.set()
    assert finished(jobs, "3").state == "done"
    assert work.begun == ["1", "2", "3"]


def test_one_of_a_kind_waits_for_a_collection(open_jobs, work):
    jobs = open_jobs()
    jobs.submit("train", "a", None, {})
    with pytest.raises(JobExists, match="job 1 of this kind"):
        jobs.submit("train", "a", None, {})
    jobs.submit("upgrade", "a", None, {})
    jobs.submit("train", "b", None, {})
    work.release.set()
    finished(jobs, "3")
    jobs.submit("train", "a", None, {})


def test_what_a_runner_raises_is_kept_and_the_next_job_runs(open_jobs, work):
    jobs = open_jobs()
    work.ends = ValueError("no good")
    work.release.set()
    jobs.submit("train", "a", None, {})
    failed = finished(jobs, "1")
    assert (failed.state, failed.error) == ("failed", {"type": "ValueError", "message": "no good", "hint": None})
    work.ends = "rejected"
    jobs.submit("train", "a", None, {})
    assert finished(jobs, "2").state == "rejected"


def test_cancelling(open_jobs, work, tmp_path):
    jobs = open_jobs()
    jobs.submit("train", "a", None, {})
    jobs.submit("train", "b", None, {})
    work.wait()
    assert jobs.cancel("2").state == "cancelled", "what waits ends at once"
    assert jobs.cancel("1").cancelling
    ended = finished(jobs, "1")
    assert (ended.state, ended.cancelling, ended.error) == ("cancelled", False, None)
    assert jobs.cancel("1") == ended
    assert work.begun == ["1"]
    with pytest.raises(UnknownJob, match="no job '7'"):
        jobs.cancel("7")
    jobs.close()
    assert not (tmp_path / "jobs" / "1" / "work").exists()
    assert {job.state for job in open_jobs().all()} == {"cancelled"}


def test_an_orderly_stop_is_followed_by_going_on(open_jobs, work, tmp_path):
    jobs = open_jobs()
    jobs.submit("train", "a", None, {})
    jobs.submit("train", "b", None, {})
    work.wait()
    jobs.close()
    stored = on_disk(tmp_path, "1")
    assert (stored["state"], stored["starts"]) == ("queued", 0)
    assert (tmp_path / "jobs" / "1" / "work" / "scratch").exists()
    work.release.set()
    again = open_jobs()
    assert finished(again, "2").state == "done"
    assert work.begun == ["1", "1", "2"]


def crashed(tmp_path, **changes):
    """Leave a job as a kill leaves it: on disk it still runs."""
    path = tmp_path / "jobs" / "1" / "job.json"
    path.write_bytes(orjson.dumps({**orjson.loads(path.read_bytes()), "state": "running", **changes}))


def test_a_kill_is_followed_by_going_on(open_jobs, work, tmp_path):
    open_jobs(run=False).submit("train", "a", None, {})
    crashed(tmp_path, starts=1)
    work.release.set()
    assert finished(open_jobs(), "1").starts == 2


def test_a_job_that_was_cancelled_before_a_kill_does_not_go_on(open_jobs, work, tmp_path):
    open_jobs(run=False).submit("train", "a", None, {})
    crashed(tmp_path, starts=1, cancelling=True)
    assert finished(open_jobs(), "1").state == "cancelled"
    assert work.begun == []


def test_a_job_that_the_server_does_not_survive_is_given_up(open_jobs, work, tmp_path):
    open_jobs(run=False).submit("train", "a", None, {})
    crashed(tmp_path, starts=MAX_STARTS)
    failed = finished(open_jobs(), "1")
    assert (failed.state, failed.error["type"]) == ("failed", "interrupted_too_often")
    assert work.begun == []


def test_leftovers_of_kills_are_cleaned_and_numbers_are_not_used_twice(open_jobs, work, tmp_path):
    work.release.set()
    jobs = open_jobs()
    jobs.submit("train", "a", None, {})
    finished(jobs, "1")
    jobs.close()
    folder = tmp_path / "jobs"
    (folder / "1" / "work").mkdir(exist_ok=True)  # killed between the state and the cleaning
    (folder / "2" / "work").mkdir(parents=True)  # killed before the job was written, so never acknowledged
    (folder / "3").mkdir()
    (folder / "3" / "job.json").write_text("{damaged")
    again = open_jobs()
    assert [job.id for job in again.all()] == ["1"]
    assert not (folder / "1" / "work").exists()
    assert not (folder / "2").exists()
    assert again.submit("train", "a", None, {}).id == "4"


def test_old_finished_jobs_are_forgotten(open_jobs, work, tmp_path, monkeypatch):
    monkeypatch.setattr(jobs_module, "KEPT", 3)
    work.release.set()
    jobs = open_jobs()
    for i in range(5):
        jobs.submit("train", str(i), None, {})
    finished(jobs, "5")
    jobs.close()
    assert sorted(path.name for path in (tmp_path / "jobs").iterdir()) == ["3", "4", "5"]
    assert [job.id for job in jobs.all()] == ["5", "4", "3"]


def full(*_):
    raise DiskFull("no space")


def test_a_job_that_cannot_be_written_is_not_there(open_jobs, monkeypatch, tmp_path):
    jobs = open_jobs()

    monkeypatch.setattr(job_module.durable, "replace_file", full)
    with pytest.raises(DiskFull):
        jobs.submit("train", "a", None, {})
    assert (jobs.all(), list((tmp_path / "jobs").iterdir())) == ([], [])


def test_a_full_disk_does_not_end_the_thread(open_jobs, work, monkeypatch):
    jobs = open_jobs()
    jobs.submit("train", "a", None, {})
    work.wait()
    write = job_module.durable.replace_file

    monkeypatch.setattr(job_module.durable, "replace_file", full)
    work.release.set()
    assert finished(jobs, "1").state == "failed", "its figures could not be kept"
    monkeypatch.setattr(job_module.durable, "replace_file", write)
    jobs.submit("train", "a", None, {})
    assert finished(jobs, "2").state == "done"


def test_rate_and_remaining_time_are_those_of_the_present_step(open_jobs, monkeypatch):
    seen = []
    clock = iter([0.0, 2.0, 4.0, 10.0, 11.0])

    def stepping(run):
        monkeypatch.setattr(jobs_module, "time", SimpleNamespace(monotonic=lambda: next(clock), time=time.time))
        for done, step in ((0, "a"), (10, "a"), (20, "a"), (50, "b"), (60, "b")):
            run.progress(done, 100, "rows", f"at {done}", step=step)
            seen.append(jobs.get("1").progress)
        return "done"

    jobs = open_jobs(run=False)
    jobs._runners = {"train": stepping}
    jobs.submit("train", "a", None, {})
    jobs.start()
    finished(jobs, "1")
    assert [step.rate for step in seen] == [None, 5.0, 5.0, None, 10.0]
    assert [step.eta_seconds for step in seen] == [None, 18.0, 16.0, None, 4.0]
