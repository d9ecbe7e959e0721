"""Everything that `index` raises on purpose. Knows nothing of HTTP: the service maps a family to a status."""

from __future__ import annotations


class IndexingError(Exception):
    """Base of all errors of this package.

    Parameters
    ----------
    message : what is wrong and where.
    param : the input at fault, as a path (`filter.must[0].range`), if one is.
    hint : what to do about it.
    """

    def __init__(self, message: str, *, param: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        self.hint = hint


class InvalidInput(IndexingError):
    """The caller sent something that can never be accepted as it is."""


class InvalidId(InvalidInput):
    """Not an unsigned 64-bit integer, a UUID, or a string of 1 to 512 bytes."""


class InvalidVector(InvalidInput):
    """Wrong dimension, not finite, or zero where a direction is needed."""


class InvalidPayload(InvalidInput):
    """Not a JSON object, or an edit that does not fit."""


class InvalidFilter(InvalidInput):
    """A filter that cannot be read; `param` names the node."""


class VectorsDropped(InvalidInput):
    """Full-precision vectors were asked for that a collection of codes only no longer has."""


class InvalidName(InvalidInput):
    """A collection name that cannot be a directory name."""


class NotFound(IndexingError):
    """Something named does not exist."""


class UnknownCollection(NotFound):
    """No collection of that name."""


class CollectionExists(IndexingError):
    """A collection of that name is there already."""


class CorruptCollection(IndexingError):
    """Stored truth is damaged; the message names the path. Nothing is guessed in its place."""


class ReadOnlyCollection(IndexingError):
    """A sync failed earlier: what the disk holds is unknown, so nothing more is written until a restart."""


class DiskFull(IndexingError):
    """No room for this write. Nothing of it was kept; reads go on and writes resume when there is room."""


class DataDirLocked(IndexingError):
    """Another process owns the data directory."""


class DeadlineExceeded(IndexingError):
    """The search took longer than it was allowed."""
