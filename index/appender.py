"""Appends vectors to a collection's newest file and starts the next file when one is full.

Rows are permanent numbers; a file covers a range of them. Nothing here counts until the record says so: after
a crash or a failed commit the next append overwrites what was left behind.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from index.points import NUMPY_TYPES, CollectionConfig, Float32s
from index.record import FileEntry, Writer
from index.vector_file import Layout, VectorWriter, read_layout

FILE_BYTES = 256 * 1024 * 1024


def file_name(first_row: int, suffix: str = "") -> str:
    """Return the name of the vector file that begins at a row."""
    return f"{first_row:012d}{suffix}.vec"


class VectorAppender:
    """Owns the newest vector file. Used by one writer at a time."""

    def __init__(self, folder: Path, config: CollectionConfig, files: list[FileEntry], file_bytes: int) -> None:
        self._folder = folder
        self._config = config
        self._dtype: np.dtype[Any] = NUMPY_TYPES[config.dtype]
        self._capacity = max(1, file_bytes // (config.dimension * self._dtype.itemsize))
        self._touched: list[VectorWriter] = []
        self._file: VectorWriter | None = None
        self.next_row = files[-1].end_row if files else 0
        if files:
            layout = read_layout(folder / files[-1].name)
            if not layout.table:  # a file with holes is never appended to
                self._file = VectorWriter(folder / files[-1].name, layout, rows=files[-1].rows)
        self._good = (self._file, self._file.rows if self._file else 0, self.next_row)

    def _layout(self, first_row: int) -> Layout:
        return Layout(dimension=self._config.dimension, value_bytes=self._dtype.itemsize, first_row=first_row, table=0)

    def as_stored(self, vectors: Float32s) -> NDArray[Any]:
        """Return vectors in the type of the file."""
        return vectors.astype(self._dtype, copy=False)

    def append(self, stored: NDArray[Any], writer: Writer) -> int:
        """Write `(n, d)` rows and note them in the open transaction; return the first row's number."""
        if self._file is None or self._file.rows >= self._capacity:
            name = file_name(self.next_row)
            self._file = VectorWriter.create(self._folder / name, self._layout(self.next_row))
            writer.add_file(FileEntry(name, self.next_row, self.next_row, 0))
        if self._file not in self._touched:
            self._touched.append(self._file)
        first_row, position = self.next_row, self._file.rows
        writer.add_batch(self._file.path.name, position, len(stored), self._file.append(stored))
        self.next_row += len(stored)
        return first_row

    def sync(self) -> None:
        """Make everything appended durable."""
        for file in self._touched:
            file.sync()

    def committed(self) -> None:
        """Note that everything appended counts; close files that are full."""
        self._forget_but(self._file)
        self._good = (self._file, self._file.rows if self._file else 0, self.next_row)

    def roll_back(self) -> None:
        """Go on behind the last committed row; what was appended since is overwritten."""
        file, rows, self.next_row = self._good
        if self._file is not file and self._file is not None and self._file not in self._touched:
            self._touched.append(self._file)
        self._forget_but(file)
        self._file = file
        if file is not None:
            file.rows = rows

    def _forget_but(self, kept: VectorWriter | None) -> None:
        for file in self._touched:
            if file is not kept:
                file.close()
        self._touched = []

    def close(self) -> None:
        """Close the files."""
        self._forget_but(self._file)
        if self._file is not None:
            self._file.close()
