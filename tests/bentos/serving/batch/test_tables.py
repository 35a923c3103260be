"""Arrow columns as a plan's inputs: no copy where none is needed, and parsed text as Python would parse it."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bentos.serving.batch.tables import answers, from_arrow, from_text
from bentos.serving.inputs.columns import convert, parse_text
from bentos.serving.inputs.mismatch import ValueMismatch
from bentos.serving.inputs.plan import InputPlan
from bentos.serving.inputs.signature import Column, Signature
from bentos.serving.model.interface import Prediction


def plan(kind, *, required=True):
    """The plan of one column, ``x``."""
    return InputPlan.compile(Signature((Column("x", kind, required=required),), (), ()))


def fitted(values, kind, *, required, text=False):
    """What the plan makes of values: type, and items as text (NaN equals NaN), or the row and the reason of a mismatch."""
    try:
        array = convert(values, kind, required)
    except ValueMismatch as mismatch:
        return mismatch.row, mismatch.found if text else ""
    return array.dtype, list(map(repr, array.tolist()))


def test_columns_of_numbers_are_the_buffers_they_were_read_into():
    column = pa.array(np.arange(5.0))
    found = from_arrow(pa.table({"y": [1] * 5, "x": column}), plan("double"))
    assert list(found) == ["x"]
    assert found["x"].ctypes.data == column.buffers()[1].address


@pytest.mark.parametrize("required", [True, False])
@pytest.mark.parametrize("kind", ["integer", "long", "float", "double", "string", "boolean", "datetime", "binary"])
@pytest.mark.parametrize(
    "column",
    [
        pa.array([1, None, 2**60 + 1]),
        pa.array([1, 2, 3], pa.uint8()),
        pa.array([1.5, None, float("nan")]),
        pa.array(["1", None, "b"]),
        pa.array(["2020-01-01", "2021-01-01", "x"], pa.large_string()),
        pa.array([True, None, False]),
        pa.array([b"a", None]),
    ],
    ids=lambda column: str(column.type),
)
def test_any_column_fits_or_not_as_its_python_values_do(column, kind, required):
    found = from_arrow(pa.table({"x": column}), plan(kind, required=required))["x"]
    assert fitted(found, kind, required=required) == fitted(column.to_pylist(), kind, required=required)


CELLS = st.one_of(
    st.none(),
    st.floats().map(str),
    st.integers(-(2**70), 2**70).map(str),
    st.sampled_from(
        ["nan", "nan(1)", "-inf", "0x1F", "1_0", " 1", "+1", "007", "1e400", "1.", "true", "٣", "-0", "1e5"]
    ),
    st.text(alphabet="01.-+eEx_ naif", min_size=1, max_size=5),
)


@given(
    st.lists(CELLS, min_size=1, max_size=6),
    st.sampled_from(["integer", "long", "float", "double", "string"]),
    st.booleans(),
)
def test_text_is_parsed_as_python_parses_it(cells, kind, required):
    table = pa.table({"x": pa.array(cells, pa.string())})
    found = from_text(table, plan(kind, required=required))["x"]
    assert fitted(found, kind, required=required, text=True) == fitted(
        parse_text(cells, kind), kind, required=required, text=True
    )


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (np.array(["a", "bc"]), pa.string()),
        (np.array(["a", None], dtype=object), pa.string()),
        (np.array([None, None], dtype=object), pa.null()),
        (np.array([1, 0]), pa.int64()),
        (np.array([1, None], dtype=object), pa.int64()),
        (np.array([[1.5, 2.0], [0.0, 1.0]], dtype=np.float32), pa.list_(pa.float64())),
    ],
)
def test_answers_keep_their_values(values, kind):
    found = answers(Prediction(values))["prediction"]
    assert found.type == kind
    assert found.to_pylist() == values.tolist()
