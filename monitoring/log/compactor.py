"""Compacts closed segments to Parquet by model, version and day, and deletes what is older than the retention.

One pass is idempotent and may be killed anywhere: a segment's Parquet files have names made from its own, appear by one
rename, and the segment is deleted only when they are there and its grace is over, because release readers tail segments.
Where SHIPWAY_STORE names a bucket, Parquet files move there, each deleted here once it is there whole.
Run it as ``python -m monitoring.log.compactor --home .shipway --retention-days 30``; SIGTERM ends it after the file at hand.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from bentos.serving.files import private_file, private_folder
from bentos.serving.log.segments import Record, abandoned, scan_segment, segments
from infra.settings import load_settings
from infra.stores.configured import log_store
from infra.stores.interface import Store, StoreError
from monitoring.log.uploads import drop_stored_days, upload

if TYPE_CHECKING:
    import pyarrow as pa

DAY_SECONDS = 86_400.0
SWEEP_SECONDS = 3600.0  # between two listings of a store for its retention: each costs a request per thousand files
DONE = ".compacted"  # an empty file beside a segment whose Parquet files are all there

log = logging.getLogger("shipway.compactor")


@dataclass(frozen=True)
class Pass:
    """What one pass did: segments compacted, records in them, segments, day folders and label files deleted, Parquet
    files uploaded, and those that wait for their upload."""

    compacted: int = 0
    records: int = 0
    segments_deleted: int = 0
    days_deleted: int = 0
    labels_deleted: int = 0
    uploaded: int = 0
    waiting: int = 0


def compact(
    predictions: Path,
    *,
    retention_days: float,
    keep_segments_seconds: float = 3600.0,
    now: float | None = None,
    stopping: Callable[[], bool] = lambda: False,
    store: Store | None = None,
) -> Pass:
    """One pass over the prediction log at *predictions* (its folders segments/, parquet/ and labels/).

    *now* is unix seconds. With a *store* the Parquet files move there. Raises OSError where the folder cannot be written:
    nothing is deleted before it was compacted. A store that takes nothing raises nothing; the files wait.
    """
    now = time.time() if now is None else now
    compacted = records = deleted = 0
    for folder in sorted(path for path in (predictions / "segments").glob("*/*") if path.is_dir()):
        for path in segments(folder):
            if stopping() or not abandoned(path):
                continue
            done = folder / f"{path.stem}{DONE}"
            if not done.exists():
                records += _compact(path, predictions / "parquet")
                done.touch()
                compacted += 1
            if now - _touched(path) > keep_segments_seconds:
                path.unlink(missing_ok=True)
                path.with_suffix(".seg").unlink(missing_ok=True)
                done.unlink(missing_ok=True)
                deleted += 1
    uploaded, waiting = upload(predictions / "parquet", store) if store is not None else (0, 0)
    oldest = now - retention_days * DAY_SECONDS
    days, labels = _drop_days(predictions, oldest), _drop_labels(predictions, oldest)
    return Pass(compacted, records, deleted, days, labels, uploaded, waiting)


def _touched(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return path.with_suffix(".seg").stat().st_mtime  # its server closed it meanwhile


def _compact(path: Path, parquet: Path) -> int:
    """Writes the Parquet files of one segment, one a day; returns how many records they hold."""
    import pyarrow.parquet as pq

    model, version = path.parent.parent.name, path.parent.name
    days: dict[date, list[Record]] = {}
    records = scan_segment(path).records
    for record in records:
        days.setdefault(datetime.fromtimestamp(record.time_ns / 1e9, UTC).date(), []).append(record)
    for day, rows in days.items():
        folder = parquet / f"model={quote(model, safe='')}" / f"version={quote(version, safe='')}" / f"day={day}"
        hidden = private_folder(folder) / f".{path.stem}.tmp"
        with open(hidden, "wb", opener=private_file) as file:
            pq.write_table(_table(rows), file, compression="zstd")
        hidden.rename(folder / f"{path.stem}.parquet")
    return len(records)


def _table(records: Sequence[Record]) -> pa.Table:
    """Records as columns of the same names; ``time`` beside ``time_ns`` is for people."""
    import pyarrow as pa

    kinds: dict[str, Any] = {
        "request_id": pa.string(),
        "time_ns": pa.int64(),
        "assigned": pa.string(),
        "mirrored": pa.bool_(),
        "attempt": pa.int32(),
        "status": pa.int32(),
        "latency_ns": pa.int64(),
        "kind": pa.string(),
        "content_type": pa.string(),
        "request_header_length": pa.int32(),
        "response_content_type": pa.string(),
        "response_header_length": pa.int32(),
        "request": pa.binary(),
        "response": pa.binary(),
        "request_truncated": pa.bool_(),
        "response_truncated": pa.bool_(),
    }  # the version is the folder's name
    columns = {name: pa.array([getattr(record, name) for record in records], kind) for name, kind in kinds.items()}
    columns["time"] = columns["time_ns"].cast(pa.timestamp("ns", tz="UTC"))
    return pa.table(columns)


def _last_day(oldest: float) -> date:
    """The last day that ended before *oldest* (unix seconds)."""
    return datetime.fromtimestamp(oldest, UTC).date() - timedelta(days=1)


def _drop_days(predictions: Path, oldest: float) -> int:
    """Deletes day folders that ended before *oldest* (unix seconds)."""
    last, deleted = _last_day(oldest), 0
    for folder in (predictions / "parquet").glob("model=*/version=*/day=*"):
        if date.fromisoformat(folder.name.removeprefix("day=")) > last:
            continue
        for path in folder.iterdir():
            path.unlink(missing_ok=True)
        folder.rmdir()
        deleted += 1
    return deleted


def _drop_labels(predictions: Path, oldest: float) -> int:
    old = [path for path in (predictions / "labels").glob("*.jsonl") if path.stat().st_mtime < oldest]
    for path in old:
        path.unlink(missing_ok=True)
    return len(old)


def run(
    predictions: Path,
    *,
    retention_days: float,
    keep_segments_seconds: float,
    period: float,
    stop: threading.Event,
    store: Store | None = None,
) -> None:
    """A pass every *period* seconds until *stop*; a pass that fails is logged and tried again."""
    next_sweep = 0.0
    while not stop.is_set():
        try:
            done = compact(
                predictions,
                retention_days=retention_days,
                keep_segments_seconds=keep_segments_seconds,
                stopping=stop.is_set,
                store=store,
            )
            if done != Pass():
                log.info("%s", done)
            if store is not None and time.monotonic() >= next_sweep:
                dropped = drop_stored_days(store, _last_day(time.time() - retention_days * DAY_SECONDS))
                next_sweep = time.monotonic() + SWEEP_SECONDS
                if dropped:
                    log.info("%d days deleted in %s", dropped, store)
        except StoreError as error:
            log.warning("the retention of %s waits: %s", store, error)
        except OSError:
            log.exception("the prediction log at %s cannot be compacted now; trying again", predictions)
        stop.wait(period)


def main(arguments: Sequence[str] | None = None) -> None:
    """The supervised loop."""
    parser = argparse.ArgumentParser(prog="python -m monitoring.log.compactor", description=__doc__)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--home", type=Path, help="the stack's folder; the log is <home>/predictions")
    where.add_argument("--predictions", type=Path, help="the folder of segments/, parquet/ and labels/")
    parser.add_argument("--retention-days", type=float, required=True, help="older days and labels are deleted")
    parser.add_argument("--period", type=float, default=30.0, help="seconds between passes")
    parser.add_argument(
        "--keep-segments-seconds", type=float, default=3600.0, help="how long readers may still tail a closed segment"
    )
    chosen = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    run(
        chosen.predictions or chosen.home / "predictions",
        retention_days=chosen.retention_days,
        keep_segments_seconds=chosen.keep_segments_seconds,
        period=chosen.period,
        stop=stop,
        store=log_store(load_settings(os.environ)),
    )


if __name__ == "__main__":
    main()
