"""The OpenAPI document and the page at /docs, which needs no network. Knows routes by what they declare."""

from __future__ import annotations

import html
import json
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from service import schemas, schemas_collections, schemas_openai, schemas_points, schemas_search
from service.fields import COMPONENT, POINT_ID_SCHEMA

_REF: Final = "#/components/schemas/"
ERRORS: Final[dict[int, str]] = {
    400: "Malformed, unknown or out of range; `param` names the input",
    401: "The API key is missing or wrong",
    404: "No such collection, point, job or route",
    408: "The deadline passed, or the body stopped coming",
    409: "It exists already, is under way already, or would make search worse",
    413: "The body, a text or a line is too large",
    415: "The body's encoding is not read here",
    429: "No room for more work now; see Retry-After",
    503: "The collection is damaged or read-only, or the encoder is not available",
    507: "No room for it on the disk, or in the memory that collections may take: nothing of this write was kept",
}
_READ_ERRORS = (400, 401, 404, 408, 429, 503)
_BODY_ERRORS = (408, 413, 415)
_WRITE_ERRORS = (400, 401, 404, 429, 503, 507)

OBJECT: Final[dict[str, Any]] = {"type": "object"}
BOOLEAN: Final[dict[str, Any]] = {"type": "boolean"}
COUNT: Final[dict[str, Any]] = {"type": "integer", "minimum": 0}


def ref(name: str) -> dict[str, Any]:
    """Return a reference to a component."""
    return {"$ref": _REF + name}


def fields(**properties: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of an object whose properties are all required."""
    return {"type": "object", "properties": properties, "required": list(properties)}


def list_of(items: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a list."""
    return {"type": "array", "items": items}


_PARAMETERS: Final[dict[str, dict[str, Any]]] = {
    "wait": {"type": "string", "enum": ["true", "false"]},
    "ordering": {"type": "string", "enum": ["weak", "medium", "strong"]},
    "timeout": {"type": "integer", "minimum": 1, "maximum": 86_400},
    "force": {"type": "string", "enum": ["true", "false"]},
    "points": {"type": "integer", "minimum": 0, "maximum": 999_999_999_999},
    "space": {"type": "string", "minLength": 1, "maxLength": 1000},
    "consistency": {
        "anyOf": [
            {"type": "integer", "minimum": 1, "maximum": 999_999_999},
            {"type": "string", "enum": ["majority", "quorum", "all"]},
        ]
    },
}


def documented(
    summary: str,
    *,
    result: dict[str, Any],
    body: type[schemas.Request] | str | None = None,
    query: tuple[str, ...] = (),
    writes: bool = False,
    status: int = 200,
    errors: tuple[int, ...] = (),
    openai: bool = False,
) -> dict[str, Any]:
    """Return the arguments that document a route whose body is read by the route itself.

    Parameters
    ----------
    body : a model of JSON, or the media type of bytes that are no JSON.
    status : of success.
    openai : the answer has no envelope, and errors have OpenAI's shape.
    """
    codes = {*(_WRITE_ERRORS if writes else _READ_ERRORS), *errors, *(_BODY_ERRORS if body else ())}
    responses = {status: json_content("The answer", result if openai else envelope_schema(result))}
    error = ref("OpenAIError" if openai else "Error")
    responses |= {code: json_content(ERRORS[code], error) for code in sorted(codes)}
    extra: dict[str, Any] = {
        "parameters": [{"name": name, "in": "query", "required": False, "schema": _PARAMETERS[name]} for name in query]
    }
    if body is not None:
        extra["requestBody"] = _request_body(body)
    return {
        "summary": summary,
        "responses": responses,
        "status_code": status,
        "openapi_extra": extra,
        "response_model": None,
    }


def _request_body(body: type[schemas.Request] | str) -> dict[str, Any]:
    if isinstance(body, str):
        return {"required": True, "content": {body: {"schema": {"type": "string"}}}}
    content = {"application/json": {"schema": ref(body.__name__)}}
    return {"required": not body.may_be_empty, "content": content}


def json_content(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    """Return the description of a JSON response."""
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def envelope_schema(result: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a successful answer around `result`."""
    envelope = fields(result=result, status={"const": "ok"}, time={"type": "number"})
    envelope["properties"]["warnings"] = list_of({"type": "string"})
    return envelope


_CONDITIONS = {"anyOf": [ref("Condition"), list_of(ref("Condition")), {"type": "null"}]}
_KEY = {"type": "string", "pattern": "^[A-Za-z0-9_-]+([.][A-Za-z0-9_-]+)*$"}
_SCALARS = {"anyOf": [list_of({"type": "string"}), list_of({"type": "integer"})]}
_NUMBER = {"anyOf": [{"type": "number"}, {"type": "null"}]}


def _closed(required: tuple[str, ...], properties: dict[str, Any]) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object", "properties": properties, "additionalProperties": False}
    if required:
        schema["required"] = list(required)
    return schema


def _one(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return _closed((name,), {name: schema})


_MATCH = {
    "anyOf": [
        _one("value", {"anyOf": [{"type": "string"}, {"type": "integer"}, {"type": "boolean"}]}),
        _one("any", _SCALARS),
        _one("except", _SCALARS),
        _one("text", {"type": "string"}),
    ]
}
_MIN_SHOULD = _closed(
    ("conditions", "min_count"),
    {"conditions": list_of(ref("Condition")), "min_count": {"type": "integer", "minimum": 1}},
)


def _bounds(number: dict[str, Any]) -> dict[str, Any]:
    return _closed((), dict.fromkeys(("gt", "gte", "lt", "lte"), number))


_IN_A_FORM = {"anyOf": [list_of({"type": "number"}), {"type": "string"}]}
_EXTRA_COMPONENTS: Final[dict[str, Any]] = {
    "PointId": POINT_ID_SCHEMA,
    "Filter": _closed(
        (),
        {
            "must": _CONDITIONS,
            "should": _CONDITIONS,
            "must_not": _CONDITIONS,
            "min_should": {"anyOf": [_MIN_SHOULD, {"type": "null"}]},
        },
    ),
    "Condition": {
        "anyOf": [
            _closed(("key", "match"), {"key": _KEY, "match": _MATCH}),
            _closed(("key", "range"), {"key": _KEY, "range": _bounds(_NUMBER)}),
            _closed(("key", "values_count"), {"key": _KEY, "values_count": _bounds(COUNT)}),
            _one("is_empty", _one("key", _KEY)),
            _one("is_null", _one("key", _KEY)),
            _one("has_id", list_of(ref("PointId"))),
            _one("nested", _closed(("key", "filter"), {"key": _KEY, "filter": ref("Filter")})),
            ref("Filter"),
        ]
    },
    "Error": {
        "type": "object",
        "properties": {
            "status": fields(error={"type": "string"}),
            "time": {"type": "number"},
            "type": {"type": "string"},
            "param": {"type": ["string", "null"]},
            "hint": {"type": ["string", "null"]},
        },
        "required": ["status", "time", "type", "param", "hint"],
    },
    "OpenAIError": fields(
        error=fields(
            message={"type": "string"},
            type={"type": "string"},
            param={"type": ["string", "null"]},
            code={"type": "string"},
        )
    ),
    "Embedding": {
        "type": "object",
        "properties": {
            "object": {"const": "embedding"},
            "index": COUNT,
            "embedding": _IN_A_FORM,
            "embeddings": {"type": "object", "additionalProperties": _IN_A_FORM},
        },
        "required": ["object", "index", "embedding"],
    },
    "Point": {
        "type": "object",
        "properties": {
            "id": ref("PointId"),
            "payload": OBJECT,
            "text": {"type": "string"},
            "vector": list_of({"type": "number"}),
        },
        "required": ["id"],
    },
    "Hit": {
        "type": "object",
        "properties": {
            "id": ref("PointId"),
            "version": COUNT,
            "score": {"type": "number"},
            "payload": OBJECT,
            "text": {"type": "string"},
            "vector": list_of({"type": "number"}),
        },
        "required": ["id", "score"],
    },
    "Job": fields(
        id={"type": "string"},
        kind={"type": "string", "enum": ["train", "upgrade"]},
        collection={"type": "string"},
        state={"type": "string", "enum": ["queued", "running", "done", "rejected", "failed", "cancelled"]},
        progress=fields(
            done=COUNT,
            total=COUNT,
            unit={"type": "string"},
            message={"type": "string"},
            rate=_NUMBER,
            eta_seconds=_NUMBER,
        ),
        parameters=OBJECT,
        figures=OBJECT,
        error={"type": ["object", "null"]},
        created={"type": "number"},
        started=_NUMBER,
        finished=_NUMBER,
    ),  # fmt: skip
    "Update": fields(operation_id=COUNT, status={"const": "completed"}, affected=COUNT),
    "LineError": fields(
        line={"type": "integer", "minimum": 1},
        id={"anyOf": [ref("PointId"), {"type": "null"}]},
        type={"type": "string"},
        message={"type": "string"},
    ),
    "Bulk": fields(
        accepted=COUNT,
        rejected=COUNT,
        truncated=COUNT,
        unchanged=COUNT,
        errors=list_of(ref("LineError")),
        errors_truncated=BOOLEAN,
        truncated_lines=list_of(COUNT),
        truncated_lines_truncated=BOOLEAN,
    ),
}
_BODIES: Final = (
    schemas_collections.CreateCollection,
    schemas_collections.Plan,
    schemas_collections.MeasureRecall,
    schemas_collections.UpdateCollection,
    schemas_collections.CreateIndex,
    schemas_collections.Train,
    schemas_collections.Upgrade,
    schemas_points.UpsertPoints,
    schemas_points.RetrievePoints,
    schemas_points.PointsSelector,
    schemas_points.SetPayload,
    schemas_points.DeletePayload,
    schemas_search.Search,
    schemas_search.Query,
    schemas_search.QueryBatch,
    schemas_points.Scroll,
    schemas_points.Count,
    schemas_openai.CreateEmbeddings,
)


def build(app: FastAPI, *, guarded: bool) -> dict[str, Any]:
    """Return the OpenAPI document of an application; `guarded` says whether an API key is asked for."""
    document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    _, models = models_json_schema([(model, "validation") for model in _BODIES], ref_template=_REF + "{model}")
    components = document.setdefault("components", {})
    components["schemas"] = _referring(models["$defs"]) | _EXTRA_COMPONENTS
    if guarded:
        components["securitySchemes"] = {"api-key": {"type": "apiKey", "in": "header", "name": "api-key"}}
        document["security"] = [{"api-key": []}]
    for operations in document["paths"].values():
        for operation in operations.values():
            # The routes check their input themselves and answer 400: FastAPI's own 422 never happens.
            operation["responses"].pop("422", None)
    return document


def _referring(schema: Any) -> Any:  # noqa: ANN401 - any JSON value
    """Return a schema with references in place of the names of components."""
    if isinstance(schema, list):
        return [_referring(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if COMPONENT in schema:
        return ref(schema[COMPONENT])
    return {key: _referring(value) for key, value in schema.items()}


_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "pre{background:#f4f4f4;padding:.6rem;overflow-x:auto}b{display:inline-block;min-width:4.5rem}"
    "code{font-size:90%}h2{margin-top:2rem;font-size:1rem;border-top:1px solid #ddd;padding-top:.6rem}"
)


def page(document: dict[str, Any], address: str) -> str:
    """Return the HTML page that lists every route of a document, with a command to paste for each."""
    sections = [
        _section(path, method, operation, document, address)
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    ]
    title = html.escape(f"{document['info']['title']} {document['info']['version']}")
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_STYLE}</style></head><body><h1>{title}</h1>"
        f"<p>{html.escape(document['info']['description'])} "
        'The whole description, for tools: <a href="/openapi.json">openapi.json</a>.</p>'
        f"{''.join(sections)}</body></html>"
    )


def _section(path: str, method: str, operation: dict[str, Any], document: dict[str, Any], address: str) -> str:
    verb, shown = method.upper(), html.escape(path)
    for name, value in (("collection", "my-collection"), ("point", "1"), ("job", "1")):
        path = path.replace(f"{{{name}}}", value)
    command = f"curl -X {verb} {address}{path}"
    body = operation.get("requestBody", {}).get("content", {})
    if "application/json" in body:
        name = body["application/json"]["schema"]["$ref"].removeprefix(_REF)
        example = document["components"]["schemas"][name].get("example", {})
        command += f" \\\n  -H 'Content-Type: application/json' \\\n  -d '{json.dumps(example)}'"
    elif body:
        file = "points.ndjson" if "application/x-ndjson" in body else "binarizer.safetensors"
        command += f" \\\n  --data-binary @{file}"
    text = html.escape(operation.get("summary", ""))
    more = html.escape(operation.get("description", ""))
    return f"<h2><b>{verb}</b><code>{shown}</code></h2><p>{text}. {more}</p><pre>{html.escape(command)}</pre>"
