"""What clients of OpenAI may send: texts to embed, at which size, in which forms. OpenAI's keys and some of our own."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import ConfigDict, Field, WithJsonSchema

from service.schemas import Request
from service.wire_forms import Form

MAX_INPUTS: Final = 2048  # OpenAI's own limit, which its clients cut their batches to
_TEXT: Final = {"type": "string", "minLength": 1}

Input = Annotated[
    Any, WithJsonSchema({"anyOf": [_TEXT, {"type": "array", "items": _TEXT, "minItems": 1, "maxItems": MAX_INPUTS}]})
]


class CreateEmbeddings(Request):
    """Texts to embed.

    `input`: a text, or a list of them. `user` has no effect. Our own keys: `input_type`, which side of a search the
    texts are on; `layers`, the exit of the model; `embedding_types`, forms to answer in, in place of
    `encoding_format`; `truncate`, false to refuse texts that are longer than the model's window.
    """

    model_config = ConfigDict(json_schema_extra={"example": {"model": "default", "input": "which river flows north"}})
    input: Input
    model: str = Field(min_length=1)
    dimensions: int | None = Field(default=None, ge=1)
    encoding_format: Literal["float", "base64"] = "float"
    user: str | None = None
    input_type: Literal["query", "document"] = "document"
    layers: int | None = Field(default=None, ge=0)
    embedding_types: list[Form] | None = Field(default=None, min_length=1)
    truncate: bool = True

    def forms(self) -> list[Form]:
        """Return the forms to answer in, each once; the first is the one that `embedding` has."""
        return list(dict.fromkeys(self.embedding_types or [self.encoding_format]))
