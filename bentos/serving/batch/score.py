"""Batch scoring in the model's own environment: a file in, predictions and rejects out, a chunk at a time."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from bentos.serving.batch.rows import score_chunk, with_reasons
from bentos.serving.batch.sink import Sink, check_apart
from bentos.serving.batch.source import BatchError, CsvSource, ParquetSource
from bentos.serving.batch.workers import Work, cores, score_spans, spans
from bentos.serving.model.runner import ModelRunner

T = TypeVar("T")


@dataclass(frozen=True)
class BatchCounts:
    """What a batch came to. rows = predicted + rejected; ``seconds`` of wall clock, loading the model included."""

    rows: int
    predicted: int
    rejected: int
    seconds: float


def score_file(
    folder: Path,
    source: Path,
    output: Path | str,
    rejects: Path | str,
    *,
    chunk: int = 0,
    processes: int = 1,
    probabilities: bool = False,
) -> BatchCounts:
    """Score ``source`` (.parquet or .csv) with the model in ``folder``, ``chunk`` rows at a time (0: as many as 64 MB of
    the file hold, 1,000 to 65,536), in ``processes`` (0: one a core; CSV is always read by one), each with the model
    as it is loaded for many rows.

    ``output`` has every input column beside the prediction (``prediction`` or the named outputs; ``probability_<class>``
    if asked for ``probabilities``); ``rejects`` has the rows that do not fit the signature, or on which the model
    raises, with ``_row`` (0 is the first data row) and ``_reason``. Each is a Parquet file or a folder of parts (see Sink),
    written aside and renamed when complete, with the same rows in the same order however many processes. Raises
    BatchError, InputError, LoadError or SignatureError.
    """
    if chunk < 0 or processes < 0:
        raise BatchError(f"chunk {chunk}, processes {processes}: expected 0 or more of each")
    check_apart(source, output, rejects)
    began = time.monotonic()
    reader = CsvSource(source, chunk) if source.suffix == ".csv" else ParquetSource(source, chunk)
    nothing = reader.schema.empty_table()
    none_rejected = with_reasons(nothing, [], [])
    with ExitStack() as stack:
        kept = stack.enter_context(Sink(output, reader.metadata))
        aside = stack.enter_context(Sink(rejects, reader.metadata))
        parts = [] if isinstance(reader, CsvSource) else spans(reader.rows, reader.chunk, processes or cores())
        if len(parts) > 1:
            work = Work(str(folder), str(source), reader.chunk, probabilities)
            rows, rejected = score_spans(work, parts, processes or cores(), kept, aside)
        else:
            runner = ModelRunner.load(folder, bulk=True)
            rows, rejected = score_rows(runner, reader, reader.chunks(), kept, aside, probabilities=probabilities)
        if reader.torn:
            torn = pa.table([pa.nulls(len(reader.torn), column.type) for column in reader.schema], schema=reader.schema)
            aside.write(with_reasons(torn, list(reader.torn), list(reader.torn.values())))
        kept.finish(nothing.append_column("prediction", pa.nulls(0)))
        aside.finish(none_rejected)
        aside.commit()
        kept.commit()
    torn_rows = len(reader.torn)
    return BatchCounts(rows + torn_rows, rows - rejected, rejected + torn_rows, round(time.monotonic() - began, 3))


def score_rows(
    runner: ModelRunner,
    reader: ParquetSource | CsvSource,
    chunks: Iterable[tuple[pa.Table, np.ndarray]],
    kept: Sink,
    aside: Sink,
    *,
    probabilities: bool,
) -> tuple[int, int]:
    """Score ``chunks`` of ``reader`` into both sinks; how many rows there were, and how many were set aside.

    The next chunk is read and the last one written while one is predicted: three are in memory, whatever the file.
    """
    rows = rejected = 0
    with ThreadPoolExecutor(1) as writing:
        pending: Future[None] | None = None
        for table, numbers in ahead(iter(chunks)):
            good, reasons = score_chunk(runner, table, text=reader.text, probabilities=probabilities)
            if pending is not None:
                pending.result()
            pending = writing.submit(_write, kept, aside, good, table, numbers, reasons)
            rows += table.num_rows
            rejected += len(reasons)
        if pending is not None:
            pending.result()
    return rows, rejected


def ahead(items: Iterator[T]) -> Iterator[T]:
    """``items``, each made in a thread while the one before it is worked on."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = pool.submit(next, items, None)
            yield item


def _write(
    kept: Sink, aside: Sink, good: pa.Table | None, table: pa.Table, numbers: Any, reasons: dict[int, str]
) -> None:
    if good is not None:
        kept.write(good)
    if bad := sorted(reasons):
        aside.write(with_reasons(table.take(pa.array(bad, pa.int64())), numbers[bad], [reasons[i] for i in bad]))
