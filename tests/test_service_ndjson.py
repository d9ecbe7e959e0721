"""NDJSON: every way in which a line can be bad, splitting at any place, and parsing in worker processes."""

import base64
import json
import math
import os
import re
import signal
import struct
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from index.points import content_hash
from service.errors import ParserFailed
from service.ndjson import LineSpec, LineSplitter, parse_block
from service.parser_pool import ParserPool

VECTORS = LineSpec("vector", dimension=3, distance="Cosine", max_line_bytes=200, max_text_bytes=20)
TEXTS = LineSpec("text", dimension=3, distance="Cosine", max_line_bytes=200, max_text_bytes=20)
DOT = LineSpec("vector", dimension=3, distance="Dot", max_line_bytes=200, max_text_bytes=20)


def b64(*numbers):
    return base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()


def block(*lines):
    return b"\n".join(line if isinstance(line, bytes) else orjson.dumps(line) for line in lines) + b"\n"


def test_vectors_as_lists_and_as_base64():
    parsed = parse_block(
        block(
            {"id": 7, "vector": [1, 2.5, -3], "payload": {"a": [1, None]}},
            {"id": "x", "vector": b64(1, 2.5, -3), "payload": None},
            {"id": "6BA7B810-9DAD-11D1-80B4-00C04FD430C8", "vector": [0.1, 0, 0]},
        ),
        first_line=5,
        spec=VECTORS,
    )
    assert parsed.lines.tolist() == [5, 6, 7]
    assert parsed.ids == [7, "x", "6ba7b810-9dad-11d1-80b4-00c04fd430c8"]
    assert parsed.vectors.dtype == np.float32
    assert parsed.vectors.tolist() == [[1, 2.5, -3], [1, 2.5, -3], [np.float32(0.1), 0, 0]]
    assert parsed.texts == [None, None, None]
    assert parsed.payloads == [b'{"a":[1,null]}', b"{}", b"{}"]
    assert parsed.hashes[0] == parsed.hashes[1] == content_hash(struct.pack("<3f", 1, 2.5, -3))
    assert parsed.hashes[2] != parsed.hashes[0]
    assert (parsed.errors, parsed.received) == ([], 3)


def test_texts_and_vectors_that_stand_for_texts():
    parsed = parse_block(
        block({"id": 1, "text": "häuser"}, {"id": 2, "vector": [1, 0, 0]}, {"id": 3, "text": "x"}), 1, TEXTS
    )
    assert parsed.texts == ["häuser", None, "x"]
    assert parsed.vectors.tolist() == [[0, 0, 0], [1, 0, 0], [0, 0, 0]]
    assert parsed.hashes[0] == content_hash("häuser".encode())
    assert parse_block(block({"id": 1, "text": "x"}), 1, TEXTS).vectors is None


def test_blank_lines_carriage_returns_and_byte_order_mark():
    data = b'\xef\xbb\xbf{"id": 1, "text": "a"}\r\n\r\n   \n{"id": 2, "text": "b"}'
    parsed = parse_block(data, 1, TEXTS)
    assert parsed.errors == []
    assert (parsed.ids, parsed.lines.tolist(), parsed.received) == ([1, 2], [1, 4], 2)
    assert parse_block(data, 2, TEXTS).errors[0].type == "invalid_json", "only a file begins with such a mark"


BAD = [
    (VECTORS, b"{", "invalid_json", "not JSON"),
    (VECTORS, b"[1]", "invalid_json", "not a JSON object"),
    (VECTORS, b'{"id": 1, "vector": [NaN, 0, 1]}', "invalid_json", "not JSON"),
    (VECTORS, b'{"id": 1, "text": "\xff"}', "invalid_json", "not JSON"),
    (VECTORS, {"vector": [1, 0, 0]}, "invalid_id", "id is missing"),
    (VECTORS, {"id": -1, "vector": [1, 0, 0]}, "invalid_id", "negative"),
    (VECTORS, {"id": 1.5, "vector": [1, 0, 0]}, "invalid_id", "float"),
    (VECTORS, {"id": True, "vector": [1, 0, 0]}, "invalid_id", "boolean"),
    (VECTORS, b'{"id": 99999999999999999999, "vector": [1, 0, 0]}', "invalid_id", "not an id"),
    (VECTORS, {"id": 1, "vektor": [1, 0, 0]}, "unknown_key", "'vektor'"),
    (VECTORS, {"id": 1}, "invalid_line", "exactly one of text and vector"),
    (TEXTS, {"id": 1, "text": "a", "vector": [1, 0, 0]}, "invalid_line", "exactly one"),
    (VECTORS, {"id": 1, "text": "a"}, "no_encoder", "takes vectors, not texts"),
    (VECTORS, {"id": 1, "vector": [1, 0]}, "invalid_vector", "2 dimensions, the collection has 3"),
    (VECTORS, {"id": 1, "vector": []}, "invalid_vector", "0 dimensions"),
    (VECTORS, {"id": 1, "vector": [1, "0", 0]}, "invalid_vector", r"vector\[1\] is not a number"),
    (VECTORS, {"id": 1, "vector": [1, 0, True]}, "invalid_vector", r"vector\[2\] is not a number"),
    (VECTORS, {"id": 1, "vector": [[1], 0, 0]}, "invalid_vector", r"vector\[0\] is not a number"),
    (VECTORS, {"id": 1, "vector": {"a": 1}}, "invalid_vector", "neither a list"),
    (VECTORS, {"id": 1, "vector": "%%%"}, "invalid_vector", "not base64"),
    (VECTORS, {"id": 1, "vector": "é"}, "invalid_vector", "not base64"),
    (VECTORS, {"id": 1, "vector": b64(1, 2)}, "invalid_vector", "2 dimensions"),
    (VECTORS, {"id": 1, "vector": "AAAA"}, "invalid_vector", "3 bytes"),
    (VECTORS, {"id": 1, "vector": [1e39, 0, 0]}, "invalid_vector", "too large for float32"),
    (VECTORS, {"id": 1, "vector": b64(math.inf, 0, 0)}, "invalid_vector", "infinite"),
    (VECTORS, {"id": 1, "vector": b64(0, math.nan, 0)}, "invalid_vector", "NaN"),
    (VECTORS, {"id": 1, "vector": [0, 0, 0]}, "invalid_vector", "all zeros"),
    (DOT, {"id": 1, "vector": [1e30, 0, 0]}, "invalid_vector", "norm above"),
    (TEXTS, {"id": 1, "text": ""}, "invalid_text", "empty"),
    (TEXTS, {"id": 1, "text": " \t"}, "invalid_text", "empty"),
    (TEXTS, {"id": 1, "text": 5}, "invalid_text", "not a string"),
    (TEXTS, {"id": 1, "text": "é" * 11}, "text_too_large", "22 bytes, at most 20"),
    (TEXTS, {"id": 1, "text": "a", "payload": [1]}, "invalid_payload", "not a JSON object"),
    (TEXTS, {"id": 1, "text": "a", "payload": []}, "invalid_payload", "not a JSON object"),
    (TEXTS, b'{"id":1,"text":"a","payload":{"a":' + b"[" * 70 + b"]" * 70 + b"}}", "invalid_payload", "deep"),
    (TEXTS, {"id": 1, "text": "a", "payload": {"x": "y" * 200}}, "line_too_large", "more than 200 bytes"),
    (TEXTS, b" " * 201, "line_too_large", "more than 200 bytes"),
]


@pytest.mark.parametrize(("spec", "line", "kind", "message"), BAD)
def test_bad_line_costs_no_good_one(spec, line, kind, message):
    good = {"id": "good", "vector": [0, 0, 2]}
    parsed = parse_block(block(good, line, good), 10, spec)
    (error,) = parsed.errors
    assert (error.line, error.type) == (11, kind)
    assert re.search(message, error.message)
    assert (parsed.ids, parsed.lines.tolist(), parsed.received) == (["good", "good"], [10, 12], 3)
    assert parsed.vectors.tolist() == [[0, 0, 2], [0, 0, 2]]
    assert len(parsed.payloads) == len(parsed.hashes) == len(parsed.texts) == 2


def test_error_carries_the_id_once_it_is_known():
    lines = block({"id": "a", "vector": [1]}, {"id": 5, "vector": [0, 0, 0]}, b"x")
    assert [error.id for error in parse_block(lines, 1, VECTORS).errors] == ["a", 5, None]


def test_errors_come_in_the_order_of_lines():
    zero, short = {"id": 1, "vector": [0, 0, 0]}, {"id": 2, "vector": [1]}
    parsed = parse_block(block(zero, short, zero, short), 1, VECTORS)
    assert [error.line for error in parsed.errors] == [1, 2, 3, 4]
    assert (parsed.vectors, parsed.ids, parsed.received) == (None, [], 4)


def test_zero_vectors_are_fine_under_dot():
    assert parse_block(block({"id": 1, "vector": [0, 0, 0]}), 1, DOT).vectors.tolist() == [[0, 0, 0]]


def slow_parse(data, spec):
    """Return (line, id, text or vector) of good lines by the obvious way; the oracle for random blocks."""
    good = []
    for number, line in enumerate(data.split(b"\n"), 1):
        try:
            value = json.loads(line)
            text, vector = value.get("text"), value.get("vector")
            if text is not None:
                good.append((number, value["id"], text))
                continue
            if isinstance(vector, str):
                raw = base64.b64decode(vector)
                vector = struct.unpack(f"<{len(raw) // 4}f", raw)
            numbers = [float(np.float32(x)) for x in vector]
            if len(numbers) == spec.dimension and any(numbers) and all(map(math.isfinite, numbers)):
                good.append((number, value["id"], numbers))
        except (ValueError, TypeError, AttributeError):
            continue
    return good


@given(st.data())
def test_random_blocks_match_the_oracle(data):
    floats = st.sampled_from([0.0, 0.1, -2.0, 3.5, math.inf, math.nan])
    vector = st.lists(floats, min_size=2, max_size=3)
    finite = vector.filter(lambda v: all(map(math.isfinite, v)))
    line = st.one_of(
        st.builds(lambda i, v: orjson.dumps({"id": i, "vector": b64(*v)}), st.integers(0, 9), vector),
        st.builds(lambda i, v: orjson.dumps({"id": i, "vector": v}), st.integers(0, 9), finite),
        st.builds(lambda i, t: orjson.dumps({"id": i, "text": t}), st.integers(0, 9), st.just("word")),
        st.sampled_from([b"", b"{}", b"nonsense", b"[]"]),
    )
    raw = b"\n".join(data.draw(st.lists(line, max_size=12)))
    parsed = parse_block(raw, 1, TEXTS)
    found = [
        (int(n), i, text if text is not None else parsed.vectors[row].tolist())
        for row, (n, i, text) in enumerate(zip(parsed.lines, parsed.ids, parsed.texts, strict=True))
    ]
    assert found == slow_parse(raw, TEXTS)
    assert parsed.received == len([part for part in raw.split(b"\n") if part])
    assert len(parsed.errors) == parsed.received - len(found)


def slow_split(data, most):
    """Return {number: line} of lines short enough, and the numbers of the others."""
    lines = dict(enumerate(data.split(b"\n"), 1))
    return {n: x for n, x in lines.items() if x and len(x) <= most}, [n for n, x in lines.items() if len(x) > most]


@given(
    st.lists(st.sampled_from([b"a", b"bb" * 3, b"\n", b"\n\n", b"c" * 9, b"\r\n"]), max_size=40),
    st.lists(st.integers(0, 200), max_size=20),
    st.integers(1, 60),
    st.integers(1, 5),
)
def test_any_chunking_is_the_whole(parts, cuts, block_bytes, block_lines):
    data, most = b"".join(parts), 8
    cuts = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    splitter = LineSplitter(max_line_bytes=most, block_bytes=block_bytes, block_lines=block_lines)
    blocks = []
    for start, end in zip(cuts, cuts[1:], strict=False):
        blocks += splitter.feed(data[start:end])
    blocks += splitter.finish()
    kept, long = {}, []
    for found in blocks:
        for number, line in enumerate(found.data.split(b"\n"), found.first_line):
            if len(line) > most:
                long.append(number)  # a whole line came at once: the parser refuses it
            elif line:
                assert number not in kept
                kept[number] = line
        long += [error.line for error in found.errors]
        assert all(error.type == "line_too_large" for error in found.errors)
    assert (kept, sorted(long)) == slow_split(data, most)


def test_blocks_have_the_size_asked_for():
    line = b"x" * 99 + b"\n"
    by_lines = LineSplitter(max_line_bytes=100, block_lines=10)
    found = [b for _ in range(25) for b in by_lines.feed(line)] + by_lines.finish()
    assert [(b.first_line, b.data.count(b"\n")) for b in found] == [(1, 10), (11, 10), (21, 5)]
    by_bytes = LineSplitter(max_line_bytes=100, block_bytes=1000)
    assert [len(b.data) for _ in range(10) for b in by_bytes.feed(line)] == [1000]
    assert by_bytes.finish() == []


def test_one_huge_chunk_is_cut_into_blocks():
    splitter = LineSplitter(max_line_bytes=100, block_bytes=1 << 16)
    found = splitter.feed(b"0123456789\n" * 100_000) + splitter.finish()
    assert max(len(b.data) for b in found) < (1 << 17)
    assert b"".join(b.data for b in found) == b"0123456789\n" * 100_000


def test_memory_is_bounded_by_a_line_without_end():
    splitter = LineSplitter(max_line_bytes=1000)
    for _ in range(1000):
        assert splitter.feed(b"y" * 10_000) == []
        assert sum(len(part) for part in vars(splitter).values() if isinstance(part, bytearray)) < 40_000
    (found,) = splitter.feed(b"\nz\n") + splitter.finish()
    assert (found.data, found.first_line, [e.line for e in found.errors]) == (b"\nz\n", 1, [1])


def test_parsing_imports_nothing_heavy():
    code = """
        import sys, service.ndjson, service.parser_pool
        heavy = {"pydantic", "fastapi", "starlette", "torch", "faiss", "sqlite3", "httpx", "typer", "uvicorn"}
        print(sorted(heavy & set(sys.modules)))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# -- worker processes


@pytest.fixture(scope="module")
def pool():
    made = ParserPool(workers=2, nice=1)
    yield made
    made.close()


def same(a, b):
    assert (a.ids, a.texts, a.payloads, a.hashes, a.errors, a.received) == (
        b.ids, b.texts, b.payloads, b.hashes, b.errors, b.received,
    )  # fmt: skip
    np.testing.assert_array_equal(a.lines, b.lines)
    assert (a.vectors is None) == (b.vectors is None)
    if a.vectors is not None:
        np.testing.assert_array_equal(a.vectors, b.vectors)


def test_pool_returns_what_parse_block_returns(pool):
    mixed = block({"id": 1, "text": "a"}, {"id": 2, "vector": [1, 0, 2]}, b"bad", {"id": 3, "vector": [0, 0, 0]})
    for data in (mixed, b"", b"bad\n"):
        same(pool.parse(data, 3, TEXTS), parse_block(data, 3, TEXTS))
    assert pool.parse(mixed, 1, TEXTS).vectors.flags.writeable


def test_pool_serves_several_threads(pool):
    rng = np.random.default_rng(5)
    blocks = [
        block(*({"id": int(i), "vector": v.tolist()} for i, v in enumerate(rng.standard_normal((50, 3)))))
        for _ in range(12)
    ]
    results = {}
    threads = [
        threading.Thread(target=lambda n=n: results.update({n: pool.parse(blocks[n], 1, VECTORS)}))
        for n in range(len(blocks))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for n, data in enumerate(blocks):
        same(results[n], parse_block(data, 1, VECTORS))
    assert len(pool.process_ids()) <= 2


def test_dead_worker_is_replaced(pool):
    data = block({"id": 1, "text": "a"})
    pool.parse(data, 1, TEXTS)
    before = pool.process_ids()
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    same(pool.parse(data, 1, TEXTS), parse_block(data, 1, TEXTS))
    after = pool.process_ids()
    assert after
    assert not set(before) & set(after)


def test_block_that_kills_every_worker_is_a_typed_error(pool):
    # Only a broken spec makes a worker fail: it stands for a process that dies over its block.
    with pytest.raises(ParserFailed, match="block at line 40"):
        pool.parse(block({"id": 1, "text": "a"}), 40, None)
    same(pool.parse(b"x", 1, TEXTS), parse_block(b"x", 1, TEXTS))


def test_workers_are_nicer_and_end_with_the_pool():
    own = ParserPool(workers=1, nice=3)
    assert own.process_ids() == []
    own.parse(b"x", 1, TEXTS)
    (pid,) = own.process_ids()
    assert os.getpriority(os.PRIO_PROCESS, pid) == min(os.getpriority(os.PRIO_PROCESS, 0) + 3, 19)
    own.close()
    assert not alive(pid)
    with pytest.raises(ParserFailed, match="shutting down"):
        own.parse(b"x", 1, TEXTS)


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat") as stat:
        return stat.read().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="reads /proc")
def test_workers_end_when_the_parent_is_killed(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(
        textwrap.dedent("""
        import time
        from service.ndjson import LineSpec
        from service.parser_pool import ParserPool

        if __name__ == "__main__":
            pool = ParserPool(workers=1, nice=0)
            pool.parse(b"x", 1, LineSpec("text", 3, "Cosine", 100, 100))
            print(*pool.process_ids(), flush=True)
            time.sleep(60)
        """)
    )
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    with subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": root},
    ) as parent:
        worker = int(parent.stdout.readline())
        assert alive(worker)
        parent.kill()
        parent.wait()
    deadline = time.monotonic() + 20
    while alive(worker) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not alive(worker)
