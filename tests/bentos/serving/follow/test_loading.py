"""While the next version loads, the one that answers is kept alive: real processes on one socket, small ones."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from bentos.serving.fetch.model_store import ModelStore
from bentos.serving.follow.handover import Handover
from bentos.serving.follow.upcoming import Followed, Runnable

SERVER = """#!{python}
import json, os, socket, sys, time
name, version = sys.argv[sys.argv.index("--model") + 1], sys.argv[sys.argv.index("--version") + 1]
if version == "2":
    time.sleep(3600)  # it loads
listener = socket.socket(fileno=int(sys.argv[sys.argv.index("--fd") + 1]))
listener.listen()
socket.socket(fileno=int(sys.argv[-1])).sendall(b"ready\\n")
while True:
    client, _ = listener.accept()
    client.sendall(json.dumps([version, os.getpid()]).encode())
    client.close()
"""
MLMODEL = """
flavors: {}
signature:
  inputs: '[{"name": "a", "type": "double", "required": true}]'
"""


class Alias(Followed):
    """An alias that names what it is told to; every version lies ready in *folder*."""

    named: ClassVar[list[str]] = ["1"]
    folder = Path()

    def version(self) -> str:
        return self.named[-1]

    def prepare(self, version: str) -> Runnable:
        return Runnable(version, self.folder, self.folder / "python")


@pytest.fixture
def alias(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Alias:
    (tmp_path / "python").write_text(SERVER.format(python=sys.executable))
    (tmp_path / "python").chmod(0o700)
    (tmp_path / "MLmodel").write_text(MLMODEL)
    monkeypatch.setattr(Alias, "named", ["1"])
    monkeypatch.setattr(Alias, "folder", tmp_path)
    return Alias("m", "live", "http://127.0.0.1:9", ModelStore(tmp_path / "models"), None)


@pytest.fixture
def _signals() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def ask(path: Path) -> tuple[str, int]:
    """Version and pid of whoever answers; one that dies with the connection is asked again."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(30)
            client.connect(str(path))
            if found := client.recv(100):
                version, pid = json.loads(found)
                return version, pid
    raise AssertionError("nobody answered")


def test_who_answers_is_started_again_while_the_next_version_loads(
    alias: Alias, tmp_path: Path, _signals: None
) -> None:
    path = tmp_path / "socket"
    seen: list[object] = []

    def act() -> None:
        try:
            version, first = ask(path)
            alias.named.append("2")
            wait(lambda: len(children()) == 2, "version 2 loads")
            (loading,) = set(children()) - {str(first)}
            os.kill(int(loading), signal.SIGKILL)  # as when memory is short: no word against the version
            wait(lambda: len(set(children()) - {str(first), loading}) == 1, "version 2 loads again")
            os.kill(first, signal.SIGKILL)  # it dies while the other loads
            again, second = ask(path)
            os.kill(second, signal.SIGKILL)  # and once more, at the moment in which the alias moves on
            alias.named.append("3")
            wait(lambda: ask(path)[0] == "3", "version 3 answers")
            seen.extend([version, again, first != second])
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        with Handover(alias, listener, [], dict(os.environ), poll_seconds=0.05) as handover:
            acting = threading.Thread(target=act)
            acting.start()
            handover.run(alias.prepare("1"))
            acting.join()
    assert seen == ["1", "1", True]


def wait(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, f"not within 30 s: {what}"
        time.sleep(0.02)


def children() -> list[str]:
    tasks = Path("/proc/self/task").iterdir()
    return [pid for task in tasks for pid in (task / "children").read_text().split()]
