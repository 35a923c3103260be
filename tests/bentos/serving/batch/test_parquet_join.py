"""Parquet files put behind one another as they lie, and read as one by Arrow."""

from __future__ import annotations

import datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bentos.serving.batch.parquet_join import ParquetJoin, read_footer
from bentos.serving.batch.thrift import read_struct, write_struct


def rows(start, count):
    """Every kind of column: numbers, text, nulls, times, dictionaries, lists and structs."""
    numbers = range(start, start + count)
    return pa.table(
        {
            "n": pa.array(numbers, pa.int64()),
            "f": pa.array([n / 7 for n in numbers], pa.float32()),
            "s": pa.array([None if n % 3 == 0 else f"text {n % 5}" for n in numbers]),
            "b": pa.array([n % 2 == 0 for n in numbers]),
            "t": pa.array([datetime.datetime(2020, 1, 1) + datetime.timedelta(n) for n in numbers], pa.timestamp("ns")),
            "d": pa.array([f"k{n % 3}" for n in numbers]).dictionary_encode(),
            "l": pa.array([[n, None] * (n % 3) for n in numbers], pa.list_(pa.int32())),
            "o": pa.array([{"x": n, "y": [str(n)]} for n in numbers]),
        }
    ).replace_schema_metadata({"who": "wrote it"})


@pytest.mark.parametrize("options", [{}, {"compression": "none"}, {"write_page_index": True, "use_dictionary": False}])
def test_parts_read_as_one(tmp_path, options):
    tables = [rows(0, 100), rows(100, 1), rows(101, 250)]
    join = ParquetJoin(tmp_path / "all.parquet")
    for number, table in enumerate(tables):
        pq.write_table(table, tmp_path / f"{number}.parquet", row_group_size=60, **options)
        assert join.append(tmp_path / f"{number}.parquet")
    join.close()
    with pq.ParquetFile(tmp_path / "all.parquet") as found:
        assert found.metadata.num_rows == 351
        assert [found.metadata.row_group(i).num_rows for i in range(8)] == [60, 40, 1, 60, 60, 60, 60, 10]
        assert found.schema_arrow.equals(pq.read_schema(tmp_path / "0.parquet"), check_metadata=True)
        assert found.read().to_pylist() == rows(0, 351).to_pylist()
        assert found.read_row_group(6).to_pylist() == rows(281, 60).to_pylist()
    filtered = pq.read_table(tmp_path / "all.parquet", filters=[("n", ">", 340)])
    assert filtered["n"].to_pylist() == list(range(341, 351))


def test_a_part_of_another_schema_is_left_out(tmp_path):
    pq.write_table(pa.table({"a": [1, 2]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"a": [1.0]}), tmp_path / "b.parquet")
    pq.write_table(pa.table({"a": [1]}).replace_schema_metadata({"k": "v"}), tmp_path / "c.parquet")
    join = ParquetJoin(tmp_path / "all.parquet")
    assert [join.append(tmp_path / f"{name}.parquet") for name in "abca"] == [True, False, False, True]
    join.close()
    assert pq.read_table(tmp_path / "all.parquet").to_pydict() == {"a": [1, 2, 1, 2]}


def test_a_file_that_is_not_parquet_is_refused(tmp_path):
    (tmp_path / "x").write_bytes(b"PAR1 and then some PAR2")
    join = ParquetJoin(tmp_path / "all.parquet")
    with pytest.raises(ValueError, match="expected a Parquet file"):
        join.append(tmp_path / "x")
    join.close()


def test_a_footer_is_written_as_it_was_read(tmp_path):
    pq.write_table(rows(0, 100), tmp_path / "a.parquet", row_group_size=7)
    with (tmp_path / "a.parquet").open("rb") as file:
        _, begins = read_footer(file)
        file.seek(begins)
        text = file.read()[:-8]
    struct, end = read_struct(text)
    assert end == len(text)
    assert write_struct(struct) == text
