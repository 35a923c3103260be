"""An open loop of HTTP requests: each is due at a fixed time, whether or not answers to those before it have come.

A latency counts from the moment that a request was due, so that a server that stalls is charged for everybody who would have
come meanwhile (what wrk2 and vegeta do; neither can be had as a package here). ``python -m benchmarks.open_loop`` is one
process that looks for answers without ever sleeping, on a core beside the server's; how late it sent is part of its result.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import select
import socket
import subprocess
import sys
import time
from collections import deque
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.load import LoadError, content_length, percentile, request_bytes
from benchmarks.processes import CLIENTS_CORES, SERVERS_CORE, beside_the_server

CONNECTIONS = 64
PATIENCE = 20.0  # seconds after the last request was due; what is not answered then has failed
_SET_TIMER_SLACK = 29  # of prctl(2)


@dataclass(frozen=True)
class OpenLoad:
    """What one measurement at *rate* requests a second saw; times in milliseconds.

    ``late_p99_ms`` is how late the generator itself sent where a connection was free: below it latencies mean nothing.
    """

    rate: float
    requests: int
    p50_ms: float
    p99_ms: float
    late_p99_ms: float
    client_cpu_seconds: float


def schedule(rate: float, seconds: float) -> list[float]:
    """Seconds from the start at which requests are due: *rate* a second, evenly, at least one."""
    return [number / rate for number in range(max(1, int(rate * seconds)))]


def open_loop(
    port: int, path: str, body: bytes, *, rate: float, seconds: float, folder: Path, spins: bool = True
) -> OpenLoad:
    """Posts *body* in a process of its own, which *spins* unless the servers need its core too. *folder* is for its own
    files. Raises LoadError where any request failed."""
    sent = folder / "open.json"
    sent.write_bytes(body)
    command = [sys.executable, "-m", "benchmarks.open_loop", str(port), path, str(sent), str(rate), str(seconds)]
    command += [] if spins and CLIENTS_CORES != SERVERS_CORE else ["--sleeps"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=beside_the_server)
    if done.returncode:
        raise LoadError(f"{rate:.0f} requests a second to port {port}{path}: {done.stderr[-500:]}")
    return OpenLoad(**json.loads(done.stdout))


class Loop:
    """One measurement: what is due, what waits for a connection, what is on its way.

    It never sleeps where it has a core to itself (*spins*): a core that slept takes as long to wake as many an answer
    takes, and that would count as the server's.
    """

    def __init__(self, port: int, request: bytes, due: list[float], *, spins: bool = True) -> None:
        self._request = request
        self._due = due
        self._next = 0
        self._spins = spins
        connections = [_connected(port) for _ in range(min(CONNECTIONS, len(due)))]
        self._connections = {connection.fileno(): connection for connection in connections}
        self._free = deque(connections)
        self._busy: dict[int, tuple[float, bytes]] = {}  # due, what came so far
        self._waiting: deque[float] = deque()
        self._poll = select.epoll()
        for descriptor in self._connections:
            self._poll.register(descriptor, select.EPOLLIN)
        self.latencies: list[float] = []
        self.late: list[float] = []

    def run(self) -> None:
        """Until every request is answered. Raises LoadError."""
        try:
            self._run()
        finally:
            self._poll.close()
            for connection in self._connections.values():
                connection.close()

    def _run(self) -> None:
        clock, due, poll = time.perf_counter, self._due, self._poll.poll
        self._start = clock() + 0.02
        end = due[-1] + PATIENCE
        while len(self.latencies) < len(due):
            now = clock() - self._start
            if now > end:
                raise LoadError(f"{len(due) - len(self.latencies)} requests not answered after {PATIENCE:.0f} s")
            if self._waiting or (self._next < len(due) and due[self._next] <= now):
                self._send(now)
            if not self._spins:  # select waits in microseconds, epoll in milliseconds
                wait = max(0.0, due[self._next] - now) if self._next < len(due) else 0.1
                select.select([self._poll.fileno()], [], [], wait)
            for descriptor, _ in poll(0):
                self._receive(descriptor)

    def _send(self, now: float) -> None:
        while self._next < len(self._due) and self._due[self._next] <= now:
            self._waiting.append(self._due[self._next])
            if self._free:
                self.late.append(now - self._due[self._next])
            self._next += 1
        while self._waiting and self._free:
            connection = self._free.popleft()
            connection.sendall(self._request)
            self._busy[connection.fileno()] = (self._waiting.popleft(), b"")

    def _receive(self, descriptor: int) -> None:
        connection = self._connections[descriptor]
        data = connection.recv(1 << 16)
        due, so_far = self._busy.get(descriptor, (0.0, b""))
        answer = so_far + data
        head, found, body = answer.partition(b"\r\n\r\n")
        if not data or (found and not head.startswith(b"HTTP/1.1 200")):
            raise LoadError(f"found {head[:100]!r}, expected a whole answer with 200")
        if not found or len(body) < content_length(head):
            self._busy[descriptor] = (due, answer)
            return
        self.latencies.append(time.perf_counter() - self._start - due)
        del self._busy[descriptor]
        self._free.append(connection)


def _connected(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def main() -> None:
    """One measurement by the command line; its OpenLoad as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.open_loop", description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("path")
    parser.add_argument("body", type=Path, help="file that is posted as JSON")
    parser.add_argument("rate", type=float, help="requests a second")
    parser.add_argument("seconds", type=float)
    parser.add_argument("--sleeps", action="store_true", help="wait for answers asleep")
    options = parser.parse_args()
    ctypes.CDLL(None).prctl(_SET_TIMER_SLACK, 1, 0, 0, 0)  # the kernel may else wake it 50 us late
    gc.disable()
    loop = Loop(
        options.port,
        request_bytes(options.path, options.body.read_bytes()),
        schedule(options.rate, options.seconds),
        spins=not options.sleeps,
    )
    began = time.process_time()
    try:
        loop.run()
    except (LoadError, OSError) as error:
        raise SystemExit(str(error)) from error
    used = time.process_time() - began
    p50, p99 = (1e3 * percentile(loop.latencies, percent) for percent in (50, 99))
    late = 1e3 * percentile(loop.late or [0.0], 99)
    print(json.dumps(asdict(OpenLoad(options.rate, len(loop.latencies), p50, p99, late, used))))


if __name__ == "__main__":
    main()
