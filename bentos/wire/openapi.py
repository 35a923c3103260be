"""The server's OpenAPI document with the model's own schema, and a page that shows it with nothing from elsewhere."""

from __future__ import annotations

import html
import json
from typing import Any

from bentos.signature import Column, Signature, Tensor
from bentos.wire.interface import column_kinds

_JSON_TYPES: dict[str, dict[str, Any]] = {
    "boolean": {"type": "boolean"},
    "integer": {"type": "integer", "format": "int32"},
    "long": {"type": "integer", "format": "int64"},
    "float": {"type": "number", "format": "float"},
    "double": {"type": "number", "format": "double"},
    "string": {"type": "string"},
    "binary": {"type": "string", "contentEncoding": "base64"},
    "datetime": {"type": "string", "format": "date-time"},
}


def describe(signature: Signature, model: str, version: str) -> dict[str, Any]:
    """An OpenAPI 3.1 document of the prediction endpoints, with one row's schema made from the signature."""
    row = row_schema(signature)
    rows = {"type": "array", "items": row}
    properties = {
        "dataframe_records": rows,
        "dataframe_split": _split_schema(signature),
        "instances": {"type": "array"},
        "inputs": {},
        "params": _params_schema(signature),
    }
    body = {"type": "object", "properties": properties}
    answer = {"type": "object", "required": ["predictions"], "properties": {"predictions": {}}}
    invoke = _operation(
        "Predict, in MLflow's scoring protocol", {"application/json": body, "text/csv": {"type": "string"}}, answer
    )
    infer = _operation(
        "Predict, in the Open Inference Protocol V2",
        {"application/json": {"type": "object"}, "application/octet-stream": {}},
        {"type": "object"},
    )
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
        kinds = column_kinds(signature)
        required = [
            key
            for key, entry in zip(kinds, signature.inputs, strict=True)
            if isinstance(entry, Column) and entry.required
        ]
        return {
            "type": "object",
            "properties": {key: _column_schema(kind) for key, kind in kinds.items()},
            "required": required,
        }
    tensors = [entry for entry in signature.inputs if isinstance(entry, Tensor)]
    if tensors[0].name is None:
        return _tensor_schema(tensors[0])
    return {"type": "object", "properties": {entry.name: _tensor_schema(entry) for entry in tensors}}


def _column_schema(kind: str) -> dict[str, Any]:
    return _JSON_TYPES.get(kind) or {"description": kind}


def _tensor_schema(tensor: Tensor) -> dict[str, Any]:
    return {"type": "array", "description": f"one element of a tensor {tensor.dtype} {list(tensor.shape)}"}


def _split_schema(signature: Signature) -> dict[str, Any]:
    names = {"type": "array", "items": {"type": "string"}, "examples": [list(column_kinds(signature))]}
    return {
        "type": "object",
        "required": ["data"],
        "properties": {
            "columns": names,
            "data": {"type": "array", "items": {"type": "array"}},
            "index": {"type": "array"},
        },
    }


def _params_schema(signature: Signature) -> dict[str, Any]:
    properties = {}
    for param in signature.params:
        schema = _column_schema(param.type)
        properties[param.name] = {
            **({"type": "array", "items": schema} if param.shape else schema),
            "default": param.default,
        }
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _operation(summary: str, accepted: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    return {
        "summary": summary,
        "requestBody": {"required": True, "content": {kind: {"schema": schema} for kind, schema in accepted.items()}},
        "responses": {
            "200": {"description": "Predictions, one a row.", "content": {"application/json": {"schema": answer}}},
            "400": {"description": "The body or the inputs do not fit; the message says where."},
            "415": {"description": "A content type that the endpoint does not read."},
            "500": {"description": "The model's own code failed on inputs that fit its signature."},
        },
    }


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
