"""Values of one of MLflow's scalar types made into a numpy array, or the reason why they cannot be.

The conversions are those that lose nothing: whole numbers widen, whole floats become integers, doubles round to floats,
text becomes a datetime or (base64) bytes. Text never becomes a number here; see ``parse_text`` of columns for CSV.
"""

from __future__ import annotations

import base64
import binascii
import datetime
import decimal
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from bentos.serving.inputs.mismatch import ValueMismatch, describe, is_null

INTEGERS: dict[str, np.dtype[Any]] = {"integer": np.dtype("int32"), "long": np.dtype("int64")}
FLOATS: dict[str, np.dtype[Any]] = {"float": np.dtype("float32"), "double": np.dtype("float64")}
NUMBERS: dict[str, np.dtype[Any]] = {**INTEGERS, **FLOATS}


def scalar(values: Any, kind: str, required: bool) -> np.ndarray:
    """``values`` (list or array, one a row) as the array [rows] of the scalar MLflow type ``kind``; see ``convert``.

    Raises ValueMismatch with the first value that does not fit, KeyError for a type that is no scalar.
    """
    if kind in NUMBERS:
        return _numbers(values, NUMBERS[kind], required)
    return _OTHERS[kind](values, required)


def objects(values: Sequence[Any]) -> np.ndarray:
    """``values`` as an object array [rows], whatever they are (lists stay lists)."""
    array = np.empty(len(values), dtype=object)
    for i, value in enumerate(values):
        array[i] = value
    return array


def _numbers(values: Any, dtype: np.dtype, required: bool) -> np.ndarray:
    array = _number_array(values, dtype)
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            out = array.astype(dtype, copy=False)
        if dtype.itemsize < array.dtype.itemsize:
            _refuse(np.isinf(out) & np.isfinite(array), array, "is out of the type's range")
        return out
    if array.dtype.kind == "f":
        nulls = np.isnan(array)
        with np.errstate(invalid="ignore"):
            _refuse(~nulls & ((np.trunc(array) != array) | (np.abs(array) >= 2.0**63)), array)
        if nulls.any():
            if required:
                _refuse(nulls, array)
            return array.astype(np.float64, copy=False)
        array = array.astype(np.int64)
    if array.dtype != dtype and len(array):
        limits = np.iinfo(dtype)
        if array.min() < limits.min or array.max() > limits.max:
            _refuse((array < limits.min) | (array > limits.max), array, "is out of the type's range")
    return array.astype(dtype, copy=False)


def _number_array(values: Any, dtype: np.dtype) -> np.ndarray:
    """An array of kind i, u or f; nulls are NaN."""
    if isinstance(values, np.ndarray) and values.dtype.kind in "iuf":
        return values
    if isinstance(values, np.ndarray) and values.dtype.kind != "O":
        raise ValueMismatch(describe(values[0].item() if len(values) else values.dtype), 0)
    types = set(map(type, values))
    if types == {float}:
        return np.array(values, dtype=np.float64)
    if types == {int}:
        try:
            return np.array(values, dtype=np.int64 if dtype.kind == "i" else np.float64)
        except OverflowError:
            row = int(np.argmax([abs(v) >= 2**63 for v in values]))
            raise ValueMismatch(f"{values[row]}, which is out of the type's range", row) from None
    for row, value in enumerate(values):
        number = isinstance(value, (int, float, np.integer, np.floating, decimal.Decimal))
        if isinstance(value, (bool, np.bool_)) or not (number or is_null(value)):
            raise ValueMismatch(describe(value), row)
    if dtype.kind == "i" and len(values) and all(map(_whole, values)):
        return _number_array([int(v) for v in values], dtype)
    return np.array([np.nan if is_null(v) else float(v) for v in values], dtype=np.float64)


def _whole(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) or (not is_null(value) and math.isfinite(value) and value == int(value))


def _refuse(bad: np.ndarray, array: np.ndarray, why: str = "") -> None:
    if bad.any():
        row = int(np.argmax(bad))
        raise ValueMismatch(f"{describe(array[row].item())}{', which ' + why if why else ''}", row)


def _strings(values: Any, _required: bool) -> np.ndarray:
    if isinstance(values, np.ndarray) and values.dtype.kind == "U":
        return values.astype(object)
    if isinstance(values, np.ndarray) and values.dtype.kind not in "OS":
        raise ValueMismatch(describe(values[0].item() if len(values) else values.dtype), 0)
    if set(map(type, values)) <= {str, type(None)}:
        return values if isinstance(values, np.ndarray) else objects(values)
    return objects([_string(value, row) for row, value in enumerate(values)])


def _string(value: Any, row: int) -> Any:
    if isinstance(value, str):
        return str(value)
    if is_null(value):
        return value
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise ValueMismatch("bytes that are not UTF-8", row) from None
    raise ValueMismatch(describe(value), row)


def _booleans(values: Any, required: bool) -> np.ndarray:
    if isinstance(values, np.ndarray) and values.dtype.kind == "b":
        return values
    out = []
    for row, value in enumerate(values):
        null = is_null(value)
        if (null and required) or not (null or isinstance(value, (bool, np.bool_))):
            raise ValueMismatch(describe(value), row)
        out.append(None if null else bool(value))
    return objects(out) if None in out else np.array(out, dtype=bool)


def _datetimes(values: Any, _required: bool) -> np.ndarray:
    """ISO 8601 text, datetimes, or whole numbers of nanoseconds since 1970; a time zone is turned into UTC."""
    import pandas as pd

    if isinstance(values, np.ndarray) and values.dtype.kind == "M":
        return values.astype("datetime64[ns]", copy=False)
    if len(values) > 1 and all(type(value) is str for value in values):
        try:
            stamps = pd.DatetimeIndex(pd.to_datetime(values, format="ISO8601", utc=True)).tz_localize(None)
            return np.asarray(stamps.as_unit("ns").to_numpy())
        except ValueError:
            pass  # one by one below, to name the row
    out = np.empty(len(values), dtype="datetime64[ns]")
    for row, value in enumerate(values):
        whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
        if not (whole or is_null(value) or isinstance(value, (str, datetime.date, np.datetime64))):
            raise ValueMismatch(describe(value), row)
        try:
            value = str(value) if isinstance(value, np.str_) else value
            stamp = pd.DatetimeIndex([None if is_null(value) else pd.Timestamp(value)])
            out[row] = (stamp if stamp.tz is None else stamp.tz_convert("UTC").tz_localize(None)).to_numpy()[0]
        except (ValueError, OverflowError):
            raise ValueMismatch(describe(value), row) from None
    return out


def _binaries(values: Any, required: bool) -> np.ndarray:
    """Bytes, or their base64 text, as MLflow's JSON carries them (line breaks allowed)."""
    out: list[bytes | None] = []
    for row, value in enumerate(values):
        if isinstance(value, (bytes, bytearray)):
            out.append(bytes(value))
        elif isinstance(value, str):
            try:
                out.append(base64.b64decode("".join(value.split()), validate=True))
            except (binascii.Error, ValueError):
                raise ValueMismatch("text that is not base64", row) from None
        elif is_null(value) and not required:
            out.append(None)
        else:
            raise ValueMismatch(describe(value), row)
    return objects(out)


_OTHERS = {"string": _strings, "boolean": _booleans, "datetime": _datetimes, "binary": _binaries}
