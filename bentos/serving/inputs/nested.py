"""Values of MLflow's nested types (array, object, map, any), checked all the way down."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from bentos.serving.inputs.mismatch import ValueMismatch, describe, is_null
from bentos.serving.inputs.scalars import scalar


def nested(values: Any, kind: str, required: bool) -> np.ndarray:
    """Rows of a nested column, each checked against the JSON text ``kind`` of its type; an object array [rows]."""
    spec = json.loads(kind)
    out = np.empty(len(values), dtype=object)
    for row, value in enumerate(values):
        try:
            out[row] = fit(value, spec, required)
        except ValueMismatch as mismatch:
            raise ValueMismatch(mismatch.found, row) from None
    return out


def fit(value: Any, spec: dict[str, Any], required: bool = True) -> Any:
    """``value`` with its leaves converted to the types of ``spec``. Raises ValueMismatch with the path of what does not fit."""
    kind = spec["type"]
    if kind == "any" or (not required and is_null_or_empty(value)):
        return value
    if kind == "array":
        return _array(value, spec["items"], required)
    if kind == "object":
        return _object(value, spec["properties"])
    if kind == "map":
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            raise ValueMismatch(describe(value))
        return {key: _within(f"[{key!r}]", item, spec["values"], required) for key, item in value.items()}
    return _leaf(value, kind)


def blank(spec: dict[str, Any]) -> Any:
    """The smallest value of a type: zero, an empty text, list or map, an object with its required properties blank."""
    kind = spec["type"]
    if kind == "object":
        return {name: blank(item) for name, item in spec["properties"].items() if item.get("required", True)}
    blanks: dict[str, Any] = {
        "array": [],
        "map": {},
        "any": None,
        "boolean": False,
        "string": "",
        "binary": b"",
        "datetime": "1970-01-01",
    }
    return blanks.get(kind, 0)


def is_null_or_empty(value: Any) -> bool:
    """A value that MLflow lets stand for an optional nested value."""
    return is_null(value) or (isinstance(value, (list, dict, np.ndarray)) and len(value) == 0)


def _array(value: Any, items: dict[str, Any], required: bool) -> list[Any]:
    if not isinstance(value, (list, tuple, np.ndarray)):
        raise ValueMismatch(describe(value))
    return [_within(f"[{i}]", item, items, required) for i, item in enumerate(value)]


def _object(value: Any, properties: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueMismatch(describe(value))
    if unknown := sorted(value.keys() - properties.keys()):
        raise ValueMismatch(f"unknown property {unknown[0]!r}")
    out = {}
    for name, spec in properties.items():
        if name in value:
            out[name] = _within(f".{name}", value[name], spec, spec.get("required", True))
        elif spec.get("required", True):
            raise ValueMismatch(f"no property {name!r}")
    return out


def _within(path: str, value: Any, spec: dict[str, Any], required: bool) -> Any:
    try:
        return fit(value, spec, required)
    except ValueMismatch as mismatch:
        raise ValueMismatch(
            f"{mismatch.found} at {path}" if " at " not in mismatch.found else f"{mismatch.found} in {path}"
        ) from None


def _leaf(value: Any, kind: str) -> Any:
    found = scalar([value], kind, required=True)[0]
    return found.item() if isinstance(found, np.generic) and kind != "datetime" else found
