"""The same rows in every form that a client may send them in, and every form of answer read back."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import tritonclient.http as triton
from tritonclient.grpc import InferResult, service_pb2

from bentos.serving.model.interface import Prediction
from bentos.serving.server.errors import failed
from bentos.serving.server.formats import LARGEST_BODY, opened
from bentos.serving.server.formats import read as read_request
from bentos.serving.server.messages import Answer, Request
from bentos.serving.server.served_model import ServedModel
from bentos.serving.wire.v2.tensors import NAMES

JSON, NPY, ARROW = "application/json", "application/x-npy", "application/vnd.apache.arrow.stream"
PROBABILITIES = "predict_proba"


def frame(drawn: Any) -> Any:
    """What a caller in Python has: a data frame, an array, arrays by name."""
    return drawn.to_pandas() if isinstance(drawn, pa.Table) else drawn


def _cells(drawn: Any) -> dict[str, list[Any]]:
    """JSON's values of each column or named tensor."""
    if not isinstance(drawn, pa.Table):
        return {name: array.tolist() for name, array in drawn.items()}
    return {name: [v.isoformat() if isinstance(v, pd.Timestamp) else v for v in drawn[name].to_pylist()] for name in drawn.column_names}  # fmt: skip


def _rows(drawn: Any) -> list[dict[str, Any]]:
    cells = _cells(drawn)
    return [dict(zip(cells, row, strict=True)) for row in zip(*cells.values(), strict=True)]


def _json(body: Any, accept: str = "", encoding: str = "") -> Request:
    data = json.dumps(body).encode()
    return Request("invocations", JSON, encoding, "", gzip.compress(data) if encoding else data, accept)


def _split(drawn: Any, accept: str = "", encoding: str = "") -> Request:
    if isinstance(drawn, np.ndarray):
        return _json({"dataframe_split": {"data": drawn.tolist()}}, accept, encoding)
    names = sorted(_cells(drawn))  # in another order than the signature's
    table = {"columns": names, "data": [[row[name] for name in names] for row in _rows(drawn)]}
    return _json({"dataframe_split": table}, accept, encoding)


def _records(drawn: Any) -> Request:
    return _json({"dataframe_records": _rows(_table(drawn))})


def _instances(drawn: Any) -> Request:
    if isinstance(drawn, dict):
        return _json({"instances": _rows(drawn)})
    return _json({"instances": drawn.tolist() if isinstance(drawn, np.ndarray) else [list(row.values()) for row in _rows(drawn)]})  # fmt: skip


def _inputs(drawn: Any) -> Request:
    return _json({"inputs": drawn.tolist() if isinstance(drawn, np.ndarray) else _cells(drawn)})


def _csv(drawn: Any) -> Request:
    rows = _rows(_table(drawn))
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(rows[0])
    writer.writerows([["" if v is None else repr(v) if isinstance(v, float) else v for v in row.values()] for row in rows])  # fmt: skip
    return Request("invocations", "text/csv", "", "", text.getvalue().encode())


def _npy(drawn: Any, accept: str = "") -> Request:
    found = drawn if isinstance(drawn, np.ndarray) else _structured(drawn)
    file = io.BytesIO()
    np.save(file, found, allow_pickle=False)
    return Request("invocations", NPY, "", "", file.getvalue(), accept)


def _structured(drawn: pa.Table) -> np.ndarray:
    table = drawn.to_pandas()
    if {str(dtype) for dtype in table.dtypes} == {"float64"}:
        return table.to_numpy()
    columns = {name: np.array(table[name].tolist()) if table[name].dtype == object else table[name].to_numpy() for name in table}  # fmt: skip
    out = np.empty(len(table), [(name, array.dtype) for name, array in columns.items()])
    for name, array in columns.items():
        out[name] = array
    return out


def _arrow(drawn: Any, accept: str = "", encoding: str = "") -> Request:
    table = _table(drawn)
    if isinstance(table, dict):
        table = pa.table({name: array if array.ndim == 1 else pa.FixedSizeListArray.from_arrays(array.ravel(), array.shape[1]) for name, array in table.items()})  # fmt: skip
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    data = sink.getvalue()
    return Request("invocations", ARROW, encoding, "", gzip.compress(data) if encoding else data, accept)


def _table(drawn: Any) -> Any:
    """An array as a table of its columns; anything else as it is."""
    return pa.table({f"c{i}": column for i, column in enumerate(drawn.T)}) if isinstance(drawn, np.ndarray) else drawn


def _tensors(drawn: Any, *, matrix: bool = False) -> dict[str, np.ndarray]:
    """V2's tensors: one a column, or a single matrix."""
    if isinstance(drawn, np.ndarray):
        return {"input": drawn}
    if isinstance(drawn, dict):
        return drawn
    if matrix:
        return {"input": np.ascontiguousarray(drawn.to_pandas().to_numpy())}
    cells = _cells(drawn)
    return {
        name: np.array(cells[name], dtype=object) if pa.types.is_string(kind) or pa.types.is_timestamp(kind)
        else drawn[name].to_pandas().to_numpy() for name, kind in zip(drawn.column_names, drawn.schema.types, strict=True)
    }  # fmt: skip


def _datatype(array: np.ndarray) -> str:
    return NAMES.get(array.dtype, "BYTES")


def _v2(drawn: Any, outputs: list[str], *, binary: bool = False, matrix: bool = False) -> Request:
    inputs = []
    for name, array in _tensors(drawn, matrix=matrix).items():
        tensor = triton.InferInput(name, list(array.shape), _datatype(array))
        if binary or array.dtype == object:
            inputs.append(tensor.set_data_from_numpy(array, binary_data=binary))
        else:  # triton's client writes NaN, which no JSON has; others write null
            tensor._data = [None if value != value else value for value in array.ravel().tolist()]
            inputs.append(tensor)
    wanted = [triton.InferRequestedOutput(name, binary_data=binary) for name in outputs] or None
    if binary:
        body, length = triton.InferenceServerClient.generate_request_body(inputs, wanted)
        return Request("v2", "application/octet-stream", "", str(length), body)
    tensors = [{"name": i.name(), "datatype": i.datatype(), "shape": i.shape(), "data": i._data} for i in inputs]
    body = json.dumps({"inputs": tensors} | ({"outputs": [{"name": name} for name in outputs]} if outputs else {}))
    return Request("v2", JSON, "", "", body.encode())


_TYPED = {"FP64": "fp64", "FP32": "fp32", "INT64": "int64", "BOOL": "bool", "BYTES": "bytes"}


def _grpc(drawn: Any, outputs: list[str], *, raw: bool) -> Request:
    message = service_pb2.ModelInferRequest(model_name="m")
    for name, array in _tensors(drawn).items():
        kind = _datatype(array)
        tensor = message.inputs.add(name=name, datatype=kind, shape=array.shape)
        if raw:
            data = triton.InferInput(name, list(array.shape), kind).set_data_from_numpy(array)
            message.raw_input_contents.append(data._get_binary_data() or b"")
        else:
            values = [v.encode() if isinstance(v, str) else v for v in array.ravel().tolist()]
            getattr(tensor.contents, f"{_TYPED[kind]}_contents").extend(values)
    for name in outputs:
        message.outputs.add(name=name)
    return Request("grpc", "application/x-protobuf", "", "", message.SerializeToString())


FORMS: dict[str, Callable[[Any, list[str]], Request]] = {
    "split": lambda drawn, _: _split(drawn),
    "records": lambda drawn, _: _records(drawn),
    "instances": lambda drawn, _: _instances(drawn),
    "inputs": lambda drawn, _: _inputs(drawn),
    "csv": lambda drawn, _: _csv(drawn),
    "npy": lambda drawn, _: _npy(drawn),
    "arrow": lambda drawn, _: _arrow(drawn),
    "gzip": lambda drawn, _: _split(drawn, encoding="gzip"),
    "arrow gzip": lambda drawn, _: _arrow(drawn, encoding="gzip"),
    "split to npy": lambda drawn, _: _split(drawn, NPY),
    "npy to npy": lambda drawn, _: _npy(drawn, NPY),
    "split to arrow": lambda drawn, _: _split(drawn, ARROW),
    "arrow to arrow": lambda drawn, _: _arrow(drawn, ARROW),
    "v2": lambda drawn, _: _v2(drawn, []),
    "v2 outputs": lambda drawn, outputs: _v2(drawn, outputs),
    "v2 matrix": lambda drawn, outputs: _v2(drawn, outputs, matrix=True),
    "v2 binary": lambda drawn, outputs: _v2(drawn, outputs, binary=True),
    "v2 binary matrix": lambda drawn, outputs: _v2(drawn, outputs, binary=True, matrix=True),
    "grpc raw": lambda drawn, outputs: _grpc(drawn, outputs, raw=True),
    "grpc typed": lambda drawn, outputs: _grpc(drawn, outputs, raw=False),
}
"""Name → rows and the outputs wanted of V2, as a request."""


def answer(live: ServedModel, request: Request, largest: int = LARGEST_BODY) -> Answer:
    """What *live* answers to *request* alone, without a queue before it."""
    try:
        work = read_request(live, opened(request, largest))
        made = live.runner.answer(work.data, work.params, probabilities=work.probabilities)
        return Answer(200, work.encode(made), headers=work.headers)
    except Exception as error:
        return failed(live, request.kind, error)


def read(found: Answer) -> dict[str, np.ndarray]:
    """The outputs of an answer by name, ``prediction`` without one."""
    kind, data = found.body.content_type, found.body.data
    if kind == NPY:
        return {"prediction": np.load(io.BytesIO(data))}
    if kind == ARROW:
        with pa.ipc.open_stream(data) as stream:
            return columns(stream.read_all())
    if kind == "application/x-protobuf":
        found_grpc = _grpc_outputs(service_pb2.ModelInferResponse.FromString(data))
        return {"prediction" if name == "predict" else name: array for name, array in found_grpc.items()}
    if b'"predictions"' not in data[:14]:
        found_v2 = triton.InferenceServerClient.parse_response_body(
            data, header_length=found.body.header_length or None
        )
        names = [output["name"] for output in found_v2.get_response()["outputs"]]
        return {"prediction" if name == "predict" else name: found_v2.as_numpy(name) for name in names}
    values = json.loads(data)["predictions"]
    if isinstance(values, dict):
        return {name: np.array(value) for name, value in values.items()}
    if values and isinstance(values[0], dict):
        return {name: np.array([row[name] for row in values]) for name in values[0]}
    return {"prediction": np.array(values)}


def columns(table: pa.Table) -> dict[str, np.ndarray]:
    """A table's columns as arrays, lists as another dimension."""
    return {name: np.array(table[name].to_pylist()) for name in table.column_names}


def _grpc_outputs(message: Any) -> dict[str, np.ndarray]:
    if message.raw_output_contents:
        result = InferResult(message)
        return {output.name: result.as_numpy(output.name) for output in message.outputs}
    return {o.name: np.array(getattr(o.contents, f"{_TYPED[o.datatype]}_contents")).reshape(o.shape) for o in message.outputs}  # fmt: skip


def wanted(made: Prediction) -> dict[str, np.ndarray]:
    """What every form must say: the outputs, and the probabilities as V2 names them."""
    outputs = {name: np.asarray(array) for name, array in made.outputs().items()}
    return outputs if made.probabilities is None else {**outputs, PROBABILITIES: made.probabilities}


def same(found: np.ndarray, expected: np.ndarray) -> bool:
    """Whether both say the same to the bit. Single precision may come as the same number in double; null is NaN."""
    if expected.dtype.kind in "fiub":
        wide = expected.astype("f8") if expected.dtype.kind == "f" else expected
        try:
            cells = np.asarray(found, dtype=wide.dtype)
        except (TypeError, ValueError):
            return False
        exact = found.dtype == object or cells.astype(found.dtype).tolist() == found.tolist()
        return exact and cells.shape == wide.shape and _bits(cells) == _bits(wide)
    texts = [value.decode() if isinstance(value, bytes) else value for value in found.ravel().tolist()]
    return found.shape == expected.shape and texts == expected.ravel().tolist()


def _bits(array: np.ndarray) -> bytes:
    return np.where(np.isnan(array), np.nan, array).tobytes() if array.dtype.kind == "f" else array.tobytes()
