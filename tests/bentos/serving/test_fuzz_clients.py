"""Hundreds of slow, silent and deaf clients leave a good one its answers, in time, from the same process."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.bentos.planes import Client
from tests.bentos.saved import IGNORED, logistic
from tests.bentos.servers import Server, launch

pytestmark = [pytest.mark.filterwarnings(line) for line in IGNORED]

BODY = b'{"instances":[[0.1,0.2,0.3]]}'
HEAD = b"POST /invocations HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
POST = HEAD % len(BODY) + BODY
GOOD = 400  # requests of the good client
P99_SECONDS = 0.25  # on a machine that does other things; alone it is some milliseconds
GROWTH = 200 << 20


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder: Path = tmp_path_factory.mktemp("clients")
    with launch("--bento", str(logistic(folder / "model")), segments_folder=folder / "log") as found:
        yield found


@pytest.fixture(autouse=True)
def unharmed(server: Server) -> Iterator[None]:
    """The same process before and after, ready, and no larger than the answers that wait for slow readers."""
    process = psutil.Process(server.process.pid)
    before = process.memory_info().rss
    yield
    assert server.process.poll() is None
    assert process.memory_info().rss < before + GROWTH
    with server.client() as client:
        assert client.get("/readyz").json()["ready"]


def port(server: Server) -> int:
    return int(server.address.rpartition(":")[2])


def p99(server: Server) -> float:
    """Seconds that the slowest but one of a hundred requests takes, of one client with one connection and of new ones."""
    took = []
    with Client(port(server)) as client:
        for number in range(GOOD):
            began = time.perf_counter()
            if number % 10:
                status, _, body = client.send(POST).answer()
            else:
                with Client(port(server)) as other:
                    status, _, body = other.send(POST).answer()
            took.append(time.perf_counter() - began)
            assert (status, body) == (200, b'{"predictions":[0]}')
    return sorted(took)[int(GOOD * 0.99)]


@contextlib.contextmanager
def crowd(server: Server, number: int, first: bytes, receive: int = 0) -> Iterator[list[socket.socket]]:
    """So many connections that sent *first*; with *receive*, the bytes that each of them takes before it is full."""
    with contextlib.ExitStack() as stack:
        clients = []
        for _ in range(number):
            client = stack.enter_context(socket.socket())
            if receive:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
            client.settimeout(0.05)
            client.connect(("127.0.0.1", port(server)))
            with contextlib.suppress(TimeoutError):  # the server stopped reading from it
                client.sendall(first)
            clients.append(client)
        yield clients


def test_two_hundred_bodies_that_come_byte_by_byte(server: Server) -> None:
    with crowd(server, 200, POST[:-20]) as clients:
        for byte in POST[-20:-1]:
            for client in clients:
                client.send(bytes([byte]))
        assert p99(server) < P99_SECONDS
        for client in clients:  # they are answered too, in the end
            client.settimeout(10)
            client.sendall(POST[-1:])
            assert client.recv(1 << 16).startswith(b"HTTP/1.1 200 OK")


def test_two_hundred_clients_that_do_not_read(server: Server) -> None:
    page = b"GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n"
    with crowd(server, 200, page * 300, receive=4096):
        assert p99(server) < P99_SECONDS


def test_two_hundred_clients_that_do_not_read_predictions(server: Server) -> None:
    many = b'{"instances":[' + b",".join([b"[0.1,0.2,0.3]"] * 1000) + b"]}"
    with crowd(server, 200, (HEAD % len(many) + many) * 3, receive=4096):
        assert p99(server) < P99_SECONDS


def test_five_hundred_connections_that_say_nothing(server: Server) -> None:
    with crowd(server, 500, b""):
        assert p99(server) < P99_SECONDS


def test_five_hundred_connections_that_break_off(server: Server) -> None:
    with crowd(server, 500, POST[:60]):
        pass
    assert p99(server) < P99_SECONDS
