"""The command line against a scripted server: what it sends, what it prints, how it fails and continues."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import httpx
import numpy as np
import orjson
import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from index.filters import parse_filter
from index.options import StoreOptions
from index.points import Batch, CollectionConfig, content_hash
from index.store import Store
from models import TrainingFreeFactory
from service import upload
from service.settings import settings_table
from tests.service_calls import command
from tests.stub_server import STAGES, Stub, running


@pytest.fixture
def stub():
    return Stub()


@pytest.fixture
def bitfold(stub, monkeypatch, capsys):
    """Return a function that runs a command against the stub and returns exit status, stdout, stderr."""
    for name in [name for name in os.environ if name.startswith("BITFOLD_")]:
        monkeypatch.delenv(name)
    with running(stub.app) as url:
        monkeypatch.setenv("BITFOLD_URL", url)

        yield partial(command, capsys)


def write(path, count, **fields):
    path.write_bytes(b"".join(orjson.dumps({"id": i, "text": f"t{i}", **fields}) + b"\n" for i in range(count)))
    return path


def test_index_creates_and_loads_texts(bitfold, stub, tmp_path):
    file = write(tmp_path / "a.jsonl", 1500)
    status, out, err = bitfold("index", file, "--collection", "c")
    assert (status, err) == (0, "")
    assert "1500 documents: 1500 accepted (0 unchanged), 0 rejected" in out
    assert stub.created == [("c", {"encoder": "default"})]
    assert [len(lines) for lines in stub.requests] == [512, 988], "requests grow while they are quick"
    assert len(stub.collections["c"]) == 1500
    assert not list(tmp_path.glob("*.bitfold-progress*"))
    status, out, _ = bitfold("index", file, "-c", "c")
    assert "1500 accepted (1500 unchanged)" in out
    assert len(stub.created) == 1


def test_index_creates_a_collection_of_vectors(bitfold, stub, tmp_path):
    file = tmp_path / "v.jsonl"
    file.write_text('{"id": 1, "vector": [1, 2, 3]}\n')
    assert bitfold("index", file, "-c", "v", "--distance", "Dot")[0] == 0
    assert stub.created == [("v", {"vectors": {"size": 3, "distance": "Dot"}})]


def test_index_says_how_codes_of_a_new_collection_are_kept(bitfold, stub, tmp_path):
    options = ("--bits", "4", "--code-dimensions", "64", "--no-store-vectors", "--index", "graph")
    kept = {"bits": 4, "code_dimensions": 64, "store_vectors": False, "index": "graph"}
    assert bitfold("index", write(tmp_path / "a.jsonl", 1), "-c", "c", *options)[0] == 0
    (tmp_path / "v.jsonl").write_text('{"id": 1, "vector": [1, 2, 3]}\n')
    assert bitfold("index", tmp_path / "v.jsonl", "-c", "v", *options)[0] == 0
    vectors = {"vectors": {"size": 3, "distance": "Cosine"}}
    assert stub.created == [("c", {"encoder": "default"} | kept), ("v", vectors | kept)]
    status, _, err = bitfold("index", tmp_path / "a.jsonl", "-c", "c", "--bits", "2")
    assert status == 0
    assert "c exists: bits count only when a collection is made" in err


def test_index_without_creating(bitfold, stub, tmp_path):
    status, _, err = bitfold("index", write(tmp_path / "a.jsonl", 1), "-c", "c", "--no-create")
    assert status == 1
    assert stub.created == []
    assert err.count("\n") >= 1


def test_index_names_refused_lines_of_the_file(bitfold, tmp_path):
    file = tmp_path / "a.csv"
    rows = ["key,body", *(f"{i},{'bad' if i % 100 == 0 else 'good'}" for i in range(1, 1201))]
    file.write_text("\n".join(rows))
    status, out, err = bitfold("index", file, "-c", "c", "--id-field", "key", "--text-field", "body")
    assert status == 1
    assert "1188 accepted (0 unchanged), 12 rejected" in out
    assert f"{file}:101 (id 100): too bad" in err
    assert f"{file}:1001 (id 1000): too bad" in err
    assert "... and 2 more" in err


def test_index_names_lines_that_were_cut(bitfold, tmp_path):
    file = tmp_path / "a.csv"
    rows = ["id,text", *(f"{i},{'long' if i % 100 == 0 else 'short'}" for i in range(1, 1201))]
    file.write_text("\n".join(rows))
    status, out, err = bitfold("index", file, "-c", "c")
    assert status == 0
    assert "0 rejected, 12 longer than the encoder's window" in out
    named = ", ".join(str(100 * i + 1) for i in range(1, 11))
    assert err == f"{file}: of these lines only the start can be found: {named}, ...\n"


def test_interrupted_load_continues(bitfold, stub, tmp_path, monkeypatch):
    monkeypatch.setattr(upload, "_MAX_LINES", 512)
    file = write(tmp_path / "a.jsonl", 2000)
    progress = tmp_path / "a.jsonl.bitfold-progress"
    broken = stub.wrong(507, "disk_full", "the disk is full", hint="make room")
    original = upload._send

    def third_time_full(client, collection, chunk, points):
        if len(stub.requests) == 2:
            stub.refuse = [broken]
        return original(client, collection, chunk, points)

    monkeypatch.setattr(upload, "_send", third_time_full)
    status, _, err = bitfold("index", file, "-c", "c")
    assert status == 1
    assert "1024 documents of about 2000 are done; the same command will continue" in err
    assert "the disk is full" in err
    assert "make room" in err
    assert progress.exists()
    monkeypatch.setattr(upload, "_send", original)
    status, out, err = bitfold("index", file, "-c", "c")
    assert status == 0
    assert "continuing after 1024 documents" in err
    assert "2000 documents: 2000 accepted (0 unchanged)" in out
    assert [orjson.loads(lines[0])["id"] for lines in stub.requests] == [0, 512, 1024, 1536]
    assert not progress.exists()


@pytest.mark.parametrize("change", ["file", "collection", "garbage", "emptied", "remade"])
def test_checkpoint_of_another_load_is_not_used(bitfold, stub, tmp_path, monkeypatch, change):
    monkeypatch.setattr(upload, "_FIRST_LINES", 10)
    file = write(tmp_path / "a.jsonl", 30)
    stub.collections["c"] = {}
    stub.collections["d"] = {1: {}}
    original = upload._send

    def second_time_full(client, collection, chunk, points):
        if len(stub.requests) == 1:
            stub.refuse = [stub.wrong(507, "disk_full", "the disk is full")]
        return original(client, collection, chunk, points)

    monkeypatch.setattr(upload, "_send", second_time_full)
    assert bitfold("index", file, "-c", "c")[0] == 1
    monkeypatch.setattr(upload, "_send", original)
    stub.requests.clear()
    if change == "file":
        write(file, 30, payload={"new": True})
    elif change == "garbage":
        (tmp_path / "a.jsonl.bitfold-progress").write_text('{"identity": 1}')
    elif change == "emptied":
        stub.collections["c"] = {}
    elif change == "remade":
        stub.made_at = 2.0
    status, out, err = bitfold("index", file, "-c", "d" if change == "collection" else "c")
    assert (status, err) == (0, "")
    assert "30 documents: 30 accepted" in out
    assert sum(map(len, stub.requests)) == 30


def test_busy_server_is_asked_again(bitfold, stub, tmp_path):
    busy = stub.wrong(429, "over_capacity", "no room", headers={"Retry-After": "0"})
    stub.refuse = [busy, busy]
    status, out, _ = bitfold("index", write(tmp_path / "a.jsonl", 5), "-c", "c")
    assert (status, len(stub.requests)) == (0, 1)
    assert "5 accepted" in out


def test_missing_file_and_unknown_format(bitfold, stub, tmp_path):
    status, _, err = bitfold("index", tmp_path / "none.jsonl", "-c", "c")
    assert (status, stub.created) == (1, [])
    assert "none.jsonl: there is no such file" in err
    status, _, err = bitfold("index", tmp_path / "a.docx", "-c", "c")
    assert status == 1
    assert "format is not known" in err


def test_search_prints_points(bitfold, stub):
    stub.collections["c"] = {}
    status, out, _ = bitfold("search", "some words", "-c", "c", "-n", "3", "--filter", '{"must": []}', "--codes")
    assert status == 0
    assert out.splitlines() == ["0.5000  5  a long text", '        {"topic":"x"}']
    assert stub.searches == [
        {
            "query": "some words",
            "limit": 3,
            "filter": {"must": []},
            "params": {"exact": False},
            "with_payload": True,
            "with_text": True,
        }
    ]


def test_search_prints_json(bitfold, stub):
    stub.collections["c"] = {}
    status, out, _ = bitfold("search", "x", "-c", "c", "--bits", "2")
    assert stub.searches.pop()["params"] == {"bits": 2}
    status, out, _ = bitfold("search", "x", "-c", "c", "--json")
    assert status == 0
    assert json.loads(out)["stages"] == STAGES
    assert "params" not in stub.searches[0]


@pytest.mark.parametrize("filter", ["{", "[]", "nonsense"])
def test_search_with_a_malformed_filter(bitfold, stub, filter):
    status, _, err = bitfold("search", "x", "-c", "c", "--filter", filter)
    assert (status, stub.searches) == (2, [])
    assert "--filter" in err


def test_error_of_the_server_is_shown_with_its_hint(bitfold):
    status, _, err = bitfold("search", "x", "-c", "none")
    assert status == 1
    assert err == "bitfold: there is no such collection\n         create it\n"


def test_collections(bitfold, stub):
    status, out, _ = bitfold("collections")
    assert (status, out.startswith("no collections yet")) == (0, True)
    stub.collections["c"] = {1: {}}
    status, out, _ = bitfold("collections")
    assert out == "c: 1 points, 0 with codes; 384-d Cosine, encoder minilm\n"
    assert json.loads(bitfold("collections", "--json")[1])["c"]["points_count"] == 1


def test_key_is_sent_and_a_wrong_one_explained(bitfold, stub, monkeypatch):
    monkeypatch.setenv("BITFOLD_API_KEY", "sesame")
    assert bitfold("collections")[0] == 0
    assert stub.keys == {"sesame"}
    stub.refuse = [stub.wrong(401, "wrong_api_key", "the key is wrong")]
    status, _, err = bitfold("collections")
    assert status == 1
    assert "BITFOLD_API_KEY" in err
    assert "sesame" not in err


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_no_server_says_how_to_start_one(bitfold):
    status, _, err = bitfold("collections", "--url", f"http://127.0.0.1:{free_port()}")
    assert status == 1
    assert "no server answers" in err
    assert "bitfold serve" in err


def test_another_program_on_the_port_is_recognised(bitfold):
    async def page(_request):
        return JSONResponse({"hello": 1})

    with running(Starlette(routes=[Route("/collections", page)])) as url:
        status, _, err = bitfold("collections", "--url", url)
    assert status == 1
    assert "something else than Bitfold" in err


def test_eval_drops_its_own_collection_only(bitfold, stub, tmp_path):
    (tmp_path / "qrels").mkdir()
    (tmp_path / "corpus.jsonl").write_text('{"_id": "5", "text": "a"}\n')
    (tmp_path / "queries.jsonl").write_text('{"_id": "q", "text": "a"}\n')
    (tmp_path / "qrels" / "test.tsv").write_text("q\t5\t1\n")
    stub.collections["other"] = {}
    status, out, _ = bitfold("eval", tmp_path, "--json")
    assert status == 0
    (report,) = json.loads(out)
    assert (report["documents"], report["queries"], report["ndcg_at_10"]) == (1, 1, 0), "5 is not '5'"
    assert list(stub.collections) == ["other"]
    status, out, _ = bitfold("eval", tmp_path, "--collection", "kept")
    assert status == 0
    assert "nDCG@10" in out
    assert "there are no codes" in out
    assert "1 documents by minilm, 1 queries by minilm, 6 layers, 384 dimensions, 1.50 ms each" in out
    assert list(stub.collections) == ["other", "kept"]
    status, _, err = bitfold("eval", tmp_path, "--split", "none")
    assert status == 1
    assert "none.tsv" in err
    status, out, _ = bitfold("eval", tmp_path, "-c", "kept", "--query", "student:0:128", "--query", ":6")
    assert (status, len(out.splitlines())) == (0, 4)
    sizes = {(search.get("encoder"), *search["params"].values()) for search in stub.searches[-8:]}
    assert sizes == {("student", exact, 0, 128) for exact in (True, False)} | {
        (None, exact, 6) for exact in (True, False)
    }
    status, _, err = bitfold("eval", tmp_path, "--query", "student:x")
    assert status == 2
    assert "--query" in err


def test_settings_prints_the_table(bitfold):
    assert bitfold("settings")[1] == settings_table() + "\n"


def test_serve_refuses_a_reachable_host_and_unknown_settings(bitfold, monkeypatch):
    status, _, err = bitfold("serve", "--host", "0.0.0.0")
    assert status == 1
    assert "BITFOLD_ALLOW_INSECURE" in err
    monkeypatch.setenv("BITFOLD_PROT", "1")
    status, _, err = bitfold("serve")
    assert status == 1
    assert "did you mean BITFOLD_PORT" in err


def test_help_is_light():
    code = (
        "import sys, service.cli; "
        "heavy = {'pydantic', 'fastapi', 'torch', 'faiss', 'httpx', 'uvicorn', 'numpy'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_serve_runs_until_sigterm(tmp_path):
    port = free_port()
    root = Path(__file__).parent.parent
    environ = {name: value for name, value in os.environ.items() if not name.startswith("BITFOLD_")}
    environ |= {"PYTHONPATH": str(root), "BITFOLD_ENCODER": "none", "BITFOLD_PORT": str(port)}
    command = [
        sys.executable,
        "-c",
        "from service.cli import main; main()",
        "serve",
        "--data-dir",
        str(tmp_path / "d"),
    ]
    with subprocess.Popen(
        command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path
    ) as server:
        try:
            deadline = time.monotonic() + 60
            while True:
                assert server.poll() is None, server.stdout.read()
                with contextlib.suppress(httpx.TransportError):
                    if httpx.get(f"http://127.0.0.1:{port}/healthz").status_code == 200:
                        break
                assert time.monotonic() < deadline
                time.sleep(0.05)
        finally:
            server.send_signal(signal.SIGTERM)
            output, _ = server.communicate(timeout=60)
    assert server.returncode == 0, output
    assert f"http://127.0.0.1:{port}/docs" in output
    assert "Traceback" not in output


def test_demo_loads_the_sample_and_shows_five_searches(bitfold, stub):
    status, out, err = bitfold("demo")
    assert (status, err) == (0, "")
    assert stub.created == [("sample", {"encoder": "default"})]
    assert len(stub.collections["sample"]) >= 250
    assert f"{len(stub.collections['sample'])} documents" in out
    assert [search["query"] in out for search in stub.searches] == [True] * 5
    filters = [search["filter"] for search in stub.searches if "filter" in search]
    assert len(filters) == 1
    parsed = parse_filter(filters[0])
    points = stub.collections["sample"].values()
    matching = [point for point in points if parsed.matches(point["id"], point["payload"])]
    assert 3 <= len(matching) < len(points), "the filter must leave something to choose from"


def test_verify_tells_good_from_bad(bitfold, tmp_path):
    status, out, _ = bitfold("verify", tmp_path / "none")
    assert status == 1
    assert "problems: 1" in out
    store = Store(tmp_path / "data", TrainingFreeFactory(), StoreOptions(background=False))
    collection = store.create("c", CollectionConfig(2, "Dot"))
    vectors = np.array([[1, 2], [3, 4]], np.float32)
    hashes = [content_hash(vector.tobytes()) for vector in vectors]
    collection.upsert(Batch(ids=[1, 2], vectors=vectors, payloads=[b"{}"] * 2, texts=[None] * 2, hashes=hashes))
    store.close()
    status, out, _ = bitfold("verify", tmp_path / "data")
    assert (status, "problems: 0" in out) == (0, True)
    (file,) = (tmp_path / "data").rglob("*.vec")
    file.write_bytes(file.read_bytes()[:-4])
    status, out, _ = bitfold("verify", tmp_path / "data", "--json")
    assert status == 1
    assert "c" in json.loads(out)["problems"][0]["path"]
