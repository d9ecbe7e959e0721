"""Payload indexes of a collection: while it is written, filled, and read by those who began before."""

from __future__ import annotations

import threading
import time

import numpy as np
import orjson
import pytest

from index import indexing, selecting
from index.errors import DeadlineExceeded
from index.fields import indexes
from index.fields.field import FieldIndex
from index.filters import Filter, parse_filter
from index.indexing import fill, fill_piece, index_field
from index.paths import parse_path
from index.payload import PayloadEdit
from index.points import SearchParams
from index.selecting import select
from index.selections import Selections
from tests.index_fakes import batch_of, config, open_store, vectors_of

CITY, AGE = parse_path("city"), parse_path("age")
CITIES = ["Oslo", "Bergen", "Rome", None]


def payload(i):
    return {"city": CITIES[i % 4], "age": i % 90, "n": i}


@pytest.fixture
def store(tmp_path):
    store = open_store(tmp_path, first_fit=200, tail_rows=100, save_rows=10_000)
    yield store
    store.close()


@pytest.fixture
def collection(store):
    collection = store.create("c", config("Cosine"))
    write(collection, range(400))
    return collection


def write(collection, ids):
    collection.upsert(batch_of(list(ids), vectors_of(len(ids), 3), [payload(i) for i in ids]))


def where(key, **condition):
    return parse_filter({"must": [{"key": key, **condition}]})


IN_OSLO = where("city", match={"value": "Oslo"})
PAGES = [(None, 5), (None, 1000), (17, 3), (388, 3), (388, 4), (400, 3), ("a", 1)]
GROWN = where("age", range={"gte": 18})


@pytest.fixture(autouse=True)
def nothing_is_remembered(monkeypatch):
    """What filters select is worked out every time: that is what is tested here."""
    monkeypatch.setattr(Selections, "get", lambda *_: None)


def chosen(collection, tree):
    """Ids, and how many payloads were read."""
    (result,) = collection.search(vectors_of(1), 10_000, filter=tree, params=SearchParams(exact=True))
    assert collection.count(tree) == result.stages.filtered_to == len(result.hits)
    return {hit.id for hit in result.hits}, result.stages.payloads_read


def test_an_index_answers_without_payloads_once_it_is_filled(collection):
    expected = {i for i in range(400) if i % 4 == 0}
    assert chosen(collection, IN_OSLO) == (expected, 400)
    index_field(collection, CITY, "keyword")
    assert chosen(collection, IN_OSLO) == (expected, 400)
    assert fill(collection)
    assert chosen(collection, IN_OSLO) == (expected, 0)
    both = parse_filter({"must": [{"key": "city", "match": {"value": "Oslo"}}, {"key": "age", "range": {"gte": 18}}]})
    # Where one field has an index, only what it leaves open is read.
    assert chosen(collection, both) == ({i for i in expected if i % 90 >= 18}, 100)
    collection.fields.drop(CITY)
    assert chosen(collection, IN_OSLO) == (expected, 400)


def test_writes_edits_and_deletes_are_followed(collection):
    index_field(collection, CITY, "keyword")
    index_field(collection, AGE, "integer")
    assert fill(collection)
    write(collection, range(300, 500))  # overwrites and new ones
    collection.delete([0, 4, 499])
    collection.edit_payload(PayloadEdit("set", {"city": "Rome"}), ids=[8, 480])
    collection.edit_payload(PayloadEdit("set", {"age": 17}), filter=where("city", match={"value": "Bergen"}))
    collection.edit_payload(PayloadEdit("set", {"city": "Oslo"}), ids=[480, 1])
    now = {i: payload(i) for i in range(500) if i not in (0, 4, 499)}
    now[8]["city"] = "Rome"
    for i in now:
        if i % 4 == 1:
            now[i]["age"] = 17
    now[480]["city"] = now[1]["city"] = "Oslo"
    for tree in (IN_OSLO, GROWN, where("age", is_empty=True), where("city", is_null=True)):
        assert chosen(collection, tree) == ({i for i, p in now.items() if tree.matches(i, p)}, 0)
    for path in (CITY, AGE):
        there = sum(p[path.key] is not None for p in now.values())
        assert collection.fields.state(path)[1:] == (True, there)
    assert collection.delete_where(IN_OSLO) == sum(p["city"] == "Oslo" for p in now.values())
    assert chosen(collection, IN_OSLO) == (set(), 0)


def test_what_is_written_while_an_index_is_filled_is_in_it(collection, monkeypatch):
    monkeypatch.setattr(indexing, "PIECE_ROWS", 64)
    index_field(collection, CITY, "keyword")
    for step in range(4):
        assert fill_piece(collection)
        collection.edit_payload(PayloadEdit("set", {"city": "Oslo"}), ids=[step * 64 + 1, step * 64 + 127])
        write(collection, range(500 + step, 501 + step))
        collection.edit_payload(PayloadEdit("set", {"city": "Rome"}), ids=[500 + step])
        collection.delete([step * 64 + 3])
    assert fill(collection)
    assert not fill_piece(collection)
    with collection.snapshot() as (_, reader):
        stored = {i: orjson.loads(data) for _, i, data in reader.scan_rows()}
    assert {stored[500]["city"], stored[1]["city"]} == {"Rome", "Oslo"}
    for city in ("Oslo", "Rome", "Bergen"):
        tree = where("city", match={"value": city})
        assert chosen(collection, tree) == ({i for i, p in stored.items() if p["city"] == city}, 0)


def test_a_reader_sees_what_was_there_when_it_began(collection):
    index_field(collection, CITY, "keyword")
    index_field(collection, AGE, "integer")
    assert fill(collection)
    trees = [IN_OSLO, GROWN, parse_filter({"must_not": [{"key": "city", "match": {"value": "Oslo"}}]})]

    def ask(view, reader, tree):
        return select(reader, tree, None, indexes=collection.fields, view=view)

    with collection.snapshot() as (view, reader):
        before = [ask(view, reader, tree).rows.tolist() for tree in trees]
        collection.edit_payload(PayloadEdit("set", {"city": "Oslo", "age": 3}), ids=[1, 2, 3])
        collection.delete([4, 5, 90])
        write(collection, range(380, 420))
        collection.edit_payload(PayloadEdit("delete", keys=("city",)), ids=[8, 400])
        after = [ask(view, reader, tree) for tree in trees]
        assert [found.rows.tolist() for found in after] == before
        assert all(0 < found.read <= 30 for found in after)  # what has changed since
        for i in range(indexes.HISTORY):
            collection.edit_payload(PayloadEdit("set", {"n": i}), ids=[i])
        # Too far behind: it reads payloads as if there were no index.
        late = [ask(view, reader, tree) for tree in trees]
        assert [found.rows.tolist() for found in late] == before
        assert {found.read for found in late} == {400}
    with collection.snapshot() as (view, reader):
        found = [ask(view, reader, tree) for tree in trees]
        assert [one.read for one in found] == [0, 0, 0]
        assert [one.rows.tolist() for one in found] != before


def test_a_reader_from_before_there_was_an_index(collection):
    with collection.snapshot() as (view, reader):
        before = select(reader, IN_OSLO, None, indexes=collection.fields, view=view).rows.tolist()
        collection.edit_payload(PayloadEdit("set", {"city": "Oslo"}), ids=[1, 2])
        collection.delete([0])
        index_field(collection, CITY, "keyword")
        assert fill(collection)
        found = select(reader, IN_OSLO, None, indexes=collection.fields, view=view)
        assert (found.rows.tolist(), found.read) == (before, 3)


def test_an_index_that_cannot_follow_costs_no_write(collection, monkeypatch, caplog):
    index_field(collection, CITY, "keyword")
    assert fill(collection)

    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(FieldIndex, "add", fail)
    write(collection, range(400, 404))
    assert "cannot follow a commit" in caplog.text
    assert collection.count() == 404
    assert chosen(collection, IN_OSLO) == ({i for i in range(404) if i % 4 == 0}, 404)


def test_many_edits_and_deaths_are_taken_into_the_index(collection, monkeypatch):
    monkeypatch.setattr(indexes, "FOLD_ROWS", 20)
    index_field(collection, CITY, "keyword")
    assert fill(collection)
    for i in range(100):
        collection.edit_payload(PayloadEdit("set", {"city": "Rome"}), ids=[i])
    assert len(collection.fields._edited_rows) <= 25
    for _ in range(3):
        write(collection, range(100, 400))
        collection.fields.purge()
        assert len(collection.fields._gone) <= 400
    assert chosen(collection, where("city", match={"value": "Rome"}))[0] == {*range(100), *range(102, 400, 4)}
    assert chosen(collection, IN_OSLO) == (set(range(100, 400, 4)), 0)


@pytest.mark.parametrize("sorted_rows", [0, 10_000])
def test_pages_of_a_filter_are_in_the_order_of_ids(collection, monkeypatch, sorted_rows):
    monkeypatch.setattr(selecting, "SORTED_ROWS", sorted_rows)
    write(collection, range(390, 380, -1))  # rows in another order than ids
    plain = [collection.scroll(after=after, limit=limit, filter=IN_OSLO) for after, limit in PAGES]
    index_field(collection, CITY, "keyword")
    assert fill(collection)
    monkeypatch.setattr(Filter, "matches", None)  # no payload is looked at
    paged = [collection.scroll(after=after, limit=limit, filter=IN_OSLO) for after, limit in PAGES]
    assert [([p.id for p in page], following) for page, following in paged] == [
        ([p.id for p in page], following) for page, following in plain
    ]
    assert paged[1][0][0].payload == plain[1][0][0].payload


def test_an_index_of_another_kind_takes_the_place_of_the_old_one(collection):
    index_field(collection, AGE, "keyword")
    assert fill(collection)
    assert chosen(collection, GROWN)[1] == 400
    index_field(collection, AGE, "keyword")  # it is there
    assert not fill_piece(collection)
    index_field(collection, AGE, "integer")
    assert collection.fields.state(AGE) == ("integer", False, 0)
    assert fill(collection)
    assert collection.fields.state(AGE) == ("integer", True, 400)
    assert chosen(collection, GROWN)[1] == 0


def test_dropped_while_it_is_filled(collection, monkeypatch):
    monkeypatch.setattr(indexing, "PIECE_ROWS", 64)
    index_field(collection, CITY, "keyword")
    assert fill_piece(collection)
    collection.fields.drop(CITY)
    collection.fields.feed(CITY, [(0, b"{}")], 1)
    collection.fields.finish(CITY, [])
    assert collection.fields.state(CITY) is None
    assert fill(collection)
    assert not fill(collection, until=0.0)
    with collection.upkeep:  # somebody merges
        assert not fill(collection, until=time.monotonic() + 0.05)


def test_a_deadline_holds_with_an_index_too(collection):
    index_field(collection, CITY, "keyword")
    assert fill(collection)
    with pytest.raises(DeadlineExceeded):
        collection.count(IN_OSLO, deadline=0.0)


def test_readers_and_writers_together(collection):
    """Edits move points between two cities in one commit: whoever looks finds each of them in exactly one."""
    index_field(collection, CITY, "keyword")
    assert fill(collection)
    collection.edit_payload(PayloadEdit("set", {"city": "A"}), ids=list(range(400)))
    done, wrong = threading.Event(), []

    def look():
        either = parse_filter({"must": [{"key": "city", "match": {"any": ["A", "B"]}}]})
        a, b = (where("city", match={"value": name}) for name in "AB")
        while not done.is_set():
            with collection.snapshot() as (view, reader):
                rows = [
                    select(reader, tree, None, indexes=collection.fields, view=view).rows for tree in (a, b, either)
                ]
            if sorted([*rows[0], *rows[1]]) != rows[2].tolist():
                wrong.append([len(part) for part in rows])

    threads = [threading.Thread(target=look) for _ in range(3)]
    for thread in threads:
        thread.start()
    rng = np.random.default_rng(0)
    for turn in range(60):
        ids = rng.choice(400, 50, replace=False).tolist()
        collection.edit_payload(PayloadEdit("set", {"city": "AB"[turn % 2]}), ids=ids)
        write(collection, ids[:5])
        collection.edit_payload(PayloadEdit("set", {"city": "B"}), ids=ids[:5])
    done.set()
    for thread in threads:
        thread.join()
    assert wrong == []
