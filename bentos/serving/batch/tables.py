"""Arrow tables to a plan's inputs, and predictions to Arrow tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bentos.serving.batch.source import BatchError
from bentos.serving.inputs.columns import parse_text
from bentos.serving.inputs.plan import InputPlan
from bentos.serving.inputs.rows import InputRows
from bentos.serving.inputs.scalars import FLOATS, INTEGERS, objects
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
    """A prediction as columns: ``prediction`` or its named outputs, and ``probability_<class>`` where it has them.

    Outputs of different lengths are no rows: they make one, with each output whole. Raises BatchError for values that no
    column holds.
    """
    columns = {name: _column(array, name) for name, array in rows_of(prediction).items()}
    if prediction.probabilities is not None:
        labels = prediction.classes or tuple(range(prediction.probabilities.shape[1]))
        for i, label in enumerate(labels):
            columns[f"probability_{label}"] = pa.array(np.ascontiguousarray(prediction.probabilities[:, i]))
    return pa.table(columns)


def rows_of(prediction: Prediction) -> dict[str, np.ndarray]:
    """The outputs by name, each with one value a row; one row of whole outputs where these differ in length."""
    values = prediction.values
    if isinstance(values, dict) and len({array.shape[:1] for array in values.values()}) > 1:
        return {name: objects([array.tolist()]) for name, array in values.items()}
    return prediction.outputs()


def joined(predictions: Sequence[Prediction]) -> Prediction:
    """The rows of *predictions* of one model, one after the other. Raises BatchError where their outputs differ."""
    parts = [rows_of(prediction) for prediction in predictions]
    if other := next((part for part in parts if part.keys() != parts[0].keys()), None):
        raise BatchError(f"the model answers {sorted(parts[0])} to some rows and {sorted(other)} to others")
    values = {name: _stacked([part[name] for part in parts]) for name in parts[0]}
    if any(prediction.probabilities is None for prediction in predictions):
        return Prediction(values)
    return Prediction(
        values,
        np.concatenate([p.probabilities for p in predictions if p.probabilities is not None]),
        predictions[0].classes,
    )


def _stacked(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Arrays one after the other, as one of objects where their kinds or widths differ."""
    kinds = {"n" if array.dtype.kind in "iuf" else array.dtype.kind for array in arrays}
    if len(kinds) == 1 and len({array.shape[1:] for array in arrays}) == 1:
        return np.concatenate(arrays)
    return objects([item for array in arrays for item in array.tolist()])


def together(parts: Sequence[pa.Table]) -> pa.Table:
    """Tables of answers after one another. Raises BatchError where they are of types that make no column."""
    try:
        return pa.concat_tables(parts, promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise BatchError(f"the model answers some rows with other types than the rest: {error}") from error


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


def _column(array: np.ndarray, name: str) -> pa.Array:
    if array.ndim == 1 and array.dtype.kind not in "OUS":
        return pa.array(array)
    if array.ndim == 1 and (array.dtype.kind == "U" or {str} <= set(map(type, array)) <= {str, type(None)}):
        return pa.array(array, pa.string(), from_pandas=False)
    try:
        return pa.array(
            [_plain(item) for item in (array.tolist() if array.ndim > 1 or array.dtype.kind != "O" else array)]
        )
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError) as error:
        raise BatchError(
            f"the model's output {name!r} is of values that no column holds: {error}. Answer with one type, as texts"
        ) from error


def _plain(value: Any) -> Any:
    """Keys of dicts become text, arrays and tuples lists: what Arrow can hold."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value
