"""The compacted log moves into a bucket: whole, once, nothing lost while the bucket is away."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import duckdb
import pytest
from pyarrow import dataset, fs

from bentos.serving.log.segments import Record
from bentos.serving.log.writer import SegmentWriter
from infra.stores.folder import FolderStore
from infra.stores.s3 import S3Store
from monitoring.log.compactor import DAY_SECONDS, Pass, compact
from monitoring.log.uploads import drop_stored_days, upload
from tests.bentos.logged import put
from tests.infra.stores.servers import S3, s3_server

NOW = 1_700_000_000.0  # 2023-11-14 22:13:20 UTC


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    with s3_server(tmp_path_factory.mktemp("s3")) as made:
        yield made


def log_requests(predictions: Path, *requests: str, at: float = NOW, model: str = "my model") -> None:
    """A closed segment of a server, with one request at *at* and one every day after it."""
    more = ("baseline/1", False, 1, "1", 200, 3_000_000, "invocations", "application/json", 0, "application/json", 0)
    writer = SegmentWriter(predictions / "segments" / model / "1")
    for number, request in enumerate(requests):
        put(writer, Record(request, int((at + number * DAY_SECONDS) * 1e9), *more, b'{"x": 1}', b'{"y": 1}'))
    writer.close()


def stored_rows(s3: S3, bucket: str) -> list[tuple[object, ...]]:
    """What a person asks DuckDB of the bucket, as docs/stores.md says it."""
    filesystem = fs.S3FileSystem(
        endpoint_override=s3.endpoint, access_key=s3.access_key, secret_key=s3.secret_key, region="us-east-1"
    )
    log = dataset.dataset(f"{bucket}/a/predictions", filesystem=filesystem, partitioning="hive")
    with duckdb.connect() as connection:
        connection.register("log", log)
        query = "SELECT model, version::VARCHAR, day::VARCHAR, request_id, decode(response) FROM log ORDER BY time_ns"
        return connection.execute(query).fetchall()


def parquet(predictions: Path) -> list[Path]:
    return sorted((predictions / "parquet").rglob("*.parquet"))


def test_parquet_moves_into_the_bucket_and_is_read_there(s3, tmp_path):
    store = s3.store("s3://moves/a/predictions")
    log_requests(tmp_path, "a", "b")
    assert compact(tmp_path, retention_days=30, now=NOW, store=store) == Pass(compacted=1, records=2, uploaded=2)
    assert parquet(tmp_path) == []
    assert list((tmp_path / "parquet").iterdir()) == []
    assert [key.rpartition("/")[0] for key in s3.keys("moves")] == [
        f"a/predictions/model=my%20model/version=1/day=2023-11-{day}" for day in (14, 15)
    ]
    assert stored_rows(s3, "moves") == [
        ("my model", "1", "2023-11-14", "a", '{"y": 1}'),
        ("my model", "1", "2023-11-15", "b", '{"y": 1}'),
    ]
    assert compact(tmp_path, retention_days=30, now=NOW, store=store) == Pass()


def test_a_bucket_that_is_away_loses_nothing(s3, tmp_path):
    store = s3.store("s3://away/a/predictions")
    away = S3Store(str(store), s3.access.model_copy(update={"endpoint": "http://127.0.0.1:1"}))
    log_requests(tmp_path, "a", "b")
    first = compact(tmp_path, retention_days=30, now=NOW, store=away)
    assert (first.records, first.uploaded, first.waiting) == (2, 0, 2)
    log_requests(tmp_path, "c", at=NOW + 2 * DAY_SECONDS)
    later = compact(tmp_path, retention_days=100_000, keep_segments_seconds=0, now=time.time() + 60, store=away)
    assert (later.records, later.waiting, later.segments_deleted) == (1, 3, 2)
    assert compact(tmp_path, retention_days=30, now=NOW, store=store) == Pass(uploaded=3)
    assert [row[3] for row in stored_rows(s3, "away")] == ["a", "b", "c"]
    assert parquet(tmp_path) == []


def test_what_was_uploaded_before_a_kill_is_there_once(s3, tmp_path):
    store = s3.store("s3://twice/a/predictions")
    log_requests(tmp_path, "a", "b")
    compact(tmp_path, retention_days=30, now=NOW)
    first = parquet(tmp_path)[0]
    store.put(first.relative_to(tmp_path / "parquet").as_posix(), first)  # killed before it deleted its own
    assert upload(tmp_path / "parquet", store) == (2, 0)
    next((tmp_path / "segments").rglob("*.compacted")).unlink()  # killed before it noted that the segment is done
    assert compact(tmp_path, retention_days=30, now=NOW, store=store).uploaded == 2
    assert [row[3] for row in stored_rows(s3, "twice")] == ["a", "b"]


@pytest.mark.parametrize("kind", ["folder", "s3"])
def test_the_retention_applies_in_the_store(s3, tmp_path, kind):
    store = s3.store("s3://retained/a/predictions") if kind == "s3" else FolderStore(tmp_path / "store")
    log_requests(tmp_path, "old", "edge", "new")
    compact(tmp_path, retention_days=30, now=NOW, store=store)
    (tmp_path / "other").write_text("not ours")
    for key in ("README", "notes/day=old/a"):
        store.put(key, tmp_path / "other")
    assert drop_stored_days(store, date(2023, 11, 14)) == 1
    assert drop_stored_days(store, date(2023, 11, 14)) == 0
    kept = sorted(stored.key.rpartition("/")[0].rpartition("/")[2] for stored in store.list())
    assert kept == ["", "day=2023-11-15", "day=2023-11-16", "day=old"]


def test_the_part_finds_its_bucket_in_the_settings(s3, tmp_path):
    s3.store("s3://part")
    log_requests(tmp_path / "predictions", "a", at=time.time())
    log_requests(tmp_path / "predictions", "old", at=NOW)
    (tmp_path / "key").write_text(s3.secret_key)
    environ = {
        "SHIPWAY_STORE": "s3://part/a",
        "SHIPWAY_S3_ENDPOINT": s3.endpoint,
        "SHIPWAY_S3_ACCESS_KEY": s3.access_key,
        "SHIPWAY_S3_SECRET_KEY_FILE": str(tmp_path / "key"),
    }
    command = [sys.executable, "-m", "monitoring.log.compactor", "--home", str(tmp_path), "--retention-days", "100000"]
    with subprocess.Popen(command, env={**os.environ, **environ}, stderr=subprocess.PIPE, text=True) as process:
        try:
            deadline = time.monotonic() + 60
            while len(s3.keys("part")) < 2 or parquet(tmp_path / "predictions"):
                assert process.poll() is None and time.monotonic() < deadline
                time.sleep(0.1)
            process.send_signal(signal.SIGTERM)
            _, said = process.communicate(timeout=20)
        finally:
            process.kill()
    assert process.returncode == 0
    assert "uploaded=2" in said and s3.secret_key not in said
    assert [row[3] for row in stored_rows(s3, "part")] == ["old", "a"]
    command[-1] = "30"
    with subprocess.Popen(command, env={**os.environ, **environ}, stderr=subprocess.PIPE, text=True) as process:
        try:
            deadline = time.monotonic() + 60
            while len(s3.keys("part")) > 1:
                assert process.poll() is None and time.monotonic() < deadline
                time.sleep(0.1)
        finally:
            process.kill()
            process.communicate(timeout=20)
    assert [row[3] for row in stored_rows(s3, "part")] == ["a"]
