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
from bentos.serving.wire.interface import MediaTypeError, NotAcceptableError, WireError

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
INTS = st.integers(-(2**31), 2**31 - 1)
TIMES = st.datetimes(datetime.datetime(1700, 1, 1), datetime.datetime(2200, 1, 1))
KINDS: list[tuple[pa.DataType, str, st.SearchStrategy[Any]]] = [
    *((kind, "double", st.floats()) for kind in (pa.float64(),)),
    (pa.float32(), "float", st.floats(width=32)),
    (pa.float16(), "double", st.floats(width=16).map(np.float16)),
    *((kind, "long", st.integers(0, 100)) for kind in (pa.int8(), pa.uint8(), pa.int16(), pa.uint16(), pa.uint32(), pa.uint64())),
    (pa.int32(), "integer", INTS),
    (pa.int64(), "long", st.integers(-(2**53), 2**53)),
    (pa.bool_(), "boolean", st.booleans()),
    *((kind, "string", TEXTS) for kind in (pa.string(), pa.large_string())),
    *((kind, "binary", st.binary(max_size=20)) for kind in (pa.binary(), pa.large_binary())),
    *((pa.timestamp(unit), "datetime", TIMES) for unit in ("ms", "us", "ns")),
    (pa.timestamp("us", "Europe/Berlin"), "datetime", TIMES),
    (pa.date32(), "datetime", TIMES.map(datetime.datetime.date)),
    (pa.date64(), "datetime", TIMES.map(datetime.datetime.date)),
    (pa.null(), "string", st.none()),
    (pa.list_(pa.int64()), '{"items": {"type": "long"}, "type": "array"}', st.lists(INTS, max_size=4)),
    (pa.list_(pa.float64(), 2), '{"items": {"type": "double"}, "type": "array"}', st.lists(st.floats(), min_size=2, max_size=2)),
    (pa.list_(pa.float32()), '{"items": {"type": "float"}, "type": "array"}', st.lists(st.floats(width=32), max_size=4)),
]  # fmt: skip


def stream(table: pa.Table, *, chunk: int | None = None, **options: Any) -> bytes:
    sink = io.BytesIO()
    options = pa.ipc.IpcWriteOptions(**options)
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
        cells = draw(
            st.lists(
                st.none() | values if draw(st.booleans()) and not pa.types.is_fixed_size_list(kind) else values,
                min_size=rows,
                max_size=rows,
            )
        )
        column = pa.array(cells, kind)
        plain = not (pa.types.is_null(kind) or pa.types.is_nested(kind) or kind == pa.float16())
        columns[f"c{number}"] = column.dictionary_encode() if plain and draw(st.booleans()) else column
        if draw(st.integers(0, 4)):
            kinds[f"c{number}"] = wanted
    return pa.table(columns), plan_of(**(kinds or {"absent": "double"}))


@settings(max_examples=300, deadline=None)
@given(tables(), st.sampled_from([None, 1, 3]))
def test_a_stream_is_read_as_the_same_table_in_a_file(made: tuple[pa.Table, InputPlan], chunk: int | None) -> None:
    table, plan = made
    body = stream(table, chunk=chunk)
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


WORDS = pa.array(["x", "yes", None, "x", "no"], pa.string())


@pytest.mark.parametrize("chunk", [None, 2])
@pytest.mark.parametrize("values", [WORDS, pa.array([2, 1, None, 2, 3], pa.int16()), pa.array([2.5, 1, None, 2.5, 3])])
def test_a_dictionary_stands_for_its_values_whatever_its_codes(values: pa.Array, chunk: int | None) -> None:
    kind = "string" if values is WORDS else "double"
    plain = arrow_stream.decode(stream(pa.table({"a": values})), plan_of(a=kind))
    for codes in (pa.int8(), pa.uint16(), pa.int32(), pa.int64()):
        known = values.dictionary_encode()
        encoded = pa.table(
            {"a": pa.DictionaryArray.from_arrays(known.indices.cast(codes), known.dictionary), "b": values}
        )
        same(arrow_stream.decode(stream(encoded, chunk=chunk), plan_of(a=kind)), plain)


def test_a_dictionary_is_replaced_by_the_next_and_never_added_to() -> None:
    kind = pa.dictionary(pa.int8(), pa.string())
    batches = [
        pa.table({"a": pa.DictionaryArray.from_arrays(pa.array(codes, pa.int8()), words).cast(kind)})
        for codes, words in (([0, 1], ["a", "b"]), ([2, 0], ["a", "b", "c"]))
    ]
    table = pa.concat_tables(batches)
    assert arrow_stream.read(stream(table)) == {"a": ["a", "b", "c", "a"]}
    with pytest.raises(WireError, match="expected schema, whole dictionaries and batches"):
        arrow_stream.read(stream(table, emit_dictionary_deltas=True))


UNREAD = {
    "decimal": pa.array([Decimal("0.30"), None]),
    "time": pa.array([1, 2], pa.time64("ns")),
    "duration": pa.array([1, 2], pa.duration("s")),
    "fixed_size_binary": pa.array([b"abc", None], pa.binary(3)),
    "utf8_view": pa.array(["x", None], pa.string_view()),
    "binary_view": pa.array([b"x", None], pa.binary_view()),
    "large_list": pa.array([[1], [2]], pa.large_list(pa.int64())),
    "list_view": pa.array([[1], [2]], pa.list_view(pa.int64())),
    "struct": pa.array([{"a": 1}, None]),
    "map": pa.array([[("a", 1)], None], pa.map_(pa.string(), pa.int64())),
    "union": pa.UnionArray.from_sparse(pa.array([0, 0], pa.int8()), [pa.array([1, 2])]),
    "run_end_encoded": pa.RunEndEncodedArray.from_arrays([2], [1]),
}


@pytest.mark.parametrize("kind", UNREAD)
def test_a_column_that_is_not_read_is_named(kind: str) -> None:
    body = stream(pa.table({"a": UNREAD[kind], "b": [1.0, 2.0]}))
    for plan in (plan_of(a="double"), plan_of(b="double")):
        with pytest.raises(WireError, match=f"column 'a': found the Arrow type {kind}, which is not read.*Cast it"):
            arrow_stream.decode(body, plan)


@pytest.mark.parametrize("items", [pa.array([["x"]]), pa.array([[[1]]]), pa.array([[True]]), pa.array([[{"a": 1}]])])
def test_lists_of_anything_but_numbers_are_named(items: pa.Array) -> None:
    with pytest.raises(
        WireError, match=r"column 'a': found a list of \['\w+'\], expected one of numbers.*application/json"
    ):
        arrow_stream.read(stream(pa.table({"a": items})))


def test_a_null_inside_a_list_is_no_number() -> None:
    for kind, values in ((pa.list_(pa.int64()), [[1, None]]), (pa.list_(pa.int64(), 2), [[1, 2], None])):
        with pytest.raises(WireError, match="nulls in the lists of 'a'"):
            arrow_stream.read(stream(pa.table({"a": pa.array(values, kind)})))
    assert arrow_stream.read(stream(pa.table({"a": pa.array([[1, 2], None, []])}))) == {"a": [[1, 2], None, []]}


def test_a_time_beyond_nanoseconds_does_no_harm_where_it_is_not_wanted() -> None:
    body = stream(pa.table({"a": pa.array([2**40, 0], pa.timestamp("s")), "b": [1.0, 2.0]}))
    with pytest.raises(WireError, match="column 'a': expected timestamp, found a time outside of the years"):
        arrow_stream.decode(body, plan_of(a="datetime"))
    assert arrow_stream.decode(body, plan_of(b="double")).array().tolist() == [[1.0], [2.0]]


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
def test_compressed_buffers_are_a_form_that_is_not_read(compression: str) -> None:
    table = pa.table({"a": np.zeros(1 << 10), "words": pa.array(["x"] * (1 << 10)).dictionary_encode()})
    for plan in (plan_of(a="double"), plan_of(words="string")):
        with pytest.raises(MediaTypeError, match=r"found compressed buffers.*gzip the body as a whole"):
            arrow_stream.decode(stream(table, compression=compression), plan)


def test_text_that_is_not_utf8_names_its_row() -> None:
    torn = pa.array([b"x", b"\xff"], pa.binary()).view(pa.string())
    with pytest.raises(WireError, match="column 'a': expected utf8, found 'utf-8' codec can't decode byte 0xff"):
        arrow_stream.decode(stream(pa.table({"a": torn})), plan_of(a="string"))


def test_faulty_streams_say_what_is_wrong() -> None:
    plan = plan_of(a="double")
    body = stream(pa.table({"a": [1.0, 2.0]}))
    empty = pa.table({"a": pa.array([], pa.float64())})
    for broken, message in [
        (b"", "expected one schema"),
        (b"PAR1", "expected 0xFFFFFFFF at byte 0, found b'PAR1'"),
        (body[:-20], "bytes of data at byte"),
        (body + b"x", "expected record batches"),
        (body[:-8] + b"\xff\xff\xff\xff", "expected record batches"),
        (b"ARROW1\0\0" + body, "expected 0xFFFFFFFF"),
        (body[:-8] + body, "expected one schema"),
        (stream(pa.table([[1.0], [2.0]], names=["a", "a"])), r"each column once, found \['a', 'a'\]"),
    ]:
        with pytest.raises(WireError, match=message):
            arrow_stream.decode(broken, plan)
    with pytest.raises(InputError, match="no rows"):
        arrow_stream.decode(stream(empty), plan)


def test_a_small_stream_cannot_grow_large() -> None:
    body = stream(pa.table({"a": pa.nulls(77_777)}))
    assert arrow_stream.decode(body, plan_of(a="string")).rows == 77_777
    bomb = body.replace(struct.pack("<q", 77_777), struct.pack("<q", 1 << 40))
    with pytest.raises(WireError, match="far more nulls than bytes"):
        arrow_stream.decode(bomb, plan_of(a="string"))


def test_buffers_that_are_shared_are_refused() -> None:
    body = stream(pa.table({"a": [1.0, 2.0], "b": [1.0, 2.0]}))
    second = struct.pack("<4q", 16, 0, 16, 16)  # where b's buffers lie, and how long they are
    assert body.count(second) == 1
    with pytest.raises(WireError, match="a buffer of 16 bytes at 0, behind byte 16"):
        arrow_stream.decode(body.replace(second, struct.pack("<4q", 16, 0, 0, 16)), plan_of(a="double", b="string"))


ALL = pa.table({f"c{number}": pa.array([None] * 3, kind) for number, (kind, _, _) in enumerate(KINDS)} | {
    "words": pa.array(["x", "y", "x"]).dictionary_encode(),
    "text": ["a", None, "more than one byte"],
    "raw": pa.array([b"a", None, b"\xff"], pa.large_binary()),
    "when": pa.array([1, None, 3], pa.timestamp("ms")).dictionary_encode(),
    "flag": [True, None, False],
    "number": [1.5, None, 2.5],
})  # fmt: skip
BODIES = [
    stream(ALL),
    stream(ALL, chunk=1),
    stream(ALL.slice(0, 1), compression="lz4"),
    stream(pa.table({"number": [1.0, 2.0], "other": [3.0, 4.0]})),
]
PLANS = [
    plan_of(**{f"c{number}": kind for number, (_, kind, _) in enumerate(KINDS)}, text="string", raw="binary", flag="boolean"),
    plan_of(words="string", text="string", when="datetime", number="double"),
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
    "nothing": Prediction(np.array([None, None], dtype=object)),
    "raw": Prediction(np.array([b"ab", b""], dtype=object)),
    "times": Prediction(np.array(["2020-01-01", "NaT"], dtype="datetime64[ns]")),
    "several": Prediction(np.array([[0.5, 1.0], [np.nan, 2.0]])),
    "tensors": Prediction(
        {
            "a": np.array([[1, 2, 3]], dtype=np.float64),
            "b": np.array(
                [
                    [7],
                ],
                dtype=np.int64,
            ),
        }
    ),
    "named": Prediction({"a": np.array([1, 2]), "b": np.array(["x", "y"], dtype=object)}, table=True),
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
    mixed = np.array([1, "x"], dtype=object)
    for values in (np.array([{"a": 1}], dtype=object), mixed, np.zeros((1, 2, 2)), np.array([1 + 2j])):
        with pytest.raises(NotAcceptableError, match=r"output 'prediction'.*ask for application/json"):
            arrow_stream.encode(Prediction(values))


def test_outputs_of_different_lengths_are_refused() -> None:
    with pytest.raises(NotAcceptableError, match=r"'mean' of 1, 'scores' of 3; ask for application/json"):
        arrow_stream.encode(Prediction({"mean": np.array([1.0]), "scores": np.arange(3.0)}))
