"""Server processes for tests: started, asked, and ended whatever the test does."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import httpx

ROOT = Path(__file__).parents[2]


@dataclass
class Ended:
    """A process that is gone after the ``with``."""

    process: subprocess.Popen[Any]

    def stop(self) -> int:
        """SIGTERM; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


@dataclass
class Server(Ended):
    """A launcher that answers at *address* and logs to *segments*."""

    address: str
    segments: Path

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.address, timeout=20)


def launch(*arguments: str, segments_folder: Path) -> Server:
    """A ready launcher on a free port."""
    command = [
        sys.executable,
        "-m",
        "bentos.serving.launcher",
        "--port",
        "0",
        "--segments",
        str(segments_folder),
        *arguments,
    ]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    server = Server(process, (line.split() or ["nowhere"])[-1], segments_folder)
    deadline = time.monotonic() + 40
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"{server.address}/readyz").status_code == 200:
                return server
        except httpx.TransportError:
            time.sleep(0.05)
    with server:
        raise AssertionError(f"the server was not ready in 40 s; it said {line!r}")
