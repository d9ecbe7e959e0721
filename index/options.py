"""Numbers that shape a collection's work. Changing them never makes stored data unreadable."""

from __future__ import annotations

from dataclasses import dataclass, replace

from index.appender import FILE_BYTES


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """How collections work; tests make the numbers small to reach every path quickly.

    Parameters
    ----------
    exact_below : collections of up to so many points are scored exactly unless a query says otherwise.
    first_fit : points at which the first binarizer is fitted.
    tail_rows : rows after which the newest rows get codes, once there is a binarizer.
    fan_out : neighbouring segments of one size class that are merged into one.
    max_segment_rows : segments do not grow beyond this by merging.
    list_rows : segments from this size on get inverted lists, so that a query looks at a part of their codes.
    save_rows : segments from this size on are saved as they are made; smaller ones at close.
    fit_rows : vectors that a binarizer is fitted to, at most.
    file_bytes : size at which a vector file is full.
    dead_share : share of dead rows in a vector file from which it is rewritten without them.
    idle_seconds : quiet time after which segments are merged further.
    recall_sample : share of live searches of codes that are run again exactly, to measure their recall.
    memory_limit : bytes that all collections of a store may take in memory together (`footprint.memory_of`); None: any.
    threads : segments of one query, and queries of one batch, that are looked through at the same time.
    background : run maintenance in a thread; without it, the caller runs `maintenance.step`.
    """

    exact_below: int = 10_000
    first_fit: int = 10_000
    tail_rows: int = 4096
    fan_out: int = 8
    max_segment_rows: int = 4_000_000
    list_rows: int = 65_536
    save_rows: int = 16_384
    fit_rows: int = 50_000
    file_bytes: int = FILE_BYTES
    dead_share: float = 0.5
    idle_seconds: float = 5.0
    recall_sample: float = 0.0
    memory_limit: int | None = None
    threads: int = 1
    background: bool = True

    def for_dimension(self, dimension: int) -> StoreOptions:
        """Return the options with rows that are held in memory as float32 bounded in bytes for wide vectors."""

        def at_most(rows: int, mebibytes: int) -> int:
            return min(rows, max(1, mebibytes * 2**20 // (4 * dimension)))

        return replace(
            self,
            first_fit=at_most(self.first_fit, 64),
            tail_rows=at_most(self.tail_rows, 16),
            fit_rows=at_most(self.fit_rows, 256),
        )
