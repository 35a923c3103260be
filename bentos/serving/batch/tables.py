"""Arrow tables to a plan's inputs, and predictions to Arrow tables."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bentos.serving.inputs.columns import parse_text
from bentos.serving.inputs.plan import InputPlan
from bentos.serving.inputs.rows import InputRows
from bentos.serving.inputs.scalars import FLOATS, INTEGERS
from bentos.serving.inputs.signature import Column
from bentos.serving.model.interface import Prediction

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
    """The columns that ``plan`` knows (all of them for tensors) as arrays, without a copy where Arrow's layout allows; lists
    where there are nulls or nesting that no array holds.
    """
    wanted = {column.name: column for column in plan.columns}
    unnamed = not plan.columns or "" in wanted
    return {name: _values(table[name], wanted.get(name)) for name in table.column_names if unnamed or name in wanted}


def from_text(table: pa.Table, plan: InputPlan) -> dict[str, Any]:
    """The text columns that ``plan`` knows, parsed to its types; a cell that does not parse stays text."""
    kinds = {column.name: column.type for column in plan.columns}
    if not plan.columns:
        texts = any(np.dtype(tensor.dtype).kind in "OUS" for tensor in plan.tensors)
        kind = "string" if texts else "double"
        # a named tensor takes lists as flattened rows and arrays as they are: its cells stay lists
        lists = texts or plan.tensors[0].name is not None or "" in table.column_names
        parse = _parse_cells if lists else _parse
        return {name: parse(table[name], kind) for name in table.column_names}
    if "" in kinds:
        names = table.column_names[: len(plan.columns)]
        return {n: _parse(table[n], column.type) for n, column in zip(names, plan.columns, strict=False)}
    return {n: _parse(table[n], kind) for n, kind in kinds.items() if n in table.column_names}


def typed(table: pa.Table, plan: InputPlan, data: InputRows | None = None) -> pa.Table:
    """A text table whose rows fit ``plan``, with the columns that the plan knows in their own types; ``data`` is the same
    rows coerced, if they have been.
    """
    if not plan.columns or "" in {column.name for column in plan.columns}:
        return table
    columns = (data or plan.coerce(from_text(table, plan))).columns or {}
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


def _values(column: pa.ChunkedArray, wanted: Column | None) -> Any:
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _values(column.cast(kind.value_type), wanted)
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return _numpy(column.cast(pa.timestamp("ns")))
    if pa.types.is_decimal(kind):
        return _values(column.cast(pa.float64()), wanted)
    if pa.types.is_map(kind):
        return [None if row is None else dict(row) for row in column.to_pylist()]
    numbers = pa.types.is_integer(kind) or pa.types.is_boolean(kind)
    if pa.types.is_floating(kind) or (column.null_count == 0 and numbers):
        return _numpy(column)
    if wanted is not None and pa.types.is_integer(kind) and _takes_nan(wanted):
        return _numpy(column.cast(pa.float64(), safe=False))
    if wanted is not None and (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        return _numpy(column)
    return column.to_pylist()


def _takes_nan(column: Column) -> bool:
    """Whether whole numbers with nulls come to the same as floats with NaN."""
    return column.type in FLOATS or (column.type in INTEGERS and not column.required)


def _numpy(column: pa.ChunkedArray) -> np.ndarray:
    return np.asarray((column.chunk(0) if column.num_chunks == 1 else column).to_numpy(zero_copy_only=False))


def _parse(column: pa.ChunkedArray, kind: str) -> Any:
    """A column of text by Arrow's parser, and cell by cell where Python's might see it otherwise."""
    if kind == "string":
        return _numpy(column)
    try:
        if kind in FLOATS:
            parsed = _numpy(column.cast(pa.float64()))
            if np.count_nonzero(np.isnan(parsed)) == column.null_count:
                return parsed
        elif kind in INTEGERS and not column.null_count and not _hexadecimal(column):
            return _numpy(column.cast(pa.int64()))
    except pa.ArrowInvalid:
        pass  # which cell, and as what it shows, is found below
    return _parse_cells(column, kind)


def _hexadecimal(column: pa.ChunkedArray) -> bool:
    """Whether a cell may be a number to Arrow, 0x1F, that is text to Python."""
    return bool(pc.any(pc.match_substring(column, "x", ignore_case=True)).as_py())


def _parse_cells(column: pa.ChunkedArray, kind: str) -> Any:
    return parse_text(column.to_pylist(), kind)


def _column(array: np.ndarray) -> pa.Array:
    if array.ndim == 1 and array.dtype.kind not in "OUS":
        return pa.array(array)
    if array.ndim == 1 and (array.dtype.kind == "U" or {str} <= set(map(type, array)) <= {str, type(None)}):
        return pa.array(array, pa.string(), from_pandas=False)
    return pa.array([_plain(item) for item in (array.tolist() if array.ndim > 1 or array.dtype.kind != "O" else array)])


def _plain(value: Any) -> Any:
    """Keys of dicts become text, arrays lists: what Arrow can hold."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value
