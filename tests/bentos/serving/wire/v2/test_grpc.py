"""gRPC's message says what REST's body says, to the bit; whatever else comes in is a WireError."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2 as triton

from bentos.serving.inputs.signature import Column, Signature, Tensor
from bentos.serving.log.decode import decode_outputs, decode_request, decode_response
from bentos.serving.wire.interface import WireError
from bentos.serving.wire.v2 import grpc as v2_grpc
from bentos.serving.wire.v2 import rest as v2
from bentos.serving.wire.v2.grpc_messages import _MESSAGES, message
from bentos.serving.wire.v2.grpc_status import error_headers, status_of, timeout_seconds
from bentos.serving.wire.v2.tensors import DTYPES, from_bytes, to_bytes, to_json

ANY = Signature((Tensor(None, "float64", (-1,)),))
COLUMNS = Signature((Column("x", "double", True, "x"), Column("name", "string", True, "name")))
VALUES = {
    "BOOL": [True, False],
    "UINT8": [0, 255],
    "UINT16": [0, 65535],
    "UINT32": [0, 2**32 - 1],
    "UINT64": [0, 2**64 - 1],
    "INT8": [-128, 127],
    "INT16": [-(2**15), 2**15 - 1],
    "INT32": [-(2**31), 2**31 - 1],
    "INT64": [-(2**63), 2**63 - 1],
    "FP32": [0.1, float("nan")],
    "FP64": [0.1, float("inf")],
    "BYTES": ["caffè", ""],
}
FIELDS = {name: field for name, (field, _) in v2_grpc._CONTENTS.items()}


def request(datatype: str, values: list[Any], *, raw: bool, shape: list[int] | None = None, **more: Any) -> Any:
    found = triton.ModelInferRequest(**{"model_name": "m", **more})
    tensor = found.inputs.add(name="t", datatype=datatype, shape=shape or [len(values)])
    array = np.array(values, dtype=DTYPES[datatype])
    if raw:
        found.raw_input_contents.append(to_bytes(array, datatype))
    else:
        values = [v.encode() if isinstance(v, str) else v for v in values]
        getattr(tensor.contents, FIELDS[datatype]).extend(values)
    return found


def decode(found: Any, signature: Signature = ANY) -> v2.InferCall:
    return v2_grpc.decode(found.SerializeToString(), signature, "m", "3")


def test_messages_are_those_of_tritons_client() -> None:
    def fields(descriptor: Any) -> dict[str, Any]:
        return {
            field.name: (
                field.number,
                field.type,
                field.is_repeated,
                field.message_type and field.message_type.full_name,
            )
            for field in descriptor.fields
        }

    for name in _MESSAGES:
        theirs = triton.DESCRIPTOR.pool.FindMessageTypeByName(f"inference.{name}")
        assert fields(message(name).DESCRIPTOR) == fields(theirs), name
    oneof = message("InferParameter").DESCRIPTOR.oneofs_by_name["parameter_choice"]
    assert len(oneof.fields) == 5


@pytest.mark.parametrize("datatype", sorted(VALUES))
@pytest.mark.parametrize("raw", [True, False], ids=["raw", "typed"])
def test_every_datatype_reads_as_over_rest(datatype: str, raw: bool) -> None:
    values = VALUES[datatype]
    call = decode(request(datatype, values, raw=raw))
    binary = to_bytes(np.array(values, dtype=DTYPES[datatype]), datatype)
    tensor = {"name": "t", "datatype": datatype, "shape": [2], "parameters": {"binary_data_size": len(binary)}}
    head = orjson.dumps({"inputs": [tensor]})
    rest = v2.decode(str(len(head)), head + binary, ANY).inputs
    assert call.inputs.dtype == rest.dtype
    np.testing.assert_array_equal(call.inputs, rest)
    assert call.binary is raw


@pytest.mark.parametrize("datatype", sorted(VALUES))
@pytest.mark.parametrize("raw", [True, False], ids=["raw", "typed"])
def test_answers_come_back_as_they_were_asked(datatype: str, raw: bool) -> None:
    array = np.array(VALUES[datatype], dtype=DTYPES[datatype])
    call = decode(request("FP64", [1.0], raw=raw, id="7"))
    body = v2_grpc.encode(call, array, None, "m", "3")
    found = triton.ModelInferResponse.FromString(body.data)
    assert (found.model_name, found.model_version, found.id) == ("m", "3", "7")
    assert (found.outputs[0].name, found.outputs[0].datatype, list(found.outputs[0].shape)) == (
        "predict",
        datatype,
        [2],
    )
    if raw:
        assert found.raw_output_contents[0] == to_bytes(array, datatype)
    else:
        assert not found.raw_output_contents
        typed = list(getattr(found.outputs[0].contents, FIELDS[datatype]))
        again = [v.decode() for v in typed] if datatype == "BYTES" else typed
        np.testing.assert_array_equal(np.array(again, dtype=array.dtype), array)
    logged = decode_response("grpc", body.content_type, 0, body.data)
    assert logged.dtype == array.dtype
    np.testing.assert_array_equal(logged, array)


def test_half_floats_are_answered_raw_whatever_was_asked() -> None:
    body = v2_grpc.encode(decode(request("FP64", [1.0], raw=False)), np.array([0.5], "f2"), None, "m", "3")
    assert decode_outputs(body.content_type, 0, body.data)["predict"].tolist() == [0.5]


def test_outputs_and_parameters() -> None:
    asked = request("FP64", [1.0], raw=True)
    asked.outputs.add(name="predict_proba")
    asked.parameters["scale"].double_param = 2.5
    asked.parameters["deep"].bool_param = True
    asked.parameters["priority"].uint64_param = 1  # for the server, not for the model
    asked.parameters["triton_x"].string_param = "y"
    call = decode(asked)
    assert (call.probabilities, call.outputs) == (True, {"predict_proba": True})
    assert call.params == {"scale": 2.5, "deep": True}
    body = v2_grpc.encode(call, np.array([1]), np.array([[0.25, 0.75]]), "m", "3")
    assert decode_outputs(body.content_type, 0, body.data)["predict_proba"].tolist() == [[0.25, 0.75]]
    asked.outputs.add(name="other")
    with pytest.raises(WireError, match="expected one of predict, predict_proba, found 'other'"):
        v2_grpc.encode(decode(asked), np.array([1]), np.array([[0.25, 0.75]]), "m", "3")


def test_logged_requests_decode() -> None:
    asked = request("FP64", [1.5, 2.5], raw=True)
    asked.inputs[0].name = "x"
    asked.inputs.add(name="name", datatype="BYTES", shape=[2, 1])
    asked.raw_input_contents.append(to_bytes(np.array(["a", "b"], dtype=object), "BYTES"))
    body = asked.SerializeToString()
    found = decode_request("grpc", v2_grpc.CONTENT_TYPE, 0, body, COLUMNS)
    assert found["x"].tolist() == [1.5, 2.5]
    assert list(found["name"]) == ["a", "b"]
    with pytest.raises(WireError):
        decode_request("grpc", v2_grpc.CONTENT_TYPE, 0, body[:-1], COLUMNS)


def broken(what: str) -> Any:
    found = request("FP64", [1.0, 2.0], raw=what != "typed count")
    tensor = found.inputs[0]
    if what == "no inputs":
        del found.inputs[:]
    elif what == "datatype":
        tensor.datatype = "BF16"
    elif what in ("raw size", "typed count"):
        tensor.shape[:] = [3]
    elif what == "negative shape":
        tensor.shape[:] = [-2]
    elif what == "huge shape":
        tensor.shape[:] = [2**62, 2**62]
    elif what == "huge shape of nothing":
        tensor.shape[:] = [0, 2**39, 2**39]
        found.raw_input_contents[0] = b""
    elif what == "raw count":
        found.raw_input_contents.append(b"")
    elif what == "both":
        tensor.contents.fp64_contents.extend([1.0, 2.0])
    elif what == "names":
        found.inputs.append(tensor)
        found.raw_input_contents.append(found.raw_input_contents[0])
    elif what == "typed half":
        found = request("FP64", [1.0], raw=False)
        found.inputs[0].datatype = "FP16"
    elif what == "typed range":
        found = request("INT32", [300], raw=False)
        found.inputs[0].datatype = "INT8"
    elif what == "classification":
        found.outputs.add(name="predict").parameters["classification"].int64_param = 2
    return found


WRONG = {
    "no inputs": "expected tensors, found none",
    "datatype": "found 'BF16'",
    "raw size": "expected 24 bytes for FP64",
    "typed count": "expected 3 elements for shape",
    "negative shape": "expected an array of lengths",
    "huge shape": "expected an array of lengths",
    "huge shape of nothing": "expected an array of lengths",
    "raw count": "expected one for each of 1 inputs, found 2",
    "both": "found both",
    "names": "expected a name of its own",
    "typed half": "FP16, which has no typed contents",
    "typed range": "out of the range of INT8",
    "classification": "classification extension is not supported",
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_said(what: str) -> None:
    with pytest.raises(WireError, match=WRONG[what]):
        decode(broken(what))


@pytest.mark.parametrize(("name", "version"), [("other", ""), ("", ""), ("m", "4")])
def test_another_model_or_version_is_not_found(name: str, version: str) -> None:
    asked = request("FP64", [1.0], raw=True, model_name=name, model_version=version)
    with pytest.raises(v2_grpc.UnknownModelError, match="expected the model 'm', version '3'"):
        decode(asked)
    assert decode(request("FP64", [1.0], raw=True, model_version="3")).inputs.tolist() == [1.0]


VALID = [
    request("FP64", [1.0, 2.0], raw=True).SerializeToString(),
    request("BYTES", ["a", "bc"], raw=True).SerializeToString(),
    request("INT16", [1, 2], raw=False, id="x").SerializeToString(),
]


def never_but_a_wire_error(body: bytes) -> None:
    for signature in (ANY, COLUMNS):
        with suppress(WireError):
            v2_grpc.decode(body, signature)
    with suppress(WireError):
        v2_grpc.decode_outputs(body)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_random_bytes(body: bytes) -> None:
    never_but_a_wire_error(body)


@settings(max_examples=500, deadline=None)
@given(st.sampled_from(VALID), st.integers(0, 200), st.integers(0, 200), st.binary(max_size=4))
def test_mutated_messages(body: bytes, start: int, size: int, put: bytes) -> None:
    never_but_a_wire_error(body[:start] + put + body[start + size :])
    never_but_a_wire_error(body[:start] + put + body[start + len(put) :])


shapes = st.lists(st.integers(-1, 2**63 - 1) | st.integers(0, 3), max_size=40)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from([*DTYPES, "", "BF16"]), shapes, st.lists(st.binary(max_size=40), max_size=2), st.text(max_size=3)
)
def test_any_shape_datatype_and_length(datatype: str, shape: list[int], raw: list[bytes], name: str) -> None:
    found = triton.ModelInferRequest(model_name="m", raw_input_contents=raw)
    found.inputs.add(name=name, datatype=datatype, shape=shape)
    never_but_a_wire_error(found.SerializeToString())


def test_typed_contents_equal_json() -> None:
    values = np.random.default_rng(0).random(100)
    call = decode(request("FP64", values.tolist(), raw=False))
    body = v2_grpc.encode(call, values, None, "m", "3")
    typed = triton.ModelInferResponse.FromString(body.data).outputs[0].contents.fp64_contents
    assert list(typed) == orjson.loads(orjson.dumps(to_json(values, "FP64"), option=orjson.OPT_SERIALIZE_NUMPY))
    assert from_bytes(memoryview(values.tobytes()), "FP64", (100,), "").tolist() == list(typed)


def test_statuses_words_and_timeouts() -> None:
    expected = {200: 0, 400: 3, 415: 3, 406: 3, 404: 5, 413: 8, 429: 8, 500: 13, 501: 12, 503: 14, 504: 4}
    assert {status: status_of(status) for status in expected} == expected
    assert error_headers(404, "nò 50%\n") == (
        (b"x-shipway-grpc-status", b"5"),
        (b"x-shipway-grpc-message", b"n%C3%B2 50%25%0A"),
    )
    timeouts = {"5S": 5.0, "250m": 0.25, "1H": 3600.0, "2M": 120.0, "10u": 1e-5, "": None, "-1S": None, "5": None}
    assert {text: timeout_seconds(text) for text in timeouts} == pytest.approx(timeouts)
