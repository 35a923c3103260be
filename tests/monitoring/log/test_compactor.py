"""Segments become Parquet that DuckDB reads, once each, whatever is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import duckdb
import psutil
import pytest

from bentos.serving.log.segments import Record
from bentos.serving.log.writer import SegmentWriter
from monitoring.log.compactor import Pass, compact
from tests.bentos.logged import put

NOW = 1_700_000_000.0  # 2023-11-14 22:13:20 UTC
DAY = 86_400.0


def record(request_id: str, at: float) -> Record:
    more = ("baseline/1", False, 1, "1", 200, 3_000_000, "invocations", "application/json", 0, "application/json", 0)
    return Record(request_id, int(at * 1e9), *more, b'{"x": 1}', b'{"predictions": [1]}')


def segment(predictions: Path, *records: Record, model: str = "m", touched: float = NOW) -> Path:
    """A closed segment of a server."""
    folder = predictions / "segments" / model / "1"
    known = set(folder.glob("*"))
    writer = SegmentWriter(folder)
    for one in records:
        put(writer, one)
    writer.close()
    (path,) = set(folder.glob("*")) - known
    os.utime(path, (touched, touched))
    return path


def rows(predictions: Path) -> list[tuple[object, ...]]:
    """What a person asks DuckDB."""
    files = f"{predictions}/parquet/**/*.parquet"
    query = "select model, version, day, request_id, status, decode(response) from read_parquet(?, hive_partitioning=1) order by time"
    with duckdb.connect() as connection:
        return connection.execute(query, [files]).fetchall()


def test_closed_segments_become_parquet_by_day(tmp_path: Path) -> None:
    segment(tmp_path, record("a", NOW), record("b", NOW + DAY), model="my model")
    done = compact(tmp_path, retention_days=30, now=NOW + 10)
    assert done == Pass(compacted=1, records=2)
    found = [tuple(str(value) for value in row) for row in rows(tmp_path)]
    assert found == [
        ("my model", "1", "2023-11-14", "a", "200", '{"predictions": [1]}'),
        ("my model", "1", "2023-11-15", "b", "200", '{"predictions": [1]}'),
    ]
    assert compact(tmp_path, retention_days=30, now=NOW + 20) == Pass()


def test_segments_and_parquet_are_their_owner_s_alone_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        segment(tmp_path / "predictions", record("a", NOW))
        compact(tmp_path / "predictions", retention_days=30, now=NOW + 10)
    finally:
        os.umask(before)
    kept = [path for path in tmp_path.rglob("*") if path.suffix != ".compacted"]  # an empty file
    assert len([path for path in kept if path.is_file()]) == 2
    assert {path.stat().st_mode & 0o777 for path in kept if path.is_file()} == {0o600}
    assert {path.stat().st_mode & 0o777 for path in kept if path.is_dir()} == {0o700}


def test_an_open_segment_waits_for_its_server(tmp_path: Path) -> None:
    writer = SegmentWriter(tmp_path / "segments" / "m" / "1")
    put(writer, record("a", NOW))
    writer.flush()
    assert compact(tmp_path, retention_days=30, now=NOW) == Pass()
    writer.close()
    assert compact(tmp_path, retention_days=30, now=NOW).records == 1


def test_what_a_dead_server_left_open_is_compacted(tmp_path: Path) -> None:
    path = segment(tmp_path, record("a", NOW))
    left = path.rename(path.with_suffix(".open"))
    with left.open("ab") as file:
        file.write(b"\x99\x00\x00\x00torn")
    assert compact(tmp_path, retention_days=30, now=NOW).records == 1
    assert [row[3] for row in rows(tmp_path)] == ["a"]


def test_segments_stay_for_their_readers_then_go(tmp_path: Path) -> None:
    path = segment(tmp_path, record("a", NOW))
    compact(tmp_path, retention_days=30, keep_segments_seconds=900, now=NOW + 890)
    assert path.exists()
    assert compact(tmp_path, retention_days=30, keep_segments_seconds=900, now=NOW + 910).segments_deleted == 1
    assert list(path.parent.iterdir()) == []
    assert len(rows(tmp_path)) == 1


def test_killed_before_it_noted_its_work_it_repeats_nothing(tmp_path: Path) -> None:
    path = segment(tmp_path, record("a", NOW), record("b", NOW + DAY))
    compact(tmp_path, retention_days=30, now=NOW)
    path.with_suffix(".compacted").unlink()
    day = tmp_path / "parquet" / "model=m" / "version=1" / "day=2023-11-15"
    for file in day.iterdir():
        file.rename(file.with_name(f".{file.stem}.tmp"))  # killed before the rename
    compact(tmp_path, retention_days=30, now=NOW)
    assert [row[3] for row in rows(tmp_path)] == ["a", "b"]
    assert [file.suffix for file in day.iterdir()] == [".parquet"]


def test_retention_deletes_old_days_and_labels(tmp_path: Path) -> None:
    segment(tmp_path, record("old", NOW - 3 * DAY), record("edge", NOW - DAY), record("new", NOW))
    labels = tmp_path / "labels"
    labels.mkdir()
    for name, age in (("old", 3 * DAY), ("new", 0.0)):
        (labels / f"{name}.jsonl").touch()
        os.utime(labels / f"{name}.jsonl", (NOW - age, NOW - age))
    done = compact(tmp_path, retention_days=1.5, now=NOW)
    assert (done.days_deleted, done.labels_deleted) == (1, 1)
    assert [row[3] for row in rows(tmp_path)] == ["edge", "new"]
    assert [path.name for path in labels.iterdir()] == ["new.jsonl"]


def test_a_folder_that_cannot_be_written_keeps_its_segments(tmp_path: Path) -> None:
    path = segment(tmp_path, record("a", NOW))
    (tmp_path / "parquet").write_text("in the way")
    with pytest.raises(OSError, match="parquet"):
        compact(tmp_path, retention_days=30, keep_segments_seconds=0, now=NOW + DAY)
    assert path.exists()


def test_the_loop_compacts_rests_and_ends_on_sigterm(tmp_path: Path) -> None:
    segment(tmp_path / "predictions", record("a", time.time()))
    command = [sys.executable, "-m", "monitoring.log.compactor", "--home", str(tmp_path)]
    command += ["--retention-days", "30", "--period", "0.5"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            deadline = time.monotonic() + 60
            while not list((tmp_path / "predictions" / "parquet").glob("**/*.parquet")):
                assert process.poll() is None and time.monotonic() < deadline
                time.sleep(0.1)
            time.sleep(0.5)
            before = psutil.Process(process.pid).cpu_times()
            time.sleep(2)
            after = psutil.Process(process.pid).cpu_times()
            assert after.user + after.system - before.user - before.system < 0.2
            process.send_signal(signal.SIGTERM)
            _, said = process.communicate(timeout=20)
        finally:
            process.kill()
    assert process.returncode == 0
    assert "compacted=1, records=1" in said
