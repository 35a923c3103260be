"""Rows as the wire takes them, and answers as they are compared."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from bentos.serving.wire.scoring.invocations import answer_rows
from flows.release.check import chunk_of, encode, sample


def test_rows_go_as_dataframe_split_with_nothing_lost() -> None:
    rows = pd.DataFrame(
        {
            "number": [0.1 + 0.2, np.nan],
            "count": [2**53 + 1, 2],
            "text": ["ü", None],
            "when": pd.to_datetime(["2013-01-01T05:00", None]),
            "raw": [b"\x00\xff", b""],
            "list": [[1.5, 2.0], np.array([3.0])],
        }
    )
    sent = json.loads(encode(rows, tensors=False))["dataframe_split"]
    assert sent["columns"] == list(rows.columns)
    assert sent["data"][0] == [0.1 + 0.2, 2**53 + 1, "ü", "2013-01-01T05:00:00", "AP8=", [1.5, 2.0]]
    assert sent["data"][1] == [None, 2, None, None, "", [3.0]]


def test_tensors_go_as_inputs() -> None:
    one = pd.DataFrame({"input": [[1.0, 2.0], [3.0, 4.0]]})
    assert json.loads(encode(one, tensors=True)) == {"inputs": [[1.0, 2.0], [3.0, 4.0]]}
    two = pd.DataFrame({"a": [[1.0]], "b": [[2]]})
    assert json.loads(encode(two, tensors=True)) == {"inputs": {"a": [[1.0]], "b": [[2]]}}


@pytest.mark.parametrize(
    ("answers", "rows"),
    [
        ([1, 0], [1, 0]),
        ([[0.5, 0.5], [1, 0]], [[0.5, 0.5], [1, 0]]),
        ([{"b": 2, "a": [1, 3]}], [{"b": 2, "a": [1, 3]}]),
        ({"a": [1, 2], "b": [[1, 2], [3, 4]]}, [{"a": 1, "b": [1, 2]}, {"a": 2, "b": [3, 4]}]),
        ({"a": [1, 2], "b": ["one"]}, [{"a": [1, 2], "b": ["one"]}]),
        ({"a": [1, 2], "b": "one"}, [{"a": [1, 2], "b": "one"}]),
        ({"mean": 0.5}, [{"mean": 0.5}]),
        ({}, [{}]),
        (0.5, [0.5]),
        ("late", ["late"]),
        (None, [None]),
        ([], []),
    ],
)
def test_answers_are_one_a_row_in_whatever_form_they_come(answers: object, rows: list[object]) -> None:
    assert answer_rows(answers) == rows


@pytest.mark.parametrize(("rows", "chunk"), [(1, 1), (100, 100), (101, 51), (201, 67), (2000, 100), (0, 0)])
def test_a_check_has_no_small_request_at_its_end(rows: int, chunk: int) -> None:
    assert chunk_of(rows) == chunk


def test_a_sample_is_even_and_the_same_every_time() -> None:
    frame = pd.DataFrame({"row": range(1000)})
    assert sample(frame, 4)["row"].tolist() == [0, 250, 500, 750]
    assert len(sample(frame, 5000)) == 1000
