"""One column's values made into the numpy array its MLflow type calls for, or the reason why they cannot be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bentos.serving.inputs.mismatch import ValueMismatch
from bentos.serving.inputs.nested import nested
from bentos.serving.inputs.scalars import FLOATS, INTEGERS, NUMBERS, scalar
from bentos.serving.inputs.signature import SCALARS

TRUTHS = {"true": True, "false": False, "1": True, "0": False}


def convert(values: Any, kind: str, required: bool) -> np.ndarray:
    """``values`` (list, array or pandas Series, one a row) as the array of MLflow type ``kind``; shape [rows].

    boolean → bool, integer → int32, long → int64, float → float32, double → float64, string and binary → object,
    datetime → datetime64[ns], anything nested → object. Nulls become NaN, NaT or None; a null in an integer, long,
    boolean or binary column is refused where the column is required, else integers come as float64 with NaN and booleans
    as objects with None. Raises ValueMismatch with the first value that does not fit.
    """
    if hasattr(values, "array") and hasattr(values, "dtype"):
        values = _from_series(values)
    if isinstance(values, np.ndarray) and values.ndim != 1:
        if values.size != len(values):
            raise ValueMismatch(f"an array of shape {list(values.shape)}")
        values = values.reshape(-1)
    return scalar(values, kind, required) if kind in SCALARS else nested(values, kind, required)


def empty(kind: str, rows: int) -> np.ndarray:
    """A column of ``rows`` nulls, for an optional column that was not given."""
    if kind in NUMBERS:
        return np.full(rows, np.nan, dtype=FLOATS.get(kind, np.dtype("float64")))
    if kind == "datetime":
        return np.full(rows, np.datetime64("NaT"), dtype="datetime64[ns]")
    return np.full(rows, None, dtype=object)


def parse_text(values: Sequence[str | None], kind: str) -> Any:
    """Text cells (of a CSV) as values of ``kind``; a cell that does not parse stays text, so that ``convert`` names it."""
    if kind in NUMBERS:
        return _parse_numbers(values, whole=kind in INTEGERS)
    if kind == "boolean":
        return [v if v is None else TRUTHS.get(v.strip().lower(), v) for v in values]
    if kind == "datetime" or kind in ("string", "binary"):
        return list(values)
    import orjson

    return [v if v is None else orjson.loads(v) for v in values]


def _parse_numbers(values: Sequence[str | None], whole: bool) -> list[Any]:
    def one(text: str | None) -> Any:
        if text is None:
            return None
        try:
            return int(text) if whole else float(text)
        except ValueError:
            try:
                return float(text)
            except ValueError:
                return text

    return [one(value) for value in values]


def _from_series(series: Any) -> Any:
    if getattr(series.dtype, "tz", None) is not None:
        series = series.dt.tz_convert("UTC").dt.tz_localize(None)
    if isinstance(series.dtype, np.dtype):
        return series.to_numpy()
    return np.asarray(series.to_numpy(), dtype=object).tolist() if series.hasnans else np.asarray(series)
