"""Bodies of every protocol come out as columns and predictions of one value a row."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bentos.serving.inputs.signature import Column, Signature, Tensor
from bentos.serving.log.segments import Record
from bentos.serving.wire.interface import WireError
from monitoring.log.bodies import WireBodies, columns_of

SIGNATURE = Signature((Column("x", "double"), Column("kind", "string")))


def record(request: Any, response: Any = None, kind: str = "v2", **more: Any) -> Record:
    asked, said = (value if isinstance(value, bytes) else json.dumps(value).encode() for value in (request, response))
    base = Record("r", 1, "", False, 1, "1", 200, 1, kind, "application/json", 0, "application/json", 0, asked, said)
    return base._replace(**more)


def tensor(name: str, datatype: str, data: list[Any], shape: list[int] | None = None) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape or [len(data)], "data": data}


def test_v2_gives_columns_predictions_and_scores() -> None:
    request = {"inputs": [tensor("x", "FP64", [1.5, 2.5]), tensor("kind", "BYTES", ["a", "b"])]}
    response = {
        "outputs": [tensor("predict", "INT64", [0, 1]), tensor("predict_proba", "FP64", [0.9, 0.1, 0.2, 0.8], [2, 2])]
    }
    bodies = WireBodies(SIGNATURE)
    assert bodies.inputs(record(request, response)) == {"x": [1.5, 2.5], "kind": ["a", "b"]}
    answer = bodies.answer(record(request, response))
    assert (list(answer.values), answer.scores) == ([0, 1], [0.1, 0.8])


def test_columns_that_the_signature_does_not_know_are_left_out() -> None:
    request = {"dataframe_records": [{"x": 1, "kind": "a", "secret": "s"}]}
    assert WireBodies(SIGNATURE).inputs(record(request, kind="invocations")) == {"x": [1], "kind": ["a"]}


def test_a_tensor_model_has_numbered_columns() -> None:
    bodies = WireBodies(Signature((Tensor(None, "float64", (-1, 2)),)))
    request = {"inputs": [[1.0, 2.0], [3.0, 4.0]]}
    assert bodies.inputs(record(request, kind="invocations")) == {"0": [1.0, 3.0], "1": [2.0, 4.0]}


def test_rows_that_break_the_signature_are_counted() -> None:
    rows = [[1.0, "a"], ["tall", "b"], [None, "c"], ["x", "d"]]
    request = {"dataframe_split": {"columns": ["x", "kind"], "data": rows}}
    bodies = WireBodies(SIGNATURE)
    assert bodies.invalid(record(request, kind="invocations")) >= 2
    missing = {"dataframe_split": {"columns": ["x"], "data": [[1.0], [2.0]]}}
    assert bodies.invalid(record(missing, kind="invocations")) == 1
    assert bodies.invalid(record(b"{", kind="invocations")) == 0


def test_a_body_that_was_cut_is_refused() -> None:
    with pytest.raises(WireError, match="request r: its body was cut"):
        WireBodies(SIGNATURE).inputs(record({}, request_truncated=True))


def test_columns_of_every_form() -> None:
    frame = pd.DataFrame({"x": [1.5], "list": [[1, 2]]})
    assert columns_of(frame) == {"x": [1.5], "list": ["[1, 2]"]}
    assert columns_of(np.array([[1, 2], [3, 4]]), ("a", "b")) == {"a": [1, 3], "b": [2, 4]}
    assert columns_of([1, 2]) == {"0": [1, 2]}
    assert columns_of({"b": np.array([b"x"], dtype=object)}) == {"b": ["x"]}
    assert columns_of([]) == {"0": []}
