"""Query texts to vectors: the cache and its bounds, batches of several requests, whose error is whose."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest

from index.errors import DeadlineExceeded
from models import InvalidText
from service.places import Places
from service.query_cache import Entry, QueryCache
from service.query_encoding import QueryEncoding
from tests.conftest import WORDS, FakeEncoder
from tests.service_calls import axis, ok, texts

WAIT = 20  # seconds after which a test gives up on a thread
FULL = {"layers": 1, "dimensions": len(WORDS)}


class Gated(FakeEncoder):
    """Waits in its first call until it is let go; `entered` says that it is there."""

    def __init__(self, **fields):
        super().__init__(**fields)
        self.entered, self.release = threading.Event(), threading.Event()

    def encode_queries(self, texts, *, layers=None, dimensions=None):
        if not self.entered.is_set():
            self.entered.set()
            assert self.release.wait(WAIT)
        return super().encode_queries(texts, layers=layers, dimensions=dimensions)


def encoding(entries=100, text_bytes=1 << 20, most_batch=32, at_once=1):
    return QueryEncoding(
        cache=QueryCache(entries=entries, text_bytes=text_bytes), most_batch=most_batch, at_once=at_once
    )


def entry(value, truncated=False):
    return Entry(np.array([value], np.float32), truncated)


def waiting(merged):
    """How many requests wait in the one lane there is."""
    return sum(len(lane.waiting) for lane in list(merged._lanes.values()))


def until(condition):
    end = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


@pytest.mark.parametrize("size", [(1, 8), (0, 8), (1, 4), (0, 2)])
def test_vectors_are_those_of_the_encoder(size):
    layers, dimensions = size
    texts = ["stone tree", "tree", "stone " * 9, "tree", "stone"]
    encoder, merged = FakeEncoder(), encoding()
    direct = FakeEncoder().encode_queries(texts, layers=layers, dimensions=dimensions)
    for cached in (False, True):
        found = merged.encode(encoder, texts, layers=layers, dimensions=dimensions)
        assert found.vectors.tolist() == direct.vectors.tolist()
        assert found.vectors.dtype == np.float32
        assert found.truncated.tolist() == direct.truncated.tolist() == [False, False, True, False, False]
        assert found.cached.tolist() == [cached] * 5
    assert encoder.asked == [(["stone tree", "tree", "stone " * 9, "stone"], layers, dimensions)]
    counts = merged.counts()
    assert (counts.hits, counts.misses, counts.calls) == (5, 5, 1)


def test_only_what_is_not_known_is_encoded():
    encoder, merged = FakeEncoder(), encoding()
    merged.encode(encoder, ["red", "sun"], **FULL)
    found = merged.encode(encoder, ["moon", "red", "rain"], **FULL)
    assert encoder.asked[1:] == [(["moon", "rain"], 1, 8)]
    assert found.cached.tolist() == [False, True, False]
    assert found.vectors.tolist() == FakeEncoder().encode_queries(["moon", "red", "rain"]).vectors.tolist()


def test_encoders_spaces_and_sizes_do_not_share_vectors():
    merged = encoding()
    first, twin, moved = FakeEncoder(), FakeEncoder(name="twin"), FakeEncoder(space="words/9")
    for encoder, layers, dimensions in ((first, 1, 8), (first, 0, 8), (first, 1, 4), (twin, 1, 8), (moved, 1, 8)):
        found = merged.encode(encoder, ["stone"], layers=layers, dimensions=dimensions)
        assert not found.cached.any()
        assert found.vectors.shape == (1, dimensions)
    assert merged.encode(first, ["stone"], **FULL).cached.all()


def test_what_is_cached_cannot_be_changed():
    encoder, merged = FakeEncoder(), encoding()
    for _ in range(2):
        merged.encode(encoder, ["red"], **FULL).vectors[:] = 7
    assert merged.encode(encoder, ["red"], **FULL).vectors.tolist() == [[1, 0, 0, 0, 0, 0, 0, 0]]
    with pytest.raises(ValueError, match="read-only"):
        merged._cache.get(("fake", "words/8", 1, 8), ["red"])["red"].vector[0] = 7


def test_the_cache_drops_what_was_not_used_for_longest():
    cache = QueryCache(entries=3)
    for i, text in enumerate("abc"):
        cache.put("k", {text: entry(i)})
    assert list(cache.get("k", ["a"])) == ["a"]
    cache.put("k", {"d": entry(3)})
    assert sorted(cache.get("k", list("abcd"))) == ["a", "c", "d"]
    cache.put("k", {text: entry(9) for text in "wxyz"})
    assert sorted(cache.get("k", list("abcdwxyz"))) == ["x", "y", "z"]
    assert len(cache) == 3


def test_the_cache_is_bounded_by_bytes_of_text():
    cache = QueryCache(entries=100, text_bytes=10)
    cache.put("k", {"aaaa": entry(1), "bbbb": entry(2)})
    assert cache.text_bytes == 8
    cache.put("k", {"éé": entry(3)})  # four bytes
    assert (sorted(cache.get("k", ["aaaa", "bbbb", "éé"])), cache.text_bytes) == (["bbbb", "éé"], 8)
    cache.put("k", {"bbbb": entry(4)})
    assert (len(cache), cache.text_bytes) == (2, 8)
    assert cache.get("k", ["bbbb"])["bbbb"].vector[0] == 4
    cache.put("k", {"x" * 11: entry(5)})
    assert (len(cache), cache.text_bytes) == (2, 8)
    cache.put("other", {"bbbb": entry(6)})
    assert cache.get("k", ["bbbb"])["bbbb"].vector[0] == 4


def test_no_cache_keeps_nothing():
    encoder, merged = FakeEncoder(), encoding(entries=0)
    for _ in range(2):
        assert not merged.encode(encoder, ["red"], **FULL).cached.any()
    assert len(encoder.asked) == 2
    assert len(merged._cache) == 0


def test_what_comes_during_a_call_is_encoded_together():
    encoder, merged = Gated(), encoding(most_batch=4)
    texts = [["red"], ["green", "blue"], ["sun"], ["moon", "rain", "tree"], ["stone", "red sun", "sun", "moon", "rain"]]
    with ThreadPoolExecutor(8) as threads:
        futures = [threads.submit(merged.encode, encoder, texts[0], **FULL)]
        assert encoder.entered.wait(WAIT)
        for i, asked in enumerate(texts[1:], 1):
            futures.append(threads.submit(merged.encode, encoder, asked, **FULL))
            until(lambda i=i: waiting(merged) == i)
        encoder.release.set()
        for asked, future in zip(texts, futures, strict=True):
            direct = FakeEncoder().encode_queries(asked)
            assert future.result(WAIT).vectors.tolist() == direct.vectors.tolist()
    # At most four texts of several requests, never part of one, and one request that is larger goes alone.
    calls = [asked for asked, _, _ in encoder.asked]
    assert calls == [["red"], ["green", "blue", "sun"], ["moon", "rain", "tree"], texts[4]]
    assert merged.counts().calls == 4
    assert merged._lanes == {}


def test_the_same_text_of_two_requests_is_encoded_once():
    encoder, merged = Gated(), encoding()
    with ThreadPoolExecutor(4) as threads:
        first = threads.submit(merged.encode, encoder, ["red"], **FULL)
        assert encoder.entered.wait(WAIT)
        others = [threads.submit(merged.encode, encoder, ["sun"], **FULL) for _ in range(3)]
        until(lambda: waiting(merged) == 3)
        encoder.release.set()
        assert first.result(WAIT).vectors[0, 0] == 1
        assert [other.result(WAIT).vectors[0, 3] for other in others] == [1, 1, 1]
    assert [asked for asked, _, _ in encoder.asked] == [["red"], ["sun"]]


def test_sizes_do_not_wait_for_each_other():
    encoder, merged = Gated(), encoding()
    with ThreadPoolExecutor(2) as threads:
        whole = threads.submit(merged.encode, encoder, ["red"], **FULL)
        assert encoder.entered.wait(WAIT)
        short = threads.submit(merged.encode, encoder, ["stone"], layers=1, dimensions=2)
        assert short.result(WAIT).vectors.tolist() == [[1, 0]]
        assert not whole.done()
        encoder.release.set()
        whole.result(WAIT)


def test_so_many_calls_run_at_once():
    encoder, merged = Gated(), encoding(at_once=2)
    with ThreadPoolExecutor(2) as threads:
        held = threads.submit(merged.encode, encoder, ["red"], **FULL)
        assert encoder.entered.wait(WAIT)
        assert merged.encode(encoder, ["sun"], **FULL).vectors[0, 3] == 1
        assert not held.done()
        encoder.release.set()
        held.result(WAIT)


def test_a_bad_text_fails_only_its_own_request():
    encoder, merged = Gated(), encoding()
    with ThreadPoolExecutor(4) as threads:
        held = threads.submit(merged.encode, encoder, ["red"], **FULL)
        assert encoder.entered.wait(WAIT)
        futures = []
        for i, asked in enumerate((["sun"], ["moon", "?", "moon", "!"], ["rain"]), 1):
            futures.append(threads.submit(merged.encode, encoder, asked, **FULL))
            until(lambda i=i: waiting(merged) == i)
        encoder.release.set()
        assert futures[0].result(WAIT).vectors[0, 3] == 1
        assert futures[2].result(WAIT).vectors[0, 5] == 1
        with pytest.raises(InvalidText, match="^the text has no known word$") as caught:
            futures[1].result(WAIT)
        assert caught.value.index == 1
        held.result(WAIT)
    assert merged._lanes == {}
    assert merged.encode(encoder, ["sun", "rain"], **FULL).cached.all()
    with pytest.raises(InvalidText, match="no known word") as caught:
        merged.encode(encoder, ["sun", "moon", "red red", "?"], **FULL)
    assert caught.value.index == 3  # among the texts that were asked for, not among those that were unknown
    with pytest.raises(InvalidText, match="no known word"):
        merged.encode(encoder, ["?"], **FULL)  # a failure is not remembered as a vector


def test_an_encoder_that_breaks_fails_every_request_and_nothing_hangs():
    class Broken(Gated):
        def encode_queries(self, texts, *, layers=None, dimensions=None):
            super().encode_queries(["red"], layers=layers, dimensions=dimensions)
            raise MemoryError(f"no room for {texts}")

    encoder, merged = Broken(), encoding()
    with ThreadPoolExecutor(4) as threads:
        futures = [threads.submit(merged.encode, encoder, ["red"], **FULL)]
        assert encoder.entered.wait(WAIT)
        futures += [threads.submit(merged.encode, encoder, [word], **FULL) for word in ("sun", "moon")]
        until(lambda: waiting(merged) == 2)
        encoder.release.set()
        for word, future in zip(("red", "sun", "moon"), futures, strict=True):
            with pytest.raises(MemoryError, match=f"no room for \\['{word}'\\]"):
                future.result(WAIT)
    assert merged._lanes == {}
    assert merged.encode(FakeEncoder(), ["red"], **FULL).vectors[0, 0] == 1


def test_a_thread_that_is_ended_leaves_nobody_waiting():
    class Ended(Gated):
        def encode_queries(self, texts, *, layers=None, dimensions=None):
            found = super().encode_queries(texts, layers=layers, dimensions=dimensions)
            if "sun" in texts:
                raise SystemExit
            return found

    encoder, merged = Ended(), encoding()
    with ThreadPoolExecutor(4) as threads:
        held = threads.submit(merged.encode, encoder, ["red"], **FULL)
        assert encoder.entered.wait(WAIT)
        others = [threads.submit(merged.encode, encoder, [word], **FULL) for word in ("sun", "moon")]
        until(lambda: waiting(merged) == 2)
        encoder.release.set()
        held.result(WAIT)
        ends = [type(other.exception(WAIT)) for other in others]
    assert SystemExit in ends + [type(held.exception(WAIT))]
    assert set(ends) <= {SystemExit, RuntimeError}
    assert merged._lanes == {}


def test_waiting_ends_at_the_deadline():
    encoder, merged = Gated(), encoding()
    with ThreadPoolExecutor(2) as threads:
        held = threads.submit(merged.encode, encoder, ["red"], **FULL)
        assert encoder.entered.wait(WAIT)
        with pytest.raises(DeadlineExceeded, match="encoder fake was busy"):
            merged.encode(encoder, ["sun"], **FULL, deadline=time.monotonic() + 0.05)
        with pytest.raises(DeadlineExceeded, match="encoder fake was busy"):
            merged.encode(encoder, ["sun"], **FULL, deadline=time.monotonic() - 1)
        assert waiting(merged) == 0
        encoder.release.set()
        held.result(WAIT)
    assert [asked for asked, _, _ in encoder.asked] == [["red"]]  # nobody encodes for those who left
    assert merged._lanes == {}
    # What is idle is not waited for, and what is known does not ask.
    late = time.monotonic() - 1
    assert merged.encode(encoder, ["red"], **FULL, deadline=late).cached.all()


def test_sixteen_threads_get_what_one_would():
    rng = np.random.default_rng(3)
    requests = []
    for _ in range(600):
        texts = [" ".join(rng.choice(WORDS, rng.integers(1, 4))) for _ in range(rng.integers(1, 5))]
        if rng.random() < 0.1:
            texts.insert(int(rng.integers(len(texts) + 1)), "?")
        requests.append((texts, int(rng.integers(2)), int(rng.choice([4, 8]))))

    class Slow(FakeEncoder):
        def encode_queries(self, texts, *, layers=None, dimensions=None):
            time.sleep(0.0005)
            return super().encode_queries(texts, layers=layers, dimensions=dimensions)

    def outcome(work):
        try:
            found = work()
        except InvalidText as error:
            return error.index
        return found.vectors.tolist(), found.truncated.tolist()

    plain, encoder = FakeEncoder(), Slow()
    expected = [outcome(lambda r=r: plain.encode_queries(r[0], layers=r[1], dimensions=r[2])) for r in requests]
    assert any(isinstance(one, int) for one in expected)
    for at_once in (1, 3):
        merged = encoding(entries=40, most_batch=8, at_once=at_once)
        with ThreadPoolExecutor(16) as threads:
            futures = [
                threads.submit(
                    outcome, lambda r=r, merged=merged: merged.encode(encoder, r[0], layers=r[1], dimensions=r[2])
                )
                for r in requests
            ]
            found = [future.result(WAIT) for future in futures]
        assert found == expected
        assert merged._lanes == {}
        assert len(merged._cache) == 40
        assert max(len(asked) for asked, _, _ in encoder.asked) > max(len(texts) for texts, _, _ in requests)


def test_a_server_merges_the_searches_that_come_while_its_encoder_is_busy(serve):
    encoder = Gated()
    server = serve(encoder, encoder_threads=1, query_batch=3, search_threads=4)
    path = texts(server.http, "busy")

    def ask(word):
        return httpx.post(f"{server.url}{path}/search", json={"query": word}, timeout=WAIT)

    with ThreadPoolExecutor(8) as threads:
        held = threads.submit(ask, "red")
        assert encoder.entered.wait(WAIT)
        others = [threads.submit(ask, word) for word in WORDS[1:7]]
        until(lambda: 'bitfold_query_texts_total{cached="false"} 7.0' in server.http.get("/metrics").text)
        time.sleep(0.05)  # they are counted just before they wait
        encoder.release.set()
        for answer in (held, *others):
            ok(answer.result(WAIT))
    calls = [asked for asked, _, _ in encoder.asked]
    assert calls[0] == ["red"]
    assert sorted(word for asked in calls for word in asked) == sorted(WORDS[:7])
    assert 1 < max(map(len, calls)) <= 3
    assert len(calls) < 7


def test_texts_that_wait_for_their_encoder_do_not_hold_up_searches(serve):
    encoder = Gated()
    server = serve(encoder, encoder_threads=1, search_threads=1)
    path = texts(server.http, "free")
    ok(server.http.put(f"{path}/points", json={"points": [{"id": 1, "vector": axis(0)}]}))
    with ThreadPoolExecutor(3) as threads:
        waits = [
            threads.submit(httpx.post, f"{server.url}{path}/search", json={"query": word}, timeout=WAIT)
            for word in ("red", "sun", "moon")
        ]
        assert encoder.entered.wait(WAIT)
        assert ok(server.http.post(f"{path}/search", json={"query": axis(0)}))["points"][0]["id"] == 1
        assert not any(answer.done() for answer in waits)
        encoder.release.set()
        for answer in waits:
            ok(answer.result(WAIT))


def test_places_are_waited_for_until_the_deadline():
    places = Places(2)
    with places.taken(None), places.taken(time.monotonic() - 1):
        with pytest.raises(DeadlineExceeded, match="waited longer"), places.taken(time.monotonic() + 0.02):
            raise AssertionError("there were two places")
        with pytest.raises(DeadlineExceeded), places.taken(time.monotonic() - 1):
            raise AssertionError("there were two places")
    with pytest.raises(ValueError, match="inside"), places.taken(None):
        raise ValueError("inside")
    with places.taken(0.0), places.taken(0.0):
        pass


def test_a_server_runs_as_many_calls_at_once_as_it_has_threads(serve):
    class Paired(FakeEncoder):
        meet = threading.Barrier(2)

        def encode_queries(self, texts, **size):
            self.meet.wait(WAIT)
            return super().encode_queries(texts, **size)

    server = serve(Paired(), encoder_threads=2)
    path = texts(server.http, "pairs")
    with ThreadPoolExecutor(2) as threads:
        answers = [
            threads.submit(httpx.post, f"{server.url}{path}/search", json={"query": word}, timeout=2 * WAIT)
            for word in ("red", "sun")
        ]
        for answer in answers:
            ok(answer.result(2 * WAIT))
