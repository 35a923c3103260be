"""Files read a chunk at a time: the same chunks wherever a reader begins."""

from __future__ import annotations

import itertools
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bentos.serving.batch.source import BatchError, CsvSource, ParquetSource, fitting


@pytest.mark.parametrize("group", [1, 7, 100, 1000])
def test_spans_in_rising_order_are_the_whole_file(tmp_path, group):
    pq.write_table(pa.table({"n": range(500)}), tmp_path / "in.parquet", row_group_size=group)
    random.seed(group)
    cuts = [0, *sorted(random.sample(range(10, 500, 10), 9)), 500]
    left_out = random.choice(cuts[1:-1])  # another reader's: rows are skipped
    source = ParquetSource(tmp_path / "in.parquet", 10)
    found = []
    for start, stop in itertools.pairwise(cuts):
        if start == left_out:
            continue
        for table, numbers in source.chunks(start, stop):
            assert table["n"].to_pylist() == numbers.tolist()
            assert numbers[0] % 10 == 0
            assert len(numbers) == 10
            found += numbers.tolist()
    after = cuts[cuts.index(left_out) + 1]
    assert found == [*range(left_out), *range(after, 500)]
    again = [row for _, numbers in source.chunks(20, 45) for row in numbers.tolist()]  # back again
    assert again == list(range(20, 45))


def test_a_chunk_is_as_many_rows_as_fit(tmp_path):
    assert fitting(160 * 10**6, 10**6) == 65_536
    assert fitting(8000 * 10**6, 10**6) == 8_388
    assert fitting(10**15, 10**6) == 1_000
    assert fitting(0, 0) == 65_536
    pq.write_table(pa.table({"n": range(50)}), tmp_path / "in.parquet")
    assert [table.num_rows for table, _ in ParquetSource(tmp_path / "in.parquet", 0).chunks()] == [50]
    (tmp_path / "in.csv").write_text("n\n" + "1\n" * 100_000)
    assert [table.num_rows for table, _ in CsvSource(tmp_path / "in.csv", 0).chunks()] == [65_536, 34_464]


def test_damage_further_in_is_named(tmp_path):
    pq.write_table(pa.table({"n": range(1000)}), tmp_path / "in.parquet", row_group_size=100)
    text = bytearray((tmp_path / "in.parquet").read_bytes())
    text[len(text) // 3 : len(text) // 2] = bytes(len(text) // 2 - len(text) // 3)
    (tmp_path / "in.parquet").write_bytes(text)
    with pytest.raises(BatchError, match=r"in\.parquet cannot be read as Parquet"):
        list(ParquetSource(tmp_path / "in.parquet", 10).chunks())
