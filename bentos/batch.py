"""Batch scoring in the model's own environment: a file in, predictions and rejects out, a chunk at a time."""

from __future__ import annotations

import csv
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from bentos.arrow import answers, from_arrow, from_text, typed
from bentos.errors import PermanentError
from bentos.loaders.interface import PredictError, Prediction
from bentos.runner import ModelRunner
from bentos.signature import InputError

ROW, REASON = "_row", "_reason"


class BatchError(PermanentError):
    """A file that cannot be scored as a whole: unreadable, empty, or with columns that the output needs for itself."""


@dataclass(frozen=True)
class BatchCounts:
    """What a batch came to. rows = predicted + rejected; ``seconds`` of wall clock, loading the model included."""

    rows: int
    predicted: int
    rejected: int
    seconds: float


def score_file(folder: Path, source: Path, output: Path, rejects: Path, *, chunk: int = 10_000) -> BatchCounts:
    """Score ``source`` (.parquet or .csv) with the model in ``folder``, ``chunk`` rows at a time.

    ``output`` has every input column beside the prediction (``prediction`` or the named outputs, and
    ``probability_<class>``); ``rejects`` has the rows that do not fit the signature, or on which the model raises, with
    ``_row`` (0 is the first data row) and ``_reason``. Both are Parquet, written aside and renamed when complete. Raises
    BatchError, InputError, LoadError or SignatureError.
    """
    began = time.monotonic()
    runner = ModelRunner.load(folder)
    predicted = rejected = 0
    with ExitStack() as stack:
        kept = stack.enter_context(Sink(output))
        aside = stack.enter_context(Sink(rejects))
        reader = CsvSource(source, chunk) if source.suffix == ".csv" else ParquetSource(source, chunk)
        for table, rows in reader.chunks():
            good, reasons = score_chunk(runner, table, text=reader.text)
            if good is not None:
                kept.write(good)
            bad = sorted(reasons)
            aside.write(with_reasons(table.take(pa.array(bad, pa.int64())), rows[bad], [reasons[i] for i in bad]))
            rejected += len(bad)
            predicted += len(rows) - len(bad)
        nothing = reader.schema.empty_table()
        torn = pa.table([pa.nulls(len(reader.torn), column.type) for column in reader.schema], schema=reader.schema)
        aside.write(with_reasons(torn, list(reader.torn), list(reader.torn.values())))
        kept.finish(nothing.append_column("prediction", pa.nulls(0)))
        aside.finish(with_reasons(nothing, [], []))
        aside.commit()
        kept.commit()
    rejected += len(reader.torn)
    return BatchCounts(predicted + rejected, predicted, rejected, round(time.monotonic() - began, 3))


def with_reasons(table: pa.Table, rows: Any, reasons: list[str]) -> pa.Table:
    """``table`` with the columns that rejects have beside their own."""
    if clash := sorted({ROW, REASON} & set(table.column_names)):
        raise BatchError(f"input columns {clash} have the names of the rejects' own: rename them in the input")
    return table.append_column(ROW, pa.array(rows, pa.int64())).append_column(REASON, pa.array(reasons, pa.string()))


def score_chunk(runner: ModelRunner, table: pa.Table, *, text: bool) -> tuple[pa.Table | None, dict[int, str]]:
    """The rows of ``table`` that could be predicted, with their predictions, and the reason for each of the others."""
    read = from_text if text else from_arrow
    values = read(table, runner.plan)
    reasons: dict[int, str] = {}
    if runner.plan.columns:
        _, reasons = runner.plan.bad_rows(values)
    fit = np.array([i for i in range(table.num_rows) if i not in reasons], dtype=np.int64)
    picked = {name: column[fit] if isinstance(column, np.ndarray) else [column[i] for i in fit] for name, column in values.items()}  # fmt: skip
    done: list[pa.Table] = []
    taken: list[int] = []
    for start, stop, answer in bisect(runner, picked, 0, len(fit)):
        if isinstance(answer, str):
            reasons[int(fit[start])] = answer
        else:
            done.append(answers(answer))
            taken.extend(fit[start:stop].tolist())
    if not done:
        return None, reasons
    predicted = pa.concat_tables(done, promote_options="permissive")
    if clash := sorted(set(predicted.column_names) & set(table.column_names)):
        raise BatchError(f"input columns {clash} have the names of the predictions: rename them in the input")
    beside = table.take(pa.array(taken, pa.int64()))
    if text:
        beside = typed(beside, runner.plan)
    for name in predicted.column_names:
        beside = beside.append_column(name, predicted[name])
    return beside, reasons


def bisect(runner: ModelRunner, values: Mapping[str, Any], start: int, stop: int) -> Iterator[tuple[int, int, Prediction | str]]:  # fmt: skip
    """Predict rows ``start`` to ``stop``; where the model raises, halve until only the failing rows are left.

    Yields (start, stop, prediction), and (row, row + 1, reason) for each failing row, in order.
    """
    if start == stop:
        return
    try:
        prediction = runner.predict({k: v[start:stop] for k, v in values.items()}, probabilities=True)
    except (PredictError, InputError) as error:
        if stop - start == 1:
            yield start, stop, str(error)
            return
        middle = (start + stop) // 2
        yield from bisect(runner, values, start, middle)
        yield from bisect(runner, values, middle, stop)
        return
    if prediction.rows != stop - start:
        raise BatchError(f"the model answered {prediction.rows} rows to {stop - start}: batch needs one answer a row")
    yield start, stop, prediction


class ParquetSource:
    """The rows of a Parquet file, a chunk at a time."""

    text = False

    def __init__(self, path: Path, chunk: int) -> None:
        try:
            self._file = pq.ParquetFile(path)
        except (OSError, pa.ArrowInvalid) as error:
            raise BatchError(f"{path} cannot be read as Parquet: {error}") from error
        self._chunk = chunk
        self.schema: pa.Schema = self._file.schema_arrow
        self.torn: dict[int, str] = {}

    def chunks(self) -> Iterator[tuple[pa.Table, np.ndarray]]:
        """Tables of at most ``chunk`` rows, each with its rows' numbers."""
        seen = 0
        for batch in self._file.iter_batches(batch_size=self._chunk):
            yield pa.Table.from_batches([batch]), np.arange(seen, seen + batch.num_rows)
            seen += batch.num_rows


class CsvSource:
    """The rows of a CSV file with a header, as text; an empty cell is a null. Rows with another number of cells than the
    header are gathered in ``torn`` by their number, with the reason.
    """

    text = True

    def __init__(self, path: Path, chunk: int) -> None:
        self._path = path
        self._chunk = chunk
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
            for batch in self._open():
                for start in range(0, batch.num_rows, self._chunk):
                    piece = batch.slice(start, self._chunk)
                    yield pa.Table.from_batches([piece]), self._numbers(seen, piece.num_rows)
                    seen += piece.num_rows
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


class Sink:
    """A Parquet file written aside and renamed into place by ``commit``; left without commit, nothing remains of it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> Sink:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        return self

    def write(self, table: pa.Table) -> None:
        """Append rows; the first table sets the schema. Raises BatchError if a later one cannot be cast to it."""
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._aside, table.schema)
        if not table.num_rows:
            return
        try:
            self._writer.write_table(table.cast(self._writer.schema))
        except (pa.ArrowInvalid, ValueError) as error:
            raise BatchError(f"{self._path}: a later chunk has other types than the first: {error}") from error

    def finish(self, empty: pa.Table) -> None:
        """Close the file; ``empty`` is its schema if nothing was written."""
        self.write(empty.slice(0, 0) if self._writer is None else empty.slice(0, 0).select([]))
        if self._writer is not None:
            self._writer.close()

    def commit(self) -> None:
        """Put the finished file in its place."""
        self._aside.replace(self._path)

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()
        self._aside.unlink(missing_ok=True)
