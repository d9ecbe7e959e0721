"""Names and versions that the server shows."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Final

TITLE: Final = "bitfold"
# Stock clients compare this with their own version and warn when minor versions are more than one apart.
QDRANT_VERSION: Final = "1.20.0"


def bitfold_version() -> str:
    """Return the installed version, or 0 in a tree that is not installed."""
    try:
        return version("bitfold")
    except PackageNotFoundError:
        return "0"
