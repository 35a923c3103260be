"""Logged requests and answers, decoded as the server decoded them. For whoever reads the prediction log."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bentos.serving.inputs.plan import InputPlan
from bentos.serving.inputs.scalars import objects
from bentos.serving.inputs.signature import Inputs, Signature
from bentos.serving.wire.arrow import stream as arrow_stream
from bentos.serving.wire.interface import WireError, parse_object
from bentos.serving.wire.scoring import invocations, npy
from bentos.serving.wire.v2 import grpc as v2_grpc
from bentos.serving.wire.v2 import rest as v2
from bentos.serving.wire.v2.tensors import check_shape, from_bytes, from_json


def decode_request(kind: str, content_type: str, header_length: int, body: bytes, signature: Signature) -> Inputs:
    """The inputs of a logged request, ready for ``InputPlan.coerce``; columns by name for a model over columns.

    *kind* is "invocations", "v2" or "grpc". Raises WireError for a body that is malformed or was cut when it was logged.
    """
    if kind == "v2":
        return v2.decode(str(header_length) if header_length else "", body, signature).inputs
    if kind == "grpc":
        return v2_grpc.decode(body, signature).inputs
    form = invocations.media_type(content_type)
    if form in (npy.MEDIA_TYPE, arrow_stream.MEDIA_TYPE):
        decode = npy.decode if form == npy.MEDIA_TYPE else arrow_stream.decode
        found = decode(body, InputPlan.compile(signature))
        return found.columns if found.tensors is None else found.tensors
    return invocations.decode(content_type, body, signature).inputs


def decode_response(kind: str, content_type: str, header_length: int, body: bytes) -> np.ndarray:
    """The predictions of a logged answer, one element or row a predicted row; null numbers are NaN.

    Several outputs a row (records, arrays by name, or several V2 outputs) come as an object array of dicts. ``predict_proba`` is left
    out; see ``decode_outputs``. Raises WireError for a body that is no answer.
    """
    if kind in ("v2", "grpc"):
        outputs = decode_outputs(content_type, header_length, body)
        outputs.pop(v2.PROBABILITIES, None)
        if not outputs:
            raise WireError("answer: expected an output besides predict_proba, found none")
        return _one(outputs)
    if content_type == npy.MEDIA_TYPE:
        return npy.read(body)
    if content_type == arrow_stream.MEDIA_TYPE:
        return _one(arrow_stream.read(body))
    values = invocations.answer_rows(parse_object(body, "answer").get("predictions"))
    if values and all(isinstance(row, dict) and len(row) == 1 for row in values):
        values = [next(iter(row.values())) for row in values]
    return as_array(values)


def _one(outputs: Mapping[str, Any]) -> np.ndarray:
    """The only output, or a dict a row; a single dict of whole outputs where these differ in length."""
    if len(outputs) == 1:
        return np.asarray(next(iter(outputs.values())))
    if len(set(map(len, outputs.values()))) > 1:
        return objects([{name: np.asarray(values).tolist() for name, values in outputs.items()}])
    names = list(outputs)
    return objects([dict(zip(names, row, strict=True)) for row in zip(*outputs.values(), strict=True)])


def decode_outputs(content_type: str, header_length: int, body: bytes) -> dict[str, np.ndarray]:
    """Every output of a logged V2 answer, over REST or gRPC, by name. Raises WireError for a body that is no answer."""
    if content_type == v2_grpc.CONTENT_TYPE:
        return {name: _texts(array) for name, array in v2_grpc.decode_outputs(body).items()}
    view = memoryview(body)
    size = header_length or len(body)
    found, at = {}, size
    for output in parse_object(view[:size], "answer").get("outputs") or ():
        where, shape = f"output {output['name']!r}", check_shape(output["shape"], "output")
        length = output.get("parameters", {}).get("binary_data_size")
        if length is None:
            array = from_json(output["data"], output["datatype"], shape, where)
        else:
            array = from_bytes(view[at : at + length], output["datatype"], shape, where)
            at += length
        found[output["name"]] = _texts(array)
    return found


def _texts(array: np.ndarray) -> np.ndarray:
    if array.dtype != object:
        return array
    texts = [v.decode("utf-8", "replace") if isinstance(v, bytes) else v for v in array.reshape(-1)]
    return objects(texts).reshape(array.shape)


def as_array(values: list[Any]) -> np.ndarray:
    """JSON values as numbers, booleans or texts where all are alike (null numbers are NaN), else as objects."""
    kinds = set(map(type, values))
    if kinds and kinds <= {int, float, type(None)} and kinds & {int, float}:
        try:
            return np.array(values, dtype=np.int64 if kinds == {int} else np.float64)
        except OverflowError:
            return np.array(values, dtype=np.float64)
    if kinds == {bool}:
        return np.array(values)
    if kinds == {list}:
        try:
            return np.array(values, dtype=np.float64)
        except (ValueError, TypeError):
            return objects(values)
    return objects(values)
