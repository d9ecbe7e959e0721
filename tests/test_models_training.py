"""Training of recurrent codes: neighbours, measures, what is learned, checkpoints, compatibility, refusals."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from models import InvalidSize, InvalidVectors
from models.binarizer import TrainingFreeFactory
from models.binarizer_training import train
from models.errors import ConstantVectors, TooFewVectors, TrainingCancelled
from models.grid import values_of
from models.neighbours import best_rows
from models.recurrent import load_recurrent
from models.training_data import prepare
from models.training_options import TrainingOptions
from models.training_report import codes_of, compare, per_query, report_on

D = 32
# Straight-through training of the recurrence alone, every term and the queue in use.
GRADIENT = TrainingOptions(
    bits=2,
    dimensions=12,
    sweeps=0,
    epochs=2,
    batch=64,
    hidden=16,
    query_hidden=8,
    contrast=0.5,
    reconstruction=0.1,
    queue=300,
    learning_rate=2e-3,
    threads=1,
    checkpoint_steps=4,
)
# Polished codes, and a tower trained for them.
POLISHED = TrainingOptions(
    bits=1, dimensions=16, epochs=3, batch=64, evenness=0.0, learning_rate=2e-3, threads=1, checkpoint_steps=4
)


def structured(n=700, d=D, seed=0):
    """Unit vectors of 40 topics that share 12 directions, with noise: text-like in small."""
    rng = np.random.default_rng(seed)
    shared = np.random.default_rng(99).standard_normal((12, d))
    topics = rng.standard_normal((40, 12)) @ shared
    vectors = topics[rng.integers(0, 40, n)] + 0.7 * rng.standard_normal((n, 12)) @ shared
    vectors += 0.6 * rng.standard_normal((n, d)) + 0.8
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def polished(tmp_path_factory):
    return train(structured(), POLISHED, folder=tmp_path_factory.mktemp("polished"))


def slow_best(queries, documents, k, shifts, own):
    answers = []
    for query, mine in zip(queries, own, strict=True):
        scores = documents.astype(np.float64) @ query + shifts
        order = [row for row in np.argsort(-scores, kind="stable") if row != mine]
        answers.append(order[:k])
    return np.array(answers)


@pytest.mark.parametrize("with_own", [True, False])
def test_best_rows_are_those_of_the_slow_search(with_own, monkeypatch):
    rng = np.random.default_rng(0)
    documents, shifts = rng.standard_normal((95, 6)).astype(np.float32), rng.standard_normal(95).astype(np.float32)
    queries = documents[:30]
    own = np.arange(30) if with_own else np.full(30, -1)
    shares = []
    monkeypatch.setattr("models.neighbours.DOCUMENT_ROWS", 20)
    monkeypatch.setattr("models.neighbours.QUERY_ROWS", 7)
    found = best_rows(queries, 95, 12, lambda rows: (documents[rows], shifts[rows]), own=own, on_progress=shares.append)
    assert np.array_equal(found, slow_best(queries, documents, 12, shifts, own))
    assert shares[-1] == 1
    assert shares == sorted(shares)


def test_best_rows_of_fewer_rows_than_asked_for():
    documents = np.eye(3, dtype=np.float32)
    found = best_rows(documents, 3, 5, lambda rows: (documents[rows], np.zeros(3)[rows]), own=np.array([0, 1, -1]))
    assert found.shape == (3, 3)
    assert [sorted(row) for row in found.tolist()] == [[-1, 1, 2], [-1, 0, 2], [0, 1, 2]]


def test_best_rows_can_be_cancelled():
    with pytest.raises(TrainingCancelled, match="looking for neighbours"):
        best_rows(np.eye(3), 3, 2, lambda rows: (np.eye(3)[rows], np.zeros(3)), cancelled=lambda: True)


def test_measures_by_hand():
    truth = np.array([[5, 6, 7], [1, 2, 3]])
    found = np.array([[6, 0, 5] + [9] * 97, [0] * 15 + [1] + [0] * 10 + [2] + [0] * 73])
    measured = per_query(found, truth)
    assert measured["r10@10"].tolist() == pytest.approx([2 / 3, 0])
    assert measured["r10@20"].tolist() == pytest.approx([2 / 3, 1 / 3])
    assert measured["r10@100"].tolist() == pytest.approx([2 / 3, 2 / 3])
    best = 3 + 2 / np.log2(3) + 1 / 2
    assert measured["ndcg10"].tolist() == pytest.approx([(2 + 3 / 2) / best, 0])
    assert per_query(truth, truth)["ndcg10"].tolist() == pytest.approx([1, 1])


def test_a_worse_code_is_never_called_better():
    rng = np.random.default_rng(0)
    names = ("r10@10", "r10@20", "r10@100", "ndcg10")
    base = {name: rng.random(60) for name in names}
    assert compare(base, base, 0) == ((0.0, 0.0, 0.0), "not better")
    above = {name: values + 0.05 + rng.normal(0, 0.02, 60) for name, values in base.items()}
    assert compare(above, base, 0)[1] == "better"
    assert compare(base, above, 0)[1] == "not better"
    noisy = {name: values + rng.normal(0.01, 0.3, 60) for name, values in base.items()}
    assert compare(noisy, base, 0)[1] == "not better"
    uneven = above | {"r10@100": base["r10@100"] - 0.02}
    difference, verdict = compare(uneven, base, 0)
    assert difference[1] > 0
    assert verdict == "not better"


def prepared(vectors, cache):
    return prepare(
        vectors,
        None,
        dimensions=None,
        distance="Cosine",
        neighbours=8,
        most_anchors=100,
        seed=0,
        cache=cache,
        on_progress=lambda _: None,
        cancelled=bool,
    )


def test_nothing_held_out_is_trained_on(tmp_path):
    data = prepared(structured(400), tmp_path / "near.npy")
    held = {*data.validation.own.tolist(), *data.test.own.tolist()}
    assert len(held) == 80
    assert len(data.training) == 320
    assert not held & {*data.training.tolist(), *data.anchors.own.tolist(), *data.anchors.rows.ravel().tolist()}
    assert np.array_equal(data.anchors.vectors, data.documents[data.anchors.own])
    everything = data.documents @ data.documents.T
    np.fill_diagonal(everything, -2)
    assert np.array_equal(data.test.rows, np.argsort(-everything[data.test.own], axis=1)[:, :10])
    among = everything[np.ix_(data.anchors.own, data.training)]
    assert np.array_equal(data.anchors.rows, data.training[np.argsort(-among, axis=1)[:, :8]])


def test_polished_codes_are_better_than_training_free_ones(polished):
    report = polished.report
    assert report.verdict == "better"
    assert report.difference[1] > 0.02
    assert report.learned["r10@10"] > report.training_free["r10@10"] + 0.05
    assert report.history[report.epoch] == max(report.history) > report.history[0]
    assert (report.bits, report.code_dimension, report.vectors, report.queries) == (1, 16, 560, 70)
    assert report.unseen[1] > 0
    json.dumps(asdict(report))


def test_the_reported_recall_is_what_the_binarizer_does(polished):
    """Measured anew, as the index uses it: bytes, encode, queries, all codes scored."""
    vectors = structured()
    order = np.random.default_rng((0, 0)).permutation(700)
    test = order[70:140]
    binarizer = load_recurrent(polished.binarizer.to_bytes())
    levels, factors = binarizer.encode(vectors)
    documents = values_of(levels, 1) * factors[:, -1:]
    truth = slow_best(vectors[test], vectors, 10, 0, test)
    found = slow_best(binarizer.queries(vectors[test]), documents, 100, vectors[test[0]] @ binarizer.mean, test)
    recall = np.mean([len({*a} & {*b[:10]}) / 10 for a, b in zip(truth.tolist(), found.tolist(), strict=True)])
    assert recall == pytest.approx(polished.report.learned["r10@10"], abs=0.01)
    assert binarizer.learned


def test_codes_that_do_not_carry_over_to_unseen_documents_are_not_called_better(polished, tmp_path):
    """The main measure alone would say better."""
    data = prepared(structured(), tmp_path / "near.npy")
    binarizer = polished.binarizer

    def coded(rows):
        return codes_of(*padless(binarizer, data.documents[rows]))

    def good_on_all_alone(rows):
        return coded(rows) if isinstance(rows, slice) else -coded(rows)

    good, bad = (report_on(binarizer, codes, data, None, seed=0) for codes in (coded, good_on_all_alone))
    assert (good.verdict, good.unseen) == ("better", polished.report.unseen)
    assert (bad.verdict, bad.difference) == ("not better", good.difference)
    assert bad.unseen[2] < 0


def padless(binarizer, documents):
    levels, factors = binarizer.encode(documents)
    return levels[:, : binarizer.dimensions], factors


def test_straight_through_training_learns(tmp_path):
    linear = replace(GRADIENT, bits=1, hidden=0, query_hidden=0, contrast=0.0, reconstruction=0.0)
    options = replace(linear, epochs=8, batch=32, learning_rate=1e-2)
    report = train(structured(), options, folder=tmp_path).report
    assert max(report.history) > report.history[0] + 0.01
    assert report.learned["r10@10"] > report.training_free["r10@10"]


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_all_blocks_and_terms_together(optimizer, tmp_path):
    rate = {"adamw": 2e-3, "sgd": 0.05}[optimizer]
    trained = train(structured(), replace(GRADIENT, optimizer=optimizer, learning_rate=rate), folder=tmp_path)
    assert trained.report.history[-1] != trained.report.history[0]
    assert trained.binarizer.bits == 2
    assert trained.binarizer.tower.layers
    assert trained.binarizer.decoder is None


class Killed(Exception):
    pass


@pytest.mark.parametrize(("options", "how"), [(GRADIENT, "killed"), (POLISHED, "cancelled"), (POLISHED, "killed")])
def test_a_resumed_training_ends_with_the_same_bytes(options, how, tmp_path):
    vectors = structured()
    whole = train(vectors, options, folder=tmp_path / "whole")
    steps = 0

    def stop(progress):
        nonlocal steps
        steps += progress.stage == "training"
        if how == "killed" and steps == 14:
            raise Killed

    with pytest.raises(TrainingCancelled if how == "cancelled" else Killed):
        train(
            vectors,
            options,
            folder=tmp_path / "part",
            on_progress=stop,
            cancelled=lambda: how == "cancelled" and steps == 14,
        )
    seen = []
    resumed = train(vectors, options, folder=tmp_path / "part", on_progress=seen.append)
    assert resumed.binarizer.to_bytes() == whole.binarizer.to_bytes()
    assert resumed.report.history == whole.report.history
    first = next(progress for progress in seen if progress.stage == "training")
    assert (first.epoch, first.step) == (2, 7 if how == "cancelled" else 5)
    assert not any(progress.stage == "codes" for progress in seen)


def test_a_damaged_or_foreign_checkpoint_starts_anew(tmp_path):
    options = replace(POLISHED, epochs=1)
    once = train(structured(), options, folder=tmp_path)
    (tmp_path / "checkpoint.pt").write_bytes((tmp_path / "checkpoint.pt").read_bytes()[:1000])
    assert train(structured(), options, folder=tmp_path).binarizer.to_bytes() == once.binarizer.to_bytes()
    other = train(structured(), replace(options, seed=1), folder=tmp_path)
    assert other.binarizer.to_bytes() != once.binarizer.to_bytes()


def test_progress_and_early_stopping(tmp_path):
    seen = []
    options = replace(POLISHED, epochs=50, learning_rate=0.5, patience=2)
    report = train(structured(), options, folder=tmp_path, on_progress=seen.append).report
    assert len(report.history) == report.epoch + 3
    assert [progress.stage for progress in seen if progress.stage != "training"] == ["neighbours"] + ["codes"] * 12
    training = [progress for progress in seen if progress.stage == "training"]
    assert [(p.epoch, p.step) for p in training[:9]] == [(1, step) for step in range(1, 9)] + [(2, 1)]
    assert all(p.steps == 8 and p.loss > 0 and 0 < p.recall <= 1 for p in training)
    assert all(p.rate > 0 and p.seconds_left > 0 for p in training)


def test_queries_of_their_own(tmp_path):
    vectors = structured(700)
    queries = structured(400, seed=5) * 3 + 0.1
    report = train(vectors, POLISHED, folder=tmp_path, queries=queries).report
    assert (report.vectors, report.queries, report.unseen) == (700, 40, None)
    assert report.learned["r10@10"] > report.training_free["r10@10"]


@pytest.mark.parametrize("distance", ["Dot", "Euclid"])
def test_other_distances(distance, tmp_path):
    """Lengths differ and are large: the estimate is in units of the vectors given."""
    rng = np.random.default_rng(3)
    vectors = structured() * (50 * rng.lognormal(0, 0.3, (700, 1))).astype(np.float32)
    trained = train(vectors, replace(POLISHED, distance=distance), folder=tmp_path)
    assert trained.report.learned["r10@10"] > trained.report.training_free["r10@10"]
    binarizer = trained.binarizer
    levels, factors = binarizer.encode(vectors)
    estimate = binarizer.queries(vectors[:50]) @ (values_of(levels, 1) * factors).T
    estimate += (vectors[:50] @ binarizer.mean)[:, None]
    exact = vectors[:50] @ vectors.T
    assert np.corrcoef(estimate.ravel(), exact.ravel())[0, 1] > 0.9
    assert np.abs(estimate.mean() / exact.mean() - 1) < 0.1


@pytest.mark.parametrize("sweeps", [0, 4])
def test_new_queries_read_older_codes(sweeps, tmp_path):
    """Same embedding model, another seed, more dimensions."""
    vectors = structured()
    older = TrainingFreeFactory().fit(vectors, 7, bits=1, dimensions=16)
    options = replace(POLISHED, dimensions=24, sweeps=sweeps, epochs=5, seed=2)
    trained = train(vectors, options, folder=tmp_path, compatible_with=(older, None))
    report = trained.report
    assert trained.binarizer.reads(older)
    assert report.backward["r10@10"] > 0.9 * report.older["r10@10"]
    assert report.learned["r10@10"] > report.older["r10@10"]
    untrained = train(vectors, replace(options, dimensions=24), folder=tmp_path / "other").binarizer
    assert recall_over(older, vectors, untrained) < 0.5 * recall_over(older, vectors, trained.binarizer)


def test_new_queries_read_older_codes_of_another_embedding_model(tmp_path):
    """Older vectors are of another dimension and another basis; rows are paired."""
    older_vectors = structured()
    mixed = np.random.default_rng(1).standard_normal((D, 40)) / 6
    vectors = (older_vectors @ mixed + 0.02 * np.random.default_rng(2).standard_normal((700, 40))).astype(np.float32)
    older = TrainingFreeFactory().fit(older_vectors, 7, bits=2, dimensions=16)
    options = replace(POLISHED, dimensions=16, bits=2, epochs=5)
    report = train(vectors, options, folder=tmp_path, compatible_with=(older, older_vectors)).report
    assert report.older["r10@10"] > 0.4
    assert report.backward["r10@10"] > 0.8 * report.older["r10@10"]


def recall_over(older, vectors, binarizer):
    levels, factors = older.encode(vectors)
    documents = values_of(levels, older.bits) * factors[:, -1:]
    own = np.arange(100)
    truth = slow_best(vectors[:100], vectors, 10, 0, own)
    found = slow_best(binarizer.queries(vectors[:100])[:, : older.code_dimension], documents, 10, 0, own)
    return np.mean([len({*a} & {*b}) / 10 for a, b in zip(truth.tolist(), found.tolist(), strict=True)])


@pytest.mark.parametrize(
    ("vectors", "error", "match"),
    [
        (structured(255), TooFewVectors, "255 vectors are too few"),
        (np.ones((300, 8), np.float32), ConstantVectors, "are the same"),
        (np.where(np.arange(300)[:, None] == 17, np.nan, structured(300)), InvalidVectors, "row 17 is not finite"),
        (np.ones(300, np.float32), InvalidVectors, r"shape \(300,\)"),
    ],
)
def test_vectors_that_nothing_can_be_trained_on(vectors, error, match, tmp_path):
    with pytest.raises(error, match=match):
        train(vectors, replace(POLISHED, dimensions=None), folder=tmp_path)


def test_constant_dimensions_are_allowed(tmp_path):
    vectors = structured(400)
    vectors[:, 5] = 0.25
    vectors[:, 9] = 0
    binarizer = train(vectors, replace(POLISHED, epochs=1, dimensions=None), folder=tmp_path).binarizer
    levels, factors = binarizer.encode(vectors)
    assert np.isfinite(factors).all()
    assert binarizer.code_dimension == 32


def test_sizes_and_queries_that_are_refused(tmp_path):
    vectors = structured(300)
    for settings, match in (
        ({"bits": 9}, "9 bits"),
        ({"bits": 0}, "0 bits"),
        ({"dimensions": 0}, "0 code dimensions"),
        ({"batch": 1}, "2 or more"),
        ({"sweeps": 65}, "65 sweeps"),
        ({"hidden": 8}, "linear recurrence"),
    ):
        with pytest.raises(InvalidSize, match=match):
            replace(POLISHED, **settings)
    with pytest.raises(InvalidSize, match="40 code dimensions of vectors with 32"):
        train(vectors, replace(POLISHED, dimensions=40), folder=tmp_path)
    with pytest.raises(TooFewVectors, match="20 queries are too few"):
        train(vectors, POLISHED, folder=tmp_path, queries=vectors[:20])
    with pytest.raises(InvalidVectors, match="queries have 8 dimensions, the vectors 32"):
        train(vectors, POLISHED, folder=tmp_path, queries=vectors[:, :8])
    older = TrainingFreeFactory().fit(vectors, 0, bits=1, dimensions=24)
    with pytest.raises(InvalidSize, match="16 code dimensions cannot be compatible with the 24 of training-free-1b"):
        train(vectors, POLISHED, folder=tmp_path, compatible_with=(older, None))
    with pytest.raises(InvalidVectors, match=r"older vectors have shape \(299, 32\), not \(300, 32\)"):
        train(vectors, replace(POLISHED, dimensions=32), folder=tmp_path, compatible_with=(older, vectors[1:]))
