"""Payload indexes in files of their own, derived: so that a start reads what came since, not every payload.

`fields/<digest of the path>.idx` holds an index as of some commit. What was edited since, in place, the record notes
by a trigger from the first save on, whoever edits; what came since lies behind the index's last row.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from index import durable
from index.blobs import DamagedBlobs, load_blobs, save_blobs
from index.fields.field import FieldIndex, FieldKind
from index.fields.indexes import PayloadIndexes
from index.paths import Path as FieldPath
from index.record import Reader, Writer

log = logging.getLogger(__name__)

MAGIC = b"BFFIELD1"


@dataclass(frozen=True, slots=True)
class SavedIndex:
    """An index that has read the rows below `end_row`, but for rows in `edited`, which hold something else now."""

    index: FieldIndex
    end_row: int
    edited: list[int]


def save_indexes(folder: Path, indexes: PayloadIndexes, transact: Callable[[Callable[[Writer], None]], None]) -> None:
    """Save all complete indexes; they are durable when this returns.

    Parameters
    ----------
    folder : for the files.
    transact : runs a change of the record in a commit of its own.

    Raises
    ------
    DiskFull
        Files that are there stay as they were.
    """
    durable.make_folder(folder)
    transact(Writer.note_edits)

    followed = []
    for state in indexes.to_save():
        about = {"path": state.path.steps, "kind": state.kind, "seq": state.seq, "end_row": state.end_row}
        save_blobs(_file(folder, state.path), MAGIC, about, state.blobs, synced=True)
        followed.append(state.seq)
    if followed:
        transact(lambda writer: writer.forget_edits(min(followed)))


def load_index(folder: Path, path: FieldPath, kind: FieldKind, reader: Reader, end_row: int) -> SavedIndex | None:
    """Load the index of a field; None if there is none that fits, which is then removed.

    Parameters
    ----------
    reader, end_row : of the commit to which it will be brought.
    """
    file = _file(folder, path)
    if not file.exists():
        return None
    try:
        about, blobs = load_blobs(file, MAGIC)
        edited = reader.edited_after(about["seq"])
        fits = about["path"] == list(path.steps) and about["kind"] == kind
        if fits and edited is not None and about["seq"] <= reader.seq() and about["end_row"] <= end_row:
            return SavedIndex(FieldIndex.from_blobs(path, kind, blobs), about["end_row"], edited)
        log.info("%s is no longer what is wanted", file)
    except (DamagedBlobs, ValueError, KeyError, TypeError) as error:
        log.warning("a payload index is filled from the payloads again: %s: %s", file, error)
    file.unlink(missing_ok=True)
    return None


def remove_index(folder: Path, path: FieldPath) -> None:
    """Remove the file of a field's index, if there is one."""
    _file(folder, path).unlink(missing_ok=True)


def _file(folder: Path, path: FieldPath) -> Path:
    return folder / f"{hashlib.sha256(repr(path.steps).encode()).hexdigest()[:16]}.idx"
