"""The base of all request bodies, and how bytes become one.

Unknown keys are errors. A key that Qdrant has and that changes nothing here is accepted and named in
`warnings`. Vectors, ids and filters stay raw values in the models: `service/vectors.py` and `index` read
them, faster and with better messages.
"""

from __future__ import annotations

import difflib
from typing import Any, ClassVar, Final, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, ValidationError

from service.fields import NO_EFFECT, no_effect
from service.responses import ApiError


class Request(BaseModel):
    """Base of all bodies: no unknown keys, no conversions between types."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    may_be_empty: ClassVar[bool] = False  # whether no body at all stands for {}

    def warnings(self, path: str = "") -> list[str]:
        """Name every key that was sent, is known to Qdrant, and changes nothing here."""
        found: list[str] = []
        for key in sorted(self.model_fields_set):
            value = getattr(self, key)
            if isinstance(value, Request):
                found += value.warnings(f"{path}{key}.")
            elif value is not None and type(self).model_fields[key].annotation is Any and key in NO_EFFECT:
                found.append(no_effect(key, f"{path}{key}"))
        return found


def exactly_one(model: Request, *keys: str) -> None:
    """Raise ValueError unless just one of the keys was sent; for validators."""
    if sum(getattr(model, key) is not None for key in keys) != 1:
        raise ValueError(f"send exactly one of {' and '.join(keys)}")


R = TypeVar("R", bound=Request)


def read(model: type[R], body: bytes) -> R:
    """Parse a JSON body strictly.

    Raises ApiError (400): not JSON, not of this shape, an unknown key.
    """
    try:
        value = {} if model.may_be_empty and not body else orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise ApiError(
            400, "invalid_json", f"the body is not JSON: {error}", hint="send one JSON object, UTF-8"
        ) from None
    return checked(model, value)


def checked(model: type[R], value: object, path: str = "") -> R:
    """Return parsed JSON as a model; raises ApiError (400) that names the place, which lies below `path`."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise _translated(error, model, path) from None


def _translated(error: ValidationError, model: type[Request], root: str) -> ApiError:
    """Turn one of pydantic's complaints into ours: the deepest, where the forms of a union all complain."""
    first = max(error.errors(include_url=False, include_input=False), key=lambda item: len(item["loc"]))
    path = ".".join(part for part in (root, _path(first["loc"])) if part)
    if first["type"] == "extra_forbidden":
        known = difflib.get_close_matches(str(first["loc"][-1]), list(model.model_fields), n=1)
        hint = f"did you mean {known[0]}?" if known else "leave it out"
        return ApiError(400, "unknown_key", f"the key {path} is not known here", param=path, hint=hint)
    if first["type"] == "unsupported":
        return ApiError(400, "unsupported", f"Qdrant's {path} is not supported here", param=path, hint="leave it out")
    message = first["msg"].removeprefix("Value error, ")
    return ApiError(400, "invalid_request", f"{path or 'body'}: {message}", param=path or None)


_UNION_PARTS: Final = frozenset(("bool", "str", "int", "list", "dict", "Selector", "FieldSchema", "EncoderPair"))


def _path(location: tuple[int | str, ...]) -> str:
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        elif part in _UNION_PARTS:
            continue
        elif part.isidentifier():
            path += f".{part}" if path else part
        elif part == location[-1] and not part.startswith(("literal[", "function-", "list[", "dict[")):
            path += f"[{part!r}]"
    return path
