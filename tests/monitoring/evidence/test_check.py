"""Wire answers against in-process predictions."""

import numpy as np
import pandas as pd
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
        ([1, 0], np.array([True, False]), 0, 0.0, 0),
        ([1.0], [1.0, 2.0], 0, 0.0, 1),
        ([1.0, 2.0, 3.0], [1.0, 2.0], 1, np.inf, 0),
        (None, [1.0, 2.0], 0, 0.0, 2),
        ([[1.0, 2.0], [3.0, 4.0]], [[1.0, 2.0], [3.0, 5.0]], 1, 1.0, 0),
        ([[1.0], [3.0]], [[1.0, 2.0], [3.0, 5.0]], 2, np.inf, 0),
        (pd.Series([1, 2]), np.array([1, 2]), 0, 0.0, 0),
        (
            pd.DataFrame({"p": [1.0, 2.0], "q": ["a", "b"]}),
            pd.DataFrame({"p": [1.0, 2.0], "q": ["a", "c"]}),
            1,
            np.inf,
            0,
        ),
    ],
)
def test_compare(wire, inprocess, mismatches, largest, errors) -> None:
    result = compare(wire, inprocess, 1e-9)
    assert (result.rows, result.mismatches, result.errors) == (2, mismatches, errors)
    assert result.largest_difference == pytest.approx(largest, rel=1e-5)
    assert result.equal == (mismatches == 0 and errors == 0)


def test_nothing_compared_is_not_equal() -> None:
    assert not compare([], [], 1e-9).equal
    assert not CheckResult(0, 0, 0.0, 0, 1e-9).equal
