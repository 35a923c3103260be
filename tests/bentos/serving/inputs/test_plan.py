"""Checking and coercing inputs against a signature."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bentos.serving.inputs.plan import InputPlan
from bentos.serving.inputs.rows import InputRows
from bentos.serving.inputs.signature import Column, InputError, Param, Signature, Tensor


def plan(*columns, params=()):
    """A plan over (name, type[, required]) columns."""
    return InputPlan.compile(Signature(tuple(Column(*c, *[True] * (3 - len(c)), c[0]) for c in columns), params=params))


def one(kind, values, required=True):
    """One column's values coerced."""
    return plan(("x", kind, required)).coerce({"x": values}).columns["x"]


@pytest.mark.parametrize(
    ("kind", "values", "wanted", "dtype"),
    [
        ("double", [1, 2.5, None], [1.0, 2.5, math.nan], "float64"),
        ("float", np.array([1, 2]), [1.0, 2.0], "float32"),
        ("double", np.array(["1"], object).astype(float), [1.0], "float64"),
        ("long", [1, 2.0], [1, 2], "int64"),
        ("long", [2**62 + 1], [2**62 + 1], "int64"),
        ("long", np.array([1], np.int8), [1], "int64"),
        ("integer", np.array([5.0]), [5], "int32"),
        ("boolean", [True, False], [True, False], "bool"),
        ("string", ["a", None], ["a", None], "object"),
        ("string", np.array(["a"]), ["a"], "object"),
        ("string", [b"\xc3\xa9"], ["é"], "object"),
        ("binary", [b"a", "YQ=="], [b"a", b"a"], "object"),
        ("double", pd.Series([1, None], dtype="Int64"), [1.0, math.nan], "float64"),
        ("string", pd.Series(["a", "b"], dtype="category"), ["a", "b"], "object"),
        ("string", pd.Series(["a", "b"], dtype="string"), ["a", "b"], "object"),
    ],
)
def test_safe_conversions(kind, values, wanted, dtype):
    found = one(kind, values)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, np.array(wanted, dtype=dtype))


@pytest.mark.parametrize(
    ("kind", "values", "words"),
    [
        ("long", [1, 1.5], "found double 1.5 in row 1, expected long"),
        ("long", [None], "found null in row 0, expected long"),
        ("long", np.array([1.0, np.nan]), "found null in row 1, expected long"),
        ("long", [2**63], "9223372036854775808, which is out of the type's range in row 0"),
        ("long", [math.inf], "found double inf in row 0"),
        ("integer", [0, 2**31], "2147483648, which is out of the type's range in row 1"),
        ("float", [1e39], "1e[+]39, which is out of the type's range in row 0"),
        ("double", ["1"], "found string '1' in row 0, expected double"),
        ("double", [1.0, True], "found boolean True in row 1, expected double"),
        ("double", np.array([True]), "found boolean True in row 0, expected double"),
        ("double", [[1.0]], "found array"),
        ("boolean", [1], "found integer 1 in row 0, expected boolean"),
        ("boolean", [None], "found null in row 0, expected boolean"),
        ("string", [1], "found integer 1 in row 0, expected string"),
        ("string", np.array([1.5]), "found double 1.5 in row 0, expected string"),
        ("binary", [None], "found null in row 0, expected binary"),
        ("datetime", [1.5], "found double 1.5 in row 0, expected datetime"),
        ("datetime", ["2020-01-01", "2020-13-01"], "found string '2020-13-01' in row 1"),
    ],
)
def test_misfits_name_column_found_and_expected(kind, values, words):
    with pytest.raises(InputError, match=f"column 'x': .*{words}"):
        one(kind, values)


def test_optional_columns_take_nulls_and_absence():
    assert math.isnan(one("long", [1, None], required=False)[1])
    assert one("boolean", [True, None], required=False).tolist() == [True, None]
    found = plan(("a", "double"), ("b", "long", False), ("c", "string", False), ("d", "datetime", False)).coerce(
        {"a": [1]}
    )
    assert found.absent == {"b", "c", "d"}
    assert found.frame().isna().sum(axis=1).tolist() == [3]
    assert list(found.frame(absent=False).columns) == ["a"]


@pytest.mark.parametrize(
    "values",
    [
        ["2013-01-01T00:00:00", "2013-06-01T14:30:00+02:00"],
        ["2013-01-01 00:00:00Z", "2013-06-01T12:30:00"],
        np.array(["2013-01-01", "2013-06-01T12:30"], "datetime64[s]"),
        [pd.Timestamp("2013-01-01"), pd.Timestamp("2013-06-01T12:30", tz="UTC")],
        [1356998400_000_000_000, 1370089800_000_000_000],
        pd.Series(pd.to_datetime(["2013-01-01T00:00", "2013-06-01T12:30"])).dt.tz_localize("UTC"),
    ],
)
def test_datetimes_come_as_utc_without_zone(values):
    found = one("datetime", values)
    assert found.dtype == "datetime64[ns]"
    assert found.astype("datetime64[m]").astype(str).tolist() == ["2013-01-01T00:00", "2013-06-01T12:30"]


def test_every_bad_column_is_named_up_to_five():
    columns = [(f"c{i}", "double") for i in range(7)]
    with pytest.raises(InputError) as caught:
        plan(*columns).coerce({f"c{i}": ["x"] for i in range(7)})
    assert "'c4'" in str(caught.value)
    assert "'c5'" not in str(caught.value)
    assert "and 2 more" in str(caught.value)


def test_missing_columns_say_what_came_instead():
    with pytest.raises(InputError, match=r"'b': missing, expected long .*does not know: \['B'\]"):
        plan(("a", "double"), ("b", "long")).coerce({"a": [1.0], "B": [1]})


def test_shape_faults_of_tables():
    two = plan(("a", "double"), ("b", "double"))
    with pytest.raises(InputError, match="'b': found 1 rows, expected 2"):
        two.coerce({"a": [1, 2], "b": [1]})
    with pytest.raises(InputError, match="no rows"):
        two.coerce({"a": [], "b": []})
    with pytest.raises(InputError, match=r"shape \[2, 3\], expected \[rows, 2\]"):
        two.coerce(np.zeros((2, 3)))
    with pytest.raises(InputError, match="come twice"):
        two.coerce(pd.DataFrame([[1, 2]], columns=["a", "a"]))


def test_extra_columns_are_left_out_and_order_is_the_signatures():
    found = plan(("a", "double"), ("b", "long")).coerce({"z": ["?"], "b": [2], "a": [1]})
    assert list(found.frame().columns) == ["a", "b"]


def test_arrays_go_by_position_and_scalars_are_one_row():
    two = plan(("a", "double"), ("b", "double"))
    assert two.coerce(np.array([[1, 2], [3, 4]])).columns["b"].tolist() == [2, 4]
    assert two.coerce({"a": 1.5, "b": 2}).array().tolist() == [[1.5, 2.0]]
    assert plan(("a", "string")).coerce(["x", "y"]).columns["a"].tolist() == ["x", "y"]


def test_numbered_and_nameless_columns():
    numbered = InputPlan.compile(Signature((Column("0", "double", True, 0), Column("1", "double", True, 1))))
    assert list(numbered.coerce(pd.DataFrame([[1.0, 2.0]])).frame().columns) == [0, 1]
    nameless = InputPlan.compile(Signature((Column("", "double"), Column("", "double"))))
    found = nameless.coerce(pd.DataFrame({"p": [1.0], "q": [2.0]})).frame()
    assert found.to_numpy().tolist() == [[1.0, 2.0]]


def test_tensors():
    fit = InputPlan.compile(Signature((Tensor(None, "float32", (-1, 2)),)))
    assert fit.coerce([[1, 2], [3, 4]]).array().dtype == np.float32
    assert fit.coerce({"a": [1.0], "b": [2.0]}).array().tolist() == [[1, 2]]
    assert fit.coerce(pd.DataFrame({"a": [1.0], "b": [2.0]})).array().tolist() == [[1, 2]]
    for wrong, words in (
        (np.zeros((2, 3)), r"found shape \[2, 3\], expected float32 \[-1, 2\]"),
        ([[1], [2, 3]], "different lengths"),
        (np.array([["a", "b"]]), "found dtype"),
    ):
        with pytest.raises(InputError, match=words):
            fit.coerce(wrong)
    named = InputPlan.compile(Signature((Tensor("i", "int64", (-1, 2, 2)), Tensor("s", "str", (-1,)))))
    frame = pd.DataFrame({"i": [[1, 2, 3, 4]], "s": ["x"]})
    assert named.coerce(frame).tensors["i"].tolist() == [[[1, 2], [3, 4]]]
    with pytest.raises(InputError, match="tensor 's': missing"):
        named.coerce({"i": np.zeros((1, 2, 2), int)})
    with pytest.raises(InputError, match=r"tensor 'i': found 0\.5 of dtype float64"):
        named.coerce({"i": np.full((1, 2, 2), 0.5), "s": np.array(["x"])})


def test_bad_rows_are_told_apart_with_reasons():
    mask, reasons = plan(("n", "long"), ("s", "string")).bad_rows({"n": [1, "x", 2.5, None], "s": ["a", "b", 3, "d"]})
    assert mask.tolist() == [False, True, True, True]
    assert reasons[1] == "column 'n': found string 'x', expected long"
    assert reasons[2].endswith("; column 's': found integer 3, expected string")
    frame = pd.DataFrame({"n": [1.0, np.nan], "s": ["a", None]})
    assert plan(("n", "long"), ("s", "string")).bad_rows(frame)[0].tolist() == [False, True]


def test_params():
    fit = plan(("a", "double"), params=(Param("k", "double", 2.0), Param("w", "string", ["a"], (-1,))))
    assert fit.coerce_params(None) == {"k": 2.0, "w": ["a"]}
    assert fit.coerce_params({"k": 3, "w": ["b"]}) == {"k": 3.0, "w": ["b"]}
    for wrong, words in (
        ({"z": 1}, r"unknown params \['z'\]: the model knows \['k', 'w'\]"),
        ({"k": "3"}, "'k': found string '3', expected double"),
        ({"w": "b"}, "'w': found string 'b', expected a list of string"),
        ({"k": [1.0]}, "expected double"),
    ):
        with pytest.raises(InputError, match=words):
            fit.coerce_params(wrong)
    assert plan(("a", "double")).coerce_params({}) == {}


def test_join_and_slice_undo_each_other():
    fit = plan(("a", "double"), ("s", "string"))
    parts = [fit.coerce({"a": [float(i)] * (i + 1), "s": [str(i)] * (i + 1)}) for i in range(3)]
    whole = InputRows.join(parts)
    assert whole.rows == 6
    pd.testing.assert_frame_equal(whole.slice(1, 3).frame(), parts[1].frame())
    assert whole.slice(3, 99).rows == 3


def test_the_synthetic_row_always_fits():
    kinds = ["boolean", "integer", "long", "float", "double", "string", "binary", "datetime"]
    nested = '{"type": "object", "properties": {"p": {"type": "array", "items": {"type": "long"}, "required": true}}}'
    fit = plan(*[(kind, kind) for kind in kinds], ("o", nested))
    assert fit.coerce(fit.synthetic()).rows == 1
    tensors = InputPlan.compile(Signature((Tensor("t", "int32", (-1, 3)), Tensor("s", "str", (-1,)))))
    assert tensors.coerce(tensors.synthetic()).tensors["t"].shape == (1, 3)


ANYTHING = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.binary(max_size=3)
KINDS = st.sampled_from(["boolean", "integer", "long", "float", "double", "string", "binary", "datetime"])


@settings(max_examples=300, deadline=None)
@given(
    kind=KINDS,
    required=st.booleans(),
    values=st.lists(ANYTHING | st.lists(ANYTHING, max_size=2), min_size=1, max_size=5),
)
def test_whatever_comes_fits_or_is_an_input_error_and_bad_rows_agree(kind, required, values):
    fit = plan(("x", kind, required))
    mask, reasons = fit.bad_rows({"x": values})
    assert sorted(reasons) == np.flatnonzero(mask).tolist()
    try:
        found = fit.coerce({"x": values})
    except InputError:
        assert mask.any()
    else:
        assert not mask.any()
        assert found.rows == len(values)
    good = [value for value, bad in zip(values, mask, strict=True) if not bad]
    if good:
        assert fit.coerce({"x": good}).rows == len(good)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=5))
def test_whole_numbers_survive_unchanged(values):
    assert one("long", values).tolist() == values


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats() | st.integers(-(2**53), 2**53), min_size=1, max_size=5))
def test_doubles_survive_unchanged(values):
    np.testing.assert_array_equal(one("double", values), np.array([float(v) for v in values]))


@settings(max_examples=100, deadline=None)
@given(
    inputs=st.one_of(
        st.recursive(ANYTHING, lambda x: st.lists(x, max_size=3), max_leaves=8),
        st.dictionaries(st.text(max_size=2), st.lists(ANYTHING, max_size=3), max_size=3),
    )
)
def test_only_input_errors_come_out(inputs):
    plans = [
        plan(("a", "double"), ("b", "string", False)),
        InputPlan.compile(Signature((Tensor(None, "float64", (-1, 2)),))),
    ]
    for fit in plans:
        try:
            fit.coerce(inputs)
        except InputError as error:
            assert str(error)
