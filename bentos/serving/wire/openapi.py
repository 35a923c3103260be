"""The server's OpenAPI document with the model's own schema, and a page that shows it with nothing from elsewhere."""

from __future__ import annotations

import html
import json
from typing import Any

from bentos.serving.inputs.signature import Column, Signature, Tensor
from bentos.serving.wire.compression import CODINGS
from bentos.serving.wire.negotiation import TYPES
from bentos.serving.wire.scoring.invocations import FORMATS
from bentos.serving.wire.v2.tensors import DTYPES

_JSON_TYPES: dict[str, dict[str, Any]] = {
    "boolean": {"type": "boolean"},
    "integer": {"type": "integer", "format": "int32", "minimum": -(2**31), "maximum": 2**31 - 1},
    "long": {"type": "integer", "format": "int64", "minimum": -(2**63), "maximum": 2**63 - 1},
    "float": {"type": "number", "format": "float"},
    "double": {"type": "number", "format": "double"},
    "string": {"type": "string"},
    "binary": {"type": "string", "contentEncoding": "base64"},
    "datetime": {"type": ["string", "integer"], "format": "date-time", "description": "ISO 8601, or ns since 1970"},
}
_NULL_IS_NAN = ("float", "double", "string", "datetime")  # null there is a missing value, required or not


def describe(signature: Signature, model: str, version: str) -> dict[str, Any]:
    """An OpenAPI 3.1 document of the prediction endpoints, with one row's schema made from the signature."""
    rows = {"type": "array", "items": row_schema(signature)}
    split, params = _split_schema(signature), _params_schema(signature)
    forms = _object(
        dataframe_records=rows, dataframe_split=split, instances={"type": "array"}, inputs={}, params=params
    )
    body = {**forms, "oneOf": [{"required": [form]} for form in FORMATS]}
    answer = _object("predictions", predictions={})
    answers = {kind: answer if form == "json" else _binary(_ANSWERED[form]) for kind, form in TYPES.items()}
    accepted = {"application/json": body, "text/csv": {"type": "string"}, **_tables(signature)}
    invoke = _operation("Predict, in MLflow's scoring protocol", accepted, answers, _MLFLOW_ERROR)
    invoke["description"] = f"The header Accept names the answer's format: {', '.join(TYPES)}; JSON without."
    invoke["responses"]["406"] = _response("No format that the client accepts can hold the answer.", _MLFLOW_ERROR)
    binary = {"application/octet-stream": _binary(_RAW)}
    asked, answered = {"application/json": _V2_REQUEST, **binary}, {"application/json": _V2_ANSWER, **binary}
    infer = _operation("Predict, in the Open Inference Protocol V2", asked, answered, _V2_ERROR)
    infer["parameters"].append(_HEADER_LENGTH)
    infer["responses"]["415"] = _response(_UNREAD, _V2_ERROR)
    plain = {
        path: {"get": {"summary": text, "responses": {"200": {"description": "OK"}}}}
        for path, text in _pages(model, version)
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": model, "version": version},
        "paths": {"/invocations": {"post": invoke}, f"/v2/models/{model}/infer": {"post": infer}, **plain},
    }


def row_schema(signature: Signature) -> dict[str, Any]:
    """JSON schema of one row: an object of columns, or of named tensors, or a nested array."""
    if isinstance(signature.inputs[0], Column):
        properties = {}
        for name, column in signature.columns.items():
            schema = _column_schema(column.type)
            null = column.type in _NULL_IS_NAN or not column.required
            properties[name] = _nullable(schema) if null else schema
        return _object(*(name for name, column in signature.columns.items() if column.required), **properties)
    tensors = [entry for entry in signature.inputs if isinstance(entry, Tensor)]
    if tensors[0].name is None:
        return _tensor_schema(tensors[0])
    return _object(**{str(tensor.name): _tensor_schema(tensor) for tensor in tensors})


def _object(*required: str, **properties: Any) -> dict[str, Any]:
    return {"type": "object", **({"required": list(required)} if required else {}), "properties": properties}


def _column_schema(kind: str) -> dict[str, Any]:
    return _JSON_TYPES.get(kind) or {"description": kind}


def _nullable(schema: dict[str, Any]) -> dict[str, Any]:
    kinds = schema.get("type")
    return {**schema, "type": [*([kinds] if isinstance(kinds, str) else kinds), "null"]} if kinds else schema


def _tensor_schema(tensor: Tensor) -> dict[str, Any]:
    return {"type": "array", "description": f"one element of a tensor {tensor.dtype} {list(tensor.shape)}"}


def _split_schema(signature: Signature) -> dict[str, Any]:
    names = {"type": "array", "items": {"type": "string"}, "examples": [list(signature.kinds)]}
    return _object("data", columns=names, data={"type": "array", "items": {"type": "array"}}, index={"type": "array"})


def _params_schema(signature: Signature) -> dict[str, Any]:
    properties = {}
    for param in signature.params:
        schema = _column_schema(param.type)
        schema = {"type": "array", "items": schema} if param.shape else schema
        properties[param.name] = {**schema, "default": param.default}
    return {**_object(**properties), "additionalProperties": False}


def _operation(
    summary: str, accepted: dict[str, Any], answers: dict[str, Any], error: dict[str, Any]
) -> dict[str, Any]:
    wait = {"schema": {"type": "integer"}, "description": "Seconds after which to try again."}
    return {
        "summary": summary,
        "parameters": [_CONTENT_ENCODING],
        "requestBody": {"required": True, "content": {kind: {"schema": schema} for kind, schema in accepted.items()}},
        "responses": {
            "200": {
                "description": "Predictions, one a row.",
                "content": {kind: {"schema": schema} for kind, schema in answers.items()},
            },
            "400": _response("The body or the inputs do not fit; the message says where.", error),
            "413": _response("The body is too long, as it came or decompressed; send fewer rows at once.", error),
            "415": {"description": _UNREAD, "content": {"text/plain": {"schema": {"type": "string"}}}},
            "429": {**_response("Too many requests wait already; try again.", error), "headers": {"Retry-After": wait}},
            "500": _response("The model's own code failed on inputs that fit its signature.", error),
            "503": _response("The server is about to end; ask another.", error),
            "504": _response("Not answered within the deadline.", error),
        },
    }


def _response(text: str, error: dict[str, Any]) -> dict[str, Any]:
    return {"description": text, "content": {"application/json": {"schema": error}}}


def _tables(signature: Signature) -> dict[str, Any]:
    """The binary forms of rows."""
    npy = "numpy.save of the tensor, or of an array [rows, columns] in the signature's order, or of a structured array"
    arrow = (
        f"Record batches, not compressed, with the flat columns {', '.join(signature.kinds)[:2000] or 'of the tensor'}"
    )
    return {"application/x-npy": _binary(npy), "application/vnd.apache.arrow.stream": _binary(arrow)}


def _binary(text: str) -> dict[str, Any]:
    return {"type": "string", "format": "binary", "description": text}


def _header(name: str, text: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": False, "description": text, "schema": schema}


_UNREAD = "A content type, or a content encoding, that the endpoint does not read."
_RAW = "JSON, and behind it the tensors' raw bytes, as Triton's binary tensor data extension has them"
_ANSWERED = {
    "npy": "The predictions as one array, as numpy.load reads it",
    "arrow": "A record batch with a column prediction, or one a named output",
}
_TEXT = {"type": "string"}
_MLFLOW_ERROR = _object("error_code", "message", error_code=_TEXT, message=_TEXT)
_V2_ERROR = _object("error", error=_TEXT)
_MAYBE_OBJECT = {"type": ["object", "null"]}
_TENSOR = _object(
    "name", "shape", "datatype",
    name=_TEXT,
    shape={"type": "array", "items": {"type": "integer", "minimum": 0}},
    datatype={"type": "string", "enum": list(DTYPES)},
    data={"type": "array"},
    parameters=_MAYBE_OBJECT,
)  # fmt: skip
_OUTPUT = _object("name", name=_TEXT, parameters=_MAYBE_OBJECT)
_V2_REQUEST = _object(
    "inputs",
    id=_TEXT,
    parameters=_MAYBE_OBJECT,
    inputs={"type": "array", "minItems": 1, "items": _TENSOR},
    outputs={"type": ["array", "null"], "items": _OUTPUT},
)
_V2_ANSWER = _object(
    "model_name", "model_version", "outputs",
    model_name=_TEXT, model_version=_TEXT, id=_TEXT, outputs={"type": "array", "items": _TENSOR},
)  # fmt: skip
_CONTENT_ENCODING = _header(
    "Content-Encoding",
    f"How the body is compressed: {', '.join(CODINGS)}, or not at all; several, as in gzip, gzip, one after another.",
    {"type": "string"},
)
_HEADER_LENGTH = _header(
    "Inference-Header-Content-Length", "Bytes of JSON before the raw tensors.", {"type": "integer", "minimum": 0}
)


def _pages(model: str, version: str) -> list[tuple[str, str]]:
    return [
        ("/ping", "Alive, as MLflow asks"),
        ("/version", "The MLflow version the model was logged with"),
        ("/livez", "Alive"),
        ("/readyz", "Ready for traffic, and which version answers"),
        ("/metrics", "Prometheus metrics"),
        ("/v2", "Server metadata"),
        ("/v2/health/live", "Alive"),
        ("/v2/health/ready", "Ready"),
        (f"/v2/models/{model}", "Model metadata"),
        (f"/v2/models/{model}/versions/{version}", "Model metadata"),
        (f"/v2/models/{model}/ready", "Ready"),
    ]


def page(document: dict[str, Any]) -> str:
    """The document as one HTML page."""
    title = html.escape(f"{document['info']['title']}, version {document['info']['version']}")
    parts = []
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            schema = operation.get("requestBody")
            detail = f"<pre>{html.escape(json.dumps(schema, indent=2, default=str))}</pre>" if schema else ""
            parts.append(
                f"<h2><code>{method.upper()} {html.escape(path)}</code></h2><p>{html.escape(operation['summary'])}</p>{detail}"
            )
    style = "body{font:16px system-ui;max-width:60rem;margin:2rem auto;padding:0 1rem}pre{background:#f4f4f4;padding:1rem;overflow:auto}"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>{style}</style></head>'
        f'<body><h1>{title}</h1><p><a href="openapi.json">openapi.json</a></p>{"".join(parts)}</body></html>'
    )
