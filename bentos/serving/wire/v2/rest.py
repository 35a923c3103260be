"""The Open Inference Protocol V2 over REST, with the binary tensor extension.

A model over columns takes one tensor a column ([rows] or [rows, 1]; BYTES for texts, times and bytes), or, where all its
columns share one type, a single tensor [rows, columns]. Answers: ``predict``, and ``predict_proba`` on request; a model
that answers with several columns or named tensors gives one output each.

An input's name is the one that the signature gives it and the metadata promises. What has none there takes any: the only
tensor of a model whose signature does not name it (``input`` in the metadata), and the matrix of all columns, which is no
input of the metadata, under any name but a column's: clients call them ``input-0``, ``X`` or ``predict``. A tensor that
is not the model's is refused; a column that is not is left out, as in MLflow's protocol.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson

from bentos.serving.inputs.signature import Column, Inputs, Signature, Tensor
from bentos.serving.wire.interface import Body, Call, WireError, kind_of, parse_object
from bentos.serving.wire.v2.tensors import check_tensor, datatype_of, from_bytes, from_json, to_bytes, to_json

PREDICT, PROBABILITIES = "predict", "predict_proba"
EXTENSIONS = ("binary_tensor_data",)
# What Triton's clients put among the parameters for the server itself.
RESERVED = frozenset(
    {"binary_data_output", "sequence_id", "sequence_start", "sequence_end", "priority", "timeout", "headers"}
)
_COLUMN_TYPES = {"boolean": "BOOL", "integer": "INT32", "long": "INT64", "float": "FP32", "double": "FP64"}


@dataclass(frozen=True)
class InferCall(Call):
    """A V2 request. ``outputs``: the names asked for, and whether each is to be binary; empty: the default ones."""

    id: str = ""
    outputs: dict[str, bool] = field(default_factory=dict)
    binary: bool = False  # what outputs that were not named come as


def decode(header_length: str, body: bytes, signature: Signature) -> InferCall:
    """The request in *body*. *header_length* is the header Inference-Header-Content-Length as it came, "" without.

    The content type says nothing in this protocol: clients send many, or none. Raises WireError for what is malformed.
    """
    view = memoryview(body)
    size = _header_length(header_length, len(body))
    values = parse_object(view[:size], "body" if size == len(body) else "inference header")
    arrays = _tensors(values.get("inputs"), view[size:])
    parameters = _object(values.get("parameters"), "parameters")
    binary = bool(parameters.get("binary_data_output", False))
    outputs = _outputs(values.get("outputs"), binary)
    name = values.get("id", "")
    if not isinstance(name, str):
        raise WireError(f"id: expected a string, found {kind_of(name)}")
    return infer_call(bind(arrays, signature), parameters, name, outputs, binary=binary)


def infer_call(
    inputs: Inputs, parameters: Mapping[str, Any], name: str, outputs: dict[str, bool], *, binary: bool
) -> InferCall:
    """The call with the id *name*; of its *parameters* those for the model."""
    params = {key: value for key, value in parameters.items() if key not in RESERVED and not key.startswith("triton_")}
    return InferCall(inputs, params, PROBABILITIES in outputs, id=name, outputs=outputs, binary=binary)


def _header_length(text: str, total: int) -> int:
    if not text:
        return total
    if not (text.isascii() and text.isdigit() and len(text) < 16 and int(text) <= total):
        raise WireError(
            f"Inference-Header-Content-Length: expected a number from 0 to the body's {total} bytes, found {text[:40]!r}"
        )
    return int(text)


def _object(value: Any, where: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise WireError(f"{where}: expected an object, found {kind_of(value)}")
    return value


def _tensors(inputs: Any, raw: memoryview) -> dict[str, np.ndarray]:
    if not isinstance(inputs, list) or not inputs:
        raise WireError(f"inputs: expected an array of tensors, found {kind_of(inputs) if inputs != [] else 'none'}")
    arrays: dict[str, np.ndarray] = {}
    at = 0
    for number, tensor in enumerate(inputs):
        where = f"inputs[{number}]"
        if not isinstance(tensor, dict):
            raise WireError(f"{where}: expected an object, found {kind_of(tensor)}")
        name: Any = tensor.get("name")
        datatype: Any = tensor.get("datatype")
        shape = check_tensor(name, datatype, tensor.get("shape"), arrays, where)
        size = _object(tensor.get("parameters"), f"{where}.parameters").get("binary_data_size")
        if size is None:
            arrays[name] = from_json(tensor.get("data"), datatype, shape, where)
            continue
        if type(size) is not int or not 0 <= size <= len(raw) - at or "data" in tensor:
            raise WireError(
                f"{where}: expected binary_data_size within the {len(raw) - at} bytes left and no data, found {str(size)[:40]}"
            )
        arrays[name] = from_bytes(raw[at : at + size], datatype, shape, where)
        at += size
    if at != len(raw):
        raise WireError(f"body: expected {at} bytes of tensors after the inference header, found {len(raw)}")
    return arrays


def _outputs(outputs: Any, binary: bool) -> dict[str, bool]:
    if outputs is None:
        return {}
    if not isinstance(outputs, list):
        raise WireError(f"outputs: expected an array, found {kind_of(outputs)}")
    wanted = {}
    for number, output in enumerate(outputs):
        where = f"outputs[{number}]"
        if not isinstance(output, dict) or not isinstance(output.get("name"), str):
            raise WireError(f"{where}: expected an object with a name")
        parameters = _object(output.get("parameters"), f"{where}.parameters")
        if parameters.get("classification"):
            raise WireError(f"{where}: the classification extension is not supported; ask for {PROBABILITIES}")
        wanted[output["name"]] = bool(parameters.get("binary_data", binary))
    return wanted


def bind(arrays: dict[str, np.ndarray], signature: Signature) -> Inputs:
    """Tensors as the model's columns or tensors. Raises WireError where their shapes do not fit columns."""
    if isinstance(signature.inputs[0], Tensor):
        return _bind_tensors(arrays, signature)
    columns = signature.kinds
    if len(arrays) == 1:
        ((name, array),) = arrays.items()
        if array.ndim == 2 and name not in columns:
            return _split_matrix(array, columns)
    out, rows = {}, None
    for name, array in arrays.items():
        if array.ndim not in (1, 2) or (array.ndim == 2 and array.shape[1] != 1):
            raise WireError(
                f"input {name!r}: expected a column of shape [rows] or [rows, 1], found {list(array.shape)}"
            )
        rows = len(array) if rows is None else rows
        if len(array) != rows:
            raise WireError(f"input {name!r}: expected {rows} rows like the others, found {len(array)}")
        out[name] = _column(array.reshape(-1), columns.get(name, ""), name)
    return out


def _bind_tensors(arrays: dict[str, np.ndarray], signature: Signature) -> Inputs:
    arrays = {name: _decoded(array, name) for name, array in arrays.items()}
    known = [tensor.name for tensor in signature.inputs if tensor.name is not None]
    if known and (foreign := sorted(arrays.keys() - set(known))):
        raise WireError(f"inputs: expected the model's tensors {', '.join(known)}, found {foreign[0][:80]!r}")
    if len(signature.inputs) == 1 and signature.inputs[0].name is None:
        if len(arrays) != 1:
            raise WireError(f"inputs: expected one tensor, found {', '.join(arrays)}")
        return next(iter(arrays.values()))
    return arrays


def _split_matrix(array: np.ndarray, columns: dict[str, str]) -> Inputs:
    if len(set(columns.values())) > 1:
        raise WireError(
            f"inputs: the model's columns are of different types; expected one tensor a column: {', '.join(columns)}"
        )
    if array.shape[1] != len(columns):
        raise WireError(f"inputs: expected a tensor of shape [rows, {len(columns)}], found {list(array.shape)}")
    if array.dtype != object:
        return array
    return {
        name: _column(np.ascontiguousarray(array[:, number]), kind, name)
        for number, (name, kind) in enumerate(columns.items())
    }


def _column(array: np.ndarray, kind: str, name: str) -> Any:
    """BYTES as what the column holds: bytes for binary, JSON for nested types, text for everything else."""
    if array.dtype != object:
        return array
    if kind == "binary":
        return [value if isinstance(value, bytes) else value.encode() for value in array]
    texts = _decoded(array, name)
    if not kind.startswith("{"):
        return texts
    try:
        return [orjson.loads(text) for text in texts]
    except orjson.JSONDecodeError as error:
        raise WireError(f"input {name!r}: expected JSON in each element, found {error}") from None


def _decoded(array: np.ndarray, name: str) -> np.ndarray:
    if array.dtype != object:
        return array
    out = np.empty(array.shape, dtype=object)
    try:
        for position, value in np.ndenumerate(array):
            out[position] = value.decode() if isinstance(value, bytes) else value
    except UnicodeDecodeError:
        raise WireError(f"input {name!r}: expected BYTES elements in UTF-8") from None
    return out


def asked_outputs(call: InferCall, values: Any, probabilities: np.ndarray | None) -> dict[str, tuple[str, np.ndarray]]:
    """The outputs that *call* asks for, all where it names none: name → datatype and array. Raises WireError for one that
    the model does not have."""
    available, found = named_outputs(values), {}
    if probabilities is not None:
        available[PROBABILITIES] = np.asarray(probabilities)
    for name in call.outputs or available:
        if name not in available:
            more = "" if PROBABILITIES in available else f", {PROBABILITIES} where the model has class probabilities"
            raise WireError(f"outputs: expected one of {', '.join(available)}{more}, found {name!r}")
        found[name] = datatype_of(available[name])
    return found


def encode(call: InferCall, values: Any, probabilities: np.ndarray | None, model: str, version: str) -> Body:
    """The answer to *call*. Raises WireError for an output that the model does not have."""
    outputs, raw = [], []
    for name, (datatype, array) in asked_outputs(call, values, probabilities).items():
        output: dict[str, Any] = {"name": name, "datatype": datatype, "shape": list(array.shape)}
        if call.outputs.get(name, call.binary):
            raw.append(to_bytes(array, datatype))
            output["parameters"] = {"binary_data_size": len(raw[-1])}
        else:
            output["data"] = to_json(array, datatype)
        outputs.append(output)
    answer: dict[str, Any] = {"model_name": model, "model_version": version}
    if call.id:
        answer["id"] = call.id
    head = orjson.dumps({**answer, "outputs": outputs}, option=orjson.OPT_SERIALIZE_NUMPY)
    if not raw:
        return Body(head)
    return Body(b"".join([head, *raw]), "application/octet-stream", len(head))


def named_outputs(values: Any) -> dict[str, np.ndarray]:
    """What a model answered as named arrays; ``predict`` where it has no names of its own."""
    if hasattr(values, "columns") and hasattr(values, "to_numpy"):
        return {str(name): values[name].to_numpy() for name in values.columns}
    if isinstance(values, dict):
        return {str(name): np.atleast_1d(value) for name, value in values.items()}
    if hasattr(values, "to_numpy"):
        values = values.to_numpy()
    try:
        return {PREDICT: np.asarray(values)}
    except ValueError:  # ragged: each row's answer as JSON text
        return {PREDICT: np.array([orjson.dumps(value, default=str).decode() for value in values], dtype=object)}


def encode_error(message: str) -> Body:
    """The protocol's error form."""
    return Body(orjson.dumps({"error": message}))


def metadata(signature: Signature, model: str, version: str, *, probabilities: bool) -> dict[str, Any]:
    """The model's metadata: inputs and outputs with datatype and shape, -1 where any length fits."""
    entries: tuple[Column | Tensor, ...] = signature.inputs
    inputs = []
    for position, entry in enumerate(entries):
        name = entry.name or (str(position) if isinstance(entry, Column) else "input")
        inputs.append({**_describe(entry), "name": name})
    outputs = [_describe(entry) for entry in signature.outputs] or [
        {"name": PREDICT, "datatype": "BYTES", "shape": [-1]}
    ]
    if len(outputs) == 1:
        outputs[0]["name"] = PREDICT
    if probabilities:
        outputs.append({"name": PROBABILITIES, "datatype": "FP64", "shape": [-1, -1]})
    return {"name": model, "versions": [version], "platform": "shipway", "inputs": inputs, "outputs": outputs}


def _describe(entry: Column | Tensor) -> dict[str, Any]:
    if isinstance(entry, Column):
        return {"name": entry.name, "datatype": _COLUMN_TYPES.get(entry.type, "BYTES"), "shape": [-1]}
    try:
        datatype, _ = datatype_of(np.empty(0, dtype=entry.dtype))
    except TypeError:
        datatype = "BYTES"
    return {"name": entry.name or PREDICT, "datatype": datatype, "shape": list(entry.shape)}
