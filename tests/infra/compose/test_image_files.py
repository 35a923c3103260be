"""The two programs that our image adds: entrypoint and answers."""

from __future__ import annotations

import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parents[3] / "infra" / "compose"


def entrypoint(*command, **environ):
    values = {"PATH": "/usr/bin:/bin", **environ}
    return subprocess.run(["sh", HERE / "entrypoint", *command], env=values, capture_output=True, text=True)


def test_an_empty_setting_is_none_and_others_stay():
    said = entrypoint("env", SHIPWAY_TRACING="", SHIPWAY_HOME="/srv/x", OTHER="").stdout.splitlines()
    assert "SHIPWAY_HOME=/srv/x" in said and "OTHER=" in said
    assert not any(line.startswith("SHIPWAY_TRACING") for line in said)


def test_a_secret_that_is_not_there_ends_the_part():
    done = entrypoint("env", DATABASE_FILE="/run/secrets/nowhere")
    assert done.returncode != 0 and "/run/secrets/nowhere" in done.stderr


def test_a_file_that_is_no_secret_is_left_alone():
    said = entrypoint("env", SSL_CERT_FILE="/etc/some.pem", SHIPWAY_S3_SECRET_KEY_FILE="/run/secrets/key").stdout
    assert "SSL_CERT_FILE=/etc/some.pem" in said and "SHIPWAY_S3_SECRET_KEY_FILE=/run/secrets/key" in said


@pytest.fixture
def server():
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path == "/health" else 503)
            self.end_headers()

        def log_message(self, *_):
            return

    with HTTPServer(("127.0.0.1", 0), Handler) as made:
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{made.server_port}"
        made.shutdown()
        thread.join()


def test_answers_tells_200_from_everything_else(server):
    def ask(url):
        return subprocess.run([sys.executable, "-IS", HERE / "answers", url], capture_output=True, text=True)

    assert ask(f"{server}/health").returncode == 0
    assert (ask(f"{server}/other").returncode, ask(f"{server}/other").stderr.strip()[-17:]) == (1, "503, expected 200")
    assert "refused" in ask("http://127.0.0.1:1/").stderr
