"""The stock qdrant-client against a live server: every operation that is promised, as its users call it."""

from __future__ import annotations

import uuid
from importlib import metadata

import pytest
from qdrant_client import QdrantClient, models
from qdrant_client.common.version_check import is_compatible
from qdrant_client.http.exceptions import UnexpectedResponse

from tests.conftest import WORDS

DIMENSION = len(WORDS)
UUID = str(uuid.UUID(int=7))


def axis(i, value=1.0):
    vector = [0.0] * DIMENSION
    vector[i] = value
    return vector


@pytest.fixture
def client(shared_server):
    # cloud_inference sends documents to the server instead of encoding them in the client.
    client = QdrantClient(url=shared_server.url, cloud_inference=True)
    yield client
    client.close()


@pytest.fixture
def filled(client, name):
    """A collection with three points, written in both forms."""
    client.create_collection(
        name,
        vectors_config=models.VectorParams(size=DIMENSION, distance=models.Distance.COSINE, on_disk=True),
        hnsw_config=models.HnswConfigDiff(m=16),
        quantization_config=models.BinaryQuantization(binary=models.BinaryQuantizationConfig(always_ram=True)),
        metadata={"owner": "tests"},
    )
    client.upsert(
        name,
        points=[
            models.PointStruct(id=1, vector=axis(0), payload={"city": "Oslo", "year": 1990}),
            models.PointStruct(id=UUID, vector=axis(1), payload={"city": "Rome", "year": 2005}),
        ],
        wait=True,
    )
    client.upsert(name, points=models.Batch(ids=[2], vectors=[axis(2)], payloads=[{"city": "Oslo", "year": 2020}]))
    return name


def test_the_client_finds_the_server_compatible(client):
    info = client.info()
    assert info.title == "bitfold"
    assert is_compatible(metadata.version("qdrant-client"), info.version)


def test_collections(client, filled):
    assert client.collection_exists(filled)
    assert not client.collection_exists("no-such")
    assert filled in [c.name for c in client.get_collections().collections]
    info = client.get_collection(filled)
    assert info.status == models.CollectionStatus.GREEN
    assert info.points_count == 3
    assert info.config.params.vectors.size == DIMENSION
    assert info.config.params.vectors.distance == models.Distance.COSINE
    assert info.config.metadata == {"owner": "tests"}
    assert client.update_collection(filled, optimizers_config=models.OptimizersConfigDiff(indexing_threshold=0))
    assert client.update_collection(filled, metadata={"more": 1})
    assert client.get_collection(filled).config.metadata == {"owner": "tests", "more": 1}
    with pytest.raises(UnexpectedResponse, match="collection_exists"):
        client.create_collection(filled, vectors_config=models.VectorParams(size=2, distance=models.Distance.DOT))
    assert client.delete_collection(filled)
    assert not client.collection_exists(filled)


def test_the_map_form_with_the_unnamed_vector(client, name):
    client.create_collection(
        name,
        vectors_config={"": models.VectorParams(size=DIMENSION, distance=models.Distance.EUCLID)},
        sparse_vectors_config={},
    )
    client.upsert(name, [models.PointStruct(id=1, vector={"": axis(0)}, payload={})])
    hits = client.query_points(name, query=axis(1), using="").points
    assert (hits[0].id, round(hits[0].score, 5)) == (1, 1.41421)


def test_payload_indexes(client, filled):
    client.create_payload_index(filled, "city", models.PayloadSchemaType.KEYWORD)
    client.create_payload_index(filled, "year", models.IntegerIndexParams(type=models.IntegerIndexType.INTEGER))
    schema = client.get_collection(filled).payload_schema
    assert {key: value.data_type.value for key, value in schema.items()} == {
        "city": "keyword",
        "year": "integer",
    }
    client.delete_payload_index(filled, "city")
    assert list(client.get_collection(filled).payload_schema) == ["year"]


def test_retrieve_scroll_count(client, filled):
    records = client.retrieve(filled, ids=[2, UUID], with_payload=["city"], with_vectors=True)
    assert [(r.id, r.payload, r.vector) for r in records] == [
        (2, {"city": "Oslo"}, axis(2)),
        (UUID, {"city": "Rome"}, axis(1)),
    ]
    first, offset = client.scroll(filled, limit=2)
    rest, end = client.scroll(filled, limit=2, offset=offset)
    assert ([r.id for r in first], [r.id for r in rest], end) == ([1, 2], [UUID], None)
    oslo = models.Filter(must=[models.FieldCondition(key="city", match=models.MatchValue(value="Oslo"))])
    assert client.count(filled, count_filter=oslo).count == 2
    by_id, _ = client.scroll(filled, scroll_filter=models.Filter(must=[models.HasIdCondition(has_id=[UUID])]))
    assert [r.id for r in by_id] == [UUID]


def test_query_by_vector_point_and_batch(client, filled):
    hits = client.query_points(filled, query=axis(0, 3.0), limit=2, with_payload=True, with_vectors=True).points
    assert (hits[0].id, hits[0].score, hits[0].payload, hits[0].vector) == (
        1, 1.0, {"city": "Oslo", "year": 1990}, axis(0),
    )  # fmt: skip
    assert [h.id for h in client.query_points(filled, query=UUID).points] == [1, 2]
    assert client.query_points(filled, query=axis(0), score_threshold=0.5).points[-1].id == 1
    recent = models.Filter(
        must=[models.FieldCondition(key="year", range=models.Range(gte=2000))],
        must_not=[models.FieldCondition(key="city", match=models.MatchAny(any=["Rome"]))],
    )
    params = models.SearchParams(exact=True, hnsw_ef=128, indexed_only=False)
    hits = client.query_points(filled, query=axis(0), query_filter=recent, search_params=params, offset=0).points
    assert [h.id for h in hits] == [2]
    batch = client.query_batch_points(
        filled,
        requests=[
            models.QueryRequest(query=axis(0), limit=1),
            models.QueryRequest(query=models.NearestQuery(nearest=axis(2)), limit=1, with_payload=True),
        ],
    )
    assert [answer.points[0].id for answer in batch] == [1, 2]
    assert batch[1].points[0].payload == {"city": "Oslo", "year": 2020}


def test_delete_by_ids_and_filter(client, filled):
    client.delete(filled, points_selector=[1])
    oslo = models.Filter(should=[models.FieldCondition(key="city", match=models.MatchValue(value="Oslo"))])
    client.delete(filled, points_selector=models.FilterSelector(filter=oslo))
    assert [r.id for r in client.scroll(filled)[0]] == [UUID]


def test_payload_set_overwrite_delete_clear(client, filled):
    def payload():
        return client.retrieve(filled, [1])[0].payload

    client.set_payload(filled, payload={"new": {"a": 1}}, points=[1])
    client.set_payload(filled, payload={"b": 2}, points=[1], key="new")
    assert payload() == {"city": "Oslo", "year": 1990, "new": {"a": 1, "b": 2}}
    client.delete_payload(filled, keys=["year", "new.a"], points=[1])
    assert payload() == {"city": "Oslo", "new": {"b": 2}}
    client.overwrite_payload(filled, payload={"only": 1}, points=[1])
    assert payload() == {"only": 1}
    client.clear_payload(filled, points_selector=[1])
    assert payload() == {}


def test_documents_are_encoded_by_the_server(client, name):
    client.create_collection(
        name,
        vectors_config=models.VectorParams(size=DIMENSION, distance=models.Distance.COSINE),
        metadata={"bitfold": {"encoder": "default"}},
    )
    client.upsert(
        name,
        [
            models.PointStruct(id=1, vector=models.Document(text="red sun", model="fake"), payload={"n": 1}),
            models.PointStruct(id=2, vector=models.Document(text="blue moon", model="fake"), payload={"n": 2}),
        ],
    )
    hits = client.query_points(name, query=models.Document(text="moon", model="default"), limit=1).points
    assert (hits[0].id, round(hits[0].score, 5)) == (2, 0.70711)


def test_errors_reach_the_client_with_their_reason(client, filled):
    with pytest.raises(UnexpectedResponse, match="does not exist"):
        client.get_collection("no-such")
    with pytest.raises(UnexpectedResponse, match="has 2 dimensions"):
        client.query_points(filled, query=[1.0, 2.0])
    with pytest.raises(UnexpectedResponse, match="there is no point 99"):
        client.query_points(filled, query=99)


def test_upload_points_in_batches(client, name):
    client.create_collection(name, vectors_config=models.VectorParams(size=DIMENSION, distance=models.Distance.DOT))
    points = [models.PointStruct(id=i, vector=axis(i % DIMENSION), payload={"i": i}) for i in range(100)]
    client.upload_points(name, points, batch_size=16, wait=True)
    assert client.count(name, exact=True).count == 100
