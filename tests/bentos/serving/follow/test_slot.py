"""The place of one version, over servers that are small processes of their own."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bentos.serving.follow import slot as slots
from bentos.serving.follow.slot import Slot, State
from bentos.serving.follow.upcoming import Runnable
from bentos.serving.server.process import ServerProcess

RUNNABLE = Runnable("4", Path("tree"), Path(sys.executable))
SERVES = "line.sendall(b'ready\\n'); line.recv(99)"
LOADS = "time.sleep(60)"
FAILS = "line.sendall(b'failed no such tree\\n'); sys.exit(3)"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "BACKOFF", (0.05, 0.2))


@pytest.fixture
def slot(tmp_path: Path) -> Callable[..., Slot]:
    """Its servers are the programs given, one after the other; the last one from then on."""

    def make(*programs: str) -> Slot:
        left = list(programs)

        def start(_: Runnable) -> ServerProcess:
            program = left.pop(0) if len(left) > 1 else left[0]
            python = tmp_path / "python"
            lines = f"#!{sys.executable}\nimport socket, sys, time\nline = socket.socket(fileno=int(sys.argv[-1]))\n"
            python.write_text(lines + program)
            python.chmod(0o700)
            return ServerProcess(str(python), [], {}, [])

        return Slot(RUNNABLE, start)

    return make


def until(found: Slot, wanted: Any) -> None:
    """Looks until a look says *wanted*."""
    deadline = time.monotonic() + 20
    while (said := found.look()) != wanted:
        assert time.monotonic() < deadline, (said, found.state)
        time.sleep(0.01)


def test_a_server_that_dies_is_started_again(slot: Callable[..., Slot]) -> None:
    found = slot(SERVES)
    until(found, "ready")
    assert found.state is State.SERVING and found.server is not None
    first = found.server
    first.signal(9)
    until(found, "failed")
    assert (found.state, found.why) == (State.DOWN, "its server ended with -9")
    until(found, "ready")
    assert found.server is not first
    found.drop()
    assert (found.state, found.server) == (State.GONE, None)


def test_one_that_cannot_start_says_why_and_is_tried_again(slot: Callable[..., Slot]) -> None:
    found = slot(FAILS, FAILS, SERVES)
    until(found, "failed")
    assert (found.code, found.why) == (3, "its server ended with 3: no such tree")
    until(found, "ready")
    found.drop()


def test_one_that_is_not_ready_in_time_is_ended(slot: Callable[..., Slot], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "READY_SECONDS", 0.2)
    found = slot(LOADS)
    found.look()
    assert found.server is not None
    loading = found.server
    until(found, "failed")
    assert "not ready within 0 s" in found.why
    assert loading.ended() is not None
    found.drop()


def test_a_replaced_version_retires_and_one_that_is_down_is_gone_at_once(slot: Callable[..., Slot]) -> None:
    found = slot(SERVES)
    until(found, "ready")
    found.retire()
    assert found.state is State.RETIRING
    deadline = time.monotonic() + 20
    while found.state is not State.GONE:
        found.look()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    down = slot(LOADS)
    down.retire()
    assert down.state is State.GONE
