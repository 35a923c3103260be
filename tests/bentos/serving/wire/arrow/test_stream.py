"""An Arrow stream says to a plan what the same table in a file says, and no bytes do more than raise."""

from __future__ import annotations

import contextlib
import datetime
import io
import struct
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bentos.serving.batch.tables import answers, from_arrow
from bentos.serving.inputs.plan import InputPlan
from bentos.serving.inputs.rows import InputRows
from bentos.serving.inputs.signature import Column, InputError, Signature, Tensor
from bentos.serving.model.interface import Prediction
from bentos.serving.wire.arrow import stream as arrow_stream
from bentos.serving.wire.interface import NotAcceptableError, WireError

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
INTS = st.integers(-(2**31), 2**31 - 1)
TIMES = st.datetimes(datetime.datetime(1700, 1, 1), datetime.datetime(2200, 1, 1))
STRUCT = '{"properties": {"a": {"required": false, "type": "long"}, "b": {"required": false, "type": "string"}}, "type": "object"}'
PAIRS = pa.map_(pa.string(), pa.int64())
KINDS: list[tuple[pa.DataType, str, st.SearchStrategy[Any]]] = [
    *((kind, "double", st.floats()) for kind in (pa.float64(),)),
    (pa.float32(), "float", st.floats(width=32)),
    (pa.float16(), "double", st.floats(width=16).map(np.float16)),
    *((kind, "long", st.integers(0, 100)) for kind in (pa.int8(), pa.uint8(), pa.int16(), pa.uint16(), pa.uint32(), pa.uint64())),
    (pa.int32(), "integer", INTS),
    (pa.int64(), "long", st.integers(-(2**53), 2**53)),
    (pa.bool_(), "boolean", st.booleans()),
    *((kind, "string", TEXTS) for kind in (pa.string(), pa.large_string(), pa.string_view())),
    *((kind, "binary", st.binary(max_size=20)) for kind in (pa.binary(), pa.large_binary(), pa.binary_view())),
    (pa.binary(3), "binary", st.binary(min_size=3, max_size=3)),
    *((pa.timestamp(unit), "datetime", TIMES) for unit in ("ms", "us", "ns")),
    (pa.timestamp("us", "Europe/Berlin"), "datetime", TIMES),
    (pa.date32(), "datetime", TIMES.map(datetime.datetime.date)),
    (pa.date64(), "datetime", TIMES.map(datetime.datetime.date)),
    (pa.null(), "string", st.none()),
    (pa.list_(pa.int64()), '{"items": {"type": "long"}, "type": "array"}', st.lists(INTS, max_size=4)),
    (pa.large_list(pa.string()), '{"items": {"type": "string"}, "type": "array"}', st.lists(TEXTS, max_size=4)),
    (pa.list_(pa.float64(), 2), '{"items": {"type": "double"}, "type": "array"}', st.lists(st.floats(), min_size=2, max_size=2)),
    (pa.struct([("a", pa.int64()), ("b", pa.string())]), STRUCT, st.fixed_dictionaries({"a": st.none() | INTS, "b": st.none() | TEXTS})),
    (PAIRS, '{"type": "map", "values": {"type": "long"}}', st.dictionaries(TEXTS, INTS, max_size=3).map(lambda d: list(d.items()))),
]  # fmt: skip


def stream(table: pa.Table, *, chunk: int | None = None, compression: str | None = None) -> bytes:
    sink = io.BytesIO()
    options = pa.ipc.IpcWriteOptions(compression=compression, emit_dictionary_deltas=True)
    with pa.ipc.new_stream(sink, table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=chunk)
    return sink.getvalue()


def plan_of(**kinds: str) -> InputPlan:
    return InputPlan.compile(Signature(tuple(Column(name, kind, required=False) for name, kind in kinds.items())))


def same(found: InputRows, wanted: InputRows) -> None:
    assert found.rows == wanted.rows
    assert found.absent == wanted.absent
    assert found.columns is not None
    assert wanted.columns is not None
    assert found.columns.keys() == wanted.columns.keys()
    for name, array in wanted.columns.items():
        assert found.columns[name].dtype == array.dtype
        assert repr(found.columns[name].tolist()) == repr(array.tolist())


@st.composite
def tables(draw: st.DrawFn) -> tuple[pa.Table, InputPlan]:
    rows = draw(st.integers(1, 7))
    columns, kinds = {}, {}
    for number in range(draw(st.integers(1, 4))):
        kind, wanted, values = draw(st.sampled_from(KINDS))
        cells = draw(st.lists(st.none() | values if draw(st.booleans()) else values, min_size=rows, max_size=rows))
        column = pa.array(cells, kind)
        plain = not (pa.types.is_nested(kind) or pa.types.is_null(kind) or "view" in str(kind) or kind == pa.float16())
        columns[f"c{number}"] = column.dictionary_encode() if plain and draw(st.booleans()) else column
        if draw(st.integers(0, 4)):
            kinds[f"c{number}"] = wanted
    return pa.table(columns), plan_of(**(kinds or {"absent": "double"}))


@settings(max_examples=300, deadline=None)
@given(tables(), st.sampled_from([None, 1, 3]), st.sampled_from([None, "lz4", "zstd"]))
def test_a_stream_is_read_as_the_same_table_in_a_file(
    made: tuple[pa.Table, InputPlan], chunk: int | None, compression: str | None
) -> None:
    table, plan = made
    body = stream(table, chunk=chunk, compression=compression)
    try:
        wanted = plan.coerce(from_arrow(table, plan))
    except InputError:
        with pytest.raises(InputError):
            arrow_stream.decode(body, plan)
    else:
        same(arrow_stream.decode(body, plan), wanted)


@pytest.mark.parametrize("rows", [1, 100])
@pytest.mark.parametrize(("kind", "name"), [("double", "f8"), ("float", "f4"), ("long", "i8"), ("integer", "i4")])
def test_numbers_of_one_type_become_one_matrix_in_the_signatures_order(kind: str, name: str, rows: int) -> None:
    cells = np.arange(rows * 3).reshape(rows, 3).astype(name)
    plan = plan_of(a=kind, b=kind, c=kind)
    for order in ("abc", "cab", "bac"):
        columns = {key: cells[:, "abc".index(key)] for key in order}
        table = pa.table({"text": ["x"] * rows, **columns, "more": [1] * rows})
        for chunk in (None, 33):
            found = arrow_stream.decode(stream(table, chunk=chunk), plan)
            np.testing.assert_array_equal(found.matrix(name), cells)
            assert found.matrix(name).flags.c_contiguous
            assert found.matrix(name).flags.writeable


def test_models_over_tensors_and_over_columns_without_names_take_all_columns() -> None:
    table = pa.table({"x": [1.0, 2.0], "y": [3.0, 4.0]})
    alone = arrow_stream.decode(
        stream(table.select(["x"])), InputPlan.compile(Signature((Tensor(None, "float64", (-1,)),)))
    )
    assert alone.array().flags.writeable
    tensor = InputPlan.compile(Signature((Tensor(None, "float64", (-1, 2)),)))
    assert arrow_stream.decode(stream(table), tensor).array().tolist() == [[1.0, 3.0], [2.0, 4.0]]
    unnamed = InputPlan.compile(Signature((Column("", "double"), Column("", "double"))))
    assert arrow_stream.decode(stream(table), unnamed).array().tolist() == [[1.0, 3.0], [2.0, 4.0]]


def test_decimals_are_the_doubles_that_their_texts_are() -> None:
    cells = [Decimal("0.30"), None, Decimal("-12345678901234567.89")]
    for kind in (pa.decimal128(30, 2), pa.decimal256(60, 2)):
        found = arrow_stream.decode(stream(pa.table({"a": pa.array(cells, kind)})), plan_of(a="double"))
        assert found.columns is not None
        assert repr(found.columns["a"].tolist()) == repr([0.3, float("nan"), -12345678901234567.89])


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pa.array([1, 2], pa.duration("s")), "Arrow type duration, which is not read"),
        (pa.array([2**40, 0], pa.timestamp("s")), "outside of the years"),
        (pa.array([[1], [2]], pa.list_view(pa.int64())), "Arrow type list_view"),
    ],
)
def test_a_column_that_cannot_be_read_is_named_and_does_no_harm_where_it_is_not_wanted(
    column: pa.Array, message: str
) -> None:
    body = stream(pa.table({"a": column, "b": [1.0, 2.0]}))
    with pytest.raises(WireError, match=f"column 'a': .*{message}"):
        arrow_stream.decode(body, plan_of(a="double"))
    assert arrow_stream.decode(body, plan_of(b="double")).array().tolist() == [[1.0], [2.0]]


def test_text_that_is_not_utf8_names_its_row() -> None:
    torn = pa.array([b"x", b"\xff"], pa.binary()).view(pa.string())
    with pytest.raises(WireError, match="column 'a': expected text in UTF-8, found other bytes in row 1"):
        arrow_stream.decode(stream(pa.table({"a": torn})), plan_of(a="string"))


def test_faulty_streams_say_what_is_wrong() -> None:
    plan = plan_of(a="double")
    body = stream(pa.table({"a": [1.0, 2.0]}))
    empty = pa.table({"a": pa.array([], pa.float64())})
    for broken, message in [
        (b"", "expected a schema"),
        (b"PAR1", "expected a message at byte 0, found 4 bytes"),
        (body[:-20], "bytes of data at byte"),
        (body + b"x", "expected nothing behind its end, found 1 bytes"),
        (b"ARROW1\0\0" + body, "expected 0xFFFFFFFF"),
        (body[:-8] + body, "expected one schema"),
        (stream(pa.table([[1.0], [2.0]], names=["a", "a"])), "each column once, found 'a' again"),
    ]:
        with pytest.raises(WireError, match=message):
            arrow_stream.decode(broken, plan)
    with pytest.raises(InputError, match="no rows"):
        arrow_stream.decode(stream(empty), plan)


def test_a_small_stream_cannot_grow_large() -> None:
    zeros = stream(pa.table({"a": np.zeros(1 << 20)}), compression="zstd")
    with pytest.raises(WireError, match="too large once decompressed"):
        arrow_stream.decode(zeros, plan_of(a="double"), largest=1 << 20)
    assert arrow_stream.decode(zeros, plan_of(a="double"), largest=9 << 20).rows == 1 << 20
    body = stream(pa.table({"a": pa.nulls(77_777)}))
    assert arrow_stream.decode(body, plan_of(a="string")).rows == 77_777
    bomb = body.replace(struct.pack("<q", 77_777), struct.pack("<q", 1 << 40))
    with pytest.raises(WireError, match="far more memory than the body"):
        arrow_stream.decode(bomb, plan_of(a="string"))


ALL = pa.table({f"c{number}": pa.array([None] * 3, kind) for number, (kind, _, _) in enumerate(KINDS)} | {
    "words": pa.array(["x", "y", "x"]).dictionary_encode(),
    "text": ["a", None, "long enough for a buffer of a view"],
    "view": pa.array(["a", None, "long enough for a buffer of a view"], pa.string_view()),
    "list": [[1], None, []],
    "deep": pa.array([[{"a": [1, None]}], [], None]),
    "map": pa.array([[("a", 1)], None, []], PAIRS),
    "number": [1.5, None, 2.5],
})  # fmt: skip
BODIES = [
    stream(ALL),
    stream(ALL, chunk=1),
    stream(ALL, compression="lz4"),
    stream(ALL, compression="zstd"),
    stream(pa.table({"number": [1.0, 2.0], "other": [3.0, 4.0]})),
]
PLANS = [
    plan_of(**{f"c{number}": kind for number, (_, kind, _) in enumerate(KINDS)}, text="string", view="string", map="long"),
    plan_of(words="string", text="string", view="string", list='{"items": {"type": "long"}, "type": "array"}'),
    plan_of(deep='{"type": "any"}', map='{"type": "any"}', number="double"),
    plan_of(number="double", other="double"),
    InputPlan.compile(Signature((Tensor(None, "float64", (-1, -1)),))),
]  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_no_bytes_do_more_than_raise(data: st.DataObject) -> None:
    body = bytearray(data.draw(st.sampled_from(BODIES)))
    for at, value in data.draw(
        st.lists(st.tuples(st.integers(0, len(body) - 1), st.integers(0, 255)), min_size=1, max_size=6)
    ):
        body[at] = value
    body = body[: data.draw(st.just(len(body)) | st.integers(0, len(body)))]
    with contextlib.suppress(WireError, InputError):
        arrow_stream.decode(bytes(body), data.draw(st.sampled_from(PLANS)))


PREDICTIONS = {
    "numbers": Prediction(np.array([0.5, np.nan])),
    "singles": Prediction(np.array([0.5, 2], dtype=np.float32)),
    "classes": Prediction(np.array([1, 0])),
    "bytes": Prediction(np.array([1, 255], dtype=np.uint8)),
    "truths": Prediction(np.array([True, False])),
    "texts": Prediction(np.array(["no", "yés"], dtype=object)),
    "unicode": Prediction(np.array(["no", "yés"])),
    "missing": Prediction(np.array(["no", None], dtype=object)),
    "mixed numbers": Prediction(np.array([1, 0.5], dtype=object)),
    "nothing": Prediction(np.array([None, None], dtype=object)),
    "raw": Prediction(np.array([b"ab", b""], dtype=object)),
    "matrix": Prediction(np.array([[1, 2], [3, 4]])),
    "times": Prediction(np.array(["2020-01-01", "NaT"], dtype="datetime64[ns]")),
    "named": Prediction({"a": np.array([1, 2]), "b": np.array(["x", "y"], dtype=object)}, table=True),
    "probable": Prediction(np.array(["n", "y"]), np.array([[0.25, 0.75], [1, 0]]), ("n", "y")),
}


@pytest.mark.parametrize("what", PREDICTIONS)
def test_answers_are_the_columns_that_batch_scoring_writes(what: str) -> None:
    body = arrow_stream.encode(PREDICTIONS[what])
    assert body.content_type == arrow_stream.MEDIA_TYPE
    found = pa.ipc.open_stream(body.data).read_all()
    found.validate(full=True)
    wanted = answers(PREDICTIONS[what])
    assert found.schema == wanted.schema
    assert repr(found.to_pydict()) == repr(wanted.to_pydict())
    assert arrow_stream.read(body.data).keys() == wanted.to_pydict().keys()


def test_answers_without_a_column_of_their_own_are_refused() -> None:
    for values in (np.array([{"a": 1}], dtype=object), np.zeros((1, 2, 2)), np.array([1 + 2j])):
        with pytest.raises(NotAcceptableError, match=r"output 'prediction'.*ask for application/json"):
            arrow_stream.encode(Prediction(values))
