"""What is measured of the servers of one model, in which order, and the numbers that come of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.load import Load, LoadError, closed_loop
from benchmarks.models import BenchModel
from benchmarks.open_loop import OpenLoad, open_loop
from benchmarks.processes import cpu_seconds, resident_mb
from benchmarks.servers import Server

SHARE = 0.7  # of its capacity, the load under which a server's p99 is looked at
FEWEST = 200  # requests of an open loop, if that takes no longer than OPEN_SECONDS
OPEN_SECONDS = 8.0
LIGHT_RATES = (200.0, 1_000.0, 2_000.0)  # requests a second that ours take with ease


class BenchError(Exception):
    """A measurement that failed; the message names server, model and rows."""


@dataclass(frozen=True)
class Effort:
    """How long is measured: *rounds* of *seconds*, after one second for warming; *open_seconds* of an open loop."""

    rounds: int
    seconds: int
    open_seconds: float

    def of(self, rows: int) -> int:
        """Seconds of a round with requests of *rows* rows: large ones vary less, and are not what most users send."""
        return self.seconds if rows == 1 else max(1, self.seconds // 2)


FULL, QUICK = Effort(rounds=3, seconds=2, open_seconds=1.5), Effort(rounds=1, seconds=1, open_seconds=0.5)


@dataclass(frozen=True)
class Round:
    """One closed loop and what the server's processes used of the processors meanwhile."""

    load: Load
    server_cpu_seconds: float


def measure(
    model: BenchModel, servers: Sequence[Server], effort: Effort, folder: Path, tell: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Every server in turn, round after round, so that a noisy moment falls on all of them; then each at SHARE of what
    it did. Results as .shipway/bench/serving.json has them. Raises BenchError."""
    rounds: dict[tuple[str, int], list[Round]] = {}
    for rows in (1, 100):
        for turn in range(effort.rounds + 1):
            for server in servers:
                if rows in server.rows:
                    found = _closed(server, model, rows, effort.of(rows) if turn else 1, folder)
                    if turn:  # the first warms
                        rounds.setdefault((server.name, rows), []).append(found)
            tell(f"{model.key}: requests of {rows}, round {turn} of {effort.rounds}")
    results = [result(model.key, server, rows, rounds[server.name, rows]) for server in servers for rows in server.rows]
    by_name = {server.name: server for server in servers}
    single = {one["server"]: one for one in results if one["rows"] == 1}
    rates = {name: SHARE * one["requests_per_second"]["median"] for name, one in single.items()}
    loads: dict[str, list[OpenLoad]] = {name: [] for name in single}
    for turn in range(effort.rounds):
        for name, rate in rates.items():
            if not turn or rate * effort.open_seconds >= FEWEST:  # slow servers are asked for longer, once
                server = by_name[name]
                loads[name].append(_open(server, model, rate, effort, folder, spins=server.pinned))
    for name, one in single.items():
        one["open_loop"] = {"rate": rates[name], **_medians(loads[name])}
    return results


def _medians(loads: Sequence[OpenLoad]) -> dict[str, Any]:
    numbers = {key: median(getattr(load, key) for load in loads) for key in ("p50_ms", "p99_ms", "late_p99_ms")}
    return {**numbers, "rounds": [asdict(load) for load in loads]}


def _closed(server: Server, model: BenchModel, rows: int, seconds: int, folder: Path) -> Round:
    body = server.protocol.request(model, rows)
    before = cpu_seconds(server.pids)
    try:
        load = closed_loop(server.port, server.path, body, seconds=seconds, folder=folder)
    except LoadError as error:
        raise BenchError(f"{server.name}, {model.key}, {rows} rows: {error}") from error
    return Round(load, cpu_seconds(server.pids) - before)


def _open(server: Server, model: BenchModel, rate: float, effort: Effort, folder: Path, *, spins: bool) -> OpenLoad:
    seconds = max(effort.open_seconds, min(OPEN_SECONDS, FEWEST / rate))
    body = server.protocol.request(model, 1)
    try:
        return open_loop(server.port, server.path, body, rate=rate, seconds=seconds, folder=folder, spins=spins)
    except LoadError as error:
        raise BenchError(f"{server.name}, {model.key}, open loop: {error}") from error


def result(key: str, server: Server, rows: int, rounds: Sequence[Round]) -> dict[str, Any]:
    """The numbers of one server, model and size of request; medians over the rounds."""
    rates = [one.load.requests_per_second for one in rounds]
    requests = sum(one.load.requests for one in rounds)
    return {
        "model": key,
        "server": server.name,
        "rows": rows,
        "requests_per_second": {"min": min(rates), "median": median(rates), "max": max(rates)},
        "p50_ms": median(one.load.p50_ms for one in rounds),
        "p99_ms": median(one.load.p99_ms for one in rounds),
        "requests_per_cpu_second": requests / max(1e-9, sum(one.server_cpu_seconds for one in rounds)),
        "server_cpus": sum(one.server_cpu_seconds for one in rounds) / sum(one.load.seconds for one in rounds),
        "client_cpus": sum(one.load.client_cpu_seconds for one in rounds) / sum(one.load.seconds for one in rounds),
        "memory_mb": resident_mb(server.pids),
        "processes": len(server.pids),
        "rounds": [{**asdict(one.load), "server_cpu_seconds": one.server_cpu_seconds} for one in rounds],
    }


def light(model: BenchModel, servers: Sequence[Server], effort: Effort, folder: Path) -> list[dict[str, Any]]:
    """The median latency of each server at LIGHT_RATES, in turn: what a gateway or a mirror adds for one user."""
    found: dict[tuple[str, float], list[OpenLoad]] = {}
    for rate in LIGHT_RATES:
        for _ in range(effort.rounds):
            for server in servers:
                found.setdefault((server.name, rate), []).append(
                    _open(server, model, rate, effort, folder, spins=False)  # gateways need all cores
                )
    return [
        {
            "model": model.key,
            "server": name,
            "rate": rate,
            **_medians(loads),
        }
        for (name, rate), loads in found.items()
    ]


def machine() -> dict[str, Any]:
    """What was measured on, and how busy it was before."""
    import platform

    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if "model name" in line
    ]
    return {
        "processor": names[0] if names else platform.processor(),
        "processors": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_before": os.getloadavg()[0],
    }
