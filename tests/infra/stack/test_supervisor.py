"""The supervisor with dummy parts: real processes, real ports, real kills."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from infra.stack import part_process
from infra.stack.part import ExternalPart, Part, PartState
from infra.stack.probes import answers
from infra.stack.state import read_state, take_lock
from infra.stack.supervisor import Duty, Supervisor

SERVER = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b"ok")
    def log_message(self, *_): pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
# A parent that ignores its child: what is left of it when it is killed must be ended with it.
NESTED = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-S', '-c', sys.argv[1], sys.argv[2]]); time.sleep(600)"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def python(code: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-S", "-c", code, *arguments)


def make_part(tmp_path: Path, name: str, command: tuple[str, ...], **values: object) -> Part:
    defaults: dict[str, object] = {"healthy": lambda: True, "start_seconds": 30.0}
    return Part(name, command, dict(os.environ), tmp_path, tmp_path / "logs" / f"{name}.log", **{**defaults, **values})


def server(tmp_path: Path, name: str, **values: object) -> Part:
    port = free_port()
    command = python(SERVER, str(port))
    return make_part(tmp_path, name, command, healthy=lambda: answers(f"http://127.0.0.1:{port}/"), **values)


def until(supervisor: Supervisor, condition: Callable[[], bool], seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, supervisor.state
        supervisor.tick()
        time.sleep(0.02)


def state_of(supervisor: Supervisor, name: str) -> PartState:
    part = supervisor.state.part(name)
    assert part is not None
    return part.state


@pytest.fixture
def supervise(tmp_path: Path) -> Iterator[Callable[..., Supervisor]]:
    made: list[Supervisor] = []

    def make(*parts: Part, **values: object) -> Supervisor:
        made.append(Supervisor(parts, tmp_path, tmp_path, **values))
        return made[-1]

    yield make
    for supervisor in made:
        supervisor.end()
    assert part_process.marked(tmp_path) == []


def test_parts_come_up_in_their_order(supervise, tmp_path):
    first = server(tmp_path, "first")
    task = make_part(tmp_path, "task", python("print('done it')"), after=("first",), once=True)
    second = server(tmp_path, "second", after=("first", "task", "elsewhere"))
    supervisor = supervise(second, task, first, external=[ExternalPart("elsewhere", "http://far", "FAR_URL")])
    supervisor.tick()
    assert [state_of(supervisor, name) for name in ("second", "task")] == [PartState.WAITING] * 2
    until(supervisor, lambda: supervisor.state.up)
    assert state_of(supervisor, "task") == PartState.DONE
    assert state_of(supervisor, "elsewhere") == PartState.EXTERNAL
    assert "done it" in (tmp_path / "logs" / "task.log").read_text()
    assert read_state(tmp_path) == supervisor.state


def test_a_killed_part_is_started_again_with_backoff_and_status_says_so(supervise, tmp_path):
    supervisor = supervise(server(tmp_path, "one"))
    waits = []
    for restarts in (1, 2):
        until(supervisor, lambda: supervisor.state.up)
        os.kill(supervisor.state.part("one").pid, signal.SIGKILL)
        until(supervisor, lambda: state_of(supervisor, "one") == PartState.BACKOFF)
        part = supervisor.state.part("one")
        assert part.last_exit == "signal SIGKILL"
        waits.append(part.next_try - time.time())
        until(supervisor, lambda n=restarts: supervisor.state.up and supervisor.state.part("one").restarts == n)
    assert 0.3 < waits[0] <= 0.5 < waits[1] <= 1.0


def test_what_a_dead_part_left_behind_is_ended_before_its_restart(supervise, tmp_path):
    port = free_port()
    command = python(NESTED, SERVER, str(port))
    part = make_part(tmp_path, "nested", command, healthy=lambda: answers(f"http://127.0.0.1:{port}/"))
    supervisor = supervise(part)
    until(supervisor, lambda: supervisor.state.up)
    os.kill(supervisor.state.part("nested").pid, signal.SIGKILL)
    until(supervisor, lambda: state_of(supervisor, "nested") == PartState.BACKOFF)
    assert not answers(f"http://127.0.0.1:{port}/")
    until(supervisor, lambda: supervisor.state.up)


def test_children_of_a_sparing_part_live_on_until_the_end(supervise, tmp_path):
    port = free_port()
    part = make_part(
        tmp_path,
        "worker",
        python(NESTED, SERVER, str(port)),
        healthy=lambda: answers(f"http://127.0.0.1:{port}/"),
        spares_children=True,
    )
    supervisor = supervise(part)
    until(supervisor, lambda: supervisor.state.up)
    os.kill(supervisor.state.part("worker").pid, signal.SIGKILL)
    until(supervisor, lambda: state_of(supervisor, "worker") == PartState.BACKOFF)
    assert answers(f"http://127.0.0.1:{port}/")
    supervisor.end()
    assert not answers(f"http://127.0.0.1:{port}/")


def test_a_part_that_never_gets_ready_is_stopped_and_tried_again(supervise, tmp_path):
    part = make_part(tmp_path, "mute", python("import time; time.sleep(600)"), healthy=lambda: False, start_seconds=0.3)
    supervisor = supervise(part)
    until(supervisor, lambda: state_of(supervisor, "mute") == PartState.BACKOFF)
    assert supervisor.state.part("mute").last_exit == "not ready in 0.3 s"
    assert part_process.marked(tmp_path) == []
    until(supervisor, lambda: supervisor.state.part("mute").restarts == 1)


def test_a_command_that_does_not_exist_is_named(supervise, tmp_path):
    supervisor = supervise(make_part(tmp_path, "gone", (str(tmp_path / "no-such-program"),)))
    until(supervisor, lambda: state_of(supervisor, "gone") == PartState.BACKOFF)
    assert "no-such-program" in supervisor.state.part("gone").last_exit


def test_a_failing_task_is_tried_again_until_it_succeeds(supervise, tmp_path):
    marker = tmp_path / "marker"
    code = (
        f"import pathlib, sys; m = pathlib.Path({str(marker)!r}); ok = m.exists(); m.touch(); sys.exit(0 if ok else 3)"
    )
    supervisor = supervise(make_part(tmp_path, "task", python(code), once=True))
    until(supervisor, lambda: supervisor.state.part("task").last_exit == "exit 3")
    until(supervisor, lambda: supervisor.state.up)
    assert supervisor.state.part("task").restarts == 1


def test_a_part_that_ignores_sigterm_is_killed_at_the_end(supervise, tmp_path, monkeypatch):
    monkeypatch.setattr("infra.stack.supervisor._STOP_SECONDS", 0.3)
    code = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
    )
    log = tmp_path / "logs" / "deaf.log"
    part = make_part(tmp_path, "deaf", python(code), healthy=lambda: "\ndeaf" in part_process.tail(log))
    supervisor = supervise(part)
    until(supervisor, lambda: supervisor.state.up)
    pid = supervisor.state.part("deaf").pid
    supervisor.end()
    assert not psutil.pid_exists(pid)
    assert state_of(supervisor, "deaf") == PartState.STOPPED


def test_a_part_drains_before_anything_is_told_to_end(supervise, tmp_path):
    seen: list[bool] = []

    def drain() -> None:
        seen.append(all(psutil.pid_exists(part.pid) for part in supervisor.state.parts))
        raise OSError("away")  # which keeps nothing from ending

    parts = [server(tmp_path, "behind"), server(tmp_path, "gateway", drain=drain)]
    supervisor = supervise(*parts)
    until(supervisor, lambda: supervisor.state.up)
    supervisor.end()
    assert seen == [True]
    assert {part.state for part in supervisor.state.parts} == {PartState.STOPPED}


def test_a_duty_that_fails_is_shown_and_done_again(supervise):
    calls: list[float] = []

    def duty(now: float) -> None:
        calls.append(now)
        if len(calls) < 3:
            raise OSError("no gateway")

    supervisor = supervise(duties=[Duty("lease", duty)])
    supervisor.tick()
    supervisor.tick()
    assert supervisor.state.problems == {"lease": "OSError: no gateway"}
    supervisor.tick()
    assert supervisor.state.problems == {}
    assert all(abs(now - time.time()) < 5 for now in calls)


def test_a_state_that_cannot_be_written_does_not_end_the_parts(supervise, tmp_path, monkeypatch):
    supervisor = supervise(server(tmp_path, "one"))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("infra.stack.supervisor.write_state", full)
        until(supervisor, lambda: supervisor.state.up)
    assert read_state(tmp_path) is None
    supervisor.tick()
    assert read_state(tmp_path).up


@pytest.mark.parametrize("removed", ["log", "folder"])
def test_a_removed_log_ends_no_part_and_is_there_again_at_the_next_start(supervise, tmp_path, removed):
    supervisor = supervise(server(tmp_path, "one"))
    until(supervisor, lambda: supervisor.state.up)
    pid, log = supervisor.state.part("one").pid, tmp_path / "logs" / "one.log"
    log.unlink()
    if removed == "folder":
        log.parent.rmdir()
    supervisor.tick()
    assert (supervisor.state.part("one").pid, supervisor.state.problems) == (pid, {})
    os.kill(pid, signal.SIGKILL)
    until(supervisor, lambda: supervisor.state.up and supervisor.state.part("one").pid not in (None, pid))
    assert "--- " in log.read_text()


def test_a_full_disk_ends_no_part_and_a_dead_one_starts_again(supervise, tmp_path, small_disk):
    port = free_port()
    one = Part(
        "one", python(SERVER, str(port)), dict(os.environ), tmp_path, small_disk.folder / "logs" / "one.log",
        healthy=lambda: answers(f"http://127.0.0.1:{port}/"),
    )  # fmt: skip
    supervisor = supervise(one)
    supervisor.folder = small_disk.folder  # of the state
    until(supervisor, lambda: supervisor.state.up)
    small_disk.fill(small_disk.folder / "logs" / "one.log")
    pid = supervisor.state.part("one").pid
    os.kill(pid, signal.SIGKILL)
    until(supervisor, lambda: supervisor.state.up and supervisor.state.part("one").pid not in (None, pid))
    small_disk.free()
    supervisor.tick()
    assert read_state(small_disk.folder) == supervisor.state


CHATTER = "import sys, time\nwhile True: sys.stdout.write('x' * 99 + chr(10)); sys.stdout.flush(); time.sleep(0.0001)"


def test_a_part_that_says_much_does_not_fill_the_disk(supervise, tmp_path, monkeypatch):
    monkeypatch.setattr("infra.stack.supervisor.LOG_BYTES", 50_000)
    supervisor = supervise(make_part(tmp_path, "loud", python(CHATTER)))
    log = tmp_path / "logs" / "loud.log"
    until(supervisor, lambda: supervisor.state.up)
    pid, inode, turns, size = supervisor.state.part("loud").pid, log.stat().st_ino, 0, 0
    deadline = time.monotonic() + 30
    while turns < 3:
        assert time.monotonic() < deadline
        supervisor.tick()
        turns, size = turns + (log.stat().st_size < size), log.stat().st_size
        time.sleep(0.005)
    kept = log.with_name("loud.log.1")
    assert 0 < kept.stat().st_size <= 100_000
    assert set(kept.read_text().splitlines()[1:-1]) == {"x" * 99}
    assert (supervisor.state.part("loud").pid, log.stat().st_ino) == (pid, inode)
    assert all(path.stat().st_mode & 0o077 == 0 for path in (log, kept))
    log.unlink()  # the part writes on, to a file that nobody sees
    hidden = Path(f"/proc/{pid}/fd/1")
    for _ in range(200):
        supervisor.tick()
        assert hidden.stat().st_size < 2_000_000
        time.sleep(0.005)


def test_parts_must_know_each_other(tmp_path):
    one = make_part(tmp_path, "one", ("true",), after=("nobody",))
    with pytest.raises(ValueError, match="nobody"):
        Supervisor([one], tmp_path, tmp_path)
    two = make_part(tmp_path, "two", ("true",))
    with pytest.raises(ValueError, match="names of their own"):
        Supervisor([two, two], tmp_path, tmp_path)


DAEMON = """
import os, sys
from pathlib import Path
from infra.stack.part import Part
from infra.stack.probes import answers
from infra.stack.supervisor import Supervisor
from infra.stack.state import take_lock
home, port, code = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
part = Part("one", (sys.executable, "-S", "-c", code, port), dict(os.environ), home, home / "one.log",
            healthy=lambda: answers(f"http://127.0.0.1:{port}/"))
with take_lock(home):
    Supervisor([part], home, home, duties=[]).run()
"""


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    port = free_port()
    popen = subprocess.Popen([sys.executable, "-c", textwrap.dedent(DAEMON), str(tmp_path), str(port), SERVER])
    deadline = time.monotonic() + 20
    while not ((state := read_state(tmp_path)) and state.up):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    yield popen, port
    popen.kill()
    popen.wait()


def gone(port: int, seconds: float = 5.0) -> bool:
    deadline = time.monotonic() + seconds
    while answers(f"http://127.0.0.1:{port}/"):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def test_every_part_dies_with_a_killed_supervisor(daemon, tmp_path):
    popen, port = daemon
    assert take_lock(tmp_path) is None
    popen.kill()
    popen.wait()
    assert gone(port)
    assert part_process.marked(tmp_path) == []
    assert not read_state(tmp_path).running
    take_lock(tmp_path).close()


def test_sigterm_ends_everything_at_once_and_a_restart_is_prompt(daemon, tmp_path):
    popen, port = daemon
    os.kill(read_state(tmp_path).part("one").pid, signal.SIGKILL)
    time.sleep(0.2)
    assert read_state(tmp_path).part("one").state == PartState.BACKOFF  # SIGCHLD woke the supervisor
    started = time.monotonic()
    popen.terminate()
    assert popen.wait(10) == 0
    assert time.monotonic() - started < 4
    assert gone(port)
    assert json.loads((tmp_path / "state.json").read_text())["parts"][0]["state"] == "stopped"


def test_an_idle_supervisor_uses_next_to_no_cpu(daemon):
    popen, _ = daemon
    watched = psutil.Process(popen.pid)
    before = watched.cpu_times()
    time.sleep(2)
    after = watched.cpu_times()
    assert (after.user + after.system) - (before.user + before.system) < 0.1
