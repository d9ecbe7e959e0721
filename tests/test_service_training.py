"""Jobs about binarizers with a stand-in for the process that trains: compared, used or rejected, upgraded, resumed."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import orjson
import pytest

from index.errors import InvalidInput, UnknownCollection, VectorsDropped
from index.options import StoreOptions
from index.points import Batch, content_hash
from index.store import Store
from models.binarizer import TrainingFreeFactory
from models.binarizers import Binarizers
from models.errors import CorruptBinarizer, TooFewVectors
from service import candidates as candidates_module
from service import training as training_module
from service.candidates import Candidates
from service.catalog import Catalog
from service.errors import JobExists, OtherSpace, TrainingFailed, WorseBinarizer
from service.job import FINISHED
from service.jobs import Jobs
from service.training import LEAST_POINTS, Training

D = 24
RNG = np.random.default_rng(8)
ROWS = (RNG.normal(size=(900, 8)) @ RNG.normal(size=(8, D)) + 0.2 * RNG.normal(size=(900, D))).astype(np.float32)
ASKED = {"bits": None, "dimensions": None, "sample": None, "epochs": None, "seed": 0, "upgrade": True, "force": False}
OPTIONS = StoreOptions(exact_below=100, first_fit=256, tail_rows=128, fan_out=3, save_rows=64, background=False)


UNIT = ROWS / np.linalg.norm(ROWS, axis=1, keepdims=True)


def fitted(rows=UNIT, seed=7, bits=2, dimensions=None):
    return TrainingFreeFactory().fit(rows, seed, bits=bits, dimensions=dimensions)


class Trainer:
    """Stands in for `train_in_process`: fits to the sample, or leaves or raises what it is told; can be held up."""

    def __init__(self):
        self.binarizer = None
        self.calls = []
        self.held = False
        self.begun = threading.Event()

    def __call__(self, arguments, *, log, on_line, check):  # noqa: ARG002
        given = dict(zip(arguments[::2], arguments[1::2], strict=True))
        self.calls.append(given)
        on_line({"done": 1, "total": 2, "unit": "steps", "message": "epoch 1", "step": "training"})
        self.begun.set()
        while self.held:
            check()
        if isinstance(self.binarizer, Exception):
            raise self.binarizer
        self.sample = np.load(given["--vectors"])
        self.binarizer = self.binarizer or fitted(self.sample)
        self.leave(Path(given["--out"]))

    def leave(self, out):
        out.mkdir(parents=True)
        (out / "binarizer.json").write_bytes(orjson.dumps({"report": {"verdict": "better"}}))
        (out / "binarizer.safetensors").write_bytes(self.binarizer.to_bytes())


def describe(error):
    return {"type": type(error).__name__, "message": str(error)}


class Parts:
    """A data directory with a collection `c` of 2-bit codes, and jobs about it."""

    def __init__(self, folder):
        self.folder = folder
        self.trainer = Trainer()
        self.open()

    def open(self):
        self.store = Store(self.folder, Binarizers(), OPTIONS)
        self.catalog = Catalog(self.store, None)
        self.training = Training(self.catalog, Candidates(self.catalog, Binarizers()), self.trainer)
        runners = {"train": self.training.train, "upgrade": self.training.upgrade}
        self.jobs = Jobs(
            self.folder / "jobs", runners, describe=lambda e: {"type": type(e).__name__, "message": str(e)}
        )

    def close(self):
        self.jobs.close()
        self.store.close()

    def create(self, name="c", rows=ROWS, distance="Cosine"):
        config = self.catalog.configured(
            dimension=D, distance=distance, dtype=None, encoder=None, metadata=None, bits=2
        )
        self.catalog.create(name, config)
        collection = self.catalog.get(name)
        for start in range(0, len(rows), 300):
            part = rows[start : start + 300]
            n = len(part)
            hashes = [content_hash(row.tobytes()) for row in part]
            collection.upsert(Batch(list(range(start, start + n)), part, [b"{}"] * n, [None] * n, hashes))
        return collection

    def submit(self, **asked):
        return self.jobs.submit("train", "c", *self.training.plan_training("c", **ASKED | asked))

    def ended(self, job):
        pause = threading.Event()
        while self.jobs.get(job.id).state not in FINISHED:
            pause.wait(0.005)
        return self.jobs.get(job.id)


@pytest.fixture
def parts(tmp_path):
    parts = Parts(tmp_path / "data")
    parts.create()
    yield parts
    parts.close()


def names(collection):
    return {info.name: info.points for info in collection.info().binarizers}


def worse():
    """Eight directions of noise in place of all of them."""
    return fitted(RNG.normal(size=(300, D)).astype(np.float32), dimensions=8)


@pytest.mark.parametrize("distance", ["Cosine", "Dot", "Euclid"])
def test_what_finds_no_less_is_used_and_old_codes_are_made_again(parts, distance):
    parts.catalog.drop("c")
    collection = parts.create(distance=distance)
    parts.training.candidates.replace("c", worse().to_bytes(), space=None, force=True)
    before = names(collection)
    job = parts.submit(sample=700, epochs=3)
    parts.jobs.start()
    done = parts.ended(job)
    assert (done.state, done.error) == ("done", None)
    assert done.figures["name"] == parts.trainer.binarizer.identity
    assert done.figures["report"] == {"verdict": "better"}
    comparison = done.figures["comparison"]
    assert comparison["worse"] is False
    assert comparison["low"] > 0
    assert set(comparison["current"]) == set(comparison["candidate"]) == {"r10@10", "r10@20", "r10@100", "ndcg10"}
    assert (comparison["queries"], comparison["database"]) == (90, 810)
    for before_or_now in ("current", "candidate"):
        assert 0.1 < comparison[before_or_now]["r10@10"] < comparison[before_or_now]["r10@100"] <= 1
    assert len(before) == 2
    assert names(collection) == {parts.trainer.binarizer.identity: sum(before.values())}
    (given,) = parts.trainer.calls
    assert (given["--bits"], given["--distance"], given["--epochs"]) == ("2", distance, "3")
    assert "--dimensions" not in given
    parts.jobs.close()
    assert [path.name for path in (parts.folder / "jobs" / job.id).iterdir()] == ["job.json"]


def test_trained_on_are_rows_that_are_not_asked_for_afterwards(parts, monkeypatch):
    asked = []
    compare = candidates_module.compare

    def look(current, candidate, queries, database, distance):
        asked.append((queries, database))
        return compare(current, candidate, queries, database, distance)

    monkeypatch.setattr(candidates_module, "compare", look)
    job = parts.submit(sample=400)
    parts.jobs.start()
    assert parts.ended(job).state == "done"
    ((queries, database),) = asked
    sample, queries, database = ({row.tobytes() for row in rows} for rows in (parts.trainer.sample, queries, database))
    assert (len(sample), len(queries), len(database)) == (810, 90, 810)
    assert not sample & queries
    assert not database & queries


def test_what_finds_less_is_rejected_with_figures_and_kept(parts):
    collection = parts.catalog.get("c")
    before = names(collection)
    parts.trainer.binarizer = worse()
    job = parts.submit()
    parts.jobs.start()
    rejected = parts.ended(job)
    assert rejected.state == "rejected"
    comparison = rejected.figures["comparison"]
    assert comparison["worse"] is True
    assert comparison["high"] < 0
    assert comparison["candidate"]["r10@10"] < comparison["current"]["r10@10"]
    assert names(collection) == before
    kept = parts.folder / "jobs" / job.id / "binarizer" / "binarizer.safetensors"
    assert Binarizers().load(kept.read_bytes()).identity == parts.trainer.binarizer.identity


def test_force_uses_what_finds_less(parts):
    parts.trainer.binarizer = worse()
    job = parts.submit(force=True, upgrade=False)
    parts.jobs.start()
    assert parts.ended(job).state == "done"
    found = names(parts.catalog.get("c"))
    assert found[parts.trainer.binarizer.identity] == 0, "without an upgrade old codes stay"
    assert len(found) == 2
    job = parts.jobs.submit("upgrade", "c", parts.training.plan_upgrade("c"), {})
    assert parts.ended(job).state == "done"
    assert list(names(parts.catalog.get("c"))) == [parts.trainer.binarizer.identity]


@pytest.mark.parametrize(
    ("asked", "message", "param"),
    [
        ({"bits": 3}, "3 bits", "bits"),
        ({"dimensions": 97}, "97 dimensions are too long for vectors of dimension 24", "dimensions"),
        ({"sample": 10}, "a sample of 10", "sample"),
        ({"sample": 10**9}, "a sample of 1000000000", "sample"),
    ],
)
def test_trainings_that_cannot_be(parts, asked, message, param):
    with pytest.raises(InvalidInput, match=message) as caught:
        parts.submit(**asked)
    assert caught.value.param == param
    assert caught.value.hint
    assert parts.jobs.all() == []


def test_too_few_points_are_refused_before_a_job_is_made(parts):
    parts.create("few", ROWS[: LEAST_POINTS - 1])
    with pytest.raises(TooFewVectors, match=f"{LEAST_POINTS - 1} points, too few") as caught:
        parts.training.plan_training("few", **ASKED)
    assert str(LEAST_POINTS) in caught.value.hint
    parts.catalog.drop("few")
    parts.create("few", ROWS[:LEAST_POINTS])
    parts.training.plan_training("few", **ASKED)
    with pytest.raises(UnknownCollection):
        parts.training.plan_training("none", **ASKED)


def test_without_vectors_nothing_is_trained_compared_or_coded_again(parts, monkeypatch):
    info = training_module.Collection.info
    monkeypatch.setattr(training_module.Collection, "info", lambda self: replace(info(self), codes_only={"a": 1}))
    data = fitted(seed=3).to_bytes()
    for work in (
        lambda: parts.training.plan_training("c", **ASKED),
        lambda: parts.training.plan_upgrade("c"),
        lambda: parts.training.candidates.replace("c", data, space=None, force=False),
    ):
        with pytest.raises(VectorsDropped, match="has dropped its full-precision vectors"):
            work()
    assert len(names(parts.catalog.get("c"))) == 1
    assert parts.training.candidates.replace("c", data, space=None, force=True)["comparison"] is None


def test_a_second_training_has_to_wait_for_the_first(parts):
    first = parts.submit()
    with pytest.raises(JobExists, match=f"job {first.id}"):
        parts.submit()


def test_what_the_process_says_is_the_error_of_the_job(parts):
    parts.trainer.binarizer = TrainingFailed("all vectors are the same")
    job = parts.submit()
    parts.jobs.start()
    failed = parts.ended(job)
    assert (failed.state, failed.error["message"]) == ("failed", "all vectors are the same")


def test_cancelling_leaves_everything_as_it_was(parts):
    before = names(parts.catalog.get("c"))
    parts.trainer.held = True
    job = parts.submit()
    parts.jobs.start()
    assert parts.trainer.begun.wait(20)
    progress = parts.jobs.get(job.id).progress
    assert (progress.done, progress.total, progress.message) == (1, 2, "epoch 1")
    parts.jobs.cancel(job.id)
    assert parts.ended(job).state == "cancelled"
    assert names(parts.catalog.get("c")) == before


@pytest.mark.parametrize("made_again", [False, True])
def test_dropping_the_collection_ends_its_jobs(parts, made_again):
    parts.trainer.held = True
    job = parts.submit()
    waiting = parts.jobs.submit("upgrade", "c", parts.training.plan_upgrade("c"), {})
    parts.jobs.start()
    assert parts.trainer.begun.wait(20)
    parts.catalog.drop("c")
    if made_again:
        parts.create()
    for each in (job, waiting):
        failed = parts.ended(each)
        assert (failed.state, failed.error["type"]) == ("failed", "UnknownCollection")
    assert len(parts.trainer.calls) == 1


STEPS = ["_sample", "_train", "compare", "adopt", "_upgrade", "end"]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_crash_at_any_step_is_followed_by_going_on(parts, monkeypatch, step, moment):
    """The job's thread ends, as by a kill, before or after a step; a new process opens what lies on the disk."""
    before = names(parts.catalog.get("c"))
    job = parts.submit()
    target, name = {
        "adopt": (training_module.Collection, "adopt"),
        "compare": (Candidates, "compare"),
        "end": (Jobs, "_finish"),
    }.get(step, (Training, step))
    original = getattr(target, name)
    crashed = threading.Event()

    class Kill(BaseException):
        pass

    def crashing(self, *args, **kwargs):
        result = original(self, *args, **kwargs) if moment == "after" and step != "end" else None
        crashed.set()
        raise Kill(result)

    monkeypatch.setattr(target, name, crashing)
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    parts.jobs.start()
    assert crashed.wait(30)
    parts.jobs._thread.join()
    monkeypatch.setattr(target, name, original)
    stored = orjson.loads((parts.folder / "jobs" / job.id / "job.json").read_bytes())
    assert stored["state"] == "running"
    adopted = STEPS.index(step) > STEPS.index("adopt") or (step, moment) == ("adopt", "after")
    assert (names(parts.catalog.get("c")).keys() != before.keys()) == adopted
    parts.close()

    parts.open()
    if not adopted:
        assert names(parts.catalog.get("c")) == before
    parts.jobs.start()
    done = parts.ended(job)
    assert (done.state, done.starts) == ("done", 2)
    assert done.figures["comparison"]["worse"] is False, "also where it was in use already"
    assert list(names(parts.catalog.get("c"))) == [parts.trainer.binarizer.identity]
    assert len(parts.trainer.calls) == 1, "what was trained is not trained again"


def test_an_upload_is_compared_and_used(parts):
    collection = parts.catalog.get("c")
    one = fitted(seed=3)
    result = parts.training.candidates.replace("c", one.to_bytes(), space=None, force=False)
    assert (result["name"], result["version"]) == (one.identity, 2)
    assert result["comparison"]["worse"] is False
    assert names(collection)[one.identity] == 0
    again = parts.training.candidates.replace("c", one.to_bytes(), space=None, force=False)
    assert again == {"name": one.identity, "version": 2, "comparison": None}


def test_an_upload_that_finds_less_is_refused_with_figures(parts):
    collection = parts.catalog.get("c")
    before = names(collection)
    data = worse().to_bytes()
    with pytest.raises(WorseBinarizer, match="finds less") as caught:
        parts.training.candidates.replace("c", data, space=None, force=False)
    assert caught.value.figures["worse"] is True
    assert names(collection) == before
    assert parts.training.candidates.replace("c", data, space=None, force=True)["comparison"]["worse"] is True


def test_uploads_that_do_not_fit_change_nothing(parts):
    collection = parts.catalog.get("c")
    collection.set_attributes({**collection.config.attributes, "space": "words/24"})
    before = names(collection)
    wide = TrainingFreeFactory().fit(RNG.normal(size=(300, D + 1)).astype(np.float32), 0, bits=2, dimensions=None)
    with pytest.raises(InvalidInput, match=f"dimension {D + 1}, those of c have {D}"):
        parts.training.candidates.replace("c", wide.to_bytes(), space=None, force=True)
    with pytest.raises(InvalidInput, match="3 bits"):
        parts.training.candidates.replace("c", fitted(bits=3).to_bytes(), space=None, force=True)
    with pytest.raises(OtherSpace, match="other/24, collection c holds the space words/24"):
        parts.training.candidates.replace("c", fitted().to_bytes(), space="other/24", force=True)
    for data in (b"", b"nonsense", fitted().to_bytes()[:-9]):
        with pytest.raises(CorruptBinarizer):
            parts.training.candidates.replace("c", data, space="words/24", force=True)
    assert names(collection) == before
    parts.training.candidates.replace("c", fitted(seed=3).to_bytes(), space="words/24", force=False)


def test_an_upload_to_a_collection_with_nothing_to_compare_on_is_used(parts):
    collection = parts.create("empty", ROWS[:0])
    one = fitted()
    assert parts.training.candidates.replace("empty", one.to_bytes(), space=None, force=False) == {
        "name": one.identity,
        "version": 1,
        "comparison": None,
    }
    assert names(collection) == {one.identity: 0}


def test_an_upload_before_there_are_codes_is_compared_with_what_would_be_fitted(parts):
    parts.create("new", ROWS[:200])
    result = parts.training.candidates.replace("new", fitted(seed=3).to_bytes(), space=None, force=False)
    assert result["comparison"]["queries"] == 20
    parts.create("newer", ROWS[:200])
    with pytest.raises(WorseBinarizer):
        parts.training.candidates.replace("newer", worse().to_bytes(), space=None, force=False)
