"""Tensors survive the protocol in JSON and in binary, and logged answers decode to what was predicted."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bentos.serving.inputs.signature import Column, Signature, Tensor
from bentos.serving.log.decode import decode_outputs, decode_request, decode_response
from bentos.serving.wire.v2 import rest as v2
from bentos.serving.wire.v2.tensors import DTYPES, datatype_of, from_bytes, from_json, to_bytes, to_json

VALUES: dict[str, Any] = {
    "BOOL": [True, False, True],
    **{f"UINT{bits}": [0, 1, 2**bits - 1] for bits in (8, 16, 32, 64)},
    **{f"INT{bits}": [-(2 ** (bits - 1)), 0, 2 ** (bits - 1) - 1] for bits in (8, 16, 32, 64)},
    **{name: [0.5, -2.0, np.nan] for name in ("FP16", "FP32", "FP64")},
}


@pytest.mark.parametrize("datatype", sorted(VALUES))
def test_numbers_come_back_both_ways(datatype: str) -> None:
    array = np.array(VALUES[datatype], dtype=DTYPES[datatype]).reshape(3, 1)
    assert datatype_of(array)[0] == datatype
    raw = from_bytes(memoryview(to_bytes(array, datatype)), datatype, (3, 1), "t")
    text = v2.orjson.dumps(to_json(array, datatype), option=v2.orjson.OPT_SERIALIZE_NUMPY)
    for found in (raw, from_json(json.loads(text), datatype, (3, 1), "t")):
        assert found.dtype == array.dtype
        np.testing.assert_array_equal(found, array)


def test_texts_and_bytes_come_back() -> None:
    array = np.array(["", "é", "long " * 50], dtype=object)
    found = from_bytes(memoryview(to_bytes(array, "BYTES")), "BYTES", (3,), "t")
    assert [value.decode() for value in found] == array.tolist()
    assert from_json(to_json(array, "BYTES"), "BYTES", (3,), "t").tolist() == array.tolist()
    raw = np.array([b"\xff\x00", b""], dtype=object)
    assert from_bytes(memoryview(to_bytes(raw, "BYTES")), "BYTES", (2,), "t").tolist() == raw.tolist()


def infer(signature: Signature, *tensors: tuple[str, str, Any]) -> Any:
    inputs = [{"name": n, "datatype": d, "shape": list(np.shape(v)), "data": v} for n, d, v in tensors]
    return v2.decode("", json.dumps({"inputs": inputs}).encode(), signature).inputs


def test_columns_of_one_type_may_come_as_one_matrix() -> None:
    same = Signature((Column("a", "double"), Column("b", "double")))
    found = infer(same, ("input", "FP64", [[1.0, 2.0], [3.0, 4.0]]))
    assert found.tolist() == [[1.0, 2.0], [3.0, 4.0]]
    mixed = Signature((Column("a", "double"), Column("b", "string")))
    with pytest.raises(v2.WireError, match="expected one tensor a column: a, b"):
        infer(mixed, ("input", "FP64", [[1.0, 2.0]]))


def test_one_tensor_a_column_with_texts_json_and_bytes() -> None:
    nested = '{"items": {"type": "long"}, "type": "array"}'
    signature = Signature((Column("name", "string"), Column("tags", nested), Column("blob", "binary")))
    found = infer(
        signature, ("name", "BYTES", ["x", "y"]), ("tags", "BYTES", ["[1]", "[]"]), ("blob", "BYTES", [["p"], ["q"]])
    )
    assert found["name"].tolist() == ["x", "y"]
    assert found["tags"] == [[1], []]
    assert found["blob"] == [b"p", b"q"]


def test_a_model_over_one_tensor_takes_any_name() -> None:
    found = infer(Signature((Tensor(None, "float64", (-1, 2)),)), ("whatever", "FP64", [[1.0, 2.0]]))
    assert found.tolist() == [[1.0, 2.0]]


@pytest.mark.parametrize("binary", [False, True])
def test_logged_answers_decode(binary: bool) -> None:
    call = v2.InferCall(None, binary=binary)
    for values in (
        np.array([1, 2]),
        np.array([0.5, np.nan]),
        np.array(["no", "yes"], dtype=object),
        np.array([True, False]),
    ):
        body = v2.encode(call, values, None, "m", "3")
        assert (body.header_length > 0) == binary
        found = decode_response("v2", body.content_type, body.header_length, body.data)
        np.testing.assert_array_equal(found, values)
    both = v2.encode(call, np.array([1, 2]), np.array([[0.1, 0.9], [0.8, 0.2]]), "m", "3")
    assert decode_response("v2", "", both.header_length, both.data).tolist() == [1, 2]
    assert decode_outputs("", both.header_length, both.data)["predict_proba"].shape == (2, 2)
    frame = v2.encode(call, pd.DataFrame({"a": [1, 2], "b": ["x", "y"]}), None, "m", "3")
    assert decode_response("v2", "", frame.header_length, frame.data).tolist() == [
        {"a": 1, "b": "x"},
        {"a": 2, "b": "y"},
    ]


def test_a_logged_binary_request_decodes() -> None:
    signature = Signature((Column("a", "double"),))
    head = json.dumps({"inputs": [{"name": "a", "datatype": "FP64", "shape": [2], "parameters": {"binary_data_size": 16}}]}).encode()  # fmt: skip
    body = head + np.array([1.5, 2.5]).tobytes()
    assert decode_request("v2", "", len(head), body, signature)["a"].tolist() == [1.5, 2.5]
    with pytest.raises(v2.WireError):
        decode_request("v2", "", len(head), body[:-1], signature)


def test_metadata_names_types_and_shapes() -> None:
    signature = Signature((Column("a", "long"), Column("b", "string")), (Tensor(None, "float32", (-1,)),))
    assert v2.metadata(signature, "m", "3", probabilities=True) == {
        "name": "m",
        "versions": ["3"],
        "platform": "shipway",
        "inputs": [
            {"name": "a", "datatype": "INT64", "shape": [-1]},
            {"name": "b", "datatype": "BYTES", "shape": [-1]},
        ],
        "outputs": [
            {"name": "predict", "datatype": "FP32", "shape": [-1]},
            {"name": "predict_proba", "datatype": "FP64", "shape": [-1, -1]},
        ],
    }
