"""Names the type of a parsed JSON value for error messages. Knows nothing of what the value was meant to be."""

from __future__ import annotations


def kind_of(value: object) -> str:
    """Name a value's type, as in "a list"; never the value, which may be too large or too deep to print."""
    names = {
        type(None): "null",
        bool: "a boolean",
        int: "an integer",
        float: "a float",
        str: "a string",
        list: "a list",
        dict: "an object",
    }
    return names.get(type(value), f"a value of type {type(value).__name__}")
