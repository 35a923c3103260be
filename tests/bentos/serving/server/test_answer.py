"""Whatever bytes come in, what the client got wrong is a 4xx in the protocol's own form, never a 5xx."""

from __future__ import annotations

import gzip
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from bentos.serving.inputs.plan import InputPlan
from bentos.serving.inputs.rows import InputRows
from bentos.serving.inputs.signature import Column, Param, Signature, Tensor
from bentos.serving.model.interface import Prediction
from bentos.serving.model.runner import ModelRunner
from bentos.serving.server.formats import read
from bentos.serving.server.messages import Answer, Request
from bentos.serving.server.served_model import ServedModel
from bentos.serving.wire.v2 import rest as v2
from tests.bentos.forms import answer

COLUMNS = Signature(
    (
        Column("price", "double", True, "price"),
        Column("count", "long", True, "count"),
        Column("name", "string", True, "name"),
        Column("flag", "boolean", False, "flag"),
        Column("day", "datetime", False, "day"),
        Column("blob", "binary", False, "blob"),
        Column("tags", '{"items": {"type": "string"}, "type": "array"}', False, "tags"),
    ),
    (),
    (Param("scale", "double", 1.0),),
)
NUMBERS = Signature((Column("a", "double", True, "a"), Column("b", "double", True, "b")))
TENSOR = Signature((Tensor(None, "float64", (-1, 3)),))
NAMED = Signature((Tensor("x", "float32", (-1, 2)), Tensor("n", "int64", (-1,))))
ONE = Signature((Tensor("x", "float64", (-1, 2)),))
SIGNATURES = {"columns": COLUMNS, "numbers": NUMBERS, "tensor": TENSOR, "named": NAMED, "one": ONE}


class RowNumbers:
    """A predictor that accepts every input that fits the signature: it answers each row's number."""

    def predict(self, data: InputRows, params: Mapping[str, Any], *, probabilities: bool = False) -> Prediction:
        return Prediction(np.arange(data.rows), np.ones((data.rows, 1)) if probabilities else None, (0,))


def live(signature: Signature) -> ServedModel:
    plan = InputPlan.compile(signature)
    runner = ModelRunner(Path("model"), "m", "3", "test", signature, plan, RowNumbers())
    return ServedModel(runner, "m", "3", "3.0", True, {1: 1e-6}, rowwise=True)


LIVES = {name: live(signature) for name, signature in SIGNATURES.items()}


def ask(kind: str, name: str, body: bytes, content_type: str = "application/json", header_length: str = "") -> Answer:
    found = answer(LIVES[name], Request(kind, content_type, "", header_length, body))
    if found.status != 200:
        assert 400 <= found.status < 500, found
        if kind == "v2":
            assert set(json.loads(found.body.data)) == {"error"}
        elif found.status != 415:
            assert set(json.loads(found.body.data)) == {"error_code", "message"}
    return found


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**40), 10**40)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["a", "b", "x", "n", "price", "2020-01-01", "data", "columns"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from([*"abxn", "price", "count", "name", "day", "tags"]) | st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip
cells = st.one_of(json_values, st.floats(), st.integers(-5, 5), st.text(max_size=3))
tables = st.fixed_dictionaries(
    {"data": st.lists(st.lists(cells, max_size=3), max_size=3) | json_values},
    optional={"columns": st.lists(st.sampled_from(["a", "b", "price", 1, None]), max_size=3) | json_values, "index": json_values},
)  # fmt: skip
scoring_bodies = st.fixed_dictionaries(
    {},
    optional={
        "dataframe_split": tables | json_values,
        "dataframe_records": st.lists(st.dictionaries(st.sampled_from(["a", "b", "price", "name"]), cells), max_size=3) | json_values,
        "instances": st.lists(st.lists(cells, max_size=3), max_size=3) | json_values,
        "inputs": st.dictionaries(st.sampled_from(["a", "b", "x", "n"]), st.lists(cells, max_size=3)) | json_values,
        "params": json_values,
    },
)  # fmt: skip
tensors = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["a", "b", "x", "n", "price", ""]) | json_values,
        "datatype": st.sampled_from(["FP64", "FP16", "INT8", "UINT64", "BOOL", "BYTES", "BF16"]) | json_values,
        "shape": st.lists(st.integers(-1, 3) | st.just(2**62), max_size=3) | json_values,
    },
    optional={
        "data": st.lists(cells, max_size=6) | st.lists(st.lists(cells, max_size=2), max_size=3) | json_values,
        "parameters": st.fixed_dictionaries({"binary_data_size": st.integers(-2, 40) | json_values}) | json_values,
    },
)
infer_bodies = st.fixed_dictionaries(
    {"inputs": st.lists(tensors, max_size=3) | json_values},
    optional={
        "id": json_values,
        "parameters": json_values,
        "outputs": st.lists(st.fixed_dictionaries({"name": st.sampled_from(["predict", "predict_proba", "other"]) | json_values}, optional={"parameters": json_values}), max_size=2) | json_values,
    },
)  # fmt: skip
names = st.sampled_from(sorted(SIGNATURES))
fuzz = settings(
    max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


@fuzz
@given(st.sampled_from(["invocations", "v2"]), names, st.binary(max_size=200), st.sampled_from(["application/json", "text/csv", "application/json; charset=utf-8", "text/csv; charset=latin-1", "", ";;=", "image/png"]), st.text(max_size=6))  # fmt: skip
def test_any_bytes(kind: str, name: str, body: bytes, content_type: str, header_length: str) -> None:
    ask(kind, name, body, content_type, header_length)


@fuzz
@given(names, scoring_bodies)
def test_any_scoring_body(name: str, body: dict[str, Any]) -> None:
    ask("invocations", name, json.dumps(body).encode())


@fuzz
@given(names, infer_bodies, st.binary(max_size=40))
def test_any_infer_body(name: str, body: dict[str, Any], raw: bytes) -> None:
    head = json.dumps(body).encode()
    ask("v2", name, head + raw, header_length=str(len(head)) if raw else "")


@fuzz
@given(names, st.text(alphabet='ab,"\n\r;1.5eE-NA\x00é ', max_size=60))
def test_any_csv(name: str, text: str) -> None:
    ask("invocations", name, text.encode(), "text/csv")
    ask("invocations", name, f"a,b\n{text}".encode(), "text/csv")


MALFORMED = {
    "no body": b"",
    "no JSON": b"hello",
    "a list": b"[1, 2]",
    "deep nesting": b'{"inputs": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep nesting with NaN": b'{"inputs": ' + b"[" * 100_000 + b"NaN" + b"]" * 100_000 + b"}",
    "invalid UTF-8": b'{"inputs": "\xff\xfe"}',
    "a lone surrogate": b'{"inputs": ["\\ud800"]}',
    "two fields": b'{"inputs": [[1, 2]], "instances": [[1, 2]]}',
    "no field": b'{"data": []}',
    "params that are no object": b'{"inputs": [[1, 2]], "params": [1]}',
    "ragged rows": b'{"dataframe_split": {"columns": ["a", "b"], "data": [[1, 2], [1]]}}',
    "ragged instances": b'{"instances": [[1, 2], [1]]}',
    "a column twice": b'{"dataframe_split": {"columns": ["a", "a"], "data": [[1, 2]]}}',
    "column names that are numbers": b'{"dataframe_split": {"columns": [1, 2], "data": [[1, 2]]}}',
    "a missing column": b'{"dataframe_records": [{"a": 1}]}',
    "text in a number": b'{"dataframe_records": [{"a": 1, "b": "two"}]}',
    "columns of two lengths": b'{"inputs": {"a": [1, 2], "b": [1]}}',
    "no rows": b'{"dataframe_records": []}',
    "an object for a number": b'{"dataframe_records": [{"a": {"c": 1}, "b": 1}]}',
    "an integer of 5000 digits with NaN": b'{"inputs": [[NaN, ' + b"9" * 5000 + b"]]}",
}


@pytest.mark.parametrize("what", sorted(MALFORMED))
def test_malformed_scoring_bodies_are_400(what: str) -> None:
    found = ask("invocations", "numbers", MALFORMED[what])
    assert found.status == 400
    assert json.loads(found.body.data)["error_code"] == "BAD_REQUEST"


@pytest.mark.parametrize(
    ("what", "body"),
    [
        ("a column twice", b"a,a\n1,2\n"),
        ("ragged", b"a,b\n1,2\n1,2,3\n"),
        ("an open quote", b'a,b\n"1,2\n'),
        ("text", b"a,b\n1,x\n"),
        ("no header", b""),
        ("UTF-16", "a,b\n1,2\n".encode("utf-16")),
    ],
)
def test_malformed_csv_is_400(what: str, body: bytes) -> None:
    assert ask("invocations", "numbers", body, "text/csv").status == 400


@pytest.mark.parametrize(
    "content_type", ["application/xml", "application/json; charset=latin-1", "text/csv; header=no"]
)
def test_other_content_types_are_415(content_type: str) -> None:
    found = ask("invocations", "numbers", b'{"inputs": [[1, 2]]}', content_type)
    assert (found.status, found.body.content_type) == (415, "text/plain; charset=utf-8")


def test_compressed_bodies() -> None:
    whole = json.dumps({"inputs": [tensor()]}).encode()

    def status(encoding: str, body: bytes, largest: int = 1 << 20) -> int:
        return answer(LIVES["numbers"], Request("v2", "", encoding, "", body), largest).status

    assert status("gzip", gzip.compress(whole)) == 200
    assert status("gzip", gzip.compress(whole)[:-3]) == 400
    assert status("gzip", gzip.compress(whole + b" " * (1 << 20))) == 413
    assert status("zstd", whole) == 415


def tensor(**changes: Any) -> dict[str, Any]:
    return {"name": "x", "datatype": "FP64", "shape": [1, 2], "data": [1, 2], **changes}


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"inputs": []},
        {"inputs": [1]},
        {"inputs": [tensor(), tensor()]},
        {"inputs": [tensor(datatype="FP65")]},
        {"inputs": [tensor(shape=[-1, 2])]},
        {"inputs": [tensor(shape=[2**40, 2**40])]},
        {"inputs": [tensor(shape=[True, 2])]},
        {"inputs": [tensor(data=[1])]},
        {"inputs": [tensor(data=[[1], [2]])]},
        {"inputs": [tensor(data="12")]},
        {"inputs": [tensor(datatype="INT8", data=[1, 300])]},
        {"inputs": [tensor(datatype="INT64", data=[1, 1.5])]},
        {"inputs": [tensor(datatype="BOOL", data=[1, 0])]},
        {"inputs": [tensor(datatype="BYTES", data=[1, 2])]},
        {"inputs": [tensor(shape=[2, 1, 1])]},
        {"inputs": [tensor(shape=[1, 3], data=[1, 2, 3])]},
        {"inputs": [tensor(parameters={"binary_data_size": 16})]},
        {"inputs": [tensor(parameters={"shared_memory_region": "r"}, data=None)]},
        {"inputs": [tensor()], "outputs": [{"name": "other"}]},
        {"inputs": [tensor()], "outputs": {}},
        {"inputs": [tensor()], "id": 5},
    ],
)
def test_malformed_infer_bodies_are_400(body: dict[str, Any]) -> None:
    assert ask("v2", "numbers", json.dumps(body).encode()).status == 400


NAMES_OF_TENSORS: list[tuple[str, dict[str, tuple[int, ...]], int]] = [
    *(("tensor", {name: (2, 3)}, 200) for name in ("input", "input-0", "X", "predict", "")),
    ("tensor", {"input": (2, 3), "mask": (2, 3)}, 400),
    ("one", {"x": (2, 2)}, 200),
    *(("one", {name: (2, 2)}, 400) for name in ("input", "input-0", "X", "")),
    ("one", {"x": (2, 2), "mask": (2, 2)}, 400),
    ("named", {"x": (2, 2), "n": (2,)}, 200),
    ("named", {"x": (2, 2), "N": (2,)}, 400),
    ("named", {"x": (2, 2), "n": (2,), "mask": (2,)}, 400),
    *(("numbers", {name: (2, 2)}, 200) for name in ("input", "input-0", "X", "predict")),
    ("numbers", {"a": (2, 2)}, 400),
    ("numbers", {"a": (2,), "b": (2, 1)}, 200),
    ("numbers", {"a": (2,), "B": (2,)}, 400),
    ("numbers", {"a": (2,), "b": (2,), "id": (2,)}, 200),
]


@pytest.mark.parametrize("form", ["json", "binary", "grpc"])
@pytest.mark.parametrize(("model", "shapes", "status"), NAMES_OF_TENSORS)
def test_a_tensor_goes_by_the_name_that_the_metadata_promises(
    form: str, model: str, shapes: dict[str, tuple[int, ...]], status: int
) -> None:
    types = {"n": np.int64, "N": np.int64}
    arrays = {name: np.ones(shape, types.get(name, np.float64)) for name, shape in shapes.items()}
    kinds = {name: "FP64" if array.dtype == np.float64 else "INT64" for name, array in arrays.items()}
    if form == "grpc":
        message = service_pb2.ModelInferRequest(model_name="m")
        for name, array in arrays.items():
            message.inputs.add(name=name, datatype=kinds[name], shape=array.shape)
            message.raw_input_contents.append(array.tobytes())
        asked = Request("grpc", "application/x-protobuf", "", "", message.SerializeToString())
    else:
        binary = form == "binary"
        said = [{"parameters": {"binary_data_size": a.nbytes}} if binary else {"data": a.ravel().tolist()} for a in arrays.values()]  # fmt: skip
        inputs = [{"name": n, "datatype": kinds[n], "shape": arrays[n].shape, **more} for n, more in zip(arrays, said, strict=True)]  # fmt: skip
        head = json.dumps({"inputs": inputs}).encode()
        raw = b"".join(array.tobytes() for array in arrays.values()) if binary else b""
        asked = Request("v2", "", "", str(len(head)) if binary else "", head + raw)
    found = answer(LIVES[model], asked)
    assert found.status == status, found.reason
    if status == 400:
        assert "expected" in found.reason
        names = [entry["name"] for entry in v2.metadata(SIGNATURES[model], "m", "3", probabilities=False)["inputs"]]
        assert model == "tensor" or any(name in found.reason for name in names)


@pytest.mark.parametrize("header_length", ["-1", "1.5", "99999", "x", "0x10", "٣", "1" * 30])
def test_a_wrong_header_length_is_400(header_length: str) -> None:
    assert ask("v2", "numbers", json.dumps({"inputs": [tensor()]}).encode(), header_length=header_length).status == 400


@pytest.mark.parametrize("cut", range(1, 33))
def test_truncated_binary_tensors_are_400(cut: int) -> None:
    parts = [{"name": "a", "datatype": "FP64", "shape": [2], "parameters": {"binary_data_size": 16}}]
    parts.append({**parts[0], "name": "b"})
    head, raw = json.dumps({"inputs": parts}).encode(), struct.pack("<4d", 1, 2, 3, 4)
    assert ask("v2", "numbers", head + raw, header_length=str(len(head))).status == 200
    assert ask("v2", "numbers", head + raw[:-cut], header_length=str(len(head))).status == 400


def test_a_model_that_fails_is_500_in_the_protocols_form() -> None:
    class Failing(RowNumbers):
        def predict(self, data: InputRows, params: Mapping[str, Any], *, probabilities: bool = False) -> Prediction:
            raise ValueError("found unknown categories")

    plan = InputPlan.compile(NUMBERS)
    failing = ServedModel(
        ModelRunner(Path("model"), "m", "3", "test", NUMBERS, plan, Failing()),
        "m",
        "3",
        "3.0",
        True,
        {1: 1e-6},
        rowwise=True,
    )
    found = answer(failing, Request("invocations", "application/json", "", "", b'{"inputs": [[1, 2]]}'))
    assert found.status == 500
    assert "unknown categories" in json.loads(found.body.data)["message"]
    found = answer(failing, Request("v2", "", "", "", json.dumps({"inputs": [tensor()]}).encode()))
    assert found.status == 500
    assert "unknown categories" in json.loads(found.body.data)["error"]


V2_PARAMS = b'{"inputs": [{"name": "x", "datatype": "FP64", "shape": [1, 2], "data": [1, 2]}], "parameters": {"x": 1}}'


@pytest.mark.parametrize(
    ("kind", "asked"),
    [("invocations", b'{"inputs": [[1, 2]], "params": {"x": 1, "\\u00e9\\n": 2}}'), ("v2", V2_PARAMS)],
)
def test_params_of_a_model_that_declares_none_are_left_out_and_named(kind: str, asked: bytes) -> None:
    found = ask(kind, "numbers", asked)
    assert found.status == 200
    ((name, value),) = found.headers
    assert name == b"x-shipway-ignored-params"
    assert value in (b"x", rb"x, \xe9?")


def test_params_of_a_model_that_declares_some_are_checked() -> None:
    row = {"price": 1.0, "count": 1, "name": "n"}
    for params, status in (({"scale": 2.0}, 200), ({"scale": "much"}, 400), ({"other": 1}, 400)):
        body = json.dumps({"dataframe_records": [row], "params": params}).encode()
        assert ask("invocations", "columns", body).status == status, params


def test_requests_with_params_that_are_left_out_share_a_predict() -> None:
    work = [read(LIVES["numbers"], Request("invocations", "application/json", "", "", body)) for body in (b'{"inputs": [[1, 2]], "params": {"x": 1}}', b'{"inputs": [[1, 2]]}')]  # fmt: skip
    assert work[0].joins(work[1])
