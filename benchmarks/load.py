"""A closed loop of HTTP requests: some connections, each sending its next request when the answer to the last is whole.

``wrk`` where it is found on PATH; else ``python -m benchmarks.load``, which costs about as much as a fast server does.
"""

from __future__ import annotations

import asyncio
import json
import math
import resource
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.processes import beside_the_server

CONNECTIONS = 8


class LoadError(Exception):
    """A measurement that means nothing: requests failed, or the generator itself did."""


@dataclass(frozen=True)
class Load:
    """What one measurement saw; latencies in milliseconds, the generator's own processor time in seconds."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    failed: int
    client_cpu_seconds: float = 0.0

    @property
    def requests_per_second(self) -> float:
        """Answers a second."""
        return self.requests / self.seconds


def generator() -> str:
    """Name and version of what ``closed_loop`` uses."""
    if shutil.which("wrk") is None:
        return "benchmarks/load.py (wrk was not found on PATH)"
    said = subprocess.run(["wrk", "-v"], capture_output=True, text=True, check=False)
    return " ".join((said.stdout or said.stderr).split()[:2])


def closed_loop(port: int, path: str, body: bytes, *, seconds: int, folder: Path) -> Load:
    """Posts *body* as JSON to *path* on this machine's *port* for *seconds* over CONNECTIONS keep-alive connections.

    *folder* is for its own files. Raises LoadError where any request failed.
    """
    before = _children_cpu()
    load = (_wrk if shutil.which("wrk") else _python)(port, path, body, seconds, folder)
    load = Load(**{**asdict(load), "client_cpu_seconds": _children_cpu() - before})
    if load.failed or not load.requests:
        raise LoadError(f"{load.failed} of {load.requests} requests to port {port}{path} failed, expected none")
    return load


_LUA = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
local file = io.open("{body}", "rb")
wrk.body = file:read("*a")
file:close()
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format("RESULT %d %d %d %d %d\\n", summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99), e.connect + e.read + e.write + e.status + e.timeout))
end
"""


def _wrk(port: int, path: str, body: bytes, seconds: int, folder: Path) -> Load:
    sent, script = folder / "body.json", folder / "post.lua"
    sent.write_bytes(body)
    script.write_text(_LUA.replace("{body}", str(sent)))
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--timeout", "10s", "-s", str(script)]
    command.append(f"http://127.0.0.1:{port}{path}")
    done = subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=beside_the_server)
    found = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if done.returncode or len(found) != 1:
        raise LoadError(f"wrk ended with {done.returncode}: {(done.stderr or done.stdout)[-500:]}")
    requests, duration, p50, p99, failed = map(int, found[0])  # microseconds
    return Load(requests, duration / 1e6, p50 / 1e3, p99 / 1e3, failed)


def _python(port: int, path: str, body: bytes, seconds: int, folder: Path) -> Load:
    sent = folder / "body.json"
    sent.write_bytes(body)
    command = [sys.executable, "-m", "benchmarks.load", str(port), path, str(sent), str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=beside_the_server)
    if done.returncode:
        raise LoadError(f"benchmarks.load ended with {done.returncode}: {done.stderr[-500:]}")
    return Load(**json.loads(done.stdout))


def _children_cpu() -> float:
    """Processor seconds of this process' children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def request_bytes(path: str, body: bytes) -> bytes:
    """The whole POST of *body* as JSON, as it goes over the wire."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def measure(port: int, path: str, body: bytes, seconds: float) -> Load:
    """The closed loop in Python; answers other than 200 count as failed."""
    request = request_bytes(path, body)
    latencies: list[float] = []
    failed = 0
    start = time.perf_counter()

    async def one() -> None:
        nonlocal failed
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while (began := time.perf_counter()) < start + seconds:
            writer.write(request)
            answer = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(content_length(answer))
            latencies.append(1e3 * (time.perf_counter() - began))
            failed += not answer.startswith(b"HTTP/1.1 200")
        writer.close()

    await asyncio.gather(*(one() for _ in range(CONNECTIONS)))
    took = time.perf_counter() - start
    return Load(len(latencies), took, percentile(latencies, 50), percentile(latencies, 99), failed)


def content_length(head: bytes) -> int:
    """The length that an answer's head names. Raises LoadError where it names none."""
    _, found, rest = head.lower().partition(b"\r\ncontent-length:")
    if found:
        return int(rest.partition(b"\r\n")[0])
    raise LoadError(f"an answer without Content-Length, which this client needs: {head[:200]!r}")


def percentile(values: list[float], percent: float) -> float:
    """The smallest value that *percent* of *values* do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


if __name__ == "__main__":
    port, path, file, seconds = sys.argv[1:]
    print(json.dumps(asdict(asyncio.run(measure(int(port), path, Path(file).read_bytes(), float(seconds))))))
