"""Dates and times as they stand in payloads and filters. Knows nothing of either."""

from __future__ import annotations

import re
from datetime import date

# Besides RFC 3339, what Qdrant reads: a space for the T, a blank before the offset, offsets of hours only or
# without a colon, " UTC", no offset (then UTC), no seconds (then no offset either), a date alone, blanks in
# front.
_INSTANT = re.compile(
    r"\s*(?P<year>[0-9]{4})-(?P<month>[0-9]{2})-(?P<day>[0-9]{2})"
    r"(?:[Tt ](?P<hour>[0-9]{2}):(?P<minute>[0-9]{2})"
    r"(?::(?P<second>[0-9]{2})(?:\.(?P<fraction>[0-9]+))?"
    r"(?: UTC| ?(?:[Zz]|(?P<sign>[+-])(?P<away_hours>[0-9]{2})(?::?(?P<away_minutes>[0-9]{2}))?))?)?)?"
)
_EPOCH = date(1970, 1, 1).toordinal()


def parse_instant(text: str) -> int | None:
    """Return the nanoseconds since 1970-01-01T00:00:00Z that a date and time stands for, None if it is none.

    Digits past the nanosecond are dropped. A leap second (`:60`) is the first second of the next minute.
    """
    found = _INSTANT.fullmatch(text)
    if found is None:
        return None
    try:
        day = date(int(found["year"]), int(found["month"]), int(found["day"])).toordinal() - _EPOCH
    except ValueError:
        return None
    hour, minute, second = (int(found[name] or 0) for name in ("hour", "minute", "second"))
    away_hours, away_minutes = int(found["away_hours"] or 0), int(found["away_minutes"] or 0)
    if hour > 23 or minute > 59 or second > 60 or away_hours > 23 or away_minutes > 59:
        return None
    away = away_hours * 3600 + away_minutes * 60
    seconds = day * 86_400 + hour * 3600 + minute * 60 + second + (away if found["sign"] == "-" else -away)
    return seconds * 1_000_000_000 + int((found["fraction"] or "")[:9].ljust(9, "0"))
