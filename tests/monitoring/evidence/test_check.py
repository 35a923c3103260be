"""Wire answers against in-process predictions."""

import numpy as np
import pytest

from monitoring.evidence.check import CheckResult, compare


@pytest.mark.parametrize(
    ("wire", "inprocess", "mismatches", "largest", "errors"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0, 0.0, 0),
        ([1.0, 2.0 + 1e-10], [1.0, 2.0], 0, 1e-10, 0),
        ([1.0, 2.5], [1.0, 2.0], 1, 0.5, 0),
        ([1.0, np.nan], [1.0, np.nan], 0, 0.0, 0),
        ([1.0, None], [1.0, np.nan], 0, 0.0, 0),
        ([1.0, np.nan], [1.0, 2.0], 1, np.inf, 0),
        ([np.inf, 1.0], [np.inf, 1.0], 0, 0.0, 0),
        (["a", "b"], ["a", "b"], 0, 0.0, 0),
        (["a", "c"], ["a", "b"], 1, np.inf, 0),
        (["1", "2"], [1, 2], 2, np.inf, 0),
        ([2**53 + 1, 2], [2**53, 2], 1, 1.0, 0),
        ([[2**53 + 1], [2]], [[2**53], [2]], 1, 1.0, 0),
        ([{"a": 1, "b": [0.5, 2]}] * 2, [{"b": [0.5, 2], "a": 1}] * 2, 0, 0.0, 0),
        ([{"a": 1, "b": [0.5, 2]}] * 2, [{"b": [0.5, 2.5], "a": 1}] * 2, 2, 0.5, 0),
        ([{"a": 1}, {"a": 1, "b": 2}], [{"a": 1, "b": None}, {"a": 1, "b": 2}], 0, 0.0, 0),
        ([{"a": 1}, {"b": 2}], [{"a": 1, "b": None}, {"a": None, "b": 2}], 0, 0.0, 0),
        ([{"a": 1, "b": 0}] * 2, [{"prediction": {"a": 1, "b": 0}}] * 2, 0, 0.0, 0),
        ([{"a": 1}] * 2, [{"prediction": {"a": 1}}] * 2, 0, 0.0, 0),
        ([{"a": 1, "b": 2}] * 2, [{"a": 1, "c": 2}] * 2, 2, np.inf, 0),
        ([{"p": 1}, {"p": 2}], [1, 2], 0, 0.0, 0),
        ([[1, "a"], [2, None]], [[1, "a"], [2, None]], 0, 0.0, 0),
        ([[1, "a"], [2, None]], [[1, "b"], [2, None]], 1, np.inf, 0),
        ([[], [[]]], [[], [[]]], 0, 0.0, 0),
        ([1, 0], np.array([True, False]), 0, 0.0, 0),
        ([1.0], [1.0, 2.0], 0, 0.0, 1),
        ([1.0, 2.0, 3.0], [1.0, 2.0], 1, np.inf, 0),
        (None, [1.0, 2.0], 0, 0.0, 2),
        ([[1.0, 2.0], [3.0, 4.0]], [[1.0, 2.0], [3.0, 5.0]], 1, 1.0, 0),
        ([[1.0], [3.0]], [[1.0, 2.0], [3.0, 5.0]], 2, np.inf, 0),
    ],
)
def test_compare(wire, inprocess, mismatches, largest, errors) -> None:
    result = compare(wire, inprocess, 1e-9)
    assert (result.rows, result.mismatches, result.errors) == (2, mismatches, errors)
    assert result.largest_difference == pytest.approx(largest, rel=1e-5)
    assert result.equal == (mismatches == 0 and errors == 0)


@pytest.mark.parametrize(
    ("wire", "inprocess", "said"),
    [
        ([1, 0], [1, 2], "answer 1: 0 over the wire, 2 in process"),
        ([{"l": 1, "p": [[0.5], [0.25]]}], [{"l": 1, "p": [[0.5], [0.5]]}], "answer 0, p[1][0]: 0.25 over the wire, 0.5 in process"),
        ([{"l": "a", "p": 1}], [{"l": None, "p": 1}], "answer 0, l: 'a' over the wire, None in process"),
        ([[1, 2]], [[1]], "answer 0: [1, 2] over the wire, [1] in process"),
        ([1, 2, 3], [1, 2], "3 answers over the wire, 2 in process"),
        (["x" * 200], [1], f"answer 0: '{'x' * 76}... over the wire, 1 in process"),
    ],
)  # fmt: skip
def test_the_first_difference_is_said_with_both_values(wire, inprocess, said) -> None:
    assert compare(wire, inprocess, 1e-9).first == said
    assert not compare(inprocess, inprocess, 1e-9).first


def test_nothing_compared_is_not_equal() -> None:
    assert not compare([], [], 1e-9).equal
    assert not CheckResult(0, 0, 0.0, 0, 1e-9).equal
