"""Payloads: what may be one, and how an edit changes it. Knows nothing of where payloads lie.

The edits are Qdrant's set, overwrite, delete and clear.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from index.errors import InvalidPayload
from index.json_kinds import kind_of
from index.paths import merge, parse_path, read_path

# JSON writers give up a little above 250 levels, and an edit with a path may put a payload 64 levels further
# down.
MAX_DEPTH = 64
MAX_VALUES = 100_000
MIN_INTEGER = -(2**63)
MAX_INTEGER = 2**64 - 1


def parse_payload(value: object, *, param: str = "payload") -> dict[str, Any]:
    """Return a payload that came as JSON, unchanged; null is an empty one.

    Raises
    ------
    InvalidPayload : not an object, nested more than 64 deep, more than 100,000 values, or something in it
        cannot be written as JSON and read back the same.
    """
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidPayload(
            f"{param}: {kind_of(value)} is not a JSON object",
            param=param,
            hint='send an object, as in {"city": "Oslo"}',
        )
    # A stack instead of recursion: depth is the sender's choice.
    stack: list[tuple[dict[str, Any] | list[Any], int]] = [(value, 1)]
    count = 0
    while stack:
        node, depth = stack.pop()
        if depth > MAX_DEPTH:
            raise InvalidPayload(f"{param}: nested more than {MAX_DEPTH} deep", param=param, hint="flatten it")
        count += len(node)
        if count > MAX_VALUES:
            raise InvalidPayload(f"{param}: more than {MAX_VALUES} values", param=param, hint="store less per point")
        if isinstance(node, dict):
            for key in node:
                _check_key(key, param)
        for child in node.values() if isinstance(node, dict) else node:
            if isinstance(child, dict | list):
                stack.append((child, depth + 1))
            else:
                _check_scalar(child, param)
    return value


@dataclass(frozen=True, slots=True)
class PayloadEdit:
    """A change to payloads, checked when it is made.

    Parameters
    ----------
    kind : `set` merges `payload` into the object at `path`, or at the top; null removes its key.
        `overwrite` puts `payload` in place of everything. `delete` removes `keys`. `clear` leaves an empty
        object.
    payload : for `set` and `overwrite`: what `parse_payload` accepts.
    keys : for `delete`: paths.
    path : for `set`: where to merge; what is missing on the way is made.

    Raises
    ------
    InvalidPayload : no payload, parts that do not belong to the kind, or a path that cannot be read.
    """

    kind: Literal["set", "overwrite", "delete", "clear"]
    payload: dict[str, Any] | None = None
    keys: tuple[str, ...] = ()
    path: str | None = None

    def __post_init__(self) -> None:
        """Check the parts against the kind."""
        if self.kind not in ("set", "overwrite", "delete", "clear"):
            raise InvalidPayload(
                f"edit {ascii(self.kind)} is unknown",
                param="kind",
                hint="use set, overwrite, delete or clear",
            )
        takes_payload = self.kind in ("set", "overwrite")
        if takes_payload is (self.payload is None):
            raise InvalidPayload(f"{self.kind} {'needs a' if takes_payload else 'takes no'} payload", param="payload")
        if takes_payload:
            parse_payload(self.payload)
        if self.keys and self.kind != "delete":
            raise InvalidPayload(f"{self.kind} takes no keys", param="keys", hint="use delete to remove keys")
        if self.path is not None and self.kind != "set":
            raise InvalidPayload(f"{self.kind} takes no path", param="key", hint="use set to change a part")
        if self.path is not None:
            read_path(self.path, "key", wrong=InvalidPayload)
        for i, key in enumerate(self.keys):
            read_path(key, f"keys[{i}]", wrong=InvalidPayload)

    def apply(self, payload: dict[str, Any]) -> dict[str, Any]:
        """Return what `payload` becomes; the argument stays as it is, but the two may share parts."""
        if self.kind == "clear":
            return {}
        patch = self.payload or {}
        if self.kind == "overwrite":
            return dict(patch)
        if self.kind == "set":
            path = self.path
            return merge(payload, patch) if path is None else parse_path(path).merged(payload, patch)
        for key in self.keys:
            payload = parse_path(key).removed(payload)
        return dict(payload)


def _check_key(key: object, param: str) -> None:
    if not isinstance(key, str):
        raise InvalidPayload(f"{param}: a key is {kind_of(key)}, not a string", param=param)
    if not key.isascii():
        _check_text(key, param)


def _check_scalar(value: object, param: str) -> None:
    if isinstance(value, str):
        if not value.isascii():
            _check_text(value, param)
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidPayload(f"{param}: NaN and infinity are not JSON", param=param, hint="use null")
    elif isinstance(value, int):
        if not MIN_INTEGER <= value <= MAX_INTEGER:
            raise InvalidPayload(f"{param}: an integer has more than 64 bits", param=param, hint="send it as a string")
    elif value is not None:
        raise InvalidPayload(f"{param}: {kind_of(value)} is not a JSON value", param=param)


def _check_text(text: str, param: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidPayload(f"{param}: a string holds an unpaired surrogate", param=param) from None
