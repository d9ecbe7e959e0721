"""Turns points into the rows of an answer: payload bytes go in as they lie, unless keys are selected."""

from __future__ import annotations

from typing import Any

import orjson

from index.errors import InvalidInput
from index.paths import read_path
from index.points import Hit, Point
from service.fields import Selector

Tree = dict[str, "Tree"]


class Shape:
    """What the rows of one answer hold.

    Parameters
    ----------
    payload : True for whole payloads, False for none, or a choice of keys.
    qdrant : whether hits carry a `version`, which Qdrant's clients require.

    Raises
    ------
    InvalidInput : a chosen key is no path, or selects one element of a list.
    """

    def __init__(
        self, payload: bool | Selector, *, vector: bool = False, text: bool = False, qdrant: bool = True
    ) -> None:
        self._include = self._exclude = None
        if isinstance(payload, Selector):
            self._include = None if payload.include is None else _tree(payload.include, "include")
            self._exclude = None if payload.exclude is None else _tree(payload.exclude, "exclude")
        self.payload = payload is not False
        self.vector = vector
        self.text = text
        self._qdrant = qdrant

    def hit(self, hit: Hit) -> dict[str, Any]:
        """Return a search result as an object."""
        row: dict[str, Any] = {"id": hit.id}
        if self._qdrant:
            row["version"] = 0
        row["score"] = hit.score
        return self._fill(row, hit)

    def point(self, point: Point) -> dict[str, Any]:
        """Return a stored point as an object."""
        return self._fill({"id": point.id}, point)

    def _fill(self, row: dict[str, Any], point: Hit | Point) -> dict[str, Any]:
        if self.text and point.text is not None:
            row["text"] = point.text
        if self.payload and point.payload is not None:
            row["payload"] = self._selected(point.payload)
        if self.vector and point.vector is not None:
            row["vector"] = point.vector
        return row

    def _selected(self, payload: bytes) -> object:
        if self._include is None and self._exclude is None:
            return orjson.Fragment(payload)
        value = orjson.loads(payload)
        if self._include is not None:
            value = _keep(value, self._include) if self._include else {}
        return value if self._exclude is None else _leave_out(value, self._exclude)


def _tree(keys: list[str], where: str) -> Tree:
    """Merge paths like `a.b` and `a[].c` into one tree; an empty branch stands for everything below."""
    root: Tree = {}
    # Short paths first: what a whole branch selects already, a longer path must not narrow.
    for parts in sorted((_keys(key, f"with_payload.{where}[{i}]") for i, key in enumerate(keys)), key=len):
        node = root
        for part in parts[:-1]:
            if part in node and not node[part]:
                break
            node = node.setdefault(part, {})
        else:
            node[parts[-1]] = {}
    return root


def _keys(key: str, param: str) -> list[str]:
    """Return the keys along a path; lists are opened wherever one stands in the way."""
    steps = read_path(key, param, wrong=InvalidInput).steps
    if any(isinstance(step, int) for step in steps):
        raise InvalidInput(
            f"{param}: one element of a list cannot be selected", param=param, hint="select all of them, as in a[].b"
        )
    return [step for step in steps if isinstance(step, str)]


def _keep(value: Any, tree: Tree) -> Any:  # noqa: ANN401 - any JSON value
    if not tree:
        return value
    if isinstance(value, list):
        return [_keep(item, tree) for item in value if isinstance(item, dict | list)]
    return {key: _keep(value[key], tree[key]) for key in value if key in tree and _fits(value[key], tree[key])}


def _fits(value: object, tree: Tree) -> bool:
    return not tree or isinstance(value, dict | list)


def _leave_out(value: Any, tree: Tree) -> Any:  # noqa: ANN401 - any JSON value
    if isinstance(value, list):
        return [_leave_out(item, tree) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: _leave_out(item, tree[key]) if tree.get(key) else item
        for key, item in value.items()
        if key not in tree or tree[key]
    }
