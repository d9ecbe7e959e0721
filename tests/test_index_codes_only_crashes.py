"""Collections that keep codes only: a crash anywhere loses no point, damaged truth is refused."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace

import numpy as np
import pytest

from index import codes_file, dropping, durable, merging
from index.collection import Collection
from index.dropping import drop_vectors
from index.errors import CorruptCollection, DiskFull
from index.maintenance import optimize
from index.record import Record, Writer
from index.verify import verify
from tests.codes_only import check_everything, check_sound, codes_only, dropped, lost_ids
from tests.index_fakes import RotationFactory, config, fill, open_store


@pytest.fixture
def store(tmp_path):
    store = open_store(tmp_path)
    yield store
    store.close()


class Crash(BaseException):
    """The process is gone: nothing that handles errors gets to run."""


# Everything that changes the disk on the way, one after the other.
STEPS = [
    (durable, "write_at"),
    (durable, "sync_file"),
    (durable, "sync_directory"),
    (merging, "save"),
    (merging, "_remove_superseded"),
    (Writer, "swap_codes"),
    (Writer, "forget"),
    (Writer, "swap_files"),
    (Writer, "set_loss"),
    (dropping, "measure_loss"),
    (Collection, "show"),
    (merging.Path, "unlink"),
]


def crash_at(monkeypatch, target, name, number, *, after):
    """Let the process die at the call of this number; return a list that the call is noted in."""
    original = getattr(target, name)
    calls = []

    def called(*args, **kwargs):
        calls.append(name)
        if len(calls) < number:
            return original(*args, **kwargs)
        if after:
            original(*args, **kwargs)
        raise Crash

    monkeypatch.setattr(target, name, called)
    return calls


def crashed_images(folder, prepare, work, tmp_path):
    """Yield `(label, copy of the directory as the crash left it)` for every call of every step that `work` makes.

    A directory that was yielded already only comes with its label.
    """
    known = []
    for target, name in STEPS:
        for after in (False, True):
            for number in range(1, 40):
                place = shutil.copytree(folder, tmp_path / "run")
                store = open_store(place)
                prepare(store)
                image = tmp_path / "image"
                with pytest.MonkeyPatch.context() as patch:
                    calls = crash_at(patch, target, name, number, after=after)
                    try:
                        work(store.get("c"))
                    except Crash:
                        pass
                    shutil.copytree(place, image)
                # Only now, so that closing leaves no trace in the image.
                store.get("c").record.close()
                store.get("c").closed = True
                store._open.clear()
                store.close()
                ended = len(calls) < number
                if not ended:
                    files = {f.relative_to(image): f.read_bytes() for f in image.rglob("*.*") if f.suffix != ".db-shm"}
                    yield f"{name} {number} {'after' if after else 'before'}", None if files in known else image
                    known.append(files)
                shutil.rmtree(image)
                shutil.rmtree(place)
                if ended:
                    break


def check_crashes(store, points, tmp_path, work, prepare=lambda _: None):
    store.close()
    seen = []
    for label, image in crashed_images(store.directory, prepare, work, tmp_path):
        seen.append(label.split()[0])
        if image is None:
            continue
        assert verify(image, RotationFactory()).problems == [], label
        after = open_store(image)
        assert after.damaged == {}, label
        check_everything(after.get("c"), points)
        work(after.get("c"))
        check_everything(after.get("c"), points)
        assert len(list((after.get("c").folder / "vectors").iterdir())) == 1, label
        after.close()
        assert verify(image, RotationFactory()).problems == [], label
    return set(seen)


def test_a_crash_anywhere_in_dropping_loses_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(dropping, "QUERIES", 4)
    store = open_store(tmp_path / "data", fan_out=100)
    collection = store.create("c", codes_only())
    points = dict(enumerate(fill(collection, 70, step=35)))
    collection.delete([3, 40, 69])
    for i in (3, 40, 69):
        del points[i]
    collection.seal()
    seen = check_crashes(store, points, tmp_path, drop_vectors)
    assert {"write_at", "sync_file", "sync_directory", "swap_codes", "swap_files", "set_loss", "unlink", "show"} <= seen


def test_a_crash_anywhere_in_a_merge_of_codes_that_are_truth_loses_nothing(tmp_path):
    store = open_store(tmp_path / "data", fan_out=100)
    collection, points = dropped(store)
    points.update(zip(range(200, 260), fill(collection, 60, first=200, seed=5, step=20), strict=True))
    collection.seal()
    drop_vectors(collection)
    gone = [*range(0, 50), 201, 259]
    collection.delete(gone)
    for i in gone:
        del points[i]
    assert len(collection.view.named) == 2
    seen = check_crashes(store, points, tmp_path, optimize)
    assert {"write_at", "sync_file", "sync_directory", "swap_codes", "forget", "unlink", "show"} <= seen


def test_deletes_made_during_a_merge_count(store, monkeypatch):
    collection, points = dropped(store)
    save = codes_file.save

    def delete_meanwhile(path, data, **how):
        save(path, data, **how)
        collection.delete([7, 50, 99])

    collection.delete([1])
    with monkeypatch.context() as patch:
        patch.setattr(merging, "save", delete_meanwhile)
        optimize(collection)
    for i in (1, 7, 50, 99):
        del points[i]
    check_everything(collection, points)
    with collection.record.snapshot() as reader:
        assert 7 in reader.tombstones()
        assert 1 not in reader.tombstones()
    check_sound(store, points)


def test_a_full_disk_drops_nothing(store, monkeypatch):
    collection = store.create("c", codes_only())
    points = dict(enumerate(fill(collection, 100)))
    collection.seal()
    for target, name in ((merging, "save"), (Writer, "swap_codes"), (Writer, "swap_files")):

        def full(*_args, **_kwargs):
            raise DiskFull("no space left")

        with monkeypatch.context() as patch:
            patch.setattr(target, name, full)
            with pytest.raises(DiskFull, match="no space"):
                drop_vectors(collection)
        assert lost_ids(collection) == set()
    names = set(collection.view.named.values())
    assert {path.name for path in (collection.folder / "codes").glob("*-*-*-*.codes")} == names
    check_everything(collection, points)
    drop_vectors(collection)
    assert lost_ids(collection)
    check_sound(store, points)


def test_points_without_codes_are_never_dropped(store, monkeypatch):
    collection = store.create("c", codes_only())
    fill(collection, 100)
    collection.seal()
    monkeypatch.setattr(dropping, "merge", lambda *_args, **_kwargs: None)
    with pytest.raises(RuntimeError, match="have no codes that are truth"):
        drop_vectors(collection)
    assert lost_ids(collection) == set()
    assert collection.count() == 100


# Damage


def damage(store, change):
    folder = store.get("c").folder
    [path] = (folder / "codes").iterdir()
    store.close()
    change(path, folder)
    problems = verify(store.directory, RotationFactory()).problems
    before = {file: file.read_bytes() for file in folder.rglob("*.*") if file.suffix in (".codes", ".vec")}
    store = open_store(store.directory)
    with pytest.raises(CorruptCollection) as caught:
        store.get("c")
    store.close()
    assert {file: file.read_bytes() for file in folder.rglob("*.*") if file.suffix in (".codes", ".vec")} == before
    assert str(path) in str(caught.value)
    return str(caught.value), [
        problem.message for problem in problems if problem.path in (str(path), str(folder / "record.db"))
    ]


def test_damaged_truth_is_refused(store):
    dropped(store)

    def flip(path, _folder):
        raw = bytearray(path.read_bytes())
        raw[-9] ^= 4
        path.write_bytes(raw)

    said, found = damage(store, flip)
    assert "the checksum does not fit" in said
    assert found == ["the checksum does not fit"]


def test_missing_truth_is_refused(store):
    dropped(store)
    said, found = damage(store, lambda path, _: path.unlink())
    assert "No such file" in said
    assert len(found) == 1
    assert "No such file" in found[0]


def test_truth_that_ends_elsewhere_is_refused(store):
    dropped(store)

    def longer(path, _folder):
        data = codes_file.load(path)
        codes_file.save(path, replace(data, end_row=data.end_row + 1000))

    said, found = damage(store, longer)
    assert "does not fit the record" in said
    assert any("does not fit the record" in message for message in found)


def test_truth_of_a_lost_binarizer_is_refused(store):
    dropped(store)

    def lose(_path, folder):
        record = Record(folder / "record.db")
        with record.transaction() as writer:
            writer._db.execute("UPDATE binarizers SET crc = crc + 1")
        record.close()

    said, found = damage(store, lose)
    assert "binarizer 1, which made" in said
    assert "the checksum of binarizer 1 does not fit" in found


def test_codes_of_too_few_points_are_refused(store):
    collection, _ = dropped(store)
    folder = collection.folder
    [path] = (folder / "codes").iterdir()
    store.close()
    data = codes_file.load(path)
    rest = np.arange(1, len(data))
    fewer = replace(data, planes=data.planes[rest], factors=data.factors[rest], offsets=rest.astype(np.uint32))
    codes_file.save(path, fewer)
    assert any("a point without" in problem.message for problem in verify(store.directory).problems)
    again = open_store(store.directory)
    assert "100 points, but vectors or codes of 99" in again.damaged["c"]
    again.close()


def test_codes_that_are_not_truth_are_made_again(store, caplog):
    collection, points = dropped(store)
    points.update(zip(range(100, 130), fill(collection, 30, first=100, seed=3), strict=True))
    collection.seal()
    store.close()
    [path] = [p for p in (collection.folder / "codes").iterdir() if p.name not in collection.view.named.values()][:1]
    path.write_bytes(b"damaged")
    with caplog.at_level(logging.WARNING):
        again = open_store(store.directory)
    assert "made again from the vectors" in caplog.text
    check_everything(again.get("c"), points)
    again.close()


def test_earlier_versions_refuse_codes_only_collections_alone(store):
    for name, wanted in (("a", config("Dot")), ("b", codes_only())):
        record = store.create(name, wanted).record
        version = record._writer.execute("PRAGMA user_version").fetchone()[0]
        tables = {table for (table,) in record._writer.execute("SELECT name FROM sqlite_master WHERE type='table'")}
        assert version == (1 if wanted.store_vectors else 2)
        assert ("codes" in tables) == (not wanted.store_vectors)
