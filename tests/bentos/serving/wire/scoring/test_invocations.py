"""MLflow's formats in, MLflow's JSON out: compared with mlflow's own encoder."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bentos.serving.inputs.signature import Column, Signature, Tensor
from bentos.serving.log.decode import decode_response
from bentos.serving.wire.scoring import invocations
from tests.bentos.saved import IGNORED

pytestmark = [pytest.mark.filterwarnings(line) for line in IGNORED]
MIXED = Signature((Column("a", "double"), Column("b", "string")))
ONE = Signature((Column("text", "string"),))
UNNAMED = Signature((Column("", "double"), Column("", "double")))
NAMED = Signature((Tensor("x", "float64", (-1, 2)),))
ANSWERS: dict[str, Any] = {
    "numbers": np.array([1.5, -2.25]),
    "float32": np.array([0.1, 0.25], dtype=np.float32),
    "float32 by name": {"a": np.array([[0.1], [0.7]], dtype=np.float32)},
    "a frame of float32": pd.DataFrame({"a": np.array([0.1, 0.7], dtype=np.float32)}),
    "classes": np.array([0, 1]),
    "booleans": np.array([True, False]),
    "texts": np.array(["no", "yes"], dtype=object),
    "fixed texts": np.array(["no", "yes"]),
    "a matrix": np.array([[0.25, 0.75], [0.5, 0.5]]),
    "a matrix by columns": np.asfortranarray(np.array([[0.25, 0.75], [0.5, 0.5]])),
    "a frame": pd.DataFrame({"mean": [1.0, 2.0], "label": ["x", "y"]}),
    "a series": pd.Series([1.0, 2.0], name="mean"),
    "a list of objects": [{"a": 1}, {"a": None}],
    "objects": np.array([{"a": [1, 2]}, None], dtype=object),
    "bytes": np.array([b"ab", b"cd"], dtype=object),
    "named": {"a": np.array([1, 2]), "b": np.array([0.5, 1.5])},
}


@pytest.mark.parametrize("what", sorted(ANSWERS))
def test_answers_are_written_as_mlflow_writes_them(what: str) -> None:
    from mlflow.pyfunc.scoring_server import predictions_to_json

    theirs = io.StringIO()
    predictions_to_json(ANSWERS[what], theirs)
    assert json.loads(invocations.encode(ANSWERS[what]).data) == json.loads(theirs.getvalue())


def test_columns_of_one_table_become_records() -> None:
    values = {"mean": np.array([1.0, 2.0]), "low": np.array([0.5, np.nan])}
    body = invocations.encode(values, table=True)
    assert json.loads(body.data) == {"predictions": [{"mean": 1.0, "low": 0.5}, {"mean": 2.0, "low": None}]}


def test_nan_is_null_for_every_json_parser() -> None:
    assert invocations.encode(np.array([np.nan, np.inf, 1.0])).data == b'{"predictions":[null,null,1.0]}'


@pytest.mark.parametrize("what", ["numbers", "classes", "booleans", "texts", "a matrix"])
def test_logged_answers_decode(what: str) -> None:
    found = decode_response("invocations", "application/json", 0, invocations.encode(ANSWERS[what]).data)
    np.testing.assert_array_equal(found, ANSWERS[what])


def decode(signature: Signature, content_type: str = "application/json", text: str | None = None, **body: Any) -> Any:
    return invocations.decode(content_type, (json.dumps(body) if text is None else text).encode(), signature).inputs


def test_records_with_missing_cells_get_nulls() -> None:
    assert decode(MIXED, dataframe_records=[{"a": 1}, {"b": "x"}]) == {"a": [1, None], "b": [None, "x"]}


def test_nan_in_a_body_is_read_as_mlflows_client_writes_it() -> None:
    found = decode(MIXED, dataframe_split={"columns": ["a", "b"], "data": [[float("nan"), "x"]]})
    assert np.isnan(found["a"][0])


def test_one_column_takes_values_alone() -> None:
    assert decode(ONE, inputs=["x", "y"]) == {"text": ["x", "y"]}
    assert decode(ONE, inputs="x") == {"text": ["x"]}
    assert decode(ONE, instances=[["x"], ["y"]]) == {"text": ["x", "y"]}


def test_columns_without_names_go_by_position() -> None:
    assert decode(UNNAMED, inputs=[[1, 2], [3, 4]]) == {"0": [1, 3], "1": [2, 4]}


def test_rows_of_named_tensors() -> None:
    assert decode(NAMED, instances=[{"x": [1, 2]}, {"x": [3, 4]}]) == {"x": [[1, 2], [3, 4]]}
    assert decode(NAMED, inputs={"x": [[1, 2]]}) == {"x": [[1, 2]]}


def test_csv_keeps_texts_and_reads_numbers() -> None:
    found = decode(MIXED, "text/csv", 'a,b\n1.5,007\n,"x, y"\n')
    assert found == {"a": [1.5, None], "b": ["007", "x, y"]}
