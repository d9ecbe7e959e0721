"""What a collection tells of itself: counts, sizes, binarizers."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from index.code_index import PLACE_BYTES
from index.number_ids import BYTES as ID_BYTES
from index.points import BinarizerInfo, CodesOnlyLoss, CollectionConfig, CollectionInfo, IndexInfo
from index.record import Record
from index.view import View


def describe(
    view: View,
    config: CollectionConfig,
    record: Record,
    *,
    mapped: bool,
    building: float | None,
    read_only: str | None,
    loss: CodesOnlyLoss | None,
) -> CollectionInfo:
    """Return counts and sizes of the collection in a record's folder.

    mapped : codes stay in their files.
    building : how much of the layout that upkeep is making is done, 0 to 1.
    """
    folder = record.path.parent
    coded = sum(segment.count for segment in view.segments)
    code_bytes = sum(segment.bytes_per_point * segment.count for segment in view.segments)
    newest = view.newest
    binarizers = [
        BinarizerInfo(
            version=version,
            name=binarizer.identity,
            learned=binarizer.learned,
            points=sum(segment.count for segment in view.segments if segment.binarizer == version),
        )
        for version, binarizer in sorted(view.binarizers.items())
    ]
    disk = {name: folder_bytes(folder / name) for name in ("vectors", "codes")}
    laid_out = sum(segment.count for segment in view.segments if not segment.scanned_whole)
    planned = -(-(config.code_dimension or config.dimension) // 8) * 8
    return CollectionInfo(
        points=view.points,
        indexed=coded,
        segments=len(view.segments),
        rows=view.tail.end_row,
        code_bytes_per_point=code_bytes / coded if coded else 0.0,
        vector_bytes=disk["vectors"],
        record_bytes=record.bytes_on_disk(),
        code_file_bytes=disk["codes"],
        read_only=read_only,
        bits=newest.bits if newest else config.bits,
        code_dimension=newest.code_dimension if newest else planned,
        codes_mapped=mapped,
        binarizers=binarizers,
        index=IndexInfo(config.index, laid_out, None if building is None else round(building, 3)),
        codes_only=loss,
    )


def codes_in_memory(folder: Path, points: int) -> int:
    """Return about how many bytes the codes in a folder's files take in memory, of so many points."""
    return folder_bytes(folder) + (PLACE_BYTES + ID_BYTES) * points


def folder_bytes(folder: Path) -> int:
    """Return the size of the files in a folder; 0 if there is none."""
    total = 0
    with suppress(FileNotFoundError):
        for path in folder.iterdir():
            with suppress(FileNotFoundError):  # upkeep replaces files meanwhile
                total += path.stat().st_size
    return total
