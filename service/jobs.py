"""Durable background jobs: one runs at a time, the others wait, and a restart goes on with what was unfinished.

Each job has a folder of its own, named by its number, with a file `job.json` (what is known of it; replaced whole and
synced), a folder `work` (what it needs while it is unfinished) and what it leaves behind.

Knows nothing of what jobs do, of collections or of HTTP.
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Literal, get_args

from index import durable
from service.errors import JobExists, UnknownJob
from service.job import FINISHED, Job, Progress, State, read_job, write_job

log = logging.getLogger(__name__)

KEPT: Final = 50  # finished jobs that are remembered
MAX_STARTS: Final = 5  # a job during which the server died so often is not begun again


class Interrupted(Exception):
    """Ends a runner from within: the job was cancelled, or the server stops and will go on with it."""


Runner = Callable[["Run"], Literal["done", "rejected"]]


class Run:
    """What a runner may use; only the thread that runs the job does.

    Parameters
    ----------
    job : the job as it was when it began.
    folder : its own folder; what lies in `work` goes when the job is finished, the rest stays.
    """

    def __init__(self, jobs: Jobs, job: Job, folder: Path) -> None:
        self._jobs = jobs
        self.job = job
        self.folder = folder
        self.work = folder / "work"
        self.work.mkdir(exist_ok=True)
        self._step: tuple[str, float, int] | None = None

    @property
    def interrupted(self) -> bool:
        """Whether the runner should end now."""
        return self._jobs.stopping or self._jobs.get(self.job.id).cancelling

    def check(self) -> None:
        """Raise Interrupted when the runner should end now."""
        if self.interrupted:
            raise Interrupted

    def progress(self, done: int, total: int, unit: str, message: str, *, step: str) -> None:
        """Say how far a step is; its rate counts from when its name was first heard."""
        now = time.monotonic()
        if self._step is None or self._step[0] != step:
            self._step = (step, now, done)
        _, since, first = self._step
        rate = (done - first) / (now - since) if done > first and now > since else None
        eta = (total - done) / rate if rate else None
        self._jobs.update(self.job.id, progress=Progress(done, total, unit, message, rate, eta))

    def keep(self, **figures: object) -> None:
        """Add to the job's figures; they are durable when this returns."""
        self._jobs.update(self.job.id, durably=True, figures={**self._jobs.get(self.job.id).figures, **figures})


class Jobs:
    """All jobs of one data directory.

    Parameters
    ----------
    folder : where they lie; the caller owns the data directory.
    runners : kind -> what does such a job; it returns how it ended, and raises what it failed with.
    describe : error -> `{type, message, hint}`, for what a runner raises.
    """

    def __init__(
        self,
        folder: Path,
        runners: Mapping[str, Runner],
        *,
        describe: Callable[[Exception], dict[str, Any]],
    ) -> None:
        self._folder = folder
        self._runners = runners
        self._describe = describe
        self._changed = threading.Condition()  # guards the changes of _jobs, in memory and on disk
        self.stopping = False
        durable.make_folder(folder)
        self._last_id = 0
        self._jobs = self._opened()
        self._thread = threading.Thread(target=self._work, name="bitfold-jobs", daemon=True)

    def start(self) -> None:
        """Begin to run what is unfinished."""
        self._thread.start()

    def close(self) -> None:
        """Ask the job under way to end, and wait for that; it goes on at the next start."""
        with self._changed:
            self.stopping = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join()

    def all(self) -> list[Job]:
        """Return all jobs, the newest first."""
        return sorted(list(self._jobs.values()), key=lambda job: -int(job.id))

    def counts(self) -> dict[str, int]:
        """Return how many jobs there are in each state."""
        states = [job.state for job in self.all()]
        return {state: states.count(state) for state in get_args(State)}

    def get(self, job_id: str) -> Job:
        """Return a job. Raises UnknownJob."""
        found = self._jobs.get(job_id)
        if found is None:
            raise UnknownJob(
                f"there is no job {job_id[:80]!r}", param="job",
                hint=f"GET /jobs lists them; of those that are finished the last {KEPT} are kept",
            )  # fmt: skip
        return found

    def submit(
        self, kind: str, collection: str, collection_created_at: float | None, parameters: dict[str, Any]
    ) -> Job:
        """Queue a job; it is durable when this returns.

        Raises JobExists when one of this kind is unfinished for the collection, DiskFull.
        """
        with self._changed:
            for other in self._jobs.values():
                if (other.kind, other.collection) == (kind, collection) and other.state not in FINISHED:
                    raise JobExists(
                        f"job {other.id} of this kind is {other.state} for collection {collection}",
                        hint=f"wait for it (GET /jobs/{other.id}), or cancel it (DELETE /jobs/{other.id})",
                    )
            self._last_id += 1
            job = Job(str(self._last_id), kind, collection, collection_created_at, parameters, time.time())
            folder = self._folder / job.id
            try:
                durable.make_folder(folder)
                write_job(folder, job)
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise
            self._jobs[job.id] = job
            self._changed.notify_all()
            return job

    def cancel(self, job_id: str) -> Job:
        """Cancel a job and return it: one that runs ends soon, one that is finished stays as it is.

        Raises UnknownJob, DiskFull.
        """
        with self._changed:
            job = self.get(job_id)
            if job.state == "running":
                return self.update(job_id, durably=True, cancelling=True)
            if job.state == "queued":
                job = self.update(job_id, durably=True, state="cancelled", finished=time.time())
                self._clean(job)
            return job

    def update(self, job_id: str, *, durably: bool = False, **changes: Any) -> Job:  # noqa: ANN401 - fields of Job
        """Change a job; with `durably` it is on disk when this returns. For runs."""
        with self._changed:
            job = replace(self._jobs[job_id], **changes)
            if durably:
                write_job(self._folder / job.id, job)
            self._jobs[job_id] = job
            return job

    # The thread

    def _work(self) -> None:
        while (job := self._begun()) is not None:
            self._run(job)

    def _begun(self) -> Job | None:
        """Wait for the next job and mark it as running, None when the server stops."""
        with self._changed:
            while not self.stopping:
                waiting = [job for job in self._jobs.values() if job.state == "queued"]
                if waiting:
                    job = min(waiting, key=lambda job: int(job.id))
                    started = time.time() if job.started is None else job.started
                    return self._save(job, state="running", started=started, starts=job.starts + 1)
                self._changed.wait()
            return None

    def _run(self, job: Job) -> None:
        try:
            if job.starts > MAX_STARTS:
                self._fail(job, "interrupted_too_often", f"the server ended {MAX_STARTS} times while this job ran")
                return
            run = Run(self, job, self._folder / job.id)
            run.check()
            self._finish(job, self._runners[job.kind](run))
        except Interrupted:
            self._interrupted(job)
        except Exception as error:  # noqa: BLE001 - whatever breaks one job must not end the others
            described = self._describe(error)
            self._fail(job, described["type"], described["message"], described.get("hint"))

    def _interrupted(self, job: Job) -> None:
        if self.get(job.id).cancelling:
            self._finish(job, "cancelled")
        else:  # an orderly stop counts as no start
            self._save(job, state="queued", starts=job.starts - 1)

    def _fail(self, job: Job, type_: str, message: str, hint: str | None = None) -> None:
        log.warning("job %s (%s of %s) failed: %s", job.id, job.kind, job.collection, message)
        self._finish(job, "failed", error={"type": type_, "message": message, "hint": hint})

    def _finish(self, job: Job, state: State, **changes: Any) -> None:  # noqa: ANN401 - fields of Job
        self._clean(self._save(job, state=state, finished=time.time(), cancelling=False, **changes))
        self._prune()

    def _save(self, job: Job, **changes: Any) -> Job:  # noqa: ANN401 - fields of Job
        """Change a job, in memory alone when the disk does not take it: then the next start does it again."""
        try:
            return self.update(job.id, durably=True, **changes)
        except Exception:  # noqa: BLE001 - the thread must go on
            log.exception("the state of job %s could not be written", job.id)
            return self.update(job.id, **changes)

    # On disk

    def _clean(self, job: Job) -> None:
        shutil.rmtree(self._folder / job.id / "work", ignore_errors=True)

    def _prune(self) -> None:
        finished = [job for job in self.all() if job.state in FINISHED]
        for job in finished[KEPT:]:
            with self._changed:
                del self._jobs[job.id]
            shutil.rmtree(self._folder / job.id, ignore_errors=True)

    def _opened(self) -> dict[str, Job]:
        """Read all jobs; what was running is queued again."""
        found: dict[str, Job] = {}
        for path in self._folder.iterdir():
            if not path.name.isdecimal():
                continue
            self._last_id = max(self._last_id, int(path.name))
            try:
                job = read_job(path)
            except FileNotFoundError:
                shutil.rmtree(path, ignore_errors=True)  # it was never acknowledged, or is half removed
                continue
            except (OSError, ValueError, TypeError, KeyError) as error:
                log.warning("the job in %s cannot be read and is left out: %s", path, error)
                continue
            if job.state in FINISHED:
                self._clean(job)
            else:
                job = replace(job, state="queued")
            found[job.id] = job
        return found
