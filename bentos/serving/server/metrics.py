"""What a server counts, as Prometheus reads it.

Counting is on the way of every request, so it only adds to whole numbers (bentos/serving/cells.py); names, labels and buckets are
put to them when somebody asks.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import accumulate
from pathlib import Path

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from bentos.serving import cells as at
from bentos.serving.cells import KINDS, OUTCOMES, ROWS, SECONDS, STATUSES, Cells, SharedCells, totals
from bentos.serving.log.writer import SegmentWriter

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_KIND = {kind: index * at.KIND_CELLS for index, kind in enumerate(KINDS)}
_STATUS = {status: at.STATUS_AT + index for index, status in enumerate(STATUSES)}
_OTHER = at.STATUS_AT + len(STATUSES)
_BOUNDS = [round(seconds * 1e9) for seconds in SECONDS]
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class ServerMetrics(Collector):
    """What one server of *version* of *model* counts. With ``share``, what all workers behind one socket count together.

    Only ``followed`` and ``render`` may be called while something else is; the rest by one caller at a time.
    """

    def __init__(self, writer: SegmentWriter | None, model: str, version: str) -> None:
        self.registry = CollectorRegistry()
        self.queue: Callable[[], int] = int  # how many requests wait now
        self._writer = writer
        self._version, self._refused = (model, version), ""
        self._server: Cells = [0] * at.SERVER_CELLS
        self._server[at.PID_AT] = os.getpid()
        self._answers: Cells = [0] * at.VERSION_CELLS
        self._shared: SharedCells | None = None
        self._process = ProcessCollector(registry=None)
        self.registry.register(self)

    def share(self, shared: SharedCells, worker: int) -> None:
        """Counts in *worker*'s part of *shared*, before the first request; whoever is asked tells the sum of all."""
        self._shared = shared
        self._server = shared.server(worker)
        self._server[at.PID_AT] = os.getpid()
        self._server[at.QUEUE_AT] = self._server[at.CLOSED_AT] = 0
        self._answers = shared.version(worker)
        if self._writer is not None:
            self._writer.count_in(shared.server(worker)[at.LOG_AT : at.LOG_AT + 2])

    def observe(self, kind: str, status: int, latency_ns: int) -> None:
        """Counts one answered prediction request."""
        counts, start = self._answers, _KIND[kind]
        counts[start + _STATUS.get(status, _OTHER)] += 1
        counts[start + at.LATENCY_AT + bisect_left(_BOUNDS, latency_ns)] += 1
        counts[start + at.LATENCY_SUM_AT] += latency_ns
        if self._shared is not None:
            self._server[at.QUEUE_AT] = self.queue()

    def rejected(self) -> None:
        """Counts a request that found the queue full (429)."""
        self._server[at.REJECTED_AT] += 1

    def late(self) -> None:
        """Counts a request that was not answered within its deadline (504)."""
        self._server[at.LATE_AT] += 1

    def batch(self, rows: int) -> None:
        """Counts one predict of *rows* rows."""
        self._server[at.BATCH_AT + bisect_left(ROWS, rows)] += 1
        self._server[at.BATCH_SUM_AT] += rows

    def connections_closed(self, number: int) -> None:
        """Says how many connections have come to their end; for the parent of workers."""
        self._server[at.CLOSED_AT] = number

    def followed(self, outcome: str, refused: str = "") -> None:
        """Counts a move of the alias: "taken", "refused" or "kept" (the alias came back); *refused* is the reason that stands now, "" for none."""
        self._server[at.OUTCOME_AT + OUTCOMES.index(outcome)] += 1
        self._refused = refused

    def render(self) -> bytes:
        """The text exposition format."""
        return generate_latest(self.registry)

    def collect(self) -> Iterator[Metric]:
        """Every number, with its name."""
        if self._shared is not None:
            self._server[at.QUEUE_AT] = self.queue()
            yield from self._tell(self._shared.servers(), self._shared.versions())
            return
        yield from self._tell([self._server], [self._answers])
        yield from self._process.collect()

    def _tell(self, servers: Sequence[Cells], answers: Sequence[Cells]) -> Iterator[Metric]:
        info = GaugeMetricFamily("shipway_model_info", "The version that answers.", labels=("model", "version"))
        info.add_metric(self._version, 1)
        yield info
        yield from _requests(self._version, answers)
        yield from self._reloads(servers)
        rejected, late = totals(servers, at.REJECTED_AT, 2)
        yield CounterMetricFamily("shipway_rejected", "Requests that found the queue full (429).", value=rejected)
        yield CounterMetricFamily("shipway_late", "Requests not answered within their deadline (504).", value=late)
        waiting = self.queue() if self._shared is None else totals(servers, at.QUEUE_AT, 1)[0]
        yield GaugeMetricFamily("shipway_queue", "Requests that wait.", value=waiting)
        sizes = HistogramMetricFamily("shipway_batch_rows", "Rows of one predict.")
        counts = totals(servers, at.BATCH_AT, len(ROWS) + 2)
        sizes.add_metric((), _cumulative(ROWS, counts[:-1]), counts[-1])
        yield sizes
        if self._writer is not None:
            counts = [self._writer.written, self._writer.dropped]
            if self._shared is not None:
                counts = totals(servers, at.LOG_AT, 2)
            yield CounterMetricFamily("shipway_log_records", "Records written.", value=counts[0])
            yield CounterMetricFamily("shipway_log_dropped", "Records lost.", value=counts[1])
        yield _memory(servers)

    def _reloads(self, servers: Sequence[Cells]) -> Iterator[Metric]:
        """Workers are all told of the same reloads: the one that has heard of most is right."""
        reloads = CounterMetricFamily(
            "shipway_reloads", "Versions taken over or refused since the start.", labels=("outcome",)
        )
        for index, outcome in enumerate(OUTCOMES):
            if count := max(each[at.OUTCOME_AT + index] for each in servers):
                reloads.add_metric((outcome,), count)
        yield reloads
        refused = GaugeMetricFamily(
            "shipway_reload_refused_now", "1 while the alias names a version that was refused.", labels=("reason",)
        )
        if self._refused:
            refused.add_metric((self._refused[:200],), 1)
        yield refused


def _requests(version: tuple[str, str], answers: Sequence[Cells]) -> Iterator[Metric]:
    """How many requests, and how long they took, of every kind that there were some of."""
    answered = CounterMetricFamily(
        "shipway_requests", "Prediction requests answered.", labels=("model", "version", "kind", "status")
    )
    took = HistogramMetricFamily(
        "shipway_request_seconds",
        "Seconds from the whole request to its encoded answer.",
        labels=("model", "version", "kind"),
    )
    for kind, start in _KIND.items():
        counts = totals(answers, start, at.KIND_CELLS)
        for status, count in zip((*STATUSES, "other"), counts[: at.LATENCY_AT], strict=True):
            if count:
                answered.add_metric((*version, kind, str(status)), count)
        latencies = counts[at.LATENCY_AT : at.LATENCY_SUM_AT]
        if any(latencies):
            took.add_metric((*version, kind), _cumulative(SECONDS, latencies), counts[at.LATENCY_SUM_AT] / 1e9)
    yield answered
    yield took


def _memory(servers: Sequence[Cells]) -> Metric:
    resident = GaugeMetricFamily(
        "shipway_worker_resident_bytes", "Memory of each process that answers.", labels=("worker",)
    )
    for worker, each in enumerate(servers):
        with suppress(OSError, IndexError):  # between its end and its next start
            pages = Path(f"/proc/{each[at.PID_AT]}/statm").read_text().split()[1]
            resident.add_metric((str(worker),), int(pages) * _PAGE_BYTES)
    return resident


def _cumulative(bounds: Sequence[float], counts: Sequence[int]) -> list[tuple[str, float]]:
    names = [*(str(float(bound)) for bound in bounds), "+Inf"]
    return list(zip(names, accumulate(counts), strict=True))
