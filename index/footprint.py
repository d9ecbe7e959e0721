"""How many bytes a collection takes, in memory and on disk, part by part: counted, and foretold for one to come.

Counted is what a collection allocates itself; what the allocator and SQLite add is a few per cent (docs/deployment.md).
Memory-mapped vectors are not in it: the system takes them back whenever it likes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from index.code_index import PLACE_BYTES
from index.collection import Collection
from index.fields.field import FieldKind
from index.graph import LINK_BYTES, NODE_BYTES
from index.info import folder_bytes
from index.kernels import BLOCK
from index.lists import lists_for
from index.number_ids import BYTES as ID_BYTES
from index.options import StoreOptions
from index.points import NUMPY_TYPES, CollectionConfig

LIST_OF = 2
BETA = 4
FLOAT = 4
# Of the record: what SQLite takes for a point beside its payload and text (measured, docs/deployment.md).
RECORD_POINT = 80
# Bytes of a payload index in memory and in its file for a point that has one value: (memory, file). Terms that are
# rare cost most. Measured by benchmarks/bench_filters.py.
FIELD_POINT: Mapping[FieldKind, tuple[float, float]] = {
    "bool": (1, 1),
    "keyword": (4, 4),
    "uuid": (160, 45),
    "integer": (130, 25),
    "float": (13, 13),
    "datetime": (13, 13),
    "text": (30, 20),
}


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes by part.

    Attributes
    ----------
    memory : `codes` (bit planes), `ids` (those that are whole numbers; positions in inverted lists, and the list of
        each), `links` (of graphs), `lists` (their centroids), `factors`, `rows` (which row lies where, and which
        count), `tail` (newest vectors, not coded yet), `payload_indexes`, `filters` (what those used last select),
        `binarizers`.
    disk : `vectors`, `record` (ids, payloads, texts), `codes`, `payload_indexes`.
    """

    memory: dict[str, int]
    disk: dict[str, int]


def memory_of(collection: Collection) -> dict[str, int]:
    """Count the bytes that a collection takes in memory, by part; with many terms in payload indexes, slowly."""
    view = collection.view
    parts = [segment.bytes_by_part() for segment in view.segments]
    names = ("codes", "ids", "links", "lists", "factors", "rows")
    memory = {name: sum(part.get(name, 0) for part in parts) for name in names}
    # What of the tail's buffer no vector has been written to, the system has not handed out yet.
    memory["tail"] = view.tail.vectors.nbytes + view.tail.alive.nbytes
    memory["payload_indexes"] = collection.fields.memory_bytes()
    memory["filters"] = collection.selections.memory_bytes()
    memory["binarizers"] = sum(len(binarizer.to_bytes()) for binarizer in view.binarizers.values())
    return memory


def footprint(collection: Collection) -> Footprint:
    """Count the bytes of a collection as it is."""
    folder = collection.folder
    disk = {name: folder_bytes(folder / name) for name in ("vectors", "codes")}
    disk |= {"record": collection.record.bytes_on_disk(), "payload_indexes": folder_bytes(folder / "fields")}
    return Footprint(memory_of(collection), disk)


def foretell(
    points: int,
    config: CollectionConfig,
    options: StoreOptions,
    *,
    payload_bytes: float = 0,
    text_bytes: float = 0,
    payload_indexes: Mapping[str, FieldKind] | None = None,
) -> Footprint:
    """Return what a collection of so many points will take at rest.

    Parameters
    ----------
    points : that count; overwritten ones take room until upkeep has been by.
    payload_bytes, text_bytes : of a point, mean.
    payload_indexes : field -> kind.
    """
    options = options.for_dimension(config.dimension)
    m = -(-(config.code_dimension or config.dimension) // 8) * 8
    tail = points if points < options.first_fit else min(points, options.tail_rows)
    coded = points if points >= options.first_fit else 0
    each = config.bits * (2 if config.distance == "Cosine" else FLOAT) + (BETA if config.distance == "Euclid" else 0)
    factors = each * coded
    code_bytes = config.bits * m // 8
    kinds = list((payload_indexes or {}).values())
    large = coded >= options.list_rows
    nodes = coded if large and config.index == "graph" else 0
    lists = lists_for(coded) if large and config.index == "lists" and config.store_vectors else 0
    padding = BLOCK * max(1, lists) // 2 if coded and not nodes else 0  # the last block of a list is half empty
    # Of norms that differ, codes lie in a few bands.
    list_of = 0 if not lists else 1 if lists <= 256 else LIST_OF
    list_of = list_of or int(config.distance != "Cosine")
    placed = PLACE_BYTES * (coded + padding) + list_of * coded if list_of and not nodes else 0
    memory = {
        "codes": padding * m // 8 + coded * config.bits * m // 8,
        "ids": placed + ID_BYTES * coded,
        "links": round(NODE_BYTES * nodes),
        "lists": lists * config.dimension,
        "factors": factors,
        "rows": points // 8,
        "tail": tail * (FLOAT * config.dimension + 1),
        "payload_indexes": round(sum(FIELD_POINT[kind][0] for kind in kinds) * points) + points // 8,
        "binarizers": FLOAT * config.dimension * (m + 2) if coded else 0,
    }
    vectors = points * config.dimension * NUMPY_TYPES[config.dtype].itemsize if config.store_vectors else 0
    disk = {
        "vectors": vectors,
        "codes": coded * code_bytes
        + factors
        + lists * FLOAT * config.dimension
        + (LIST_OF * coded if lists else 0)
        + round((LINK_BYTES + FLOAT) * nodes),
        "record": round(points * (RECORD_POINT + payload_bytes + text_bytes)),
        "payload_indexes": round(sum(FIELD_POINT[kind][1] for kind in kinds) * points),
    }
    return Footprint(memory, disk)
