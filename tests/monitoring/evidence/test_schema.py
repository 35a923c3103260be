"""Rows that the server would refuse are counted; what the reference never had is only told."""

import numpy as np
import pandas as pd
import pytest

from bentos.serving.inputs.signature import Column, Signature, Tensor
from monitoring.evidence.schema import count_invalid

SIGNATURE = Signature(
    (
        Column("distance", "double"),
        Column("carrier", "string"),
        Column("seats", "long"),
        Column("late", "boolean", False),
    )
)
GOOD = {"distance": [1.0, 2.0, 3.0], "carrier": ["AA", "UA", "AA"], "seats": [1, 2, 3], "late": [True, None, False]}


@pytest.mark.parametrize(
    ("changed", "invalid"),
    [
        ({}, 0),
        ({"distance": [1, 2, 3]}, 0),  # whole numbers widen
        ({"distance": ["far", 2.0, 3.0]}, 1),
        ({"seats": [1, None, 3]}, 1),  # a required integer
        ({"seats": [1.5, 2.0, 3.0]}, 1),
        ({"carrier": [1, "UA", 2]}, 2),
        ({"distance": ["far", 2.0, 3.0], "carrier": [1, "UA", 2]}, 2),  # a row counts once
        ({"late": [1, 0, None]}, 2),
    ],
)
def test_rows_that_break_the_signature(changed, invalid) -> None:
    frame = pd.DataFrame({name: pd.Series(values, dtype=object) for name, values in {**GOOD, **changed}.items()})
    found, findings = count_invalid(frame, SIGNATURE)
    assert found == invalid
    assert bool(findings) == bool(invalid)
    assert all(finding.gating for finding in findings)


def test_a_missing_column_makes_every_row_invalid_unless_it_is_optional() -> None:
    frame = pd.DataFrame(GOOD)
    found, findings = count_invalid(frame.drop(columns="carrier"), SIGNATURE)
    assert (found, findings[0].column, findings[0].check) == (3, "carrier", "column missing")
    assert count_invalid(frame.drop(columns="late"), SIGNATURE) == (0, ())


def test_what_the_reference_never_had_is_told_and_does_not_count() -> None:
    live = pd.DataFrame({**GOOD, "distance": [1.0, 2.0, 99.0], "carrier": ["AA", "ZZ", None]})
    invalid, findings = count_invalid(live, SIGNATURE, pd.DataFrame(GOOD))
    assert invalid == 0
    assert {(f.column, f.rows, f.example, f.gating) for f in findings} == {
        ("distance", 1, "99.0", False),
        ("carrier", 1, "'ZZ'", False),
    }


def test_any_index_and_bookkeeping_columns_do_not_matter() -> None:
    frame = pd.DataFrame({**GOOD, "seats": [1.5, 2.0, 3.5], "seq": 1}, index=[7, 7, 7])
    assert count_invalid(frame, SIGNATURE)[0] == 2


def test_nothing_to_check() -> None:
    assert count_invalid(pd.DataFrame(), SIGNATURE) == (0, ())
    tensors = Signature((Tensor(None, "float32", (-1, 4)),))
    assert count_invalid(pd.DataFrame({"a": [1]}), tensors) == (0, ())


def test_a_large_window_is_quick() -> None:
    import time

    rng = np.random.default_rng(0)
    wide = Signature(tuple(Column(f"c{i}", "double") for i in range(20)))
    frame = pd.DataFrame(rng.normal(size=(10_000, 20)), columns=[f"c{i}" for i in range(20)])
    began = time.perf_counter()
    assert count_invalid(frame, wide, frame)[0] == 0
    assert time.perf_counter() - began < 3.0
