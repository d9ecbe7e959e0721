"""Bytes as people write and read them: `1.5GB` into a number, a number into `1.4 GiB`. Knows no other module."""

from __future__ import annotations

import re
from typing import Final

_SIZE: Final = re.compile(r"(\d{1,18}(?:\.\d{1,18})?)\s*([KMGT]i?)?B?", re.ASCII | re.IGNORECASE)
_PLAIN: Final = re.compile(r"\d+", re.ASCII)
_PREFIXES: Final = "KMGT"


def parse_bytes(value: object) -> object:
    """Return the bytes that a text like `1000000`, `512MiB` or `1.5GB` says; what is no text comes back as it is.

    KB, MB, GB, TB are powers of 1000, KiB, MiB, GiB, TiB of 1024; small letters count as large ones.

    Raises
    ------
    ValueError : another text.
    """
    if not isinstance(value, str):
        return value
    text = value.strip()
    found = _SIZE.fullmatch(text)
    # 1.5 bytes or 2G, which some read as powers of 1000 and some of 1024, are no sizes.
    if found is None or not (_PLAIN.fullmatch(text) or text[-1] in "Bb"):
        raise ValueError("write bytes as a whole number, or with a unit as in 512MiB, 2GiB or 1.5GB")
    number, prefix = found[1], found[2] or ""
    if not prefix:
        if "." in number:
            raise ValueError("there is no part of a byte: write a whole number, or a unit as in 1.5GB")
        return int(number)
    base = 1024 if len(prefix) == 2 else 1000
    return round(float(number) * base ** (_PREFIXES.index(prefix[0].upper()) + 1))


def shown_bytes(size: int) -> str:
    """Return bytes as a text like `812 bytes`, `64.0 KiB` or `1.4 GiB`."""
    if abs(size) < 1024:
        return f"{size} bytes"
    value = float(size)
    for prefix in _PREFIXES:
        value /= 1024
        if abs(value) < 1024 or prefix == _PREFIXES[-1]:
            break
    return f"{value:.1f} {prefix}iB"
