"""What a server counts, as Prometheus' own parser reads it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from bentos.serving.cells import SharedCells
from bentos.serving.log.segments import Record
from bentos.serving.log.writer import SegmentWriter
from bentos.serving.server.metrics import ServerMetrics
from tests.bentos.logged import put

RECORD = Record("id", 1, "", False, 1, "3", 200, 1, "v2", "", 0, "", 0, b"q" * 100, b"a")


def told(metrics: ServerMetrics) -> dict[tuple[str, ...], float]:
    """Every sample by its name and its labels' values."""
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(metrics.render().decode())
        for sample in family.samples
    }


def serving(writer: SegmentWriter | None = None) -> ServerMetrics:
    return ServerMetrics(writer, "flights", "3")


def test_requests_are_counted_by_kind_and_status() -> None:
    metrics = serving()
    for kind, status, latency in [("v2", 200, 99_000), ("v2", 200, 100_000), ("v2", 429, 11 * 10**9), ("grpc", 418, 1)]:
        metrics.observe(kind, status, latency)
    metrics.observe("invocations", 200, 2_000_000)
    found = told(metrics)
    assert found["shipway_model_info", "flights", "3"] == 1
    assert found["shipway_requests_total", "v2", "flights", "200", "3"] == 2
    assert found["shipway_requests_total", "v2", "flights", "429", "3"] == 1
    assert found["shipway_requests_total", "grpc", "flights", "other", "3"] == 1
    assert found["shipway_requests_total", "invocations", "flights", "200", "3"] == 1
    assert len([key for key in found if key[0] == "shipway_requests_total"]) == 4
    buckets = {key[2]: value for key, value in found.items() if key[:2] == ("shipway_request_seconds_bucket", "v2")}
    assert (buckets["0.0001"], buckets["10.0"], buckets["+Inf"]) == (2, 2, 3)  # a bound belongs to its bucket
    assert found["shipway_request_seconds_count", "v2", "flights", "3"] == 3
    assert found["shipway_request_seconds_sum", "v2", "flights", "3"] == pytest.approx(11.000199)


def test_the_rest_of_what_happens_is_told() -> None:
    metrics = serving()
    waiting = [1, 2]
    metrics.queue = lambda: len(waiting)
    metrics.rejected()
    metrics.late()
    metrics.late()
    for rows in (1, 3, 100_000):
        metrics.batch(rows)
    metrics.followed("refused", "no such package")
    found = told(metrics)
    assert (found["shipway_rejected_total",], found["shipway_late_total",], found["shipway_queue",]) == (1, 2, 2)
    sizes = [found["shipway_batch_rows_bucket", bound] for bound in ("1.0", "2.0", "4.0", "65536.0", "+Inf")]
    assert sizes == [1, 1, 2, 2, 3]
    assert found["shipway_batch_rows_sum",] == 100_004
    assert found["shipway_reloads_total", "refused"] == 1
    assert found["shipway_reload_refused_now", "no such package"] == 1
    assert found["shipway_worker_resident_bytes", "0"] > 1e6
    metrics.followed("taken")
    assert ("shipway_reload_refused_now", "no such package") not in told(metrics)


def test_workers_tell_the_sum_whichever_is_asked(tmp_path: Path) -> None:
    memory = SharedCells.create(2)
    writers = [SegmentWriter(tmp_path / str(worker), flush_seconds=60, max_buffer=500) for worker in range(2)]
    workers = [serving(writer) for writer in writers]
    for worker, metrics in enumerate(workers):
        metrics.share(SharedCells(memory), worker)
        metrics.queue = lambda worker=worker: worker + 1
        for _ in range(worker + 1):
            metrics.observe("v2", 200, 1_000_000)
            metrics.rejected()
        metrics.followed("taken")  # both are told of the same
    for _ in range(4):
        put(writers[1], RECORD)
    for writer in writers:
        put(writer, RECORD)
        writer.close()
    expected = {
        ("shipway_requests_total", "v2", "flights", "200", "3"): 3,
        ("shipway_request_seconds_count", "v2", "flights", "3"): 3,
        ("shipway_rejected_total",): 3,
        ("shipway_queue",): 3,
        ("shipway_reloads_total", "taken"): 1,
        ("shipway_log_records_total",): 1 + writers[1].written,
        ("shipway_log_dropped_total",): 5 - writers[1].written,
    }
    assert 0 < writers[1].written < 5
    for metrics in workers:
        found = told(metrics)
        assert {key: found[key] for key in expected} == expected
    another = serving()  # in the place of the second one, which died
    another.share(SharedCells(memory), 1)
    another.observe("v2", 200, 1_000_000)
    found = told(workers[0])
    assert found["shipway_requests_total", "v2", "flights", "200", "3"] == 4
    assert found["shipway_queue",] == 1
    os.close(memory)
