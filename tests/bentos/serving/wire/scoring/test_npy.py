"""NPY bodies are what numpy.save writes, whatever they are read as; and no bytes do more than raise."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from bentos.serving.inputs.plan import InputPlan
from bentos.serving.inputs.signature import Column, InputError, Signature, Tensor
from bentos.serving.model.interface import Prediction
from bentos.serving.wire.interface import NotAcceptableError, WireError
from bentos.serving.wire.scoring import npy


def saved(array: Any, version: tuple[int, int] | None = None) -> bytes:
    sink = io.BytesIO()
    np.lib.format.write_array(sink, np.asanyarray(array), version=version, allow_pickle=True)
    return sink.getvalue()


def plan_of(**kinds: str) -> InputPlan:
    return InputPlan.compile(Signature(tuple(Column(name, kind, required=False) for name, kind in kinds.items())))


DOUBLES = plan_of(a="double", b="double", c="double")
DTYPES = st.one_of(
    arrays.boolean_dtypes(),
    arrays.integer_dtypes(),
    arrays.unsigned_integer_dtypes(),
    arrays.floating_dtypes(),
    arrays.unicode_string_dtypes(min_len=1, max_len=5),
    arrays.byte_string_dtypes(min_len=1, max_len=5),
)
SHAPES = arrays.array_shapes(min_dims=1, max_dims=3, max_side=4)


@pytest.mark.filterwarnings("ignore:Stored array in format 2.0:UserWarning")
@settings(max_examples=300, deadline=None)
@given(
    DTYPES.flatmap(lambda dtype: arrays.arrays(dtype, SHAPES)),
    st.sampled_from([None, (1, 0), (2, 0), (3, 0)]),
    st.booleans(),
)
def test_every_plain_array_is_read_as_numpy_reads_it(array: np.ndarray, version: Any, fortran: bool) -> None:
    body = saved(np.asfortranarray(array) if fortran else array, version)
    found = npy.read(body)
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, np.load(io.BytesIO(body)))


@pytest.mark.parametrize("dtype", ["<f8", ">f8", "<f4", "<i8", ">i2", "u1", "f2"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_rows_and_columns_go_by_position(dtype: str, order: Any) -> None:
    cells = np.arange(12).reshape(4, 3)
    found = npy.decode(saved(np.array(cells, dtype=dtype, order=order)), DOUBLES).matrix("f8")
    np.testing.assert_array_equal(found, cells)
    assert found.flags.writeable
    assert found.flags.c_contiguous
    assert found.flags.aligned


def test_a_structured_array_has_columns_by_name() -> None:
    plan = plan_of(a="double", b="string", c="boolean", d="datetime")
    rows = np.array(
        [("x", 1.5, True, "2020-01-02", 9), ("y", np.nan, False, "NaT", 9)],
        dtype=np.dtype([("b", ">U3"), ("a", ">f4"), ("c", "?"), ("d", "<M8[s]"), ("more", "u1")], align=True),
    )
    columns = npy.decode(saved(rows), plan).columns
    assert columns is not None
    assert repr(columns["a"].tolist()) == "[1.5, nan]"
    assert columns["b"].tolist() == ["x", "y"]
    assert columns["c"].tolist() == [True, False]
    assert columns["d"].astype(str).tolist() == ["2020-01-02T00:00:00.000000000", "NaT"]


def test_a_model_over_one_tensor_takes_its_array() -> None:
    plan = InputPlan.compile(Signature((Tensor(None, "float32", (-1, 2, 2)),)))
    cells = np.arange(8, dtype=np.float32).reshape(2, 2, 2)
    np.testing.assert_array_equal(npy.decode(saved(cells), plan).array(), cells)
    with pytest.raises(InputError):
        npy.decode(saved(cells[:, :1]), plan)


def header(text: str, data: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + data


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "begins with"),
        (b"PK\x03\x04 an npz archive", "begins with"),
        (saved(np.zeros((2, 3)))[:-1], r"expected 48 bytes for float64 \[2, 3\], found 47"),
        (saved(np.zeros((2, 3))) + b"x", "found 49"),
        (saved(np.array([{"a": 1}], dtype=object)), "found the dtype object"),
        (saved(np.zeros((0, 3))), r"at least one row and column, found the shape \[0, 3\]"),
        (saved(np.array(1.0)), "found a single value"),
        (saved(np.zeros(2, dtype=[("a", "f8", (2,))])), r"found the dtype \[\('a', '<f8', \(2,\)\)\]"),
        (saved(np.zeros((2, 2), dtype=[("a", "f8")])), "one record a row"),
        (header("{'descr': '<M8', 'fortran_order': False, 'shape': (1, 3), }", bytes(24)), "datetimes with a unit"),
        (saved(np.array([["9999-01-01"]], dtype="M8[s]")), "within the years"),
        (header("{'descr': '<f8', 'fortran_order': False, 'shape': (-1, 3), }"), "names, numbers, texts and few brackets"),
        (header("{'descr': '<f8', 'fortran_order': 0, 'shape': (1, 3), }", bytes(24)), "fortran_order is not a valid bool: 0"),
        (header("{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999, 99999999999), }"), "expected 79999999998400000000008 bytes"),
        (header("{'descr': '<f8', 'shape': (1, 3), }", bytes(24)), "does not contain the correct keys"),
        (header("(" * 9000), "few brackets"),
        (header("1" * 60_000 + "!"), "few brackets"),  # none of these takes longer than it is long
        (header("'\\x" * 9_000), "few brackets"),
        (header("'\\'" * 20_000), "few brackets"),
        (header("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000000, 3), }"), "few brackets"),
        (header("{'descr': ('<f8', (99999999999,)), 'fortran_order': False, 'shape': (1, 3), }"), "as numpy writes it"),
        (header("{'descr': 'f8', 'fortran_order': False, 'shape': (True, 3), }", bytes(24)), "found the shape"),
        (header("__import__('os')"), "names, numbers, texts and few brackets"),
        (header("{'descr': '<U0', 'fortran_order': False, 'shape': (999999999999, ), }"), "the dtype <U0"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + bytes(100), "a header of at most"),
        (b"\x93NUMPY\x04\x00" + bytes(100), "version 1, 2 or 3"),
        (header("{'descr': '<U1', 'fortran_order': False, 'shape': (1, 3), }", b"\x00\xd8\0\0" * 3), "Unicode"),
        (header("{'descr': '<U1', 'fortran_order': False, 'shape': (1, 3), }", b"\xff" * 12), "Unicode"),
    ],
)  # fmt: skip
def test_faulty_bodies_say_what_is_wrong(body: bytes, message: str) -> None:
    with pytest.raises(WireError, match=message):
        npy.decode(body, DOUBLES)


def test_values_that_do_not_fit_are_the_plans_to_refuse() -> None:
    for array, message in [
        (np.zeros((2, 4)), r"shape \[2, 4\], expected \[rows, 3\]"),
        (np.zeros((2, 3), dtype=bool), "column 'a': found boolean"),
        (np.array([["x", "y", "z"]]), "column 'a': found string 'x'"),
    ]:
        with pytest.raises(InputError, match=message):
            npy.decode(saved(array), DOUBLES)


def test_a_boolean_is_one_bit_whatever_its_byte() -> None:
    body = saved(np.zeros((2, 1), dtype=bool))
    assert npy.decode(body[:-2] + b"\x02\x00", plan_of(a="boolean")).array().tolist() == [[True], [False]]


BODIES = [
    saved(np.zeros((2, 3))),
    saved(np.zeros((2, 3), dtype="<U2"), (3, 0)),
    saved(np.zeros(2, dtype=[("a", ">f8"), ("b", "?"), ("c", "<M8[s]"), ("é", "S2")])),
]
PLANS = [
    DOUBLES,
    plan_of(a="string", b="datetime", c="boolean"),
    plan_of(a="integer"),
    InputPlan.compile(Signature((Tensor(None, "float64", (-1, -1)),))),
    InputPlan.compile(Signature((Tensor(None, "str", (-1,)),))),
]


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_no_bytes_do_more_than_raise(data: st.DataObject) -> None:
    body = bytearray(data.draw(st.sampled_from(BODIES)))
    text = st.tuples(
        st.integers(0, len(body) - 1), st.integers(0, 255) | st.sampled_from(b"<>|=0123456789iufbUSMOV'(),[]{}")
    )
    for at, value in data.draw(st.lists(text, min_size=1, max_size=6)):
        body[at] = value
    body = body[: data.draw(st.just(len(body)) | st.integers(0, len(body)))]
    with contextlib.suppress(WireError, InputError):
        npy.decode(bytes(body), data.draw(st.sampled_from(PLANS)))


@pytest.mark.parametrize(
    "values",
    [
        np.array([0.5, np.nan]),
        np.array([1, 0]),
        np.array([True, False]),
        np.array([[0.25, 0.75], [0.5, 0.5]], dtype=np.float32),
        np.asfortranarray(np.arange(6).reshape(2, 3)),
        np.array(["no", "yés"]),
        np.array(["no", "yés"], dtype=object),
        np.array(["2020-01-01"], dtype="datetime64[ns]"),
        np.arange(3).astype(">i4"),
    ],
    ids=str,
)
def test_answers_are_what_numpy_loads(values: np.ndarray) -> None:
    body = npy.encode(Prediction(values))
    found = np.load(io.BytesIO(body.data), allow_pickle=False)
    assert body.content_type == "application/x-npy"
    assert (body.data.index(b"\n") + 1) % 64 == 0
    assert found.dtype == (values.dtype if values.dtype != object else np.dtype("U3"))
    np.testing.assert_array_equal(found, values)


def test_answers_that_npy_cannot_hold_are_refused() -> None:
    for values in (
        {"a": np.array([1]), "b": np.array([2])},
        np.array([{"a": 1}], dtype=object),
        np.array(["x", None], dtype=object),
    ):
        with pytest.raises(NotAcceptableError, match="ask for application/json"):
            npy.encode(Prediction(values))
