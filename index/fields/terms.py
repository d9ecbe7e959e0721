"""Rows by what is in them: strings, words, integers, booleans. Equality only."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Hashable, Iterable, Mapping
from typing import Self

import numpy as np
import orjson
from pyroaring import BitMap

from index.fields.bitmaps import bytes_of, union

Term = Hashable
SAMPLE = 1000  # terms whose size is looked at
NUMBER = 32  # bytes of an integer object


class Terms:
    """A bitmap of rows for every term; where there is only one, the row itself: of many fields most terms are rare."""

    def __init__(self) -> None:
        self._rows: dict[Term, int | BitMap] = {}

    def __len__(self) -> int:
        """Return how many terms there are."""
        return len(self._rows)

    def add(self, row: int, term: Term) -> None:
        """Note that a row has a term."""
        there = self._rows.setdefault(term, row)
        if isinstance(there, BitMap):
            there.add(row)
        elif there != row:
            self._rows[term] = BitMap((there, row))

    def rows(self, terms: Iterable[Term]) -> BitMap:
        """Return the rows that have any of these terms."""
        found, single = [], BitMap()
        for term in terms:
            there = self._rows.get(term)
            if isinstance(there, BitMap):
                found.append(there)
            elif there is not None:
                single.add(there)
        return union([single, *found])

    def common(self, terms: Iterable[Term]) -> BitMap:
        """Return the rows that have all of these terms, at least one of which must be given."""
        found = sorted((self.rows([term]) for term in terms), key=len)
        return BitMap.intersection(*found)

    def memory_bytes(self) -> int:
        """Return about how many bytes this takes in memory."""
        bitmaps = sum(bytes_of(rows) for rows in self._rows.values() if isinstance(rows, BitMap))
        some = list(itertools.islice(self._rows, SAMPLE))
        term = sum(map(sys.getsizeof, some)) / max(1, len(some))
        single = sum(not isinstance(rows, BitMap) for rows in self._rows.values())
        return sys.getsizeof(self._rows) + bitmaps + round(term * len(self._rows)) + NUMBER * single

    def to_blobs(self) -> dict[str, bytes]:
        """Return what `from_blobs` reads. Terms must be JSON strings, numbers or booleans."""
        many = {term: rows.serialize() for term, rows in self._rows.items() if isinstance(rows, BitMap)}
        single = {term: row for term, row in self._rows.items() if not isinstance(row, BitMap)}
        return {
            "terms": orjson.dumps(list(many)),
            "lengths": np.array([len(data) for data in many.values()], dtype="<u4").tobytes(),
            "bitmaps": b"".join(many.values()),
            "single": orjson.dumps(list(single)),
            "rows": np.array(list(single.values()), dtype="<u4").tobytes(),
        }

    @classmethod
    def from_blobs(cls, blobs: Mapping[str, bytes]) -> Self:
        """Read `to_blobs`."""
        made, at, data = cls(), 0, blobs["bitmaps"]
        for term, length in zip(orjson.loads(blobs["terms"]), np.frombuffer(blobs["lengths"], "<u4"), strict=True):
            made._rows[term] = BitMap.deserialize(data[at : at + int(length)])
            at += int(length)
        rows = np.frombuffer(blobs["rows"], "<u4").tolist()
        made._rows.update(zip(orjson.loads(blobs["single"]), rows, strict=True))
        return made

    def discard(self, rows: BitMap) -> None:
        """Forget rows. Looks at every term."""
        for term, there in list(self._rows.items()):
            if isinstance(there, BitMap):
                there -= rows
                if not there:
                    del self._rows[term]
            elif there in rows:
                del self._rows[term]

    def absorb(self, other: Terms) -> None:
        """Take over all that another has; it must not be used afterwards."""
        for term, there in other._rows.items():
            own = self._rows.setdefault(term, there)
            if own is there:
                continue
            both = BitMap((own,)) if isinstance(own, int) else own
            both |= BitMap((there,)) if isinstance(there, int) else there
            self._rows[term] = both
