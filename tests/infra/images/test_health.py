"""The health check: it asks where the container's command listens, as the script that the engine runs."""

import http.server
import socket
import socketserver
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from infra.images import health


@pytest.mark.parametrize(
    ("command", "where"),
    [
        (["python", "-m", "bentos.serving.launcher", "--uds", "/run/x.sock"], "/run/x.sock"),
        (["docker-init", "--", "python", "--uds=/run/y.sock", ""], "/run/y.sock"),
        (["python", "--host", "0.0.0.0", "--port", "9090"], ("127.0.0.1", 9090)),
        (["python", "--port=7070", "--segments", "/s"], ("127.0.0.1", 7070)),
        (["python"], ("127.0.0.1", 8080)),
    ],
)
def test_it_finds_where_the_server_listens(command, where) -> None:
    assert health.listening(command) == where


class Answers(http.server.BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status if self.path == "/readyz" else 404)
        self.end_headers()

    def log_message(self, *_) -> None: ...

    def address_string(self) -> str:
        return "here"


class OnSocket(socketserver.UnixStreamServer):
    def get_request(self):
        return super().get_request()[0], ("here", 0)


@pytest.mark.parametrize("status", [200, 503])
def test_only_200_is_ready_on_both_kinds_of_address(status: int, tmp_path: Path) -> None:
    handler = type("Handler", (Answers,), {"status": status})
    path = str(tmp_path / "s.sock")
    with OnSocket(path, handler) as first, http.server.HTTPServer(("127.0.0.1", 0), handler) as second:
        for server in (first, second):
            threading.Thread(target=server.serve_forever, daemon=True).start()
        assert health.ready(path) is (status == 200)
        assert health.ready(("127.0.0.1", second.server_port)) is (status == 200)
        first.shutdown()
        second.shutdown()


def test_the_script_needs_the_standard_library_alone_and_fails_where_nobody_listens() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        code = f"import sys, runpy; m = runpy.run_path({health.__file__!r}); m['ready'](('127.0.0.1', {probe.getsockname()[1]}))"
        done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=False)
    assert "ConnectionRefusedError" in done.stderr
