"""State and lock: read back what was written, and never take a dead process for a live one."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from infra.processes import identity, runs
from infra.stack.part import PartState, PartStatus, StackError
from infra.stack.state import StackState, read_state, take_lock, write_state


def make_state(**values: object) -> StackState:
    pid = os.getpid()
    return StackState(**{"pid": pid, "identity": identity(pid), "started_at": 1.5, **values})


def test_a_state_is_read_back_equal(tmp_path):
    parts = (PartStatus("gateway", PartState.BACKOFF, restarts=2, last_exit="exit 1", next_try=12.5, extra={"a": "b"}),)
    state = make_state(parts=parts, settings={"SHIPWAY_HOME": "/x"}, problems={"lease": "no gateway"})
    write_state(tmp_path, state)
    assert read_state(tmp_path) == state
    assert state.running
    assert not state.up
    assert [path.name for path in tmp_path.iterdir()] == ["state.json"]


def test_a_stack_is_up_without_its_optional_parts_but_not_without_parts():
    ready = PartStatus("a", PartState.READY)
    assert not make_state().up
    assert make_state(parts=(ready, PartStatus("b", PartState.BACKOFF, optional=True))).up
    assert not make_state(parts=(ready, PartStatus("b", PartState.WAITING))).up


def test_no_state_is_none_and_a_broken_one_is_named(tmp_path):
    assert read_state(tmp_path) is None
    (tmp_path / "state.json").write_text('{"pid": 1')
    with pytest.raises(StackError, match=r"state\.json is no state.*shipway down"):
        read_state(tmp_path)


def test_a_pid_runs_only_with_its_own_start():
    child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"])
    started = identity(child.pid)
    assert started is not None
    assert runs(child.pid, started)
    assert not runs(child.pid, f"{started}0")  # the pid was given to another process since
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not runs(child.pid, started)  # a zombie
    child.wait()
    assert not runs(child.pid, started)
    assert not runs(None, None)


def test_the_lock_is_taken_once_and_free_again_when_closed(tmp_path):
    lock = take_lock(tmp_path / "stack")
    assert lock is not None
    assert take_lock(tmp_path / "stack") is None
    assert (tmp_path / "stack" / "lock").stat().st_mode & 0o777 == 0o600
    lock.close()
    again = take_lock(tmp_path / "stack")
    assert again is not None
    again.close()
