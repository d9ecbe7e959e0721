"""Random requests made from the OpenAPI document: no 5xx, and no answer that it does not declare.

Then requests with one wrong value anywhere, lines and names of any kind: a 4xx or an answer, never a 5xx.
"""

from __future__ import annotations

import json
from http.client import HTTPConnection
from urllib.parse import quote

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

from service.app import create_app
from service.settings import Settings
from tests.conftest import FakeEncoder, running

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
]
EXAMPLES = settings(deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
VECTORS = {"vectors": {"size": 2, "distance": "Dot"}}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with running(tmp_path_factory.mktemp("fuzz"), FakeEncoder()) as server:
        yield server


@pytest.fixture(scope="module")
def document(server):
    return schemathesis.openapi.from_url(f"{server.url}/openapi.json")


# Known before a server runs: building the document does no I/O.
OPERATIONS = [
    (path, method) for path, operations in create_app(Settings()).openapi()["paths"].items() for method in operations
]


@schemathesis.serializer("application/x-ndjson")
def lines(_, value):
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "replace")


@pytest.mark.parametrize("mode", list(GenerationMode))
@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_requests_from_the_document(server, document, path, method, mode):
    operation = document[path][method.upper()]
    if mode.is_negative and (path.endswith("/bulk") or not (operation.body or operation.query)):
        pytest.skip("every string is a name, and any bytes are lines: nothing to send wrong")

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(EXAMPLES, max_examples=10)
    def check(case):
        if "collection" in (case.path_parameters or {}):
            # Requests should get past the name; some drop the collection, so it is made again.
            server.http.put("/collections/fuzz", json=VECTORS)
            case.path_parameters["collection"] = "fuzz"
        case.call_and_validate(checks=CHECKS)

    check()


def nested(depth):
    value = 1
    for i in range(depth):
        value = [value] if i % 2 else {"a": value}
    return value


VALUES = st.one_of(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=4), children, max_size=4),
        max_leaves=8,
    ),
    st.sampled_from([nested(40), nested(240), nested(900), 2**64, -(2**63) - 1, 1e308, "\0", "x" * 600, {}, []]),
)
POINT = {"id": 1, "vector": [1.0, 2.0], "payload": {"a": {"b": 1}}}
FILTER = {
    "must": [{"key": "a.b", "match": {"value": 1}}, {"has_id": [1, "x"]}],
    "should": {"key": "a", "range": {"gte": 1, "lt": 2.5}},
    "must_not": [{"is_empty": {"key": "c"}}, {"nested": {"key": "d", "filter": {"must": []}}}],
    "min_should": {"conditions": [{"key": "a[]", "values_count": {"gt": 0}}], "min_count": 1},
}
QUERY = {
    "query": [1.0, 2.0], "filter": FILTER, "limit": 3, "offset": 0, "score_threshold": 0.5,
    "params": {"exact": True, "candidates": 5, "rerank": 0, "bits": 1, "symmetric": False},
    "with_payload": {"include": ["a.b"]},
}  # fmt: skip
REQUESTS = {
    ("PUT", ""): {
        "vectors": {"size": 2, "distance": "Dot", "datatype": "float32"},
        "bits": 2,
        "code_dimensions": 1,
        "store_vectors": True,
        "index": "lists",
        "metadata": {"bitfold": {"bits": 2, "code_dimensions": 1}},
    },
    ("PATCH", ""): {"metadata": {"a": {"b": 1}}},
    ("PUT", "/index"): {"field_name": "a", "field_schema": {"type": "text", "min_token_len": 1}},
    ("PUT", "/points"): {"points": [POINT, {**POINT, "id": "x", "vector": {"": [1.0, 2.0]}}]},
    ("POST", "/points"): {"ids": [1, "x"], "with_payload": ["a"], "with_vector": [""]},
    ("POST", "/points/delete"): {"filter": FILTER},
    ("POST", "/points/payload"): {"payload": {"a": 1}, "key": "b.c", "points": [1]},
    ("PUT", "/points/payload"): {"payload": {"a": {"b": 2}}, "filter": FILTER},
    ("POST", "/points/payload/delete"): {"keys": ["a.b"], "points": [1]},
    ("POST", "/points/query"): QUERY,
    ("POST", "/points/query/batch"): {"searches": [QUERY, {"query": {"nearest": 1}}, {"query": {"text": "red"}}]},
    ("POST", "/points/scroll"): {"offset": 1, "filter": FILTER, "with_payload": True},
    ("POST", "/points/count"): {"filter": FILTER, "exact": True},
    ("POST", "/search"): QUERY | {"with_text": True},
    ("POST", "/train"): {
        "bits": 2,
        "dimensions": 2,
        "sample": 300,
        "epochs": 1,
        "seed": 0,
        "upgrade": True,
        "force": True,
    },
    ("POST", "/upgrade"): {},
}


def places(value, path=()):
    """Yield the path of every value inside a JSON value."""
    yield path
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from places(child, (*path, key))


def replaced(value, path, new):
    if not path:
        return new
    copy = value.copy()
    copy[path[0]] = replaced(value[path[0]], path[1:], new)
    return copy


@pytest.mark.parametrize(("method", "route"), list(REQUESTS))
def test_one_wrong_value_anywhere_is_no_5xx(server, method, route):
    body = REQUESTS[method, route]

    @given(path=st.sampled_from(list(places(body))), new=VALUES)
    @settings(EXAMPLES, max_examples=40)
    def check(path, new):
        server.http.put("/collections/fuzz", json=VECTORS)
        server.http.put("/collections/fuzz/points", json={"points": [POINT]})
        changed = json.dumps(replaced(body, path, new)).encode()
        response = server.http.request(method, f"/collections/fuzz{route}", content=changed)
        assert response.status_code < 500, (response.text, changed)
        assert "time" in response.json()

    check()


EMBED = {
    "model": "default",
    "input": ["red", "sun moon"],
    "dimensions": 8,
    "layers": 1,
    "encoding_format": "base64",
    "embedding_types": ["ubinary", "float"],
    "input_type": "query",
    "truncate": False,
    "user": "someone",
}


def test_one_wrong_value_to_embed_is_no_5xx(server, document):
    right = document["/v1/embeddings"]["POST"].Case(body=EMBED, media_type="application/json")
    assert right.call_and_validate(checks=CHECKS).status_code == 200

    @given(path=st.sampled_from(list(places(EMBED))), new=VALUES)
    @settings(EXAMPLES, max_examples=100)
    def check(path, new):
        changed = json.dumps(replaced(EMBED, path, new)).encode()
        response = server.http.post("/v1/embeddings", content=changed)
        assert response.status_code < 500, (response.text, changed)
        assert ("data" if response.status_code == 200 else "error") in response.json()

    check()


@given(
    body=st.lists(
        st.binary(max_size=30)
        | st.tuples(st.sampled_from(list(places(POINT))), VALUES).map(
            lambda change: json.dumps(replaced(POINT, *change)).encode()
        ),
        max_size=8,
    )
)
@settings(EXAMPLES, max_examples=40)
def test_any_lines_are_no_5xx(server, body):
    server.http.put("/collections/fuzz", json=VECTORS)
    data = b"\n".join([*body, json.dumps(POINT).encode()])
    response = server.http.post("/collections/fuzz/points/bulk", content=data)
    assert response.status_code == 200, response.text
    result = response.json()["result"]
    assert result["accepted"] >= 1
    assert result["rejected"] == len(result["errors"])


@pytest.mark.parametrize("route", ["/collections/{}", "/collections/{}/exists", "/collections/fuzz/points/{}"])
def test_any_name_in_a_path_is_no_5xx(server, route):
    @given(name=st.text(min_size=1, max_size=20) | st.sampled_from(["..", ".", "%", "\0", "a/b", "é" * 200]))
    @settings(EXAMPLES, max_examples=40)
    def check(name):
        path = route.format(quote(name.encode("utf-8", "surrogatepass"), safe=""))
        for method in ("GET", "DELETE", "PUT", "POST", "PATCH"):
            connection.request(method, path, b'{"vectors":{"size":2,"distance":"Dot"}}')
            response = connection.getresponse()
            body = json.loads(response.read())
            assert response.status < 500, (method, path, body)

    connection = HTTPConnection(server.url.removeprefix("http://"))
    check()
    connection.close()
