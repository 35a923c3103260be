"""The Open Inference Protocol V2 over gRPC: ModelInfer's message in and out. What it says is what ``v2`` says over REST.

Protobuf is imported with the first message, not with this module.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np

from bentos.serving.inputs.scalars import objects
from bentos.serving.inputs.signature import Signature
from bentos.serving.wire.interface import Body, WireError
from bentos.serving.wire.v2.rest import PROBABILITIES, InferCall, asked_outputs, bind, infer_call
from bentos.serving.wire.v2.tensors import DTYPES, as_bytes, check_tensor, from_bytes, to_bytes

CONTENT_TYPE = "application/x-protobuf"  # a message by itself, without gRPC's frame
# Datatype → the field of InferTensorContents, and the type its elements have there. FP16 travels raw only.
_CONTENTS: dict[str, tuple[str, Any]] = {
    "BOOL": ("bool_contents", np.bool_),
    "UINT8": ("uint_contents", np.uint32),
    "UINT16": ("uint_contents", np.uint32),
    "UINT32": ("uint_contents", np.uint32),
    "UINT64": ("uint64_contents", np.uint64),
    "INT8": ("int_contents", np.int32),
    "INT16": ("int_contents", np.int32),
    "INT32": ("int_contents", np.int32),
    "INT64": ("int64_contents", np.int64),
    "FP32": ("fp32_contents", np.float32),
    "FP64": ("fp64_contents", np.float64),
    "BYTES": ("bytes_contents", object),
}


class UnknownModelError(WireError):
    """The message asks for a model or a version that this server does not serve."""


@cache
def _message(name: str) -> Any:
    from bentos.serving.wire.v2.grpc_messages import message

    return message(name)


def new(name: str, /, **fields: Any) -> Any:
    """A message *name* of these *fields*; repeated messages as dicts."""
    return _message(name)(**fields)


def parse(name: str, body: bytes) -> Any:
    """The message *name* in *body*. Raises WireError."""
    found = _message(name)()
    try:
        found.ParseFromString(body)
    except Exception as error:  # DecodeError of whichever protobuf there is; upb's text says little more than this
        raise WireError(f"body: expected a message inference.{name}, found {str(error)[:200]}") from None
    return found


def decode(body: bytes, signature: Signature, model: str = "", version: str = "") -> InferCall:
    """The ModelInferRequest in *body*, for *version* of *model* ("": any). Outputs come as inputs did: raw or typed.

    Raises WireError for what is malformed, UnknownModelError for another model.
    """
    request = parse("ModelInferRequest", body)
    if model:
        check_model(request.model_name, request.model_version, model, version)
    if not request.inputs:
        raise WireError("inputs: expected tensors, found none")
    raw = len(request.raw_input_contents) > 0
    arrays = _tensors(request.inputs, request.raw_input_contents, "input")
    parameters = _parameters(request.parameters)
    outputs = {}
    for output in request.outputs:
        if _parameters(output.parameters).get("classification"):
            raise WireError(
                f"outputs: {output.name!r}: the classification extension is not supported; ask for {PROBABILITIES}"
            )
        outputs[output.name] = raw
    return infer_call(bind(arrays, signature), parameters, request.id, outputs, binary=raw)


def check_model(name: str, asked: str, model: str, version: str) -> None:
    """Raises UnknownModelError unless *name*, *asked* ("": any version) is *version* of *model*."""
    if name != model or asked not in ("", version):
        found = f"{name[:200]!r}, version {asked[:80]!r}"
        raise UnknownModelError(f"expected the model {model!r}, version {version!r}, found {found}")


def _parameters(found: Any) -> dict[str, Any]:
    return {
        key: getattr(value, choice) for key, value in found.items() if (choice := value.WhichOneof("parameter_choice"))
    }


def _tensors(tensors: Any, contents: Any, what: str) -> dict[str, np.ndarray]:
    """The tensors of a message by name, BYTES as bytes; *contents* are their raw bytes, empty where each has its own typed
    ones. *what*: input or output."""
    if len(contents) not in (0, len(tensors)):
        raise WireError(f"raw_{what}_contents: expected one for each of {len(tensors)} {what}s, found {len(contents)}")
    arrays: dict[str, np.ndarray] = {}
    for number, tensor in enumerate(tensors):
        where, name, datatype = f"{what}s[{number}]", tensor.name, tensor.datatype
        shape = check_tensor(name, datatype, list(tensor.shape), arrays, where)
        if not contents:
            arrays[name] = _from_contents(tensor.contents, datatype, shape, where)
        elif tensor.HasField("contents") and tensor.contents.ByteSize():
            raise WireError(f"{where}: expected contents or raw_{what}_contents, found both")
        else:
            arrays[name] = from_bytes(memoryview(contents[number]), datatype, shape, where)
    return arrays


def _from_contents(contents: Any, datatype: str, shape: tuple[int, ...], where: str) -> np.ndarray:
    if datatype not in _CONTENTS:
        raise WireError(f"{where}: expected raw_input_contents for {datatype}, which has no typed contents")
    field, wide = _CONTENTS[datatype]
    values = getattr(contents, field)
    count = math.prod(shape)
    if len(values) != count:
        raise WireError(
            f"{where}.contents.{field}: expected {count} elements for shape {list(shape)}, found {len(values)}"
        )
    if datatype == "BYTES":
        return objects(values).reshape(shape)
    found = np.fromiter(values, dtype=wide, count=count)
    dtype = DTYPES[datatype]
    if dtype.itemsize < found.itemsize:
        limits = np.iinfo(dtype.name)
        if count and not (limits.min <= found.min() and found.max() <= limits.max):
            raise WireError(f"{where}.contents.{field}: a number is out of the range of {datatype}")
    return found.astype(dtype, copy=False).reshape(shape)


def encode(call: InferCall, values: Any, probabilities: np.ndarray | None, model: str, version: str) -> Body:
    """The answer to *call*: a ModelInferResponse. Raises WireError for an output that the model does not have."""
    found = asked_outputs(call, values, probabilities)
    raw = call.binary or any(datatype not in _CONTENTS for datatype, _ in found.values())
    answer = new("ModelInferResponse", model_name=model, model_version=version, id=call.id)
    for name, (datatype, array) in found.items():
        output = answer.outputs.add(name=name, datatype=datatype, shape=array.shape)
        if raw:
            answer.raw_output_contents.append(to_bytes(array, datatype))
        else:
            _to_contents(output.contents, array, datatype)
    return Body(answer.SerializeToString(), CONTENT_TYPE)


def _to_contents(contents: Any, array: np.ndarray, datatype: str) -> None:
    values = array.reshape(-1).tolist()
    if datatype == "BYTES":
        values = [as_bytes(value) for value in values]
    getattr(contents, _CONTENTS[datatype][0]).extend(values)


def decode_outputs(body: bytes) -> dict[str, np.ndarray]:
    """Every output of a ModelInferResponse by name; BYTES stay bytes. Raises WireError for a body that is none."""
    answer = parse("ModelInferResponse", body)
    return _tensors(answer.outputs, answer.raw_output_contents, "output")
