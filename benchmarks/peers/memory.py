"""What processes hold in memory: its own pages, pages of index files, and pages of full-precision vectors."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident bytes.

    Attributes
    ----------
    anonymous : the processes' own (RssAnon), what the system cannot take back.
    files : mapped files, but for libraries and full-precision vectors: codes, graphs, payloads.
    floats : mapped files of full-precision vectors.
    """

    anonymous: int
    files: int
    floats: int

    def __sub__(self, before: Memory) -> Memory:
        """Return what came on top."""
        return Memory(
            self.anonymous - before.anonymous, max(0, self.files - before.files), max(0, self.floats - before.floats)
        )

    def row(self) -> dict[str, int]:
        """Return it by name; `resident` is the sum."""
        return {**asdict(self), "resident": self.anonymous + self.files + self.floats}


def settle() -> None:
    """Give free memory of the heap back to the system, so that what a build or an import left there is not counted."""
    gc.collect()
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


def resident(pids: Sequence[int], float_paths: Sequence[str]) -> Memory:
    """Read the memory of some processes together.

    float_paths : parts of paths of files that hold full-precision vectors.
    """
    sums, path = {"anonymous": 0, "files": 0, "floats": 0}, ""
    resident_kib = 0
    for line in (line for pid in pids for line in Path(f"/proc/{pid}/smaps").read_text().splitlines()):
        key, *values = line.split()
        if not key.endswith(":"):
            path = " ".join(values[4:])
        elif key == "Rss:":
            resident_kib = int(values[0])
        elif key == "Anonymous:":
            own = int(values[0])
            sums["anonymous"] += own * 1024
            if path.startswith("/") and ".so" not in path and "/bin/" not in path:
                kind = "floats" if any(part in path for part in float_paths) else "files"
                sums[kind] += (resident_kib - own) * 1024
    return Memory(**sums)


def peak(pids: Sequence[int]) -> int:
    """Return the most bytes that each process ever held, summed; mapped files are in it."""
    lines = (line for pid in pids for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def on_disk(folder: Path) -> int:
    """Return the bytes that the files of a folder take, holes left out."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())
