"""The files that batch reads: Parquet and CSV, a chunk of rows at a time."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from bentos.serving.errors import PermanentError

CHUNK_BYTES = 64 << 20
CHUNK_ROWS = (1_000, 65_536)  # from here on a call's fixed cost is under 5 % for a forest of 100 trees
READ_AHEAD = 256 << 10  # bytes read of a column at a time


class BatchError(PermanentError):
    """A file that cannot be scored as a whole: unreadable, empty, or with columns that the output needs for itself."""


class ParquetSource:
    """The rows of a Parquet file; ``chunk`` rows at a time, or as many as 64 MB of it hold where that is 0.

    ``chunk`` divides the file, whatever its row groups: which rows are predicted together does not depend on where a
    reader began.
    """

    text = False

    def __init__(self, path: Path, chunk: int) -> None:
        try:
            # read before it is asked for, every row group that was touched would stay in memory
            self._file = pq.ParquetFile(path, buffer_size=READ_AHEAD, pre_buffer=False)
        except (OSError, pa.ArrowInvalid) as error:
            raise BatchError(f"{path} cannot be read as Parquet: {error}") from error
        self._path = path
        self.metadata: pq.FileMetaData = self._file.metadata
        groups = [self.metadata.row_group(i) for i in range(self.metadata.num_row_groups)]
        self._ends = np.cumsum([group.num_rows for group in groups], dtype=np.int64)
        self.rows: int = self.metadata.num_rows
        self._stream: Iterator[pa.RecordBatch] = iter(())
        self._at = self.rows  # the row that the stream gives next
        self.chunk = chunk or fitting(sum(group.total_byte_size for group in groups), self.rows)
        self.schema: pa.Schema = self._file.schema_arrow
        self.torn: dict[int, str] = {}

    def chunks(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[pa.Table, np.ndarray]]:
        """Tables of at most ``chunk`` rows from row ``start`` up to ``stop``, each with its rows' numbers.

        Row groups before ``start`` are not read. Raises BatchError for a file that is damaged further in.
        """
        stop = self.rows if stop is None else min(stop, self.rows)
        for table in gathered(self._batches(start, stop), self.schema, self.chunk):
            yield table, np.arange(start, start + table.num_rows)
            start += table.num_rows

    def _batches(self, start: int, stop: int) -> Iterator[pa.RecordBatch]:
        """The rows from ``start`` up to ``stop``; it goes on from where the last call ended if that is no longer way."""
        if start < self._at or self._group(start) > self._group(self._at):
            first = self._group(start)
            self._at = int(self._ends[first - 1]) if first else 0
            groups = range(first, len(self._ends))
            self._stream = self._file.iter_batches(self.chunk, row_groups=groups, use_threads=False)
        try:
            while self._at < stop:
                batch = next(self._stream)
                low, high = max(start - self._at, 0), min(stop - self._at, batch.num_rows)
                if high < batch.num_rows:
                    self._stream = chain([batch.slice(high)], self._stream)
                self._at += high
                if low < high:
                    yield batch.slice(low, high - low)
        except (OSError, pa.ArrowInvalid) as error:
            raise BatchError(f"{self._path} cannot be read as Parquet: {error}") from error

    def _group(self, row: int) -> int:
        return int(np.searchsorted(self._ends, row, side="right"))


def gathered(batches: Iterator[pa.RecordBatch], schema: pa.Schema, chunk: int) -> Iterator[pa.Table]:
    """The rows of ``batches`` in tables of ``chunk`` rows each, but for the last; nothing is copied."""
    held: list[pa.RecordBatch] = []
    count = 0
    for batch in batches:
        held.append(batch)
        count += batch.num_rows
        if count >= chunk:
            table = pa.Table.from_batches(held, schema)
            for at in range(0, count - chunk + 1, chunk):
                yield table.slice(at, chunk)
            count %= chunk
            held = table.slice(table.num_rows - count).to_batches()
            del table
    if count:
        yield pa.Table.from_batches(held, schema)


def fitting(size: int, rows: int) -> int:
    """How many rows to take at a time from a file of ``size`` decoded bytes."""
    fewest, most = CHUNK_ROWS
    return max(fewest, min(most, CHUNK_BYTES * rows // size if size else most))


class CsvSource:
    """The rows of a CSV file with a header, as text; an empty cell is a null. Rows with another number of cells than the
    header are gathered in ``torn`` by their number, with the reason.
    """

    text = True
    metadata = None

    def __init__(self, path: Path, chunk: int) -> None:
        self._path = path
        self.chunk = chunk or CHUNK_ROWS[1]
        self.torn: dict[int, str] = {}
        try:
            with path.open(encoding="utf-8", newline="") as file:
                names = next(csv.reader(file), [])
        except (OSError, UnicodeDecodeError) as error:
            raise BatchError(f"{path} cannot be read as CSV: {error}") from error
        if not names or len(set(names)) != len(names):
            raise BatchError(f"{path} begins with {names[:10]}: expected a header of distinct column names")
        self.schema = pa.schema([pa.field(name, pa.string()) for name in names])

    def chunks(self) -> Iterator[tuple[pa.Table, np.ndarray]]:
        """Tables of at most ``chunk`` rows of text, each with its rows' numbers. Raises BatchError if it is not CSV."""
        seen = 0
        try:
            for table in gathered(self._open(), self.schema, self.chunk):
                yield table, self._numbers(seen, table.num_rows)
                seen += table.num_rows
        except pa.ArrowInvalid as error:
            raise BatchError(f"{self._path} cannot be read as CSV: {error}") from error

    def _open(self) -> Any:
        types = {name: pa.string() for name in self.schema.names}
        return pacsv.open_csv(
            self._path,
            read_options=pacsv.ReadOptions(use_threads=False),
            parse_options=pacsv.ParseOptions(newlines_in_values=True, invalid_row_handler=self._set_aside),
            convert_options=pacsv.ConvertOptions(
                column_types=types, strings_can_be_null=True, null_values=[""], quoted_strings_can_be_null=False
            ),
        )

    def _set_aside(self, row: Any) -> str:
        self.torn[row.number - 2] = (
            f"found {row.actual_columns} cells, expected {row.expected_columns}: {row.text[:200]}"
        )
        return "skip"

    def _numbers(self, seen: int, count: int) -> np.ndarray:
        """Numbers in the file of the kept rows ``seen`` and after: each torn row before one moves it on."""
        kept = np.arange(seen, seen + count)
        torn = np.array(sorted(self.torn), dtype=np.int64)
        return kept + np.searchsorted(torn - np.arange(len(torn)), kept, side="right")
