"""Point ids: one canonical form, one storage form, one order. Knows nothing of points or of SQL statements.

An id is an unsigned 64-bit integer, a UUID (kept as a lower-case hyphenated string), or any other string of 1
to 512 UTF-8 bytes. `1` and `"1"` are different ids. The order is integers by value, then strings by UTF-8
bytes.
"""

from __future__ import annotations

import re

from index.errors import InvalidId
from index.json_kinds import kind_of

PointId = int | str

MAX_INTEGER = 2**64 - 1
MAX_BYTES = 512

# SQLite integers are signed: shifting by half the range keeps both the order and all 64 bits.
_SHIFT = 2**63

_HYPHENATED = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
# The forms that Qdrant reads. `uuid.UUID` is laxer: it drops hyphens, braces and prefixes wherever they
# stand, and strings that are no UUIDs by any standard would become one.
_UUID = re.compile(rf"(?:urn:uuid:)?({_HYPHENATED})|\{{({_HYPHENATED})\}}|([0-9a-f]{{32}})", re.ASCII | re.IGNORECASE)
_UUID_LENGTHS = frozenset({32, 36, 38, 45})

_HINT = "use an integer from 0 to 2^64-1, a UUID, or a string of 1 to 512 UTF-8 bytes"


def parse_id(value: object, *, param: str = "id") -> PointId:
    """Return the canonical form of an id that came as JSON.

    Parameters
    ----------
    value : a parsed JSON value.
    param : the name of the input, for the error.

    Raises
    ------
    InvalidId : not an id; booleans and floats are none.
    """
    if isinstance(value, str):
        return _parse_string(value, param)
    if isinstance(value, int) and not isinstance(value, bool):
        if 0 <= value <= MAX_INTEGER:
            return int(value)
        side = "negative" if value < 0 else "above 2^64-1"
        raise InvalidId(f"{param}: an integer id must not be {side}", param=param, hint=_HINT)
    raise InvalidId(f"{param}: {kind_of(value)} is not an id", param=param, hint=_HINT)


def parse_ids(values: object, *, param: str = "ids") -> list[PointId]:
    """Return the canonical forms of a JSON list of ids, in its order and with its repetitions.

    Raises
    ------
    InvalidId : not a list, or a member is not an id; `param` then names the member (`ids[3]`).
    """
    if not isinstance(values, list | tuple):
        raise InvalidId(f"{param}: {kind_of(values)} is not a list of ids", param=param, hint=_HINT)
    try:
        # The common case stays in one comprehension; bool is not `int` by `type`, so it takes the slow way.
        return [v if type(v) is int and 0 <= v <= MAX_INTEGER else parse_id(v) for v in values]
    except InvalidId:
        return [parse_id(value, param=f"{param}[{i}]") for i, value in enumerate(values)]


def to_key(point_id: PointId) -> int | str:
    """Return the form in which a canonical id lies in a SQLite column without affinity.

    Integers are shifted into the signed 64-bit range, strings stay. SQLite sorts integers before text and
    text by UTF-8 bytes, so the column's order is the order of ids.
    """
    return point_id - _SHIFT if isinstance(point_id, int) else point_id


def from_key(key: int | str) -> PointId:
    """Return the id that `to_key` turned into `key`."""
    return key + _SHIFT if isinstance(key, int) else key


def order_key(point_id: PointId) -> tuple[bool, PointId]:
    """Return a sort key for canonical ids: integers by value, then strings.

    Python compares strings by code point, which for UTF-8 is the order of the bytes.
    """
    return isinstance(point_id, str), point_id


def _parse_string(value: str, param: str) -> PointId:
    if len(value) in _UUID_LENGTHS:
        found = _UUID.fullmatch(value)
        if found is not None:
            digits = str(found[found.lastindex or 0]).replace("-", "").lower()
            return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
    if not value:
        raise InvalidId(f"{param}: an id must not be an empty string", param=param, hint=_HINT)
    if "\0" in value:
        raise InvalidId(f"{param}: a string id must not hold a NUL character", param=param, hint=_HINT)
    try:
        size = len(value) if value.isascii() else len(value.encode())
    except UnicodeEncodeError:
        raise InvalidId(f"{param}: a string id must not hold an unpaired surrogate", param=param, hint=_HINT) from None
    if size > MAX_BYTES:
        raise InvalidId(
            f"{param}: a string id of {size} UTF-8 bytes is longer than {MAX_BYTES}", param=param, hint=_HINT
        )
    return value
