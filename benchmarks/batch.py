"""Rows a second of a Parquet file: the estimator's own predict on the whole frame, MLflow's pyfunc, and Shipway's batch.

Each in a process of its own with one thread a library: ``python -m benchmarks.batch WAY MODEL_FOLDER BENTO FILE``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from benchmarks.models import COLUMNS, NAMES, BenchModel
from benchmarks.processes import tree
from bentos.serving.threads import ONE_THREAD

WAYS = ("raw", "pyfunc", "shipway-loop", "shipway-file", "shipway-file-processes")
"""The last three: reading, checking, predicting and putting the answers beside the rows; the same, and loading the model and
writing; the same in as many processes as there are cores."""

REPEATS = 3


class BatchRunError(Exception):
    """A way of scoring that failed; the message ends with its output."""


def batch(
    model: BenchModel, bento: Path, rows: int, folder: Path, ways: tuple[str, ...] = WAYS
) -> list[dict[str, Any]]:
    """Every way of *ways* over the same *rows* random rows; *folder* is for the files."""
    source = folder / f"batch-{rows}.parquet"
    if not source.exists():
        _write(source, rows)
    root = str(Path(__file__).resolve().parents[1])
    environment = {**os.environ, "PYTHONPATH": root, "TMPDIR": str(folder), **ONE_THREAD}
    results = []
    for way in ways:
        command = [sys.executable, "-m", "benchmarks.batch", way, str(model.folder), str(bento), str(source)]
        found, peak = _run(command, environment)
        results.append({"model": model.key, "way": way, "rows": rows, **found, "peak_mb": peak})
    return results


def _run(command: list[str], environment: dict[str, str]) -> tuple[dict[str, float], float]:
    """What *command* says as JSON in its last line, and the peak of the resident memory of it and its children in MB.

    Looked at every 20 ms: the kernel's own peak begins with the parent's. Raises BatchRunError.
    """
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as started:
        peak = 0.0
        try:
            while started.poll() is None:
                resident = 0
                for process in tree(started.pid):
                    with suppress(psutil.NoSuchProcess):
                        resident += process.memory_info().rss
                peak = max(peak, resident / 1e6)
                time.sleep(0.02)
        finally:
            started.kill()
        said = started.stdout.read() if started.stdout is not None else ""
    if started.returncode:
        raise BatchRunError(f"`{' '.join(command[1:5])}` ended with {started.returncode}: {said[-1000:]}")
    found: dict[str, float] = json.loads(said.splitlines()[-1])
    return found, peak


def _write(source: Path, rows: int) -> None:
    """Row groups of 100,000 rows, one after the other in memory."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    generator = np.random.default_rng(2)
    schema = pa.schema([pa.field(name, pa.float64()) for name in NAMES])
    with pq.ParquetWriter(source, schema) as writer:
        for start in range(0, rows, 100_000):
            values = generator.normal(size=(min(100_000, rows - start), COLUMNS))
            writer.write_table(pa.table(dict(zip(NAMES, values.T, strict=True)), schema=schema))


def measured(way: str, model: BenchModel, bento: Path, source: Path) -> dict[str, float]:
    """Rows a second of *way*, the best of REPEATS."""
    import pyarrow.parquet as pq

    rows = pq.ParquetFile(source).metadata.num_rows
    call = _whole_file(way, bento, source) if way.startswith("shipway-file") else _loop(way, model, bento, source)
    seconds = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return {"rows_per_second": rows / min(seconds)}


def _loop(way: str, model: BenchModel, bento: Path, source: Path) -> Callable[[], Any]:
    if way == "shipway-loop":
        from bentos.serving.batch.rows import score_chunk
        from bentos.serving.batch.source import ParquetSource
        from bentos.serving.model.runner import ModelRunner

        runner = ModelRunner.load(bento, bulk=True)

        def loop() -> None:
            for table, _ in ParquetSource(source, 0).chunks():
                good, reasons = score_chunk(runner, table, text=False, probabilities=False)
                assert good is not None and not reasons

        return loop
    import pandas as pd

    frame = pd.read_parquet(source)
    if way == "raw":
        import joblib

        estimator = joblib.load(model.file())
        return lambda: estimator.predict(frame)
    import mlflow.pyfunc

    served = mlflow.pyfunc.load_model(str(model.mlflow))
    return lambda: served.predict(frame)


def _whole_file(way: str, bento: Path, source: Path) -> Callable[[], Any]:
    from bentos.serving.batch.score import score_file

    def call() -> None:
        with tempfile.TemporaryDirectory() as name:
            processes = 1 if way == "shipway-file" else 0
            done = score_file(bento, source, Path(name, "out.parquet"), Path(name, "bad.parquet"), processes=processes)
        assert not done.rejected

    return call


if __name__ == "__main__":
    way, folder, bento, source = sys.argv[1:]
    print(json.dumps(measured(way, BenchModel(Path(folder).name, Path(folder)), Path(bento), Path(source))))
