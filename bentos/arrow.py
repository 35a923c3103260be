"""Arrow tables to a plan's inputs, and predictions to Arrow tables."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from bentos.columns import parse_text
from bentos.loaders.interface import Prediction
from bentos.plan import InputPlan

TYPES = {
    "boolean": pa.bool_(),
    "integer": pa.int32(),
    "long": pa.int64(),
    "float": pa.float32(),
    "double": pa.float64(),
    "string": pa.string(),
    "binary": pa.binary(),
    "datetime": pa.timestamp("ns"),
}


def from_arrow(table: pa.Table, plan: InputPlan) -> dict[str, Any]:
    """The columns that ``plan`` knows (all of them for tensors) as arrays, or lists where there are nulls or nesting."""
    wanted = {column.name for column in plan.columns}
    unnamed = not plan.columns or "" in wanted
    return {name: _values(table[name]) for name in table.column_names if unnamed or name in wanted}


def from_text(table: pa.Table, plan: InputPlan) -> dict[str, Any]:
    """The text columns that ``plan`` knows, parsed to its types; a cell that does not parse stays text."""
    kinds = {column.name: column.type for column in plan.columns}
    if not plan.columns:
        texts = any(np.dtype(tensor.dtype).kind in "OUS" for tensor in plan.tensors)
        return {n: parse_text(table[n].to_pylist(), "string" if texts else "double") for n in table.column_names}
    if "" in kinds:
        names = table.column_names[: len(plan.columns)]
        return {
            n: parse_text(table[n].to_pylist(), column.type) for n, column in zip(names, plan.columns, strict=False)
        }
    return {n: parse_text(table[n].to_pylist(), kind) for n, kind in kinds.items() if n in table.column_names}


def typed(table: pa.Table, plan: InputPlan) -> pa.Table:
    """A text table whose rows fit ``plan``, with the columns that the plan knows in their own types."""
    if not plan.columns or "" in {column.name for column in plan.columns}:
        return table
    columns = plan.coerce(from_text(table, plan)).columns or {}
    for column in plan.columns:
        if column.type in TYPES and column.name in table.column_names:
            place = table.column_names.index(column.name)
            array = pa.array(columns[column.name], TYPES[column.type], from_pandas=True)
            table = table.set_column(place, column.name, array)
    return table


def answers(prediction: Prediction) -> pa.Table:
    """A prediction as columns: ``prediction`` or its named outputs, and ``probability_<class>`` where it has them."""
    columns = {name: _column(array) for name, array in prediction.outputs().items()}
    if prediction.probabilities is not None:
        labels = prediction.classes or tuple(range(prediction.probabilities.shape[1]))
        for i, label in enumerate(labels):
            columns[f"probability_{label}"] = pa.array(np.ascontiguousarray(prediction.probabilities[:, i]))
    return pa.table(columns)


def _values(column: pa.ChunkedArray) -> Any:
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _values(column.cast(kind.value_type))
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return column.cast(pa.timestamp("ns")).to_numpy(zero_copy_only=False)
    if pa.types.is_decimal(kind):
        return _values(column.cast(pa.float64()))
    if pa.types.is_map(kind):
        return [None if row is None else dict(row) for row in column.to_pylist()]
    if pa.types.is_floating(kind) or (
        column.null_count == 0 and (pa.types.is_integer(kind) or pa.types.is_boolean(kind))
    ):
        return column.to_numpy(zero_copy_only=False)
    return column.to_pylist()


def _column(array: np.ndarray) -> pa.Array:
    if array.ndim == 1 and array.dtype.kind not in "OUS":
        return pa.array(array)
    return pa.array([_plain(item) for item in (array.tolist() if array.ndim > 1 or array.dtype.kind != "O" else array)])


def _plain(value: Any) -> Any:
    """Keys of dicts become text, arrays lists: what Arrow can hold."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value
