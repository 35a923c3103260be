"""MLflow's scoring protocol: ``/invocations`` in JSON and CSV.

https://mlflow.org/docs/latest/ml/deployment/deploy-model-locally/ — dataframe_split, dataframe_records, instances and
inputs, with params. Answers are ``{"predictions": …}``; NaN and infinities are written as null, so that every JSON
parser reads them.
"""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import orjson

from bentos.serving.inputs.columns import parse_text
from bentos.serving.inputs.signature import Column, Inputs, Signature
from bentos.serving.wire.arrow import stream as arrow_stream
from bentos.serving.wire.interface import Body, Call, MediaTypeError, WireError, kind_of, parse_object
from bentos.serving.wire.scoring import npy

ROWS_AT_ONCE = 2_000  # of a CSV
MEDIA_TYPES = ("application/json", "text/csv", npy.MEDIA_TYPE, arrow_stream.MEDIA_TYPE)
FORMATS = ("dataframe_split", "dataframe_records", "instances", "inputs")
_OPTIONS = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS


def decode(content_type: str, body: bytes, signature: Signature) -> Call:
    """The request in *body*. Raises MediaTypeError (415 in MLflow's protocol) and WireError (400)."""
    kind = media_type(content_type)
    if kind == "text/csv":
        return Call(_csv(body, signature))
    values = parse_object(body, "body")
    present = [name for name in FORMATS if name in values]
    if len(present) != 1:
        raise WireError(
            f"body: expected exactly one of the fields {', '.join(FORMATS)}, found {sorted(values)[:10] or 'none'}"
        )
    params = values.get("params")
    if not isinstance(params, dict | None):
        raise WireError(f"params: expected an object of names and values, found {kind_of(params)}")
    readers: dict[str, Callable[[Any, Signature], Inputs]] = {
        "dataframe_split": _split,
        "dataframe_records": _records,
        "instances": _instances,
        "inputs": _inputs,
    }
    return Call(readers[present[0]](values[present[0]], signature), params or {})


def media_type(content_type: str) -> str:
    """One of MEDIA_TYPES. Raises MediaTypeError for others, for unknown parameters and charsets."""
    kind, *parameters = (part.strip() for part in content_type.split(";"))
    for parameter in filter(None, parameters):
        name, _, value = parameter.partition("=")
        if name.strip().lower() != "charset":
            raise MediaTypeError(f"Unrecognized content type parameters: {name}")
        if value.strip().strip('"').lower() not in ("utf-8", "utf8"):
            raise MediaTypeError("The scoring server only supports UTF-8")
    kind = kind.lower() or "application/json"
    if kind not in MEDIA_TYPES:
        raise MediaTypeError(
            f"This predictor only supports the following content types: {', '.join(MEDIA_TYPES)}. Got {content_type!r}."
        )
    return kind


def encode(values: Any, *, table: bool = False) -> Body:
    """``{"predictions": …}``: arrays as lists, data frames as records, as MLflow writes them.

    With *table*, a dict of arrays is columns of one table and becomes records too.
    """
    if table and isinstance(values, dict):
        rows = zip(*(np.asarray(array).tolist() for array in values.values()), strict=True)
        values = [dict(zip(values, row, strict=True)) for row in rows]
    return Body(orjson.dumps({"predictions": jsonable(values)}, default=_plain, option=_OPTIONS))


def encode_error(code: str, message: str) -> Body:
    """MLflow's error form."""
    return Body(orjson.dumps({"error_code": code, "message": message}))


def _split(table: Any, signature: Signature) -> Inputs:
    if not isinstance(table, dict):
        raise WireError(f"dataframe_split: expected an object with columns and data, found {kind_of(table)}")
    if unknown := sorted(table.keys() - {"columns", "data", "index"}):
        raise WireError(f"dataframe_split: expected the fields columns, data and index, found {unknown[0]!r}")
    columns, rows = table.get("columns"), table.get("data")
    if not isinstance(rows, list):
        raise WireError(f"dataframe_split.data: expected an array of rows, found {kind_of(rows)}")
    index = table.get("index")
    if index is not None and (not isinstance(index, list) or len(index) != len(rows)):
        raise WireError(f"dataframe_split.index: expected an array of {len(rows)} labels, one a row, or none")
    if columns is not None and not isinstance(columns, list):
        raise WireError(f"dataframe_split.columns: expected an array of names, found {kind_of(columns)}")
    return _table(columns, rows, signature, "dataframe_split")


def _table(columns: list[Any] | None, rows: list[Any], signature: Signature, where: str) -> Inputs:
    """Rows of cells as columns by name; as they are where the model takes one unnamed tensor."""
    names = _names(signature)
    if names is None:
        return _rectangle(rows, len(columns) if columns is not None else None, where)
    if columns is None:
        columns = names
    check_names(columns, f"{where}.columns")
    _rectangle(rows, len(columns), where)
    if not rows:
        return {name: [] for name in columns}
    return dict(zip(columns, map(list, zip(*rows, strict=True)), strict=True))


def _rectangle(rows: list[Any], width: int | None, where: str, first: int = 0) -> list[Any]:
    for number, row in enumerate(rows, first):
        if not isinstance(row, list):
            raise WireError(f"{where}: row {number}: expected an array of cells, found {kind_of(row)}")
        width = len(row) if width is None else width
        if len(row) != width:
            raise WireError(f"{where}: row {number}: expected {width} cells, found {len(row)}")
    return rows


def check_names(names: Sequence[Any], where: str) -> None:
    """Column names are texts, each once. Raises WireError with the first that is not."""
    for name in names:
        if not isinstance(name, str):
            raise WireError(f"{where}: expected column names as strings, found {kind_of(name)}")
    if len(set(names)) != len(names):
        twice = next(name for name in names if list(names).count(name) > 1)
        raise WireError(f"{where}: expected each column once, found {twice!r} again")


def _records(rows: Any, signature: Signature, where: str = "dataframe_records") -> Inputs:
    if not isinstance(rows, list):
        raise WireError(f"{where}: expected an array of records, found {kind_of(rows)}")
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise WireError(f"{where}: row {number}: expected an object, found {kind_of(row)}")
    if not rows:
        return {name: [] for name in _names(signature) or ()}
    first = rows[0].keys()
    names = first if all(row.keys() == first for row in rows) else dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _instances(values: Any, signature: Signature) -> Inputs:
    if not isinstance(values, list):
        raise WireError(f"instances: expected an array with one element a row, found {kind_of(values)}")
    return _rows(values, signature, "instances")


def _inputs(values: Any, signature: Signature) -> Inputs:
    if isinstance(values, dict):
        if isinstance(signature.inputs[0], Column):
            return {name: value if isinstance(value, list) else [value] for name, value in values.items()}
        for name, value in values.items():
            if not isinstance(value, list):
                raise WireError(f"inputs.{name}: expected a tensor as nested arrays, found {kind_of(value)}")
        return values
    return _rows(values if isinstance(values, list) else [values], signature, "inputs")


def _rows(values: list[Any], signature: Signature, where: str) -> Inputs:
    """Rows as objects, or as cells in the signature's order; values alone where the model has one input."""
    if values and isinstance(values[0], dict) and not _takes_objects(signature):
        return _records(values, signature, where)
    names = _names(signature)
    if names is None:
        return values
    if not isinstance(signature.inputs[0], Column):
        if len(names) > 1:
            raise WireError(f"{where}: expected objects with the inputs {', '.join(names)}, found values without names")
        return {names[0]: values}
    if len(names) == 1 and not (_scalar(signature) and all(isinstance(row, list) and len(row) == 1 for row in values)):
        return {names[0]: values}
    return _table(None, values, signature, where)


def _takes_objects(signature: Signature) -> bool:
    """One unnamed column of objects: a row itself is the value."""
    return len(signature.inputs) == 1 and not signature.inputs[0].name


def _scalar(signature: Signature) -> bool:
    only = signature.inputs[0]
    return isinstance(only, Column) and not only.type.startswith("{")


def _names(signature: Signature) -> list[str] | None:
    """The inputs' names; None where the model takes one unnamed tensor."""
    names = [entry.name for entry in signature.inputs if not isinstance(entry, Column)]
    if names == [None]:
        return None
    return [name or "" for name in names] or list(signature.kinds)


def _csv(body: bytes, signature: Signature) -> Inputs:
    """Columns of parsed cells; an empty cell is null. A few rows at a time: one call for millions would keep the
    interpreter's lock, and every other request, for seconds."""
    kinds = signature.kinds
    header: list[str] = []
    columns: list[list[Any]] = []
    for first, rows in _csv_rows(body):
        if not header:
            header, *rows = rows
            check_names(header, "CSV header")
            columns = [[] for _ in header]
        _rectangle(rows, len(header), "CSV", max(0, first - 1))
        for name, column, cells in zip(header, columns, zip(*rows, strict=True), strict=False):
            kind = kinds.get(name, "string") if kinds else "double"
            try:
                column += parse_text([cell or None for cell in cells], kind)
            except orjson.JSONDecodeError as error:
                raise WireError(f"CSV: expected JSON in the cells of nested columns, found {error}") from None
    if not header:
        raise WireError("body: expected CSV with a header line, found no line")
    if not kinds and _names(signature) is None:
        return [list(row) for row in zip(*columns, strict=True)]
    return dict(zip(header, columns, strict=True))


def _csv_rows(body: bytes) -> Iterator[tuple[int, list[list[str]]]]:
    """The number of the first and the lines that are not empty, ROWS_AT_ONCE at a time. Raises WireError."""
    try:
        lines = filter(None, csv.reader(io.StringIO(body.decode("utf-8-sig"), newline=""), strict=True))
        first = 0
        while rows := list(islice(lines, ROWS_AT_ONCE)):
            yield first, rows
            first += len(rows)
    except (UnicodeDecodeError, csv.Error) as error:
        raise WireError(f"body: expected CSV in UTF-8 with a header line, found {error}") from None


def answer_rows(predictions: Any) -> list[Any]:
    """What ``predictions`` of an answer says, one element an answered row.

    An array has one element a row; an object of arrays of one length has a row's values under the same place of each (a
    record a row). Anything else, as a number or an object of single values, is one answer to the whole request.
    """
    if isinstance(predictions, list):
        return predictions
    columns = list(predictions.values()) if isinstance(predictions, dict) else [predictions]
    if not all(isinstance(column, list) for column in columns) or len(set(map(len, columns))) != 1:
        return [predictions]
    return [dict(zip(predictions, row, strict=True)) for row in zip(*columns, strict=True)]


def jsonable(values: Any) -> Any:
    """What a model answered as lists, numbers, texts and records.

    Single precision is widened first, as MLflow does: the shortest text of a float32 is another number as a double, and
    the same answer must be the same number to every client, in a file of batch answers and in process.
    """
    if hasattr(values, "to_dict") and hasattr(values, "to_frame"):  # a pandas Series: MLflow writes it as a frame
        values = values.to_frame()
    if hasattr(values, "to_dict"):
        return values.to_dict(orient="records")
    if isinstance(values, dict):
        return {name: jsonable(value) for name, value in values.items()}
    if not isinstance(values, np.ndarray):
        return values
    if values.dtype.kind == "M":
        return [_time(value) for value in values] if values.ndim == 1 else values.tolist()
    if not values.ndim or values.dtype.kind not in "biuf" or values.dtype.itemsize > 8:
        return values.tolist()
    return np.ascontiguousarray(values, dtype=np.float64 if values.dtype.kind == "f" else None)


def _time(value: Any) -> Any:
    """A time as MLflow writes those of a data frame: ISO text, with the digits that it needs."""
    whole = value.astype("datetime64[us]")
    return whole.item() if np.isnat(value) or whole == value else str(value)


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, bytes | bytearray):
        return base64.encodebytes(value).decode("ascii")
    if hasattr(value, "isoformat"):
        return value.isoformat()
    if type(value).__name__ in ("NAType", "NaTType"):
        return None
    if isinstance(value, set | frozenset):
        return list(value)
    return str(value)
