"""Embeddings in OpenAI's dialect, for clients that know no other: texts in, vectors of an encoder out, no envelope.

Errors of these routes have OpenAI's shape too: `service/responses.py` gives it to all paths below /v1.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from models import InvalidText
from models.errors import UnsupportedSize
from service import schemas
from service.context import Services, query_string, services
from service.direct import Direct
from service.encoders import Encoders
from service.limits import read_body
from service.openapi import COUNT, documented, fields, list_of, ref
from service.responses import ApiError, wrapped
from service.schemas_openai import MAX_INPUTS, CreateEmbeddings
from service.text_encoder import EncodedTexts, Float32s, Side, TextEncoder, without_number
from service.vectors import check_text
from service.wire_forms import in_form

router = APIRouter(tags=["openai"], route_class=Direct)

TRUNCATED_HEADER: Final = "bitfold-truncated"
_MODEL: Final = fields(id={"type": "string"}, object={"const": "model"}, created=COUNT, owned_by={"type": "string"})


@router.get(
    "/v1/models",
    **documented(
        "List encoders as OpenAI lists models", openai=True,
        result=fields(object={"const": "list"}, data=list_of(_MODEL)),
    ),
)  # fmt: skip
async def models(request: Request) -> Response:
    """Answer with the names that `model` may have; GET /encoders tells more about each."""
    query_string(request, ())
    names = _names(services(request).engine.encoders)
    data = [{"id": name, "object": "model", "created": 0, "owned_by": "bitfold"} for name in names]
    return wrapped(orjson.dumps({"object": "list", "data": data}))


@router.post(
    "/v1/embeddings",
    **documented(
        "Embed texts, as OpenAI does", body=CreateEmbeddings, openai=True,
        result=fields(
            object={"const": "list"}, data=list_of(ref("Embedding")), model={"type": "string"},
            usage=fields(prompt_tokens=COUNT, total_tokens=COUNT), truncated=list_of(COUNT),
        ),
    ),
)  # fmt: skip
async def embeddings(request: Request) -> Response:
    """Answer with a vector for each text, in order, and with the positions of texts that were cut (`truncated`)."""
    service = services(request)
    deadline = query_string(request, (), read=True).deadline
    settings = service.settings
    with service.bodies.share() as share:
        data = await read_body(request, limit=settings.max_body_bytes, idle=settings.body_idle_s, share=share)
        answer, truncated = await service.embeddings.run(_answer, service, data, deadline)
    response = wrapped(answer)
    if truncated:
        response.headers[TRUNCATED_HEADER] = str(truncated)
    return response


def _answer(service: Services, data: bytes, deadline: float | None) -> tuple[bytes, int]:
    """Return the body of the answer, and how many texts were cut; queries wait for others until the deadline."""
    body = schemas.read(CreateEmbeddings, data)
    texts = _texts(body.input, service.settings.max_text_bytes)
    encoder = _encoder(service.engine.encoders, body)
    layers, dimensions = _size(encoder, body, service.engine.encoders)
    try:
        encoded = _encoded(service, encoder, texts, body.input_type, (layers, dimensions), deadline)
    except InvalidText as error:
        where = _where(body.input, error.index)
        raise ApiError(400, "invalid_text", f"{where}: {without_number(error)}", param=where, hint=error.hint) from None
    cut = [int(i) for i in np.flatnonzero(encoded.truncated)]
    if cut and not body.truncate:
        where = _where(body.input, cut[0])
        raise ApiError(
            400,
            "context_length_exceeded",  # OpenAI's own word, which programs look for
            f"{where} is longer than the {encoder.max_tokens} tokens that {encoder.name} reads",
            param=where,
            hint="cut it into passages, or leave truncate out",
        )
    tokens = sum(encoder.count_tokens(texts, body.input_type, layers=layers))
    answer = {
        "object": "list",
        "data": _items(encoded.vectors, body),
        "model": encoder.name,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        "truncated": cut,
    }
    return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY), len(cut)


def _encoded(
    service: Services,
    encoder: TextEncoder,
    texts: list[str],
    side: Side,
    size: tuple[int, int],
    deadline: float | None,
) -> EncodedTexts:
    layers, dimensions = size
    if side == "document":
        return encoder.encode_documents(texts, layers=layers, dimensions=dimensions)
    if len(texts) <= service.settings.max_queries:
        return service.engine.encoding.encode(encoder, texts, layers=layers, dimensions=dimensions, deadline=deadline)
    # More than anyone asks at once: they would push real queries out of the cache.
    return encoder.encode_queries(texts, layers=layers, dimensions=dimensions)


def _items(vectors: Float32s, body: CreateEmbeddings) -> list[dict[str, Any]]:
    """Return the vectors in the forms that are asked for; with `embedding_types` each has all of them by name."""
    forms = {form: in_form(vectors, form) for form in body.forms()}
    items: list[dict[str, Any]] = []
    for i, vector in enumerate(forms[body.forms()[0]]):
        items.append({"object": "embedding", "index": i, "embedding": vector})
        if body.embedding_types:
            items[i]["embeddings"] = {form: rows[i] for form, rows in forms.items()}
    return items


def _texts(value: object, max_bytes: int) -> list[str]:
    """Return the texts to embed; raises ApiError (400, 413) that names the first bad one."""
    given = value if isinstance(value, list) else [value]
    if not given:
        raise ApiError(400, "invalid_request", "input is an empty list", param="input", hint="send at least one text")
    if len(given) > MAX_INPUTS:
        raise ApiError(
            400,
            "batch_too_large",
            f"input has {len(given)} texts, at most {MAX_INPUTS} are allowed",
            param="input",
            hint="send several requests",
        )
    texts: list[str] = []
    for i, text in enumerate(given):
        where = _where(value, i)
        if isinstance(text, int | list) and not isinstance(text, bool):
            raise ApiError(
                400,
                "token_ids",
                "input holds token ids; they mean nothing to an encoder with another vocabulary",
                param="input",
                hint="send strings; with LangChain's OpenAIEmbeddings set check_embedding_ctx_length=False",
            )
        if not isinstance(text, str):
            raise ApiError(400, "invalid_request", f"{where} is not a string", param=where, hint="send strings")
        check_text(text, where, max_bytes)
        texts.append(text)
    return texts


def _where(value: object, index: int) -> str:
    return f"input[{index}]" if isinstance(value, list) else "input"


def _names(encoders: Encoders) -> list[str]:
    return [status.name for status in encoders.statuses()]


def _encoder(encoders: Encoders, body: CreateEmbeddings) -> TextEncoder:
    """Return the encoder that `model` names; of a name that stands only for a pair, the one for `input_type`."""
    names = _names(encoders)
    if not encoders.has(body.model):
        raise ApiError(
            404,
            "model_not_found",
            f"there is no model {body.model[:80]!r} here",
            param="model",
            hint=f"use default, {', '.join(names)}" if names else "this server encodes no texts",
        )
    name = body.model if body.model in names else getattr(encoders.pair(body.model), body.input_type)
    # Like a search, this waits for no encoder that loads: whoever asked tries again.
    return encoders.get(name, wait=0)


def _size(encoder: TextEncoder, body: CreateEmbeddings, encoders: Encoders) -> tuple[int, int]:
    """Return the layers and dimensions that are asked for; raises ApiError for those that there are not."""
    _check_basis(encoder, body.dimensions, encoders)
    try:
        layers, dimensions = encoder.resolve(body.layers, body.dimensions)
    except UnsupportedSize as error:
        param = "dimensions" if body.layers is None else "layers" if body.dimensions is None else None
        raise ApiError(400, "unsupported_size", str(error), param=param, hint=error.hint) from None
    _check_basis(encoder, dimensions, encoders)
    return layers, dimensions


def _check_basis(encoder: TextEncoder, dimensions: int | None, encoders: Encoders) -> None:
    """Refuse short vectors that are no prefixes of the whole ones: nobody could tell them from those that are."""
    if dimensions is None or dimensions >= encoder.dimension or encoder.fold is None:
        return
    folded = f"{encoder.name}-folded"
    raise ApiError(
        400,
        "unsupported_size",
        f"{encoder.name} has {encoder.dimension} dimensions here: cut to {dimensions} they are of another basis",
        param="dimensions",
        hint=f"use {folded} for all that is compared: its vectors can be cut"
        if encoders.has(folded)
        else f"leave dimensions out, or send {encoder.dimension}",
    )
