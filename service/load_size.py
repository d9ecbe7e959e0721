"""How many points a bulk load will have: what its sender says, or a guess from its length and its first lines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Self

from service.room import Expected


@dataclass(frozen=True, slots=True)
class Announced:
    """What a request tells of its body before it comes.

    Parameters
    ----------
    points : how many, those of later requests that go on with the load included; None: not told.
    length : bytes of the body, as lines; None: not told, or they are compressed.
    """

    points: int | None
    length: int | None

    @classmethod
    def of(cls, query: Mapping[str, str], headers: Mapping[str, str], encoding: Literal["identity", "gzip"]) -> Self:
        """Read the query string, checked already, and the headers of a body that is encoded like this."""
        points, length = query.get("points"), headers.get("content-length")
        if encoding != "identity":
            length = None
        return cls(None if points is None else int(points), None if length is None else int(length))

    def expected(self, points: int, size: int) -> Expected | None:
        """Return how many points will come when the first `size` bytes have so many; None: nobody knows."""
        if self.points is not None:
            return Expected(self.points, told=True)
        if self.length is not None:
            return Expected(max(points, round(points * self.length / size)), told=False)
        return None
