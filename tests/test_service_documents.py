"""Files of every format become the same native lines, and errors name the place."""

import base64
import datetime
import decimal
import gzip
import json
import struct

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from service.documents import DocumentError, Fields, estimate_count, first_dimension, read_documents


def read(path, **fields):
    return [(d.number, json.loads(d.line)) for d in read_documents(path, Fields(**fields))]


def test_native_lines_pass_untouched_even_bad_ones(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"id": 1,  "text": "x"}\r\n\nnot json\n{"id": 2}')
    assert list(read_documents(path)) == [
        (1, b'{"id": 1,  "text": "x"}'),
        (3, b"not json"),
        (4, b'{"id": 2}'),
    ]
    assert estimate_count(path) == 3


def test_beir_lines(tmp_path):
    path = tmp_path / "corpus.jsonl.gz"
    lines = [
        {"_id": "a", "title": "T", "text": "x y", "metadata": {"year": 1}},
        {"_id": "b", "title": "", "text": "z"},
        {"_id": "c", "text": "w", "metadata": {"title": "kept"}},
    ]
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, lines)).encode()))
    assert read(path) == [
        (1, {"id": "a", "text": "T x y", "payload": {"title": "T", "year": 1}}),
        (2, {"id": "b", "text": "z", "payload": {}}),
        (3, {"id": "c", "text": "w", "payload": {"title": "kept"}}),
    ]
    assert first_dimension(path) is None


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ("{", "c.jsonl:2: not JSON"),
        ("[]", "c.jsonl:2: not a JSON object"),
        ("{}", "c.jsonl:2: _id is missing"),
        ('{"_id": 1, "text": 5}', "c.jsonl:2: title and text must be strings"),
    ],
)
def test_broken_beir_line_is_named(tmp_path, second, message):
    path = tmp_path / "c.jsonl"
    path.write_text('{"_id": 1, "text": "a"}\n' + second + "\n")
    with pytest.raises(DocumentError, match=message):
        read(path)


def test_named_fields_of_json(tmp_path):
    path = tmp_path / "a.ndjson"
    path.write_text('{"key": 5, "body": "b", "n": 1, "payload": {"m": 2}}\n')
    assert read(path, id="key", text="body") == [(1, {"id": 5, "text": "b", "payload": {"n": 1, "m": 2}})]
    with pytest.raises(DocumentError, match="a.ndjson:1: id is missing"):
        read(path, text="body")


def test_csv_types_and_places(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(
        'id,text,n,zip,ok,none,list\r\n1,"two\nlines",1.5,01234,true,,"[1, 2]"\r\nx1,42,-3,1e2,no,,[a\r\n',
        encoding="utf-8-sig",
    )
    assert read(path) == [
        (2, {"id": 1, "text": "two\nlines",
             "payload": {"n": 1.5, "zip": "01234", "ok": True, "list": [1, 2]}}),
        (4, {"id": "x1", "text": "42", "payload": {"n": -3, "zip": 100.0, "ok": "no", "list": "[a"}}),
    ]  # fmt: skip


def test_tsv_with_vectors(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text("name\temb\tt\n7\t[1, 2, 3]\tq\n")
    assert read(path, id="name", vector="emb") == [(2, {"id": 7, "vector": [1, 2, 3], "payload": {"t": "q"}})]
    assert first_dimension(path, Fields(id="name", vector="emb")) == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("id,text\n1,a,b\n", "t.csv:2: the row does not have the 2 columns"),
        ("id,text\n1,a\n2\n", "t.csv:3: the row does not have the 2 columns"),
        ("id,text\n1,a\n,b\n", "t.csv:3: id is missing"),
        ("key,text\n1,a\n", "there is no column 'id' .*'key', 'text'.*--id-field"),
        ("id,body\n1,a\n", "there is no column 'text'"),
        ('id,text\n1,"a\n', "t.csv: unexpected end"),
        ("", "there is no column 'id'"),
    ],
)
def test_broken_csv_is_named(tmp_path, content, message):
    path = tmp_path / "t.csv"
    path.write_text(content)
    with pytest.raises(DocumentError, match=message):
        read(path)


def test_parquet(tmp_path):
    path = tmp_path / "a.parquet"
    day = datetime.date(2020, 1, 2)
    table = pa.table(
        {
            "id": [1, 2],
            "vector": pa.array([[1.0, 2.0], [3.0, 4.0]], pa.list_(pa.float32(), 2)),
            "day": [day, None],
            "price": [decimal.Decimal("1.50"), None],
            "tags": [["a"], []],
        }
    )
    pq.write_table(table, path)
    found = read(path)
    vector = base64.b64encode(struct.pack("<2f", 1, 2)).decode()
    assert found[0] == (
        1,
        {"id": 1, "vector": vector, "payload": {"day": "2020-01-02", "price": "1.50", "tags": ["a"]}},
    )
    assert found[1][0] == 2
    assert found[1][1]["payload"] == {"day": None, "price": None, "tags": []}
    assert (estimate_count(path), first_dimension(path)) == (2, 2)


def test_broken_parquet_is_named(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"id": [1, 2], "text": ["a", "b"], "blob": [b"\xff", b""]}), path)
    with pytest.raises(DocumentError, match="a.parquet, row 1: a value cannot be written as JSON"):
        read(path)
    pq.write_table(pa.table({"id": [1, 2], "vector": [[1.0], None], "text": [None, "b"]}), path)
    assert [set(line) for _, line in read(path)] == [{"id", "vector", "payload"}, {"id", "text", "payload"}]
    pq.write_table(pa.table({"id": [1], "vector": [[["x"]]]}), path)
    with pytest.raises(DocumentError, match="row 1, column 'vector': not a list of numbers"):
        read(path)
    path.write_bytes(b"PAR1 nonsense")
    with pytest.raises(DocumentError, match=r"a\.parquet: "):
        read(path)


@pytest.mark.parametrize("name", ["none.jsonl", "none.csv", "none.parquet", "none.jsonl.gz"])
def test_missing_file(tmp_path, name):
    with pytest.raises(DocumentError, match=f"{name}: there is no such file"):
        read(tmp_path / name)


def test_damaged_files(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"id": 1}\n' * 1000)[:-20])
    with pytest.raises(DocumentError, match=r"a\.jsonl\.gz: "):
        read(path)
    path = tmp_path / "a.csv"
    path.write_bytes(b"id,text\n1,\xff\xfe\n")
    with pytest.raises(DocumentError, match=r"a\.csv: .*utf-8"):
        read(path)
    with pytest.raises(DocumentError, match="format is not known"):
        read(tmp_path / "a.docx")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(DocumentError, match="no documents"):
        first_dimension(tmp_path / "empty.jsonl")


@pytest.mark.parametrize(("vector", "dimension"), [([1, 2, 3], 3), ("AACAPwAAAEAAAEBA", 3), ("AACAPw==", 1)])
def test_first_dimension(tmp_path, vector, dimension):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"id": 1, "vector": vector}))
    assert first_dimension(path) == dimension
