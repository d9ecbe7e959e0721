"""JSON paths into payloads: parse, read, write, remove. Knows nothing of filters or of who edits.

The syntax is Qdrant's: `a.b`, `a[].b` (every element), `a[0].b` (one element), `"a.b".c` (quotes keep dots
and other characters in one key). A bare key holds letters, digits, `_` and `-`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

from index.errors import InvalidInput
from index.json_kinds import kind_of

MAX_STEPS = 64
MAX_LENGTH = 4096
MAX_INDEX = 2**64 - 1

_KEY = re.compile(r'"([^"]*)"|([\w-]+)')
_BRACKETS = re.compile(r"\[([0-9]{0,20})\]")


class BadPath(ValueError):
    """A string that is not a path."""


@dataclass(frozen=True, slots=True)
class Path:
    """A parsed path.

    Parameters
    ----------
    steps : a `str` is an object's key, an `int` a list's index, None all of a list; the first is a key.
    key : the only key, when the path is nothing else: the common case, read without a walk.
    """

    steps: tuple[str | int | None, ...]
    key: str | None

    def values(self, payload: dict[str, Any]) -> list[Any]:
        """Return every value that the path selects, lists unopened; an empty list when there is none."""
        if self.key is not None:
            return [payload[self.key]] if self.key in payload else []
        found: list[Any] = [payload]
        for step in self.steps:
            if isinstance(step, str):
                found = [node[step] for node in found if isinstance(node, dict) and step in node]
            elif step is None:
                found = [child for node in found if isinstance(node, list) for child in node]
            else:
                found = [node[step] for node in found if isinstance(node, list) and step < len(node)]
        return found

    def merged(self, payload: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
        """Return a copy of `payload` with `patch` merged into every object that the path selects.

        Missing keys become objects, and a value of another type in the way is replaced. An index that does
        not exist changes nothing; brackets on what is no list leave an empty list there.
        """
        return cast(dict[str, Any], _merged(payload, self.steps, patch))

    def removed(self, payload: dict[str, Any]) -> dict[str, Any]:
        """Return a copy of `payload` without what the path selects.

        A last `[]` empties the list. A last `[0]` changes nothing, as in Qdrant: an edit must not do more
        when it is sent twice, and removing by position would.
        """
        return cast(dict[str, Any], _removed(payload, self.steps))


@lru_cache(maxsize=1024)
def parse_path(text: str) -> Path:
    """Read a path of at most 4096 characters and 64 steps.

    Raises
    ------
    BadPath : with the position of the fault.
    """
    if len(text) > MAX_LENGTH:
        raise BadPath(f"{_shown(text)} is longer than {MAX_LENGTH} characters")
    steps: list[str | int | None] = []
    at = 0
    while True:
        found = _KEY.match(text, at)
        if found is None:
            raise BadPath(f"{_shown(text)} is not a path: a key is missing or needs quotes at character {at}")
        steps.append(found[2] if found[1] is None else found[1])
        at = found.end()
        while (bracket := _BRACKETS.match(text, at)) is not None:
            index = int(bracket[1]) if bracket[1] else None
            if index is not None and index > MAX_INDEX:
                raise BadPath(f"{_shown(text)} is not a path: the index at character {at} is too large")
            steps.append(index)
            at = bracket.end()
        if len(steps) > MAX_STEPS:
            raise BadPath(f"{_shown(text)} has more than {MAX_STEPS} steps")
        if at == len(text):
            return Path(tuple(steps), found[found.lastindex or 0] if len(steps) == 1 else None)
        if text[at] != ".":
            raise BadPath(f"{_shown(text)} is not a path: unexpected {text[at]!r} at character {at}")
        at += 1


def read_path(value: object, param: str, *, wrong: type[InvalidInput]) -> Path:
    """Read a path that came as JSON.

    Parameters
    ----------
    value : a parsed JSON value.
    param : the name of the input, for the error.
    wrong : the error of that input.

    Raises
    ------
    InvalidInput : a `wrong`; not a string, or not a path.
    """
    try:
        if not isinstance(value, str):
            raise BadPath(f"{kind_of(value)} is not a key")
        return parse_path(value)
    except BadPath as error:
        hint = 'write keys as a.b, a[].b, a[0].b or "a key.with dots".b'
        raise wrong(f"{param}: {error}", param=param, hint=hint) from None


def merge(target: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    """Return `target` with the keys of `patch` set; a null in `patch` removes its key, as in Qdrant."""
    result = {**target, **patch}
    return {k: v for k, v in result.items() if v is not None or k not in patch}


def _merged(node: object, steps: tuple[str | int | None, ...], patch: dict[str, Any]) -> object:
    if not steps:
        return merge(node if isinstance(node, dict) else {}, patch)
    step, rest = steps[0], steps[1:]
    if isinstance(step, str):
        target = node if isinstance(node, dict) else {}
        return {**target, step: _merged(target.get(step), rest, patch)}
    if not isinstance(node, list):
        return []
    return [_merged(child, rest, patch) if step in (None, i) else child for i, child in enumerate(node)]


def _removed(node: object, steps: tuple[str | int | None, ...]) -> object:
    step, rest = steps[0], steps[1:]
    if isinstance(step, str):
        if not isinstance(node, dict) or step not in node:
            return node
        if not rest:
            return {key: child for key, child in node.items() if key != step}
        return {**node, step: _removed(node[step], rest)}
    if not isinstance(node, list):
        return node
    if not rest:
        return [] if step is None else node
    return [_removed(child, rest) if step in (None, i) else child for i, child in enumerate(node)]


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:60] + "...")
