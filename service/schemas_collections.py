"""What clients may send about collections: how one is made, what of it can change, which fields to index."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import BeforeValidator, ConfigDict, Field, WithJsonSchema

from index.fields.field import FieldKind
from service.fields import FilterField, NoEffect, Nothing, Unsupported
from service.responses import ApiError
from service.schemas import Request, checked
from service.schemas_search import Params


class VectorParams(Request):
    """The one vector of a collection."""

    size: int = Field(ge=1, le=65_536)
    distance: Literal["Cosine", "Dot", "Euclid"]
    datatype: Literal["float32", "float16"] | None = None
    multivector_config: Unsupported = None
    hnsw_config: NoEffect = None
    quantization_config: NoEffect = None
    on_disk: NoEffect = None
    memory: NoEffect = None


def _unnamed(value: object) -> object:
    """Take the vector out of a map of named vectors, of which only the unnamed one exists here."""
    if isinstance(value, dict) and value and "size" not in value and "distance" not in value:
        if list(value) != [""]:
            raise ValueError('a collection has one unnamed vector: send {size, distance} or {"": {size, distance}}')
        return value[""]
    return value


class EncoderPair(Request):
    """Who encodes what is stored, and who encodes what is asked: two encoders of one space."""

    document: str = Field(min_length=1)
    query: str = Field(min_length=1)


class Own(Request):
    """What only Bitfold knows of a new collection: its encoder, and how its codes are kept.

    `encoder`: an encoder for both sides, a pair by its name, or a document and a query encoder.
    `bits`: bits a dimension. `code_dimensions`: dimensions of the codes, None for all of the vectors'.
    `store_vectors`: whether full-precision vectors are kept beside the codes.
    `index`: what large segments get, inverted lists or a graph, which is over codes of four bits.
    """

    encoder: str | EncoderPair | None = None
    bits: Annotated[
        int | None, WithJsonSchema({"anyOf": [{"type": "integer", "enum": [1, 2, 4]}, {"type": "null"}]})
    ] = None
    code_dimensions: int | None = Field(default=None, ge=1, le=65_536)
    store_vectors: bool | None = None
    index: Literal["lists", "graph"] | None = None


# Qdrant clients may carry what only our own PUT knows in `metadata`, which is free in their models.
METADATA_KEY: Final = "bitfold"


class CreateCollection(Own):
    """`vectors` for a collection of vectors, `encoder` for one of texts."""

    model_config = ConfigDict(json_schema_extra={"example": {"encoder": "default"}})
    vectors: Annotated[VectorParams | None, BeforeValidator(_unnamed)] = None
    datatype: Literal["float32", "float16"] | None = None
    metadata: dict[str, Any] | None = None
    sparse_vectors: Nothing = None
    shard_number: NoEffect = None
    sharding_method: NoEffect = None
    replication_factor: NoEffect = None
    write_consistency_factor: NoEffect = None
    on_disk_payload: NoEffect = None
    payload: NoEffect = None
    id_tracker: NoEffect = None
    hnsw_config: NoEffect = None
    wal_config: NoEffect = None
    optimizers_config: NoEffect = None
    quantization_config: NoEffect = None
    strict_mode_config: NoEffect = None

    def own(self) -> Own:
        """Return what the body and its `metadata.bitfold` say together.

        Raises ApiError (400) where that object is not of this shape, or says something else than the body.
        """
        path = f"metadata.{METADATA_KEY}"
        carried = (self.metadata or {}).get(METADATA_KEY)
        other = Own() if carried is None else checked(Own, carried, path)
        together: dict[str, Any] = {}
        for key in Own.model_fields:
            here, there = getattr(self, key), getattr(other, key)
            if None not in (here, there) and here != there:
                raise ApiError(
                    400, "invalid_request", f"{key} is {here!r}, and {path}.{key} is {there!r}", param=key,
                    hint="say it in one place",
                )  # fmt: skip
            together[key] = there if here is None else here
        return Own(**together)


class Plan(CreateCollection):
    """A collection to come: what a new one is made of, and how much will be in it.

    `points`: how many. `payload_bytes`, `text_bytes`: of a point, mean. `payload_indexes`: field -> type.
    """

    model_config = ConfigDict(
        json_schema_extra={"example": {"points": 1_000_000, "vectors": {"size": 384, "distance": "Cosine"}, "bits": 2}}
    )
    points: int = Field(ge=0, le=10**12)
    payload_bytes: float = Field(default=0, ge=0, le=10**9)
    text_bytes: float = Field(default=0, ge=0, le=10**9)
    payload_indexes: dict[str, FieldKind] = Field(default_factory=dict)


class VectorsDiff(Request):
    """What Qdrant lets change about a vector; nothing of it has an effect here."""

    hnsw_config: NoEffect = None
    quantization_config: NoEffect = None
    on_disk: NoEffect = None
    memory: NoEffect = None


class UpdateCollection(Request):
    """Only `metadata` can change: keys are merged, an empty object removes all."""

    model_config = ConfigDict(json_schema_extra={"example": {"metadata": {"owner": "library"}}})
    metadata: dict[str, Any] | None = None
    sparse_vectors: Nothing = None
    vectors: Annotated[VectorsDiff | None, BeforeValidator(_unnamed)] = None
    params: NoEffect = None
    hnsw_config: NoEffect = None
    optimizers_config: NoEffect = None
    quantization_config: NoEffect = None
    strict_mode_config: NoEffect = None


class FieldSchema(Request):
    """A payload index with any of the parameters that Qdrant's indexes have, kept as sent."""

    type: FieldKind
    is_tenant: bool | None = None
    is_principal: bool | None = None
    on_disk: bool | None = None
    memory: str | None = None
    enable_hnsw: bool | None = None
    prefix: Any = None
    nested: Any = None
    lookup: bool | None = None
    range: bool | None = None
    tokenizer: str | None = None
    min_token_len: int | None = None
    max_token_len: int | None = None
    lowercase: bool | None = None
    ascii_folding: bool | None = None
    phrase_matching: bool | None = None
    stopwords: Any = None
    stemmer: Any = None
    scoring: Any = None


def _named_type(value: object) -> object:
    if value is None:
        raise ValueError('name the type of the field, as in "keyword": it is not guessed from the payloads')
    return value


class CreateIndex(Request):
    """A payload field to index."""

    model_config = ConfigDict(json_schema_extra={"example": {"field_name": "topic", "field_schema": "keyword"}})
    field_name: str = Field(min_length=1, max_length=512)
    field_schema: Annotated[FieldKind | FieldSchema, BeforeValidator(_named_type)]


class Train(Request):
    """How to train a binarizer on the vectors of a collection; all of it has defaults.

    `bits`: as the collection keeps. `dimensions`: of the codes. `sample`: vectors to train on, at most. `upgrade`:
    whether codes made before are made again at the end. `force`: whether it is used though it finds less.
    """

    model_config = ConfigDict(json_schema_extra={"example": {}})
    may_be_empty: ClassVar[bool] = True
    bits: int | None = Field(default=None, ge=1, le=8)
    dimensions: int | None = Field(default=None, ge=1, le=65_536)
    sample: int | None = Field(default=None, ge=1, le=10_000_000)
    epochs: int | None = Field(default=None, ge=1, le=10_000)
    seed: int = Field(default=0, ge=0, le=2**32 - 1)
    upgrade: bool = True
    force: bool = False


class MeasureRecall(Request):
    """How to measure recall now; all of it has defaults.

    `queries`: how many, those asked last and then stored points. `limit`: k of recall@k.
    """

    model_config = ConfigDict(json_schema_extra={"example": {"queries": 50, "params": {"target_recall": 0.95}}})
    may_be_empty: ClassVar[bool] = True
    queries: int = Field(default=20, ge=1, le=1000)
    limit: int | None = Field(default=None, ge=1)
    filter: FilterField = None
    params: Params | None = None


class Upgrade(Request):
    """Nothing to choose."""

    model_config = ConfigDict(json_schema_extra={"example": {}})
    may_be_empty: ClassVar[bool] = True
