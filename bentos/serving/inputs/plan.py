"""InputPlan: a signature compiled once to check and coerce inputs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np

from bentos.serving.inputs.columns import convert, empty
from bentos.serving.inputs.mismatch import ValueMismatch, describe
from bentos.serving.inputs.nested import blank
from bentos.serving.inputs.rows import InputRows
from bentos.serving.inputs.scalars import NUMBERS
from bentos.serving.inputs.signature import SCALARS, Column, InputError, Inputs, Param, Signature, Tensor
from bentos.serving.inputs.tensors import as_array, fit_tensor


@dataclass(frozen=True)
class InputPlan:
    """A signature made ready to check and coerce inputs, many times. Safe to share between threads."""

    signature: Signature
    columns: tuple[Column, ...]
    tensors: tuple[Tensor, ...]
    keys: tuple[str, ...]  # what each column goes by: its name, or its position
    labels: tuple[str | int, ...]  # what a frame calls it

    @staticmethod
    def compile(signature: Signature) -> InputPlan:
        """The plan of ``signature``."""
        columns = tuple(item for item in signature.inputs if isinstance(item, Column))
        tensors = tuple(item for item in signature.inputs if isinstance(item, Tensor))
        keys = tuple(column.name or str(position) for position, column in enumerate(columns))
        labels = tuple(position if c.label is None else c.label for position, c in enumerate(columns))
        return InputPlan(signature, columns, tensors, keys, labels)

    def coerce(self, inputs: Inputs) -> InputRows:
        """``inputs`` as the signature wants them. Columns the signature does not know are left out, as MLflow does.

        Raises InputError that names every column that is missing or does not fit (at most five), with what was found and
        what was expected.
        """
        if self.tensors:
            return self._coerce_tensors(inputs)
        if type(inputs) is np.ndarray and inputs.dtype == self.uniform and inputs.shape[1:] == (len(self.columns),):
            return self.whole(np.array(inputs, order="C"))  # a copy: models may write into what they are given
        return self._coerce_columns(table(inputs, self.columns))

    def whole(self, matrix: np.ndarray) -> InputRows:
        """Columns given as one C-contiguous array [rows x columns] of the type that all of them have; see ``uniform``.

        Raises InputError where there is no row.
        """
        if not len(matrix):
            raise InputError("no rows: expected at least one")
        return InputRows(len(matrix), labels=self.labels, whole=matrix, keys=self.keys)

    @cached_property
    def uniform(self) -> np.dtype[Any] | None:
        """The type of all columns where they share one number type, which any value of that type then fits; else None."""
        kinds = {column.type for column in self.columns}
        return NUMBERS.get(kinds.pop()) if len(kinds) == 1 else None

    def bad_rows(self, inputs: Inputs) -> tuple[np.ndarray, dict[int, str]]:
        """Which rows of a column table do not fit: a mask [rows], True where bad, and the reason of each bad row.

        Raises InputError where no row can fit: a required column is missing, columns differ in length, tensors.
        """
        if self.tensors:
            raise InputError("the model takes tensors: rows can be judged one by one only where it takes columns")
        columns = table(inputs, self.columns)
        rows = self._rows(columns)
        mask = np.zeros(rows, dtype=bool)
        reasons: dict[int, str] = {}
        for key, column in zip(self.keys, self.columns, strict=True):
            if (values := columns.get(key)) is None:
                continue
            try:
                convert(values, column.type, column.required)
            except ValueMismatch:
                for row, found in mismatches(values, column):
                    mask[row] = True
                    reason = f"column {column.name!r}: found {found}, expected {expected(column)}"
                    reasons[row] = f"{reasons[row]}; {reason}" if row in reasons else reason
        return mask, reasons

    def coerce_params(self, params: Mapping[str, Any] | None) -> dict[str, Any]:
        """``params`` with the defaults of those that were not given. Raises InputError for an unknown or unfit one."""
        given = dict(params or {})
        known = {param.name: param for param in self.signature.params}
        if unknown := sorted(given.keys() - known.keys()):
            raise InputError(f"unknown params {unknown}: the model knows {sorted(known) or 'none'}")
        return {name: fit_param(param, given.get(name, param.default)) for name, param in known.items()}

    def synthetic(self) -> Inputs:
        """One row that fits: zeros, empty text, false, 1970, empty nested values; tensors of zeros, 1 where any length fits."""
        if self.tensors:
            return {
                t.name or "": np.zeros([1 if n == -1 else n for n in t.shape], dtype=np.dtype(t.dtype))
                for t in self.tensors
            }
        kinds = [{"type": c.type} if c.type in SCALARS else json.loads(c.type) for c in self.columns]
        return {key: [blank(kind)] for key, kind in zip(self.keys, kinds, strict=True)}

    def _coerce_columns(self, columns: Mapping[Any, Any]) -> InputRows:
        rows = self._rows(columns)
        if not rows:
            raise InputError("no rows: expected at least one")
        if (matrix := self._together(columns)) is not None:
            return self.whole(matrix)
        out: dict[str, np.ndarray] = {}
        faults: list[str] = []
        for key, column in zip(self.keys, self.columns, strict=True):
            if key not in columns:
                out[key] = empty(column.type, rows)
                continue
            try:
                out[key] = convert(columns[key], column.type, column.required)
            except ValueMismatch as mismatch:
                row = "" if mismatch.row is None else f" in row {mismatch.row}"
                faults.append(f"column {key!r}: found {mismatch.found}{row}, expected {expected(column)}")
        _raise(faults)
        absent = frozenset(label for key, label in zip(self.keys, self.labels, strict=True) if key not in columns)
        return InputRows(rows, out, None, self.labels, absent)

    def _together(self, columns: Mapping[Any, Any]) -> np.ndarray | None:
        """All columns at once, [rows x columns], where they share a number type and come as arrays of it, or as lists of
        Python floats where that is double; else None."""
        if self.uniform is None:
            return None
        given = [columns.get(key) for key in self.keys]
        kinds = set(map(type, given))
        if kinds == {np.ndarray}:
            arrays: list[np.ndarray] = given  # type: ignore[assignment] # as just seen
            # of many rows, one array is made when it is asked for, in the layout that is asked for
            if len(arrays[0]) > 1000 or any(array.dtype != self.uniform or array.ndim != 1 for array in arrays):
                return None
            return np.ascontiguousarray(np.array(arrays).T)
        if kinds != {list} or self.uniform != np.float64:
            return None
        lists: list[list[Any]] = given  # type: ignore[assignment] # as just seen
        return (
            np.ascontiguousarray(np.array(lists).T) if set(map(type, chain.from_iterable(lists))) == {float} else None
        )

    def _coerce_tensors(self, inputs: Inputs) -> InputRows:
        given, flat = self._tensor_values(inputs)
        out: dict[str, np.ndarray] = {}
        faults: list[str] = []
        for tensor in self.tensors:
            name = tensor.name or ""
            wanted = f"{tensor.dtype} {list(tensor.shape)}"
            if name not in given:
                faults.append(f"tensor {name!r}: missing, expected {wanted}")
                continue
            try:
                out[name] = fit_tensor(given[name], tensor.dtype, tensor.shape, flat=flat)
            except ValueMismatch as mismatch:
                faults.append(f"tensor {name!r}: found {mismatch.found}, expected {wanted}")
        _raise(faults)
        rows = len(next(iter(out.values()))) if next(iter(out.values())).ndim else 1
        if not rows:
            raise InputError("no rows: expected at least one")
        return InputRows(rows, None, out)

    def _tensor_values(self, inputs: Inputs) -> tuple[dict[str, Any], bool]:
        """Values by tensor name, and whether they are columns of a frame, whose rows may be flattened tensors."""
        first = self.tensors[0].name or ""
        if not (isinstance(inputs, Mapping) or is_frame(inputs)):
            return {first: inputs}, False
        given = {str(key): inputs[key] for key in (inputs.columns if is_frame(inputs) else inputs)}
        arrays = {key: value.to_numpy() if is_frame(inputs) else value for key, value in given.items()}
        if self.tensors[0].name is not None or "" in arrays:
            return arrays, not all(isinstance(value, np.ndarray) for value in arrays.values()) or is_frame(inputs)
        if len(arrays) == 1:
            return {first: next(iter(arrays.values()))}, True
        try:
            return {first: np.column_stack([as_array(value) for value in arrays.values()])}, True
        except (ValueError, TypeError) as error:
            raise InputError(f"columns {list(arrays)[:5]} do not make one tensor: {error}") from error

    def _rows(self, columns: Mapping[Any, Any]) -> int:
        """The number of rows. Raises InputError for missing required columns or columns of different lengths."""
        faults: list[str] = []
        rows = -1
        for key, column in zip(self.keys, self.columns, strict=True):
            values = columns.get(key)
            if values is None:
                if column.required:
                    faults.append(f"column {key!r}: missing, expected {expected(column)}")
            elif rows == -1:
                rows = len(values)
            elif len(values) != rows:
                faults.append(f"column {key!r}: found {len(values)} rows, expected {rows} as in the first column")
        if faults and (extra := sorted(columns.keys() - {column.name for column in self.columns})):
            faults[-1] += f" (columns given that the model does not know: {extra[:5]})"
        _raise(faults)
        return rows if rows != -1 else max((len(values) for values in columns.values()), default=0)


def expected(column: Column) -> str:
    """What a column takes, in an error's words."""
    nulls = "" if column.required or column.type not in SCALARS else " or null"
    return f"{column.type}{nulls}"


def mismatches(values: Any, column: Column) -> list[tuple[int, str]]:
    """Each row of a column that does not fit by itself, with what was found there."""
    found = []
    for row in range(len(values)):
        value = values.iloc[row : row + 1] if hasattr(values, "iloc") else values[row : row + 1]
        try:
            convert(value, column.type, column.required)
        except ValueMismatch as mismatch:
            found.append((row, mismatch.found))
    return found


def is_frame(inputs: Any) -> bool:
    """Whether ``inputs`` is a pandas DataFrame, without importing pandas."""
    return hasattr(inputs, "columns") and hasattr(inputs, "iloc")


def table(inputs: Inputs, columns: tuple[Column, ...]) -> Mapping[str, Any]:
    """``inputs`` as a mapping of name → values; an array's columns, and those of an unnamed signature, go by position."""
    if is_frame(inputs):
        if not inputs.columns.is_unique:
            raise InputError(f"columns {sorted(map(str, inputs.columns[inputs.columns.duplicated()]))} come twice")
        named = {str(label): inputs[label] for label in inputs.columns}
    elif isinstance(inputs, Mapping):
        # A bare scalar is a column of one row; a dict or an array stays what it is.
        named = {k if type(k) is str else str(k): v if hasattr(v, "__len__") and not isinstance(v, (str, bytes, dict)) else [v] for k, v in inputs.items()}  # fmt: skip
    else:
        return _positional(inputs, columns)
    if columns[0].name == "":
        return {str(position): values for position, values in enumerate(named.values())}
    return named


def _positional(inputs: Any, columns: tuple[Column, ...]) -> Mapping[str, Any]:
    keys = [column.name or str(position) for position, column in enumerate(columns)]
    if len(columns) == 1 and (not isinstance(inputs, np.ndarray) or inputs.ndim == 1):
        return {keys[0]: inputs if hasattr(inputs, "__len__") and not isinstance(inputs, str) else [inputs]}
    try:
        array = as_array(inputs)
    except ValueMismatch as mismatch:
        raise InputError(f"found {mismatch.found}, expected {len(columns)} values a row") from None
    if array.ndim != 2 or array.shape[1] != len(columns):
        raise InputError(f"found an array of shape {list(array.shape)}, expected [rows, {len(columns)}]: {keys[:5]} …")
    return {key: array[:, position] for position, key in enumerate(keys)}


def fit_param(param: Param, value: Any) -> Any:
    """A param's value as Python's own type (a list where it has a shape). Raises InputError."""
    if value is None:
        return None
    wanted = f"a list of {param.type}" if param.shape else param.type
    if (param.shape is not None) != isinstance(value, (list, tuple, np.ndarray)):
        raise InputError(f"param {param.name!r}: found {describe(value)}, expected {wanted}")
    values = list(value) if param.shape else [value]
    if param.type not in SCALARS:
        return value
    try:
        fitted = convert(values, param.type, required=True)
    except ValueMismatch as mismatch:
        raise InputError(f"param {param.name!r}: found {mismatch.found}, expected {wanted}") from None
    items = fitted.astype("datetime64[us]").tolist() if param.type == "datetime" else fitted.tolist()
    return items if param.shape else items[0]


def _raise(faults: list[str]) -> None:
    if faults:
        more = f"; and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise InputError("; ".join(faults[:5]) + more)
