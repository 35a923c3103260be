"""From exec to ready, and the memory of a worker that has answered."""

from __future__ import annotations

import http.client
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import psutil

from benchmarks.models import BenchModel
from benchmarks.processes import Processes, free_port, resident_mb
from benchmarks.protocols import SCORING
from benchmarks.shipway import launch, runtime_of

if TYPE_CHECKING:
    from flows.release.prepare import Prepared

REQUESTS = 100  # before the memory is looked at


@dataclass(frozen=True)
class _Client:
    port: int

    def status(self, method: str, path: str, body: bytes | None = None) -> int:
        """0 where nobody answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request(method, path, body, {"content-type": "application/json"} if body else {})
            return connection.getresponse().status
        except OSError:
            return 0
        finally:
            connection.close()


def start(model: BenchModel, ready: Prepared, processes: Processes, folder: Path, times: int) -> dict[str, Any]:
    """Seconds from exec to the first 200 of /readyz, *times* times, and MB of memory after REQUESTS requests."""
    body = SCORING.request(model, 1)
    seconds, memory, own = [], [], []
    for turn in range(times):
        client = _Client(free_port())
        where = ["--host", "127.0.0.1", "--port", str(client.port)]
        began = time.perf_counter()
        pid = launch("start", ready, processes, where, folder / f"segments-start-{turn}")
        processes.wait(pid, lambda: client.status("GET", "/readyz") == 200)  # noqa: B023 - called at once
        seconds.append(time.perf_counter() - began)
        for _ in range(REQUESTS):
            assert client.status("POST", "/invocations", body) == 200
        memory.append(psutil.Process(pid).memory_info().rss / 1e6)
        own.append(resident_mb([pid]))
        processes.end([pid])
    return {
        "model": model.key,
        "runtime": runtime_of(ready)["runtime"],
        "ready_seconds": {"min": min(seconds), "median": median(seconds), "max": max(seconds)},
        "memory_mb": median(memory),
        "proportional_mb": median(own),
    }
