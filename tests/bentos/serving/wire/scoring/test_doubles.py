"""Bodies read straight into an array mean what the general decoder makes of them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bentos.serving.inputs.plan import InputPlan
from bentos.serving.inputs.signature import Column, InputError, Signature, Tensor
from bentos.serving.wire.interface import WireError
from bentos.serving.wire.scoring import invocations
from bentos.serving.wire.scoring.doubles import Doubles
from bentos.serving.wire.v2 import rest as v2

NAMES = ("a", "b", "c")
SIGNATURE = Signature(tuple(Column(name, "double", True, name) for name in NAMES))
PLAN = InputPlan.compile(SIGNATURE)
DOUBLES = Doubles.of(PLAN)
assert DOUBLES is not None

cell = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False),
    st.integers(-(2**70), 2**70),
    st.none(),
    st.just("1"),
    st.just(True),
)
good = st.one_of(st.floats(allow_nan=False, allow_infinity=False), st.none(), st.integers(-(2**60), 2**60))


@st.composite
def scoring_bodies(draw: st.DrawFn) -> dict[str, Any]:
    cells = draw(st.sampled_from([cell, good, good]))
    order = draw(st.permutations([*NAMES, *draw(st.sampled_from([[], ["d"], ["a"]]))]))
    columns = draw(st.sampled_from([list(NAMES), order, order[:2]]))
    width = draw(st.sampled_from([len(columns), 3, 3, 2]))
    rows = draw(st.lists(st.lists(cells, min_size=width, max_size=width), max_size=4))
    if rows and draw(st.booleans()):
        rows[-1] = rows[-1][:-1] if draw(st.booleans()) else rows[-1]
    records = [dict(zip(columns, row, strict=False)) for row in rows]
    return draw(
        st.sampled_from(
            [
                {"dataframe_split": {"columns": columns, "data": rows}},
                {"dataframe_split": {"data": rows}},
                {"dataframe_records": records},
                {"instances": rows},
                {"instances": records},
                {"inputs": rows},
                {"inputs": {name: [row[i] for row in rows if i < len(row)] for i, name in enumerate(columns)}},
                {"instances": rows, "inputs": rows},
                {"instances": rows, "params": {}},
            ]
        )
    )


def general(body: bytes) -> np.ndarray | None:
    try:
        call = invocations.decode("application/json", body, SIGNATURE)
        return PLAN.coerce(call.inputs).array()
    except (WireError, InputError):
        return None


@given(scoring_bodies())
def test_scoring_bodies_are_read_alike(value: dict[str, Any]) -> None:
    body = json.dumps(value).encode()
    try:
        found = DOUBLES.scoring(body)
    except InputError:
        assert general(body) is None
        return
    if found is not None:
        wanted = general(body)
        assert wanted is not None, body
        assert found.array().tobytes() == np.ascontiguousarray(wanted).tobytes() or np.array_equal(
            found.array(), wanted, equal_nan=True
        )


@pytest.mark.parametrize(
    "value",
    [
        {"dataframe_split": {"columns": ["c", "a", "b"], "data": [[3, 1, 2.5]]}},
        {"dataframe_split": {"columns": ["x", "c", "a", "b"], "data": [[9, 3, 1, 2.5]]}},
        {"dataframe_records": [{"c": 3, "b": 2.5, "a": 1, "x": 1}]},
        {"instances": [[1, 2.5, 3]]},
        {"instances": [{"b": 2.5, "a": 1, "c": 3}]},
        {"inputs": {"a": [1], "c": [3], "b": [2.5]}},
        {"inputs": [[1, 2.5, 3]]},
    ],
)
def test_the_usual_bodies_are_read_here(value: dict[str, Any]) -> None:
    found = DOUBLES.scoring(json.dumps(value).encode())
    assert found is not None
    assert found.matrix("f8").tolist() == [[1, 2.5, 3]]


@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "name": st.sampled_from([*NAMES, "x"]),
                "datatype": st.sampled_from(["FP64", "FP64", "FP64", "FP32", "INT64"]),
                "shape": st.sampled_from([[1], [2], [1, 1], [2, 1], [1, 3], [2, 3], [0, 3], [3, 1]]),
                "data": st.one_of(st.lists(good, max_size=7), st.lists(st.lists(cell, max_size=3), max_size=3)),
            }
        ),
        max_size=4,
    ),
    st.sampled_from([{}, {"id": "7"}, {"id": 7}, {"parameters": {}}, {"outputs": []}]),
)
def test_infer_bodies_are_read_alike(inputs: list[dict[str, Any]], more: dict[str, Any]) -> None:
    body = json.dumps({"inputs": inputs, **more}).encode()
    try:
        found = DOUBLES.infer(body)
    except InputError:
        return
    if found is None:
        return
    call = v2.decode("", body, SIGNATURE)
    assert found[1] == call.id
    assert np.array_equal(found[0].array(), PLAN.coerce(call.inputs).array(), equal_nan=True)


def test_infer_bodies_as_clients_send_them_are_read_here() -> None:
    matrix = [{"name": "x", "datatype": "FP64", "shape": [2, 3], "data": [1, 2, 3, 4, 5, 6]}]
    columns = [{"name": n, "datatype": "FP64", "shape": [1, 1], "data": [i]} for i, n in reversed([*enumerate(NAMES)])]
    found = DOUBLES.infer(json.dumps({"id": "9", "inputs": matrix}).encode())
    assert found is not None
    assert (found[0].matrix("f8").tolist(), found[1]) == ([[1, 2, 3], [4, 5, 6]], "9")
    found = DOUBLES.infer(json.dumps({"inputs": columns}).encode())
    assert found is not None
    assert found[0].matrix("f8").tolist() == [[0, 1, 2]]


def test_only_models_over_named_doubles_are_read_here() -> None:
    for kinds in (["double"], ["double", "long"], ["float", "float"]):
        columns = tuple(Column(f"c{i}", kind, True, f"c{i}") for i, kind in enumerate(kinds))
        assert Doubles.of(InputPlan.compile(Signature(columns))) is None
    unnamed = tuple(Column("", "double", True, None) for _ in range(2))
    assert Doubles.of(InputPlan.compile(Signature(unnamed))) is None


@given(
    scoring_bodies(), st.sampled_from(["float64", "float32"]), st.sampled_from([-1, 3]), st.sampled_from([None, "x"])
)
def test_tensors_are_read_alike(value: dict[str, Any], dtype: str, width: int, name: str | None) -> None:
    signature = Signature((Tensor(name, dtype, (-1, width)),))
    plan = InputPlan.compile(signature)
    reader = Doubles.of(plan)
    assert reader is not None
    body = json.dumps(value).encode()
    found = reader.scoring(body)
    if found is not None:
        wanted = plan.coerce(invocations.decode("application/json", body, signature).inputs)
        assert found.tensors is not None and wanted.tensors is not None
        assert found.tensors.keys() == wanted.tensors.keys()
        assert found.array().dtype == wanted.array().dtype
        assert np.array_equal(found.array(), wanted.array(), equal_nan=True)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_usual_tensors_are_read_here(dtype: str) -> None:
    reader = Doubles.of(InputPlan.compile(Signature((Tensor(None, dtype, (-1, 3)),))))
    assert reader is not None
    for key in ("instances", "inputs"):
        found = reader.scoring(json.dumps({key: [[1, 2.5, None]]}).encode())
        assert found is not None
        assert (found.array().dtype, found.array()[0, :2].tolist()) == (np.dtype(dtype), [1, 2.5])
    infer = [{"name": "any", "datatype": "FP64", "shape": [1, 3], "data": [1, 2, 3]}]
    read = reader.infer(json.dumps({"inputs": infer}).encode())
    assert read is not None
    assert read[0].array().tolist() == [[1, 2, 3]]
    assert reader.scoring(b'{"instances":[[1e300,1,1]]}') is None or dtype == "float64"
