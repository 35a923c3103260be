import asyncio
import http.client
import json
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from bentos.policy.serving import Limits
from infra.gateways.envoy import EnvoyGateway
from infra.targets.interface import Address
from infra.traffic import Arm, TrafficPlan

STUB = Path(__file__).with_name("stub_server.py")


@dataclass
class Server:
    """A stub server process of one version."""

    version: str
    socket: str
    process: subprocess.Popen

    def get(self, path):
        connection = http.client.HTTPConnection("stub", timeout=2)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(2)
        try:
            connection.sock.connect(self.socket)
            connection.request("GET", path)
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()

    def wait_ready(self):
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                return self.get("/readyz")
            except OSError:
                time.sleep(0.02)
        raise AssertionError(f"stub {self.version} did not start")


@dataclass
class Answers:
    """Every answer of one open-loop run. A request that failed on the way has status 0."""

    statuses: Counter = field(default_factory=Counter)
    arms: Counter = field(default_factory=Counter)
    fallbacks: int = 0
    slowest: float = 0.0

    @property
    def failed(self):
        return {status: count for status, count in self.statuses.items() if not 200 <= status < 300}


class Client:
    """Asks the gateway: one request at a time, or open loop at a fixed rate."""

    def __init__(self, port):
        self.port = port

    def ask(self, path, headers=None, body=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=15)
        try:
            connection.request("POST" if body is not None else "GET", path, body=body, headers=headers or {})
            response = connection.getresponse()
            return response.status, dict(response.getheaders()), response.read()
        finally:
            connection.close()

    @contextmanager
    def open_loop(self, path, rate=200):
        """Requests at *rate* a second, sent on time whatever the answers do, until the block ends."""
        answers, stop = Answers(), threading.Event()
        thread = threading.Thread(target=lambda: asyncio.run(self._run(path, rate, answers, stop)))
        thread.start()
        try:
            yield answers
        finally:
            stop.set()
            thread.join(timeout=30)
            assert not thread.is_alive()

    async def _run(self, path, rate, answers, stop):
        idle, tasks, start, number = [], set(), time.monotonic(), 0
        while not stop.is_set():
            await asyncio.sleep(max(0.0, start + number / rate - time.monotonic()))
            task = asyncio.create_task(self._one(path, number, idle, answers))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            number += 1
        await asyncio.gather(*tasks)
        for _, writer in idle:
            writer.close()
            await writer.wait_closed()
        assert sum(answers.statuses.values()) == number

    async def _one(self, path, number, idle, answers):
        began = time.monotonic()
        try:
            pair = idle.pop() if idle else await asyncio.open_connection("127.0.0.1", self.port)
            status, headers = await asyncio.wait_for(self._exchange(pair, path, number), 15)
            idle.append(pair)
        except (OSError, EOFError, TimeoutError, ValueError):
            status, headers = 0, {}
        answers.statuses[status] += 1
        answers.arms[headers.get("x-shipway-version")] += 1
        answers.fallbacks += "x-shipway-fallback" in headers
        answers.slowest = max(answers.slowest, time.monotonic() - began)

    async def _exchange(self, pair, path, number):
        reader, writer = pair
        body = b'{"inputs": [[1, 2, 3]]}'
        head = (
            f"POST {path} HTTP/1.1\r\nhost: gateway\r\nx-user-id: user-{number}\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode() + body)
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
        await reader.readexactly(int(headers.get("content-length", "0")))
        return int(lines[0].split(" ")[1]), headers


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@pytest.fixture(scope="session")
def start_envoy():
    """Starts a gateway's Envoy and waits for it; the process is handed back."""

    def start(gateway):
        gateway.bootstrap()
        process = subprocess.Popen(gateway.command())
        deadline = time.monotonic() + 20
        while not gateway.alive():
            assert process.poll() is None and time.monotonic() < deadline, "Envoy did not start"
            time.sleep(0.02)
        return process

    return start


@pytest.fixture(scope="session")
def make_gateway(tmp_path_factory):
    def make(**settings):
        folder = tmp_path_factory.mktemp("gateway")
        port = free_port()
        return EnvoyGateway(folder, host="127.0.0.1", port=port, admin_port=free_port(), **settings), port

    return make


@pytest.fixture(scope="session")
def envoy(make_gateway, start_envoy):
    """One running Envoy for all tests; every test uses a model name of its own."""
    gateway, port = make_gateway()
    process = start_envoy(gateway)
    yield gateway, Client(port)
    process.terminate()
    process.wait(timeout=20)


@pytest.fixture(scope="session")
def client_for():
    return Client


@pytest.fixture
def serve(tmp_path_factory):
    """Starts stub servers; none is left afterwards."""
    servers = []

    def start(*versions):
        folder = tmp_path_factory.mktemp("s")
        new = []
        for version in versions:
            path = str(folder / f"{version}.sock")
            process = subprocess.Popen([sys.executable, str(STUB), path, version])
            new.append(Server(version, path, process))
        servers.extend(new)
        for server in new:
            server.wait_ready()
        return new

    yield start
    for server in servers:
        server.process.kill()
        server.process.wait()


@pytest.fixture
def plan_of(request):
    """Makes plans of a model named after the test."""
    model = request.node.name.translate({ord(char): "-" for char in "[]_. "})

    def arm(name, server, weight, mirror=0.0):
        path = server if isinstance(server, str) else server.socket
        version = server if isinstance(server, str) else server.version
        return Arm(name, version, f"{model}-{version}-aaaaaaaa", Address(uds=path), weight, mirror)

    def make(baseline, candidate=None, weight=0, mirror=0.0, *, expires_at=None, sticky=None, **limits):
        arms = (arm("baseline", baseline, 100 - weight),)
        if candidate is not None:
            arms += (arm("candidate", candidate, weight, mirror),)
            expires_at = expires_at or time.time() + 600
        return TrafficPlan(model, arms, sticky, Limits(**limits), expires_at)

    return make
