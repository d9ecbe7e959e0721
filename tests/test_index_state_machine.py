"""Any sequence of writes, upkeep and restarts beside a plain dict."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
import orjson
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from index import funnel
from index.filters import parse_filter
from index.ids import order_key
from index.indexing import drop_field, fill, index_field, save_fields
from index.maintenance import optimize, step, upgrade
from index.paths import parse_path
from index.payload import PayloadEdit
from index.points import SearchParams
from index.verify import verify
from tests.index_fakes import RotationFactory, batch_of, check_hits, config, open_store, trained, vectors_of

D = 8
IDS = [*range(40), 2**64 - 1, "1", "a", "é"]
POOL = vectors_of(60, dimension=D, spread=0.7)
QUERIES = vectors_of(12, 99, dimension=D)
ids = st.sampled_from(IDS)
numbers = st.integers(0, 3)
writes = st.lists(st.tuples(ids, st.integers(0, len(POOL) - 1), numbers), min_size=1, max_size=14)


def has(number):
    return parse_filter({"must": [{"key": "n", "match": {"value": number}}]})


class Machine(RuleBasedStateMachine):
    """`points` is the model: id -> (vector, payload, text)."""

    @initialize(
        distance=st.sampled_from(["Cosine", "Dot", "Euclid"]),
        read_allowed=st.sampled_from([0, 1000]),
        bits=st.sampled_from([1, 2, 4]),
    )
    def start(self, distance, read_allowed, bits):
        self.folder = Path(tempfile.mkdtemp())
        self.read_allowed = funnel.READ_ALLOWED
        funnel.READ_ALLOWED = read_allowed
        self.points = {}
        self.queries = 0
        self.kind = None
        self.open()
        self.store.create("c", config(distance, dimension=D, bits=bits))

    def open(self):
        small = {"first_fit": 12, "tail_rows": 6, "save_rows": 8, "list_rows": 10, "fan_out": 3}
        self.store = open_store(self.folder, **small, file_bytes=9 * D * 4)

    @property
    def collection(self):
        return self.store.get("c")

    def teardown(self):
        if hasattr(self, "store"):
            self.store.close()
            funnel.READ_ALLOWED = self.read_allowed
            problems = verify(self.folder, RotationFactory()).problems
            shutil.rmtree(self.folder)
            assert problems == []

    @rule(batch=writes)
    def upsert(self, batch):
        chosen = [point_id for point_id, *_ in batch]
        payloads = [{"n": n} for *_, n in batch]
        texts = [f"text {n}" if n else None for *_, n in batch]
        self.collection.upsert(batch_of(chosen, POOL[[at for _, at, _ in batch]], payloads, texts))
        for (point_id, at, _), payload, text in zip(batch, payloads, texts, strict=True):
            self.points[point_id] = (POOL[at], payload, text)

    @rule(chosen=st.lists(ids, max_size=8))
    def delete(self, chosen):
        assert self.collection.delete(chosen) == len(set(chosen) & set(self.points))
        for point_id in chosen:
            self.points.pop(point_id, None)

    @rule(number=numbers)
    def delete_where(self, number):
        gone = [i for i, (_, payload, _) in self.points.items() if payload["n"] == number]
        assert self.collection.delete_where(has(number)) == len(gone)
        for point_id in gone:
            del self.points[point_id]

    @rule(chosen=st.lists(ids, max_size=5), number=numbers)
    def edit(self, chosen, number):
        there = set(chosen) & set(self.points)
        assert self.collection.edit_payload(PayloadEdit("set", {"n": number}), ids=chosen) == len(there)
        for point_id in there:
            vector, _, text = self.points[point_id]
            self.points[point_id] = (vector, {"n": number}, text)

    @rule(kind=st.sampled_from(["integer", "keyword", None]))
    def index_payloads(self, kind):
        """An index is filled by upkeep; after a restart it goes on from what was saved."""
        self.kind = kind
        if kind is None:
            drop_field(self.collection, parse_path("n"))
        else:
            index_field(self.collection, parse_path("n"), kind)

    @rule()
    def save_fields(self):
        save_fields(self.collection)

    @rule()
    def fill(self):
        assert fill(self.collection)

    @rule(number=numbers, after=st.none() | ids, limit=st.integers(1, 9))
    def scroll_filtered(self, number, after, limit):
        points, following = self.collection.scroll(after=after, limit=limit, filter=has(number))
        there = sorted((i for i, (_, payload, _) in self.points.items() if payload["n"] == number), key=order_key)
        expected = [i for i in there if after is None or order_key(i) >= order_key(after)]
        assert [point.id for point in points] == expected[:limit]
        assert following == (expected[limit] if len(expected) > limit else None)

    @rule(number=numbers)
    def count(self, number):
        expected = sum(payload["n"] == number for _, payload, _ in self.points.values())
        assert self.collection.count(has(number)) == expected

    @rule()
    def seal(self):
        self.collection.seal()

    @rule(idle=st.booleans())
    def upkeep(self, idle):
        step(self.collection, idle=idle)

    @rule()
    def optimize(self):
        optimize(self.collection)

    @rule(bits=st.sampled_from([1, 2, 4]), seed=st.integers(0, 3), learned=st.booleans())
    def adopt(self, bits, seed, learned):
        version = self.collection.adopt(trained(POOL, bits=bits, seed=seed, learned=learned))
        assert version == max(self.collection.view.binarizers)
        assert self.collection.bits == bits

    @rule(whole=st.booleans())
    def upgrade(self, whole):
        done = upgrade(self.collection, cancelled=lambda: not whole)
        newest = max(self.collection.view.binarizers, default=0)
        assert done == all(segment.binarizer == newest for segment in self.collection.view.segments)

    @rule(n=st.integers(1, 50), seed=st.integers(0, 9))
    def sample(self, n, seed):
        rows, vectors = self.collection.sample(n, seed)
        assert len(rows) == len(vectors) == min(n, len(self.points))

    @rule()
    def reopen(self):
        self.store.close()
        self.open()
        if self.kind is not None:
            index_field(self.collection, parse_path("n"), self.kind)

    @rule(after=ids, limit=st.integers(1, 9))
    def scroll_from(self, after, limit):
        points, following = self.collection.scroll(after=after, limit=limit)
        expected = [i for i in sorted(self.points, key=order_key) if order_key(i) >= order_key(after)]
        assert [point.id for point in points] == expected[:limit]
        assert following == (expected[limit] if len(expected) > limit else None)

    @rule(number=numbers, exact=st.booleans(), k=st.sampled_from([1, 3, 100]))
    def search_filtered(self, number, exact, k):
        matching = {i: v for i, (v, payload, _) in self.points.items() if payload["n"] == number}
        self.look(matching, k, SearchParams(exact=exact), has(number), whole=exact)

    @rule(k=st.sampled_from([1, 3, 100]), candidates=st.sampled_from([None, 1]), symmetric=st.booleans())
    def search_codes(self, k, candidates, symmetric):
        everything = {i: vector for i, (vector, *_) in self.points.items()}
        params = SearchParams(exact=False, candidates=candidates, rerank=candidates and k, symmetric=symmetric)
        self.look(everything, k, params)

    @rule(k=st.sampled_from([1, 3, 100]), rerank=st.sampled_from([0, 2]), bits=st.sampled_from([1, None]))
    def search_with_few_reads(self, k, rerank, bits):
        self.queries += 1
        query = QUERIES[self.queries % len(QUERIES)]
        params = SearchParams(exact=False, rerank=rerank, bits=bits)
        result = self.collection.search(query[None], k, params=params)[0]
        assert len({hit.id for hit in result.hits}) == len(result.hits) == min(k, len(self.points))
        assert {hit.id for hit in result.hits} <= set(self.points)
        assert result.stages.reranked <= rerank

    def look(self, allowed, k, params, condition=None, *, whole=False):
        self.queries += 1
        query = QUERIES[self.queries % len(QUERIES)]
        hits = self.collection.search(query[None], k, params=params, filter=condition)[0].hits
        found = [hit.id for hit in hits]
        assert len(set(found)) == len(found) == min(k, len(allowed))
        assert set(found) <= set(allowed)
        if whole or k >= len(allowed):
            check_hits(hits, query, allowed, k, self.collection.config.distance)

    @invariant()
    def same_contents(self):
        if not hasattr(self, "store"):
            return
        points, following = self.collection.scroll(limit=1000, with_vector=True, with_text=True)
        assert following is None
        assert [point.id for point in points] == sorted(self.points, key=order_key)
        for point in points:
            vector, payload, text = self.points[point.id]
            assert (orjson.loads(point.payload), point.text) == (payload, text)
            if self.collection.config.distance == "Cosine":
                vector = vector / np.linalg.norm(vector)
            np.testing.assert_allclose(point.vector, vector, rtol=1e-5)
        view = self.collection.view
        assert self.collection.count() == view.points == len(self.points)

    @invariant()
    def exact_search_is_the_oracle(self):
        if hasattr(self, "store"):
            everything = {i: vector for i, (vector, *_) in self.points.items()}
            self.look(everything, 5, SearchParams(exact=True), whole=True)


TestMachine = Machine.TestCase
TestMachine.settings = settings(
    max_examples=40, stateful_step_count=30, deadline=None, derandomize=True, print_blob=False
)
