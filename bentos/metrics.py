"""What a server counts, as Prometheus reads it."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from bentos.segments import SegmentWriter

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class ServerMetrics:
    """Counters of one server, in a registry of their own."""

    def __init__(self, writer: SegmentWriter | None) -> None:
        self.registry = CollectorRegistry()
        labels = ("model", "version", "kind", "status")
        self._requests = Counter("shipway_requests", "Prediction requests answered.", labels, registry=self.registry)
        self._seconds = Histogram(
            "shipway_request_seconds",
            "Seconds from the whole request to its encoded answer.",
            ("model", "version", "kind"),
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self._reloads = Counter(
            "shipway_reloads", "Versions taken over or refused since the start.", ("outcome",), registry=self.registry
        )
        self._counters: dict[tuple[str, str, str, int], Counter] = {}
        self._timers: dict[tuple[str, str, str], Histogram] = {}
        self._state = _State(writer)
        self.registry.register(self._state)
        ProcessCollector(registry=self.registry)

    def observe(self, model: str, version: str, kind: str, status: int, latency_ns: int) -> None:
        """Counts one answered prediction request."""
        key = (model, version, kind, status)
        if (counter := self._counters.get(key)) is None:
            counter = self._counters[key] = self._requests.labels(model, version, kind, str(status))
        if (timer := self._timers.get(key[:3])) is None:
            timer = self._timers[key[:3]] = self._seconds.labels(*key[:3])
        counter.inc()
        timer.observe(latency_ns / 1e9)

    def reloaded(self, outcome: str, refused: str = "") -> None:
        """Counts a reload, "taken", "refused" or "kept" (the alias came back); *refused* is the reason that stands now, "" for none."""
        self._reloads.labels(outcome).inc()
        self._state.refused = refused

    def serve(self, model: str, version: str) -> None:
        """Says which version answers now."""
        self._state.live = (model, version)

    def render(self) -> bytes:
        """The text exposition format."""
        return generate_latest(self.registry)


class _State(Collector):
    """What is read when asked: the live version, and what the prediction log wrote and lost."""

    def __init__(self, writer: SegmentWriter | None) -> None:
        self._writer = writer
        self.live = ("", "")
        self.refused = ""

    def collect(self) -> Iterator[Metric]:
        info = GaugeMetricFamily("shipway_model_info", "The version that answers.", labels=("model", "version"))
        info.add_metric(self.live, 1)
        yield info
        refused = GaugeMetricFamily(
            "shipway_reload_refused_now", "1 while the alias names a version that was refused.", labels=("reason",)
        )
        if self.refused:
            refused.add_metric((self.refused[:200],), 1)
        yield refused
        if self._writer is not None:
            yield CounterMetricFamily("shipway_log_records", "Records written.", value=self._writer.written)
            yield CounterMetricFamily("shipway_log_dropped", "Records lost.", value=self._writer.dropped)
