"""What a disk may hold after a power cut, computed from a recording of one process's input and output.

Reads what `tests/data/record_io.c` writes. The rules, no kinder than POSIX: the content of a file is certain
up to its last fsync or fdatasync, a name (made, renamed, removed) up to the last fsync of its folder, and
whatever came later may be there or not, in any combination, writes torn at 512 bytes.

Knows nothing of Bitfold.
"""

from __future__ import annotations

import os
import posixpath
import shutil
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

SOURCE = Path(__file__).parent / "data" / "record_io.c"
ENTRY = struct.Struct("<BiqIQ")
SECTOR = 512
# SQLite's shared memory is rebuilt by whoever opens the database first; it is written through a mapping.
NOT_ON_DISK = "-shm"


def build_recorder(folder: Path) -> Path:
    """Compile the recorder; raises RuntimeError when there is no C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise RuntimeError("no C compiler")
    library = folder / "record_io.so"
    command = [compiler, "-O1", "-shared", "-fPIC", "-o", str(library), str(SOURCE), "-ldl", "-lpthread"]
    subprocess.run(command, check=True, capture_output=True)
    return library


@dataclass(frozen=True, slots=True)
class Event:
    """One recorded call; see `record_io.c`."""

    op: str
    fd: int
    value: int
    path: str
    data: bytes


def read_events(log: Path) -> list[Event]:
    """Read a whole recording."""
    raw = log.read_bytes()
    events, at = [], 0
    while at < len(raw):
        op, fd, value, path_bytes, data_bytes = ENTRY.unpack_from(raw, at)
        at += ENTRY.size
        path = posixpath.normpath(os.fsdecode(raw[at : at + path_bytes])) if path_bytes else ""
        at += path_bytes
        events.append(Event(chr(op), fd, value, path, raw[at : at + data_bytes]))
        at += data_bytes
    return events


@dataclass(eq=False)
class File:
    """A file's certain content, and changes since: `(offset, bytes)`, or `(length, None)` for a cut."""

    certain: bytes = b""
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)

    def sync(self) -> None:
        self.certain, self.pending = content(self.certain, self.pending), []


@dataclass(eq=False)
class Folder:
    """A folder's certain names, and changes since: names to set together, None for a name that goes."""

    certain: dict[str, Node] = field(default_factory=dict)
    pending: list[dict[str, Node | None]] = field(default_factory=list)

    def sync(self) -> None:
        self.certain, self.pending = names(self.certain, self.pending), []


Node = File | Folder


def content(base: bytes, changes: list[tuple[int, bytes | None]]) -> bytes:
    """Apply writes and cuts to a file's bytes; gaps are zeros."""
    out = bytearray(base)
    for at, data in changes:
        end = at if data is None else at + len(data)
        if len(out) < end:
            out.extend(bytes(end - len(out)))
        if data is None:
            del out[at:]
        else:
            out[at:end] = data
    return bytes(out)


def names(base: dict[str, Node], changes: list[dict[str, Node | None]]) -> dict[str, Node]:
    """Apply changes to a folder's names."""
    out = dict(base)
    for change in changes:
        for name, node in change.items():
            if node is None:
                out.pop(name, None)
            else:
                out[name] = node
    return out


class Disk:
    """Follows a recording. `root` is the recorded folder, empty and certain at the start."""

    def __init__(self, root: Path) -> None:
        self._prefix = str(root)
        self.root = Folder()
        self._open: dict[int, Node] = {}

    def _split(self, path: str) -> tuple[Folder, str]:
        parent = self._find(posixpath.dirname(path))
        if not isinstance(parent, Folder):
            raise ValueError(f"{path}: its folder was not recorded")
        return parent, posixpath.basename(path)

    def _find(self, path: str) -> Node | None:
        node: Node | None = self.root
        for part in filter(None, path.removeprefix(self._prefix).split("/")):
            node = names(node.certain, node.pending).get(part) if isinstance(node, Folder) else None
        return node

    def apply(self, event: Event) -> None:
        """Take the next event."""
        if event.op == "O":
            self._open[event.fd] = self._opened(event)
        elif event.op == "C":
            self._open.pop(event.fd, None)
        elif event.op in "WT":
            file = self._open[event.fd]
            if not isinstance(file, File):
                raise ValueError("a write to a folder")
            file.pending.append((event.value, event.data if event.op == "W" else None))
        elif event.op == "S":
            self._open[event.fd].sync()
        else:
            self._change_names(event)

    def _opened(self, event: Event) -> Node:
        node = self._find(event.path)
        if node is None:
            folder, name = self._split(event.path)
            node = File()
            folder.pending.append({name: node})
        if event.value & os.O_TRUNC and isinstance(node, File):
            node.pending.append((0, None))
        return node

    def _change_names(self, event: Event) -> None:
        folder, name = self._split(event.path)
        if event.op == "M":
            folder.pending.append({name: Folder()})
        elif event.op == "U":
            folder.pending.append({name: None})
        else:
            target, new = self._split(posixpath.normpath(os.fsdecode(event.data)))
            node = self._find(event.path)
            if event.op == "R" and target is not folder:
                raise ValueError("renames across folders are not modelled")
            target.pending.append({name: None, new: node} if event.op == "R" else {new: node})


Choice = Literal["kept", "lost", "random"]


@dataclass(frozen=True)
class Survival:
    """What of the uncertain survives: changes of names, and changes of files' contents."""

    label: str
    names: Choice
    files: Choice


SURVIVALS = (
    Survival("only what was synced", "lost", "lost"),
    Survival("synced contents, all names", "kept", "lost"),
    Survival("all contents, synced names", "lost", "kept"),
    Survival("everything", "kept", "kept"),
    Survival("any names, any contents", "random", "random"),
    Survival("all names, any contents", "kept", "random"),
)


class Image:
    """One possible disk after a power cut: `(path, bytes)` of files, `(path, None)` of folders."""

    def __init__(self, disk: Disk, survival: Survival, rng: np.random.Generator) -> None:
        self._survival = survival
        self._rng = rng
        self.entries = dict(self._walk(disk.root, ""))

    def _walk(self, folder: Folder, at: str) -> Iterator[tuple[str, bytes | None]]:
        for name, node in sorted(names(folder.certain, self._surviving_names(folder)).items()):
            path = f"{at}/{name}" if at else name
            if isinstance(node, Folder):
                yield path, None
                yield from self._walk(node, path)
            elif not name.endswith(NOT_ON_DISK):
                yield path, content(node.certain, self._surviving_writes(node))

    def _surviving_names(self, folder: Folder) -> list[dict[str, Node | None]]:
        if self._survival.names == "random":
            return [change for change in folder.pending if self._rng.random() < 0.5]
        return folder.pending if self._survival.names == "kept" else []

    def _surviving_writes(self, file: File) -> list[tuple[int, bytes | None]]:
        if self._survival.files != "random":
            return file.pending if self._survival.files == "kept" else []
        kept: list[tuple[int, bytes | None]] = []
        for at, data in file.pending:
            fate = self._rng.random()
            if fate < 0.4:
                kept.append((at, data))
            elif data is not None and fate < 0.6:
                kept.append((at, self._torn(at, data)))
            elif data is not None and fate < 0.7:
                # The file grew, what was written did not arrive.
                kept.append((at + len(data), b""))
        return kept

    def _torn(self, at: int, data: bytes) -> bytes:
        """Return the part of a write up to some boundary between sectors."""
        first = SECTOR - at % SECTOR
        cuts = range(first, len(data), SECTOR)
        return data[: int(self._rng.choice(cuts))] if cuts else b""

    def write(self, root: Path) -> None:
        """Lay the image out in an empty folder."""
        root.mkdir()
        for path, data in self.entries.items():
            if data is None:
                (root / path).mkdir()
            else:
                (root / path).write_bytes(data)
