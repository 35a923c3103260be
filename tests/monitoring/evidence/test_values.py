"""Whether predictions are classes or numbers."""

import numpy as np
import pandas as pd
import pytest

from monitoring.evidence.values import as_classes, kind_of


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 1, 1], "class"),
        ([0.0, 1.0, None], "class"),
        (["a", "b"], "class"),
        ([True, False], "class"),
        ([0.5, 1.0], "number"),
        (list(range(51)), "number"),
        (list(range(50)), "class"),
        ([f"t{i}" for i in range(100)], "class"),
        ([np.inf, 1.0], "number"),
    ],
)
def test_kind(values, expected) -> None:
    assert kind_of(pd.Series(values)) == expected


def test_classes_are_the_same_however_they_are_written() -> None:
    assert list(as_classes(pd.Series([1, 1.0, "1", True, "true", " 1.0 "], dtype=object))) == ["1"] * 6
    assert list(as_classes(pd.Series(["late", 0, False, 2.5], dtype=object))) == ["late", "0", "0", "2.5"]
